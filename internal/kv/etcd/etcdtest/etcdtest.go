// Package etcdtest runs a real etcd server inside a test: one member on a unix socket, with its data in the test's folder.
package etcdtest

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
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
	dir   string
	proxy *proxy // between Client and the member
}

// Start runs a member until the test ends. It does not sync its disk: a test's machine may have a slow one, and no test here
// pulls the plug.
func Start(t testing.TB) *Server {
	t.Helper()
	// Not t.TempDir: its path holds the test's name, and a socket's path has but 107 characters.
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.run()
	t.Cleanup(func() { s.Etcd.Close() })
	s.proxy = newProxy(t, s.socket("client"), s.socket("member"))
	s.Client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + s.socket("client")},
		Logger:    zap.NewNop(),
		// A client that was cut off tries again soon, so that restarts do not take long.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: 100 * time.Millisecond},
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Client.Close() })
	s.Store = etcd.New(s.Client)
	return s
}

func (s *Server) socket(name string) string { return filepath.Join(s.dir, name) }

// run starts the member on its folder and waits until it serves.
func (s *Server) run() {
	s.t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = s.socket("data")
	client, peer := url.URL{Scheme: "unix", Path: s.socket("member")}, url.URL{Scheme: "unix", Path: s.socket("peer")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.UnsafeNoFsync = true
	cfg.TickMs, cfg.ElectionMs = 10, 100 // it elects itself; and it lets leases be as short as a second
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		s.t.Fatal(err)
	case <-time.After(time.Minute):
		s.t.Fatal("etcd does not get ready")
	}
	s.Etcd = e
}

// Cut breaks the client's connections; with down it cannot make new ones, until Cut(false) or Restart.
func (s *Server) Cut(down bool) { s.proxy.cut(down) }

// Restart stops the member and starts it again on the same data. It returns when the client is through to it.
func (s *Server) Restart() {
	s.t.Helper()
	s.Cut(true)
	s.Etcd.Close()
	s.run()
	s.Cut(false)
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
