package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
	"github.com/fleet-init/fleet/internal/kv/kvtest"
)

func TestOverTheNetwork(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	kvtest.Run(t, func(t *testing.T) kvtest.Harness {
		s.Clear()
		return s.Harness(s.Store)
	})
}

func TestInProcess(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := inProcess(t, s)
	kvtest.Run(t, func(t *testing.T) kvtest.Harness {
		s.Clear()
		h := s.Harness(etcd.New(c))
		h.Restart = nil // the client is of one server's life
		return h
	})
}

// A watch that loses its connection goes on where it was, also when much happened meanwhile.
func TestWatchGoesOnAfterACut(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	ctx := t.Context()
	here := etcd.New(inProcess(t, s)) // writes while the network client is cut off
	put := func(i int) int64 {
		rev, _, err := here.Txn(ctx, nil, []kv.Op{{Key: "k/a", Value: []byte(strconv.Itoa(i))}})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	next := put(0)
	ch := s.Store.Watch(ctx, next, "k/")
	for range 3 {
		s.Cut(true)
		last := next
		for i := range 10 {
			last = put(i)
		}
		s.Cut(false)
		for next <= last {
			b := <-ch
			if b.Err != nil {
				t.Fatal(b.Err)
			}
			for _, e := range b.Events {
				if e.Mod != next {
					t.Fatalf("got revision %d, want %d", e.Mod, next)
				}
				next++
			}
		}
	}
}

// What cannot be reached says so, soon enough for a caller to go on, and says nothing else.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	lease, _, err := s.Store.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s.Cut(true)
	for name, call := range map[string]func(context.Context) error{
		"range":  func(ctx context.Context) error { _, _, err := s.Store.Range(ctx, "k/"); return err },
		"txn":    func(ctx context.Context) error { _, _, err := s.Store.Txn(ctx, nil, []kv.Op{{Key: "a"}}); return err },
		"grant":  func(ctx context.Context) error { _, _, err := s.Store.Grant(ctx, time.Second); return err },
		"renew":  func(ctx context.Context) error { return s.Store.Renew(ctx, lease) },
		"revoke": func(ctx context.Context) error { return s.Store.Revoke(ctx, lease) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := call(ctx); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("%s: %v, want %v", name, err, kv.ErrUnavailable)
		}
		cancel()
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if err := call(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("%s, canceled by the caller: %v, want %v", name, err, context.Canceled)
		}
	}
	s.Cut(false)
}

// A range that is read while its revision is compacted again and again still gives one revision.
func TestLargeRangeUnderCompaction(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	ctx := t.Context()
	const n = 2000
	write := func(val string) {
		for i := 0; i < n; i += 100 {
			var ops []kv.Op
			for j := i; j < i+100; j++ {
				ops = append(ops, kv.Op{Key: fmt.Sprintf("k/%04d", j), Value: []byte(val)})
			}
			if _, _, err := s.Store.Txn(ctx, nil, ops); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("0")
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 5 {
			write(strconv.Itoa(i + 1))
		}
	})
	for range 20 {
		kvs, rev, err := s.Store.Range(ctx, "k/")
		if err != nil {
			t.Fatal(err)
		}
		if len(kvs[0]) != n {
			t.Fatalf("%d keys, want %d", len(kvs[0]), n)
		}
		// Writes go up the keys: at any one revision the values fall at most once, by one.
		for i := 1; i < n; i++ {
			a, b := string(kvs[0][i-1].Value), string(kvs[0][i].Value)
			if a < b || kvs[0][i].Mod > rev {
				t.Fatalf("at revision %d: key %d is %s, key %d is %s of revision %d", rev, i-1, a, i, b, kvs[0][i].Mod)
			}
		}
		// ErrCompacted here means that another writer's compaction was later than ours.
		_, _ = s.Client.Compact(ctx, rev)
	}
	wg.Wait()
}

func inProcess(t *testing.T, s *etcdtest.Server) *clientv3.Client {
	c := v3client.New(s.Etcd.Server)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A watch outlives its leader, and a time without quorum: what was written meanwhile comes, once and in order.
func TestWatchOverLeaderChanges(t *testing.T) {
	t.Parallel()
	members := etcdtest.Cluster(t, 3)
	store := etcd.New(etcdtest.Client(t, members...))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var want []string
	put := func() int64 {
		for {
			// A write whose answer was lost may have happened: trying the same key again finds out. A member whose leader has just
			// died keeps a write for five seconds before it gives it up, so do not wait for that.
			key := fmt.Sprintf("k/%d", len(want))
			soon, done := context.WithTimeout(ctx, 500*time.Millisecond)
			rev, ok, err := store.Txn(soon, []kv.Guard{{Key: key, Kind: kv.Missing}}, []kv.Op{{Key: key}})
			done()
			if err == nil {
				want = append(want, key)
				if !ok { // it had happened
					_, rev, err = store.Range(ctx, key)
				}
			}
			if err == nil {
				return rev
			}
			if !errors.Is(err, kv.ErrUnavailable) {
				t.Fatalf("put %s: %v", key, err)
			}
		}
	}
	ch := store.Watch(ctx, put(), "k/")
	seen := 0
	read := func() {
		t.Helper()
		for seen < len(want) {
			b := <-ch
			if b.Err != nil {
				t.Fatal(b.Err)
			}
			for _, e := range b.Events {
				if seen == len(want) || e.Key != want[seen] {
					t.Fatalf("event %d is %s, of %v", seen, e.Key, want)
				}
				seen++
			}
		}
	}
	read()
	for range 2 {
		leader := leaderOf(members)
		leader.Stop()
		for range 5 {
			put()
		}
		read()
		leader.Run()
	}

	// Without quorum, reads and writes say so; with it, all goes on.
	members[0].Stop()
	members[1].Stop()
	short, done := context.WithTimeout(ctx, 300*time.Millisecond)
	defer done()
	if _, _, err := store.Range(short, "k/"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("range without quorum: %v", err)
	}
	if _, _, err := store.Txn(short, nil, []kv.Op{{Key: "x"}}); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("transaction without quorum: %v", err)
	}
	members[0].Run()
	put()
	read()
}

func leaderOf(members []*etcdtest.Server) *etcdtest.Server {
	for {
		for _, m := range members {
			if m.Etcd.Server.Leader() == m.Etcd.Server.MemberID() {
				return m
			}
		}
	}
}

// A host whose member does not vote serves etcd through etcd's proxy. What is asked of it must be as good as the real thing.
func TestThroughTheProxy(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	dir, err := os.MkdirTemp("", "proxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	kvp, _ := grpcproxy.NewKvProxy(s.Client)
	watchp, _ := grpcproxy.NewWatchProxy(t.Context(), zap.NewNop(), s.Client)
	leasep, _ := grpcproxy.NewLeaseProxy(t.Context(), s.Client)
	server := grpc.NewServer(grpc.MaxRecvMsgSize(2 << 20))
	pb.RegisterKVServer(server, kvp)
	pb.RegisterWatchServer(server, watchp)
	pb.RegisterLeaseServer(server, leasep)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + l.Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	kvtest.Run(t, func(t *testing.T) kvtest.Harness {
		s.Clear()
		return s.Harness(etcd.New(c))
	})
}
