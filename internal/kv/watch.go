package kv

import (
	"context"
	"fmt"
)

// watch is one running Memory.Watch. Its fields are guarded by Memory.mu, but for wake.
type watch struct {
	from     int64 // as asked for
	prefixes []string
	late     bool          // from lay before the compaction already when the watch began
	pending  []revision    // matching events not yet delivered, by whole revisions
	wake     chan struct{} // size 1: pending or compacted changed
}

// maxBatch bounds the revisions of one Batch, so that a watch that starts far back does not copy all history in one step.
const maxBatch = 1000

// Watch implements Store. from below 1 means from the first revision on.
func (m *Memory) Watch(ctx context.Context, from int64, prefixes ...string) <-chan Batch {
	m.mu.Lock()
	m.expire()
	w := m.open(from, prefixes)
	for _, p := range prefixes {
		if m.watches[p] == nil {
			m.watches[p] = map[*watch]struct{}{}
		}
		m.watches[p][w] = struct{}{}
	}
	m.mu.Unlock()
	w.poke()

	out := make(chan Batch)
	go m.serve(ctx, w, out)
	return out
}

// Since returns what a watch from from on would have delivered by now, without waiting: an empty Batch when there is nothing.
// It is for a simulation that runs in one goroutine; the next from is Batch.Rev+1 when there were events.
func (m *Memory) Since(from int64, prefixes ...string) Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	w := m.open(from, prefixes)
	return w.take(m.compacted, len(w.pending))
}

// open makes a watch with all history from from on pending.
func (m *Memory) open(from int64, prefixes []string) *watch {
	from = max(from, 1)
	w := &watch{from: from, prefixes: prefixes, late: from < m.compacted, wake: make(chan struct{}, 1)}
	for _, r := range m.log[m.logIndex(from):] {
		w.add(r)
	}
	return w
}

// add makes pending what of r lies under the watch's prefixes.
func (w *watch) add(r revision) {
	if r.rev < w.from {
		return
	}
	var events []Event
	for _, e := range r.events {
		for _, p := range w.prefixes {
			if Covers(p, e.Key) {
				events = append(events, e)
				break
			}
		}
	}
	if len(events) > 0 {
		w.pending = append(w.pending, revision{rev: r.rev, events: events})
	}
}

func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns up to n pending revisions as one batch; the caller holds Memory.mu. A watch with nothing pending has seen all, so
// a compaction ends only one that was too late from the start, or has yet to deliver what was compacted.
func (w *watch) take(compacted int64, n int) Batch {
	if w.late || len(w.pending) > 0 && w.pending[0].rev < compacted {
		return Batch{Err: fmt.Errorf("watch from revision %d: %w", w.from, ErrCompacted)}
	}
	var b Batch
	n = min(n, len(w.pending))
	for _, r := range w.pending[:n] {
		b.Events = append(b.Events, r.events...)
		b.Rev = r.rev
	}
	w.pending = w.pending[n:]
	return b
}

// notify hands a new revision to the watches it concerns. They are found by the key and each of its parents, so that a thousand
// agents' watches cost a write nothing when it is not for them.
func (m *Memory) notify(r revision) {
	if len(m.watches) == 0 {
		return
	}
	woken := map[*watch]struct{}{}
	for _, e := range r.events {
		for w := range m.watches[e.Key] {
			woken[w] = struct{}{}
		}
		for i := range len(e.Key) {
			if e.Key[i] != '/' {
				continue
			}
			for w := range m.watches[e.Key[:i+1]] {
				woken[w] = struct{}{}
			}
		}
	}
	for w := range woken {
		w.add(r)
		w.poke()
	}
}

// wakeAll lets every watch see that the history was compacted.
func (m *Memory) wakeAll() {
	for _, ws := range m.watches {
		for w := range ws {
			w.poke()
		}
	}
}

// forget takes an ended watch off the lists.
func (m *Memory) forget(w *watch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range w.prefixes {
		delete(m.watches[p], w)
		if len(m.watches[p]) == 0 {
			delete(m.watches, p)
		}
	}
}

// serve delivers w's batches until ctx ends or the history is compacted under it.
func (m *Memory) serve(ctx context.Context, w *watch, out chan<- Batch) {
	defer close(out)
	defer m.forget(w)
	for {
		select {
		case <-ctx.Done():
			LastBatch(ctx, out)
			return
		case <-w.wake:
		}
		for {
			m.mu.Lock()
			b := w.take(m.compacted, maxBatch)
			m.mu.Unlock()
			if b.Err == nil && len(b.Events) == 0 {
				break
			}
			select {
			case <-ctx.Done():
				LastBatch(ctx, out)
				return
			case out <- b:
			}
			if b.Err != nil {
				return
			}
		}
	}
}

// LastBatch tells a receiver that is waiting why the channel is about to close; one that has gone away is not waited for.
func LastBatch(ctx context.Context, out chan<- Batch) {
	select {
	case out <- Batch{Err: ctx.Err()}:
	default:
	}
}
