package etcd

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/internal/kv"
)

// Watch implements kv.Store.
//
// Several prefixes are one watch over the range that covers them all, with the rest dropped here: watches of their own would each
// be in order, but not among each other. What lies between them is sent for nothing, so a caller with far prefixes and much in
// between does better with several watches, if it can do without a common order.
//
// etcd does not split a revision over watch responses, but for fragments of a large one, which its client puts together again (read
// in 3.7.3; kvtest tries it with responses over the limit).
func (s *Store) Watch(ctx context.Context, from int64, prefixes ...string) <-chan kv.Batch {
	out := make(chan kv.Batch)
	w := &watch{c: s.c, next: max(from, 1), prefixes: prefixes, out: out}
	go func() {
		defer close(out)
		w.run(ctx)
	}()
	return out
}

type watch struct {
	c        *clientv3.Client
	next     int64 // revision to go on from
	prefixes []string
	out      chan<- kv.Batch
}

// The waits before a watch that was cut off is made again. etcd's client reconnects by itself; what comes here is a server without
// a leader, or one that is stopping.
const (
	firstWait = 50 * time.Millisecond
	lastWait  = 2 * time.Second
)

func (w *watch) run(ctx context.Context) {
	if len(w.prefixes) == 0 {
		<-ctx.Done()
	}
	for wait := firstWait; ctx.Err() == nil; wait = min(2*wait, lastWait) {
		before := w.next
		if compacted := w.follow(ctx); compacted {
			select {
			case w.out <- kv.Batch{Err: fmt.Errorf("watch from revision %d: %w", w.next, kv.ErrCompacted)}:
			case <-ctx.Done():
			}
			return
		}
		if w.next > before {
			wait = firstWait
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
	kv.LastBatch(ctx, w.out)
}

// follow delivers events until the watch breaks off, and leaves next behind the last that was delivered.
func (w *watch) follow(ctx context.Context) (compacted bool) {
	// The client keeps a watch until its context ends.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, end := span(w.prefixes)
	opts := []clientv3.OpOption{clientv3.WithRev(w.next), clientv3.WithFragment()}
	if end != "" {
		opts = append(opts, clientv3.WithRange(end))
	}
	// A member that is cut off from the others would keep the watch and be silent. With this it ends the watch, and the client goes
	// to another member if it knows one. A server in this process does not look at it, and there is no other to go to: its
	// watch is silent until it is back among the others, and then brings all.
	for res := range w.c.Watch(clientv3.WithRequireLeader(ctx), from, opts...) {
		if res.CompactRevision != 0 {
			return true
		}
		if res.Err() != nil {
			return false
		}
		if len(res.Events) == 0 {
			continue
		}
		var b kv.Batch
		for _, e := range res.Events {
			if w.covers(string(e.Kv.Key)) {
				b.Events = append(b.Events, event(e))
			}
		}
		if len(b.Events) > 0 {
			b.Rev = b.Events[len(b.Events)-1].Mod
			select {
			case w.out <- b:
			case <-ctx.Done():
				return false
			}
		}
		w.next = res.Events[len(res.Events)-1].Kv.ModRevision + 1
	}
	return false
}

func (w *watch) covers(key string) bool {
	for _, p := range w.prefixes {
		if kv.Covers(p, key) {
			return true
		}
	}
	return false
}

// span is the smallest range that covers all prefixes; without end it is one key.
func span(prefixes []string) (from, end string) {
	for i, p := range prefixes {
		e := p + "\x00" // behind an exact key
		if kv.IsPrefix(p) {
			e = clientv3.GetPrefixRangeEnd(p)
		}
		if i == 0 || p < from {
			from = p
		}
		if i == 0 || e > end {
			end = e
		}
	}
	if len(prefixes) == 1 && !kv.IsPrefix(prefixes[0]) {
		end = ""
	}
	return from, end
}

func event(e *clientv3.Event) kv.Event {
	if e.Type == clientv3.EventTypeDelete {
		return kv.Event{KV: kv.KV{Key: string(e.Kv.Key), Mod: e.Kv.ModRevision}, Delete: true}
	}
	return kv.Event{KV: toKV(e.Kv)}
}
