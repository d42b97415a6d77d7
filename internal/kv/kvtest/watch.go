package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/fleet-init/fleet/internal/kv"
)

func testWatchPast(t *testing.T, f *fixture) {
	f.put("k/a", "0")
	from := f.txn(nil, kv.Op{Key: "k/a", Value: []byte("1")}, kv.Op{Key: "k/b", Value: []byte("1")}, kv.Op{Key: "other", Value: []byte("1")})
	f.put("k/a", "2")
	ch := f.Store.Watch(f.ctx, from, "k/")
	want := []string{
		fmt.Sprintf("%d put k/a=1", from), fmt.Sprintf("%d put k/b=1", from),
		fmt.Sprintf("%d put k/a=2", from+1),
	}
	f.want("history", want, f.events(ch, 3))
	rev := f.put("k/c", "3")
	f.want("live", []string{fmt.Sprintf("%d put k/c=3", rev)}, f.events(ch, 1))

	// From a revision that is yet to come: nothing earlier may show.
	future := f.Store.Watch(f.ctx, rev+2, "k/")
	f.put("k/c", "4")
	f.put("k/c", "5")
	f.want("future", []string{fmt.Sprintf("%d put k/c=5", rev+2)}, f.events(future, 1))
}

func testWatchScope(t *testing.T, f *fixture) {
	from := f.put("z", "start") + 1
	ch := f.Store.Watch(f.ctx, from, "a/", "m", "x/y/")
	f.put("a", "no")
	f.put("a/1", "yes")
	f.put("a0", "no")
	f.put("b/1", "no")
	f.txn(nil, kv.Op{Key: "m", Value: []byte("yes")}, kv.Op{Key: "a/1", Delete: true}, kv.Op{Key: "m/1", Value: []byte("no")},
		kv.Op{Key: "x/y/1", Value: []byte("yes")})
	f.put("x/y", "no")
	f.del("m")
	got := f.events(ch, 5)
	// Events of one revision come in the store's own order: compare that revision as a set.
	want := map[string]bool{}
	for _, l := range []string{"put a/1=yes@1", "del a/1@4", "put m=yes@4", "put x/y/1=yes@4", "del m@6"} {
		want[l] = true
	}
	have := map[string]bool{}
	for _, l := range got {
		var rev int64
		var verb, rest string
		if _, err := fmt.Sscan(l, &rev, &verb, &rest); err != nil {
			t.Fatal(err)
		}
		have[fmt.Sprintf("%s %s@%d", verb, rest, rev-from)] = true
	}
	f.want("events", want, have)
}

// testWatchWhole writes revisions of 1 MiB, so that several of them are over any message size a server may cut at.
func testWatchWhole(t *testing.T, f *fixture) {
	const revs, keys = 6, 100
	from := f.put("start", "") + 1
	live := f.Store.Watch(f.ctx, from, "k/")
	val := bytes.Repeat([]byte("v"), kv.MaxBytes/keys-100)
	for range revs {
		ops := make([]kv.Op, keys)
		for i := range ops {
			ops[i] = kv.Op{Key: fmt.Sprintf("k/%03d", i), Value: val}
		}
		f.txn(nil, ops...)
	}
	late := f.Store.Watch(f.ctx, from, "k/")
	for name, ch := range map[string]<-chan kv.Batch{"live": live, "late": late} {
		for rev := from; rev < from+revs; {
			b := f.batch(ch)
			if b.Err != nil {
				t.Fatalf("%s: %v", name, b.Err)
			}
			n := int(b.Rev-rev) + 1
			if len(b.Events) != n*keys {
				t.Fatalf("%s: batch of revisions %d to %d has %d events, want %d of each", name, rev, b.Rev, len(b.Events), keys)
			}
			for i, e := range b.Events {
				if want := rev + int64(i/keys); e.Mod != want {
					t.Fatalf("%s: event %d has revision %d, want %d", name, i, e.Mod, want)
				}
			}
			rev = b.Rev + 1
		}
	}
}

func testWatchCompacted(t *testing.T, f *fixture) {
	from := f.put("k/a", "1")
	f.put("k/a", "2")
	last := f.put("k/a", "3")
	f.Compact(last)
	ch := f.Store.Watch(f.ctx, from, "k/")
	f.wantErr("watch", f.batch(ch).Err, kv.ErrCompacted)
	if _, open := <-ch; open {
		t.Error("the channel is open after the last batch")
	}
	// Compaction changes neither what is stored nor watches from later on.
	f.want("key", "3", string(f.get("k/a").Value))
	next := f.put("k/a", "4")
	f.want("later watch", []string{fmt.Sprintf("%d put k/a=4", next)}, f.events(f.Store.Watch(f.ctx, last+1, "k/"), 1))
}

func testWatchAtCompaction(t *testing.T, f *fixture) {
	f.put("k/a", "1")
	rev := f.txn(nil, kv.Op{Key: "k/b", Value: []byte("1")}, kv.Op{Key: "k/a", Delete: true})
	f.put("k/c", "1")
	f.Compact(rev)
	got := f.events(f.Store.Watch(f.ctx, rev, "k/"), 3)
	have := map[string]bool{}
	for _, l := range got {
		have[l] = true
	}
	f.want("events", map[string]bool{
		fmt.Sprintf("%d put k/b=1", rev):   true,
		fmt.Sprintf("%d del k/a", rev):     true,
		fmt.Sprintf("%d put k/c=1", rev+1): true,
	}, have)
}

// testSlowWatcher reads nothing while much is written and the history is compacted: it must then get all, or all up to some point
// and ErrCompacted. A gap is the only wrong answer.
func testSlowWatcher(t *testing.T, f *fixture) {
	const n = 300
	from := f.put("start", "") + 1
	ch := f.Store.Watch(f.ctx, from, "k/")
	for i := range n {
		f.put("k/a", fmt.Sprint(i))
	}
	f.Compact(from + n - 1)
	for rev := from; rev < from+n; {
		b := f.batch(ch)
		if errors.Is(b.Err, kv.ErrCompacted) {
			return
		}
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		for _, e := range b.Events {
			if e.Mod != rev {
				t.Fatalf("got revision %d, want %d", e.Mod, rev)
			}
			rev++
		}
	}
}

func testWatchEnds(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(f.ctx)
	from := f.put("k/a", "1")
	ch := f.Store.Watch(ctx, from, "k/")
	f.events(ch, 1)
	cancel()
	for b := range ch {
		if !errors.Is(b.Err, context.Canceled) {
			t.Errorf("last batch: %+v", b)
		}
	}
}
