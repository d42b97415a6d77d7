package member

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
)

func TestExternalEtcdWithTLSAndAUser(t *testing.T) {
	t.Parallel()
	endpoint, login := etcdtest.Guarded(t)
	h := newHosts(t, 1)[0]
	h.cfg.Servers, h.cfg.Login = []string{endpoint}, login
	h.start()
	h.awaitRole(External)
	// Streams log in by another way than calls.
	w := h.m.Client().Watch(t.Context(), "k", clientv3.WithCreatedNotify())
	<-w
	h.put("k", "v")
	if r := <-w; r.Err() != nil || len(r.Events) != 1 {
		t.Errorf("watch: %+v", r)
	}
	h.wantKey("k", "v") // through the socket
	h.stop()
}

func TestExternalEtcdWithAWrongPassword(t *testing.T) {
	t.Parallel()
	endpoint, login := etcdtest.Guarded(t)
	h := newHosts(t, 1)[0]
	h.cfg.Servers, h.cfg.Login = []string{endpoint}, etcd.Login{CAFile: login.CAFile, Username: login.Username, Password: "wrong"}
	h.start()
	h.await("a reason", func(s Status) bool {
		return strings.Contains(s.Doing, "etcd_servers") && strings.Contains(s.Doing, "etcd_password")
	})
	h.stop()
}
