package member

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"google.golang.org/grpc"
)

// proxy serves etcd's API by asking members elsewhere.
type proxy struct {
	client *clientv3.Client
	server *grpc.Server
}

// own is the server of a learner, which says itself how it is; nil without one.
func (m *Member) newProxy(endpoints []string, own *etcdserver.EtcdServer) (*proxy, error) {
	var opts []grpc.DialOption
	if m.cfg.Login.Username == "" {
		// Where etcd's own users are in force, callers log in as themselves: hand their tokens on. If fleetd has a user, whoever
		// may open the socket (root) works with that one's rights. Chained, so that the client's own repetitions stay.
		opts = append(opts,
			grpc.WithChainUnaryInterceptor(grpcproxy.AuthUnaryClientInterceptor),
			grpc.WithChainStreamInterceptor(grpcproxy.AuthStreamClientInterceptor))
	}
	c, err := m.dial(endpoints, opts...)
	if err != nil {
		return nil, err
	}
	kv, _ := grpcproxy.NewKvProxy(c)
	watch, _ := grpcproxy.NewWatchProxy(c.Ctx(), m.zap.Named("proxy"), c)
	cluster, _ := grpcproxy.NewClusterProxy(m.zap.Named("proxy"), c, "", "")
	lease, _ := grpcproxy.NewLeaseProxy(c.Ctx(), c)
	options := m.serverOptions()
	if own != nil {
		options = append(options, noPanic(own)...)
	}
	s := grpc.NewServer(options...)
	pb.RegisterKVServer(s, freshKV{kv, c})
	pb.RegisterWatchServer(s, watch)
	pb.RegisterClusterServer(s, cluster)
	pb.RegisterLeaseServer(s, lease)
	maintenance := grpcproxy.NewMaintenanceProxy(c)
	if own != nil {
		maintenance = ownStatus{maintenance, v3rpc.NewMaintenanceServer(own, nil)}
	}
	pb.RegisterMaintenanceServer(s, maintenance)
	pb.RegisterAuthServer(s, grpcproxy.NewAuthProxy(c))
	v3electionpb.RegisterElectionServer(s, grpcproxy.NewElectionProxy(c))
	v3lockpb.RegisterLockServer(s, grpcproxy.NewLockProxy(c))
	return &proxy{c, s}, nil
}

// ownStatus answers for a learner, which etcd lets do that, though nearly nothing else.
type ownStatus struct {
	pb.MaintenanceServer
	own pb.MaintenanceServer
}

func (o ownStatus) Status(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
	return o.own.Status(ctx, r)
}

// close ends what the proxy holds open at the voters; its server is the door's to stop.
func (p *proxy) close() { shut(p.client) }

// shutTime is how long a client's own end may take.
const shutTime = 3 * time.Second

// shut closes a client. etcd's Close waits for its watches, and for ever when one was refused at that very moment: the goroutine of that watch then waits for
// one that has gone (3.7.3, seen in tests where a host without a vote ended). What is left behind is that goroutine; its connection is closed.
func shut(c *clientv3.Client) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Close() // it is of no use any more, whatever this says
	}()
	t := time.NewTimer(shutTime)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		_ = c.ActiveConnection().Close()
	}
}

// freshKV answers every read from the members. The package's own answers serializable reads from a cache that only writes
// through this same proxy renew: another host's write would never be seen.
type freshKV struct {
	pb.KVServer
	client *clientv3.Client
}

func (f freshKV) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	resp, err := f.client.Do(ctx, grpcproxy.RangeRequestToOp(r))
	return (*pb.RangeResponse)(resp.Get()), err
}

func (f freshKV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp, err := f.client.Do(ctx, grpcproxy.TxnRequestToOp(r))
	return (*pb.TxnResponse)(resp.Txn()), err
}
