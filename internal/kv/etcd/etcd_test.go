package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/fleet-init/fleet/internal/kv"
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
