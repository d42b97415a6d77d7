// Package kvtest is the suite that every kv.Store passes: what the registry relies on, said once and tried on the memory store and on
// a real etcd.
package kvtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/kv"
)

// Harness is one empty store with the levers that the suite needs.
type Harness struct {
	Store kv.Store
	// Compact forgets the history before rev.
	Compact func(rev int64)
	// Pass lets d of the store's time pass; nil when it is the real time, which passes by itself.
	Pass func(d time.Duration)
	// Restart stops the store's server and starts it again on the same data; nil when there is no server.
	Restart func()
}

// wait bounds each step that waits for a store; it only ends tests that hang.
const wait = 30 * time.Second

// Run runs the suite, each test on a store of its own.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"each guard kind holds and fails as it says", testGuards},
		{"a failed guard writes nothing at all", testAllOrNothing},
		{"a put keeps the create revision, a delete ends it", testRevisions},
		{"wrong transactions are refused", testRefusals},
		{"a value over the request limit is too large", testTooLarge},
		{"a range sees prefixes and exact keys at one revision, in order", testRange},
		{"a range of thousands of keys is whole", testLargeRange},
		{"a watch starts in the past, whole revisions in order", testWatchPast},
		{"a watch sees puts and deletes of its prefixes only", testWatchScope},
		{"a revision of many large keys reaches a watch in one batch", testWatchWhole},
		{"a watch from a compacted revision ends with ErrCompacted", testWatchCompacted},
		{"a watch at the compacted revision works", testWatchAtCompaction},
		{"a slow watcher loses nothing, or is told", testSlowWatcher},
		{"a watch ends with its context", testWatchEnds},
		{"a lease's keys go with it", testRevoke},
		{"a lease that is not renewed ends and its keys go in one revision", testExpiry},
		{"a renewed lease lives on", testRenew},
		{"a lease tells how long it lives on, also of many at once", testLeft},
		{"a dead lease takes no puts", testDeadLease},
		{"a put without the lease takes the key off it", testLeaseDetached},
		{"many writers never lose an update", testContention},
		{"data, watches and leases survive a restart of the server", testRestart},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			t.Cleanup(cancel)
			tt.run(t, &fixture{T: t, Harness: open(t), ctx: ctx})
		})
	}
}

// fixture is a test with its store.
type fixture struct {
	*testing.T
	Harness
	ctx context.Context
}

// put writes one key and returns the revision.
func (f *fixture) put(key, val string) int64 {
	f.Helper()
	return f.txn(nil, kv.Op{Key: key, Value: []byte(val)})
}

func (f *fixture) del(key string) int64 {
	f.Helper()
	return f.txn(nil, kv.Op{Key: key, Delete: true})
}

// txn must succeed.
func (f *fixture) txn(guards []kv.Guard, ops ...kv.Op) int64 {
	f.Helper()
	rev, ok, err := f.Store.Txn(f.ctx, guards, ops)
	if err != nil || !ok {
		f.Fatalf("txn %v %v: ok=%v err=%v", guards, ops, ok, err)
	}
	return rev
}

// get reads one key, nil if there is none.
func (f *fixture) get(key string) *kv.KV {
	f.Helper()
	kvs, _, err := f.Store.Range(f.ctx, key)
	if err != nil {
		f.Fatalf("range %s: %v", key, err)
	}
	switch len(kvs[0]) {
	case 0:
		return nil
	case 1:
		return &kvs[0][0]
	}
	f.Fatalf("exact key %s matched %d keys", key, len(kvs[0]))
	return nil
}

func (f *fixture) grant(ttl time.Duration) (kv.LeaseID, time.Duration) {
	f.Helper()
	id, granted, err := f.Store.Grant(f.ctx, ttl)
	if err != nil {
		f.Fatalf("grant: %v", err)
	}
	if granted < ttl {
		f.Fatalf("granted %v, asked for %v", granted, ttl)
	}
	return id, granted
}

// line is one event as text: "5 put a=1", "6 del a".
func line(e kv.Event) string {
	if e.Delete {
		return fmt.Sprintf("%d del %s", e.Mod, e.Key)
	}
	return fmt.Sprintf("%d put %s=%s", e.Mod, e.Key, e.Value)
}

// events reads n events off a watch and checks what every batch must keep: whole revisions, ascending, Rev the last.
func (f *fixture) events(ch <-chan kv.Batch, n int) []string {
	f.Helper()
	var out []string
	var last int64
	for len(out) < n {
		b := f.batch(ch)
		if b.Err != nil {
			f.Fatalf("watch ended after %d of %d events: %v", len(out), n, b.Err)
		}
		if len(b.Events) == 0 {
			f.Fatalf("batch without events at revision %d", b.Rev)
		}
		for i, e := range b.Events {
			if i == 0 && e.Mod <= last || e.Mod < last {
				f.Fatalf("revision %d after %d: revisions must ascend and not be split", e.Mod, last)
			}
			last = e.Mod
			out = append(out, line(e))
		}
		if b.Rev != last {
			f.Fatalf("batch says revision %d, its last event has %d", b.Rev, last)
		}
	}
	return out
}

// batch reads one batch; a closed channel is a failure.
func (f *fixture) batch(ch <-chan kv.Batch) kv.Batch {
	f.Helper()
	select {
	case b, open := <-ch:
		if !open {
			f.Fatal("watch closed without a last batch")
		}
		return b
	case <-f.ctx.Done():
		f.Fatal("no event in time")
	}
	panic("unreachable")
}

func (f *fixture) want(what string, want, got any) {
	f.Helper()
	if d := cmp.Diff(want, got); d != "" {
		f.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func (f *fixture) wantErr(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}
