package fleettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/fleet-init/fleet/functional/host"
)

// ownSubnet runs netd on a voter and on a host without a vote, which gets, keeps and gives up its own subnet and can touch nobody else's.
func ownSubnet(r *rig, standBy, voter *host.Host) {
	const tree = "/coreos.com/network/"
	c, err := r.store(voter)
	r.must(err)
	defer c.Close()
	_, err = c.Put(r.ctx, tree+"config", `{"Network":"10.77.0.0/16","Backend":{"Type":"host-gw"}}`)
	r.must(err)
	lease := func(h *host.Host) (key, value string) {
		r.wait("a subnet of "+h.Name, func() error {
			got, err := c.Get(r.ctx, tree+"subnets/", clientv3.WithPrefix())
			if err != nil {
				return err
			}
			for _, kv := range got.Kvs {
				if strings.Contains(string(kv.Value), h.MachineID) {
					key, value = string(kv.Key), string(kv.Value)
					return nil
				}
			}
			return fmt.Errorf("%d others have one", len(got.Kvs))
		})
		return key, value
	}
	for _, h := range []*host.Host{voter, standBy} {
		h.Must(r.t, "systemctl", "start", "netd.service") // returns when it is ready
	}
	own, text := lease(standBy)
	theirs, _ := lease(voter)
	// It renews the lease, takes it over after a restart, and finds its way back to it when somebody has removed it.
	standBy.Must(r.t, "systemctl", "restart", "netd.service")
	_, err = c.Delete(r.ctx, own)
	r.must(err)
	if again, _ := lease(standBy); again != own {
		r.t.Errorf("%s had %s, and has %s now", standBy.Name, own, again)
	}

	stolen, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + voter.IP + ":2379"}, TLS: r.stolen(standBy), DialTimeout: time.Minute, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return r.Dial(ctx, "tcp", addr) })},
	})
	r.must(err)
	defer stolen.Close()
	for what, try := range map[string]func() error{
		"take another's subnet": func() error { _, err := stolen.Put(r.ctx, theirs, text); return err },
		"end another's subnet":  func() error { _, err := stolen.Delete(r.ctx, theirs); return err },
		"end all subnets":       func() error { _, err := stolen.Delete(r.ctx, tree+"subnets/", clientv3.WithPrefix()); return err },
		"name another": func() error {
			_, err := stolen.Put(r.ctx, tree+"subnets/10.77.200.0-24", `{"Fleet":{"Machine":"x"}}`)
			return err
		},
		"configure another range": func() error { _, err := stolen.Put(r.ctx, tree+"config", `{"Network":"10.78.0.0/16"}`); return err },
		"end the network":         func() error { _, err := stolen.Delete(r.ctx, tree+"config"); return err },
	} {
		if err := try(); !errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied) {
			r.t.Errorf("with the key of a host without a vote, %s: %v", what, err)
		}
	}
	if _, err := stolen.Put(r.ctx, tree+"config", `{"Network":"10.77.0.0/16","Backend":{"Type":"host-gw"}}`); err != nil {
		r.t.Errorf("the same configuration again, as units of old write it: %v", err)
	}
	for _, h := range []*host.Host{voter, standBy} {
		h.Must(r.t, "systemctl", "stop", "netd.service")
	}
}
