package etcd_test

import (
	"testing"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
	"github.com/fleet-init/fleet/internal/kv/kvtest"
)

func TestOverTheNetwork(t *testing.T) {
	s := etcdtest.Start(t)
	kvtest.Run(t, func(t *testing.T) kvtest.Harness {
		s.Clear()
		return s.Harness(s.Store)
	})
}

func TestInProcess(t *testing.T) {
	s := etcdtest.Start(t)
	c := v3client.New(s.Etcd.Server)
	t.Cleanup(func() { _ = c.Close() })
	kvtest.Run(t, func(t *testing.T) kvtest.Harness {
		s.Clear()
		h := s.Harness(etcd.New(c))
		h.Restart = nil // the client is of one server's life
		return h
	})
}
