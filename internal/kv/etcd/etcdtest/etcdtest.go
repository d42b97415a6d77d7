// Package etcdtest runs a real etcd inside a test: members on unix sockets, with their data in a folder of the test.
package etcdtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/kv/kvtest"
)

// Server is one running member.
type Server struct {
	Etcd   *embed.Etcd
	Client *clientv3.Client // over the socket; it lives on across restarts
	Store  *etcd.Store      // over Client

	t     testing.TB
	name  string
	all   string // initial cluster
	dir   string
	peer  url.URL
	proxy *proxy // between Client and the member
}

// Start runs a cluster of one until the test ends. It does not sync its disk: a test's machine may have a slow one, and no test
// here pulls the plug.
func Start(t testing.TB) *Server {
	t.Helper()
	return Cluster(t, 1)[0]
}

// Cluster runs a cluster of n members until the test ends. Each one's Client knows that member only.
func Cluster(t testing.TB, n int) []*Server {
	t.Helper()
	members := make([]*Server, n)
	var all []string
	for i := range members {
		// Not t.TempDir: its path holds the test's name, and a socket's path has but 107 characters.
		dir, err := os.MkdirTemp("", "etcd")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		s := &Server{t: t, dir: dir, name: fmt.Sprint("m", i), peer: peerURL(t)}
		all = append(all, s.name+"="+s.peer.String())
		members[i] = s
	}
	var started sync.WaitGroup
	for _, s := range members {
		s.all = strings.Join(all, ",")
		// A member of several is ready once the others are there too.
		started.Go(s.run)
	}
	started.Wait()
	for _, s := range members {
		if s.Etcd == nil {
			t.FailNow()
		}
		t.Cleanup(s.Stop)
		s.proxy = newProxy(t, s.socket("client"), s.socket("member"))
		s.Client = Client(t, s)
		s.Store = etcd.New(s.Client)
	}
	return members
}

// Client is a client that knows some members, until the test ends.
func Client(t testing.TB, members ...*Server) *clientv3.Client {
	t.Helper()
	var at []string
	for _, s := range members {
		at = append(at, "unix://"+s.socket("client"))
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: at,
		Logger:    zap.NewNop(),
		// A client that was cut off tries again soon, so that restarts do not take long.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: 100 * time.Millisecond},
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// peerURL is a free port of the loopback: members do not find each other by the path of a socket.
func peerURL(t testing.TB) url.URL {
	return url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", Ports(t, 1)[0])}
}

// Ports are n free TCP ports of the loopback that no other test of this machine gets before this one ends: between the search and the
// listener, and while a test's host is down, nobody holds the port itself. They lie below those that the kernel gives to connections.
// What claims a port is an abstract unix socket named after it, which the kernel frees even after a crash.
func Ports(t testing.TB, n int) []uint16 {
	t.Helper()
	var ports []uint16
	for len(ports) < n {
		port := uint16(10000 + rand.IntN(22000))
		claim, err := net.Listen("unix", fmt.Sprintf("@fleet-test-port-%d", port))
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = claim.Close() })
		// Somebody who is no test may have it.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		ports = append(ports, port)
	}
	return ports
}

func (s *Server) socket(name string) string { return filepath.Join(s.dir, name) }

// run starts the member on its folder and waits until it serves; after a failure Etcd is nil.
func (s *Server) run() {
	s.t.Helper()
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = s.name, s.socket("data")
	client, peer := []url.URL{{Scheme: "unix", Path: s.socket("member")}}, []url.URL{s.peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = client, client
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peer, peer
	cfg.InitialCluster = s.all
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.UnsafeNoFsync = true
	cfg.TickMs, cfg.ElectionMs = 10, 100 // it is elected soon; and it lets leases be as short as a second
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		s.t.Errorf("start etcd: %v", err)
		return
	}
	select {
	case <-e.Server.ReadyNotify():
		s.Etcd = e
	case err := <-e.Err():
		s.t.Errorf("start etcd: %v", err)
	case <-time.After(time.Minute):
		s.t.Error("etcd does not get ready")
	}
}

// Stop stops the member, without ceremony; Run starts it again on the same data.
func (s *Server) Stop() {
	if s.Etcd == nil {
		return
	}
	if s.proxy != nil {
		s.Cut(true) // else it waits for its clients' streams to end
	}
	s.Etcd.Server.HardStop() // else a leader hands over first
	s.Etcd.Close()
	s.Etcd = nil
}

// Run starts a stopped member.
func (s *Server) Run() {
	s.t.Helper()
	if s.run(); s.Etcd == nil {
		s.t.FailNow()
	}
	s.Cut(false)
}

// Cut breaks the client's connections; with down it cannot make new ones, until Cut(false) or Restart.
func (s *Server) Cut(down bool) { s.proxy.cut(down) }

// Restart stops the member and starts it again on the same data. It returns when the client is through to it.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Run()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		_, _, err := s.Store.Range(ctx, "any")
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			s.t.Fatal(err)
		}
	}
}

// Clear deletes all keys, so that the next test finds an empty store.
func (s *Server) Clear() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := s.Client.Delete(ctx, "\x00", clientv3.WithFromKey()); err != nil {
		s.t.Fatal(err)
	}
}

// Harness is the member as a kvtest harness over the given store, Store or another one over the same member.
func (s *Server) Harness(store kv.Store) kvtest.Harness {
	return kvtest.Harness{
		Store: store,
		Compact: func(rev int64) {
			s.t.Helper()
			if _, err := s.Client.Compact(context.Background(), rev); err != nil {
				s.t.Fatal(err)
			}
		},
		Restart: s.Restart,
	}
}
