package member

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// nowhere is the peer address of a host that no other can reach. etcd wants one; nothing listens on it. It is replaced in
// the list of members by the first start with member_ip, before another host can see it.
const nowhere = "http://127.0.0.1:2380"

// maxLearners must be the same on all hosts whatever their cluster_size, since each member checks the list against its own.
// It is room for the most voters less the first.
const maxLearners = 4

// start starts etcd: with its log if there is one, else with initial as it is in a cluster that exists, else as the first.
func (m *Member) start(initial string, self netip.AddrPort) (*embed.Etcd, error) {
	c := embed.NewConfig()
	c.Name = m.cfg.Name
	c.Dir = etcdDir(m.cfg.Dir)
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(m.zap)
	// Clients come in by our own door, which leads to the voters while this member cannot serve them. etcd's HTTP side goes
	// with its listeners.
	c.ListenClientUrls, c.AdvertiseClientUrls, c.ListenPeerUrls = nil, nil, nil
	c.EnableGRPCGateway = false
	own := nowhere
	if self.IsValid() {
		own = m.peerURL(self)
		c.ListenPeerUrls = []url.URL{{Scheme: m.scheme(), Host: self.String()}}
		client := netip.AddrPortFrom(self.Addr(), m.cfg.ClientPort)
		c.AdvertiseClientUrls = []url.URL{{Scheme: m.scheme(), Host: client.String()}}
		c.PeerTLSInfo = m.peerTLS()
	}
	u, err := url.Parse(own)
	if err != nil {
		return nil, err
	}
	c.AdvertisePeerUrls = []url.URL{*u}
	if initial != "" {
		c.ClusterState = embed.ClusterStateFlagExisting
		c.InitialCluster = initial
	} else {
		c.InitialCluster = c.Name + "=" + own
		// The cluster's ID is made of addresses and this word. Without it all first hosts would make the same cluster, and a host
		// of one would be taken for a member of another.
		c.InitialClusterToken = rand.Text()
	}
	c.MaxLearners = maxLearners
	c.MaxTxnOps = 1024 // users' programs; we keep to kv.MaxOps, which an etcd elsewhere has
	c.QuotaBackendBytes = m.cfg.quota()
	// Members compare what they hold from time to time. One that differs raises an alarm, see Plan.
	c.CorruptCheckTime = 6 * time.Hour
	// And after each compaction, which makes a hash anyway. Not at the start as well (InitialCorruptCheck): that would wait for members that are away, and
	// a host that differs would not start at all instead of being replaced.
	if err := c.ServerFeatureGate.(interface{ Set(string) error }).Set("CompactHashCheck=true"); err != nil {
		return nil, fmt.Errorf("start the member: %w", err)
	}
	c.BootstrapDefragThresholdMegabytes = 128
	// An hour of history is more than any watch is behind; one that is must read anew anyway.
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	// etcd's own users need tokens; access here is by the socket's mode, later by certificates.
	c.AuthToken = ""
	e, err := embed.StartEtcd(c)
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "listen" {
		return nil, permanent{portError("peer_port", self.String(), op.Err)}
	}
	if err != nil {
		return nil, fmt.Errorf("start the member: %w", err)
	}
	return e, nil
}

// permanent is an error that waiting will not cure.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// newServer serves the member itself, as etcd does on its own listeners.
func (m *Member) newServer(s *etcdserver.EtcdServer) *grpc.Server {
	g := v3rpc.Server(s, nil, nil, append(m.serverOptions(), noPanic(s)...)...)
	c := v3client.New(s)
	v3electionpb.RegisterElectionServer(g, v3election.NewElectionServer(c))
	v3lockpb.RegisterLockServer(g, v3lock.NewLockServer(c))
	return g
}

// noPanic has a member that has just applied its own removal answer that it is away. etcd 3.7 panics there when it is asked for its status, or asks itself
// whether it is a learner, and all of fleetd with it. Outermost, for its own interceptors ask that too.
func noPanic(s *etcdserver.EtcdServer) []grpc.ServerOption {
	removed := func(err *error) {
		if s.IsMemberExist(s.MemberID()) {
			return // not our case: let it go on
		}
		if r := recover(); r != nil {
			*err = status.Error(codes.Unavailable, "this member was just removed from the cluster")
		}
	}
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
			defer removed(&err)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer removed(&err)
			return next(srv, ss)
		}),
	}
}

// serverOptions let in whom they shall, let clients ping as often as ours do, and notice clients that are gone.
func (m *Member) serverOptions() []grpc.ServerOption {
	f := m.newFilter()
	return []grpc.ServerOption{
		grpc.Creds(newPorter(m.cfg.TLS)), grpc.ChainUnaryInterceptor(f.unary), grpc.ChainStreamInterceptor(f.stream),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	}
}
