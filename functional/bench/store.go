package main

import (
	"context"
	"net"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/fleet-init/fleet/functional/host"
)

// store opens the etcd of a host through its local socket.
func store(ctx context.Context, h *host.Host) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Context:   ctx,
		Endpoints: []string{"http://store"},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return h.DialUnix(ctx, "/run/fleet/etcd.sock")
		})},
	})
}
