package registry

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Orders is all an agent must know, at one revision: its machine's placements. Admitted tells that an engine has planned for
// this registration, which lives on: otherwise a unit without placement is left alone. When a registration is lost the units are moved
// away, and by the time the machine is back, and has not heard of its loss, it may run the only copies.
//
// Restarts has the number of the last order to restart each unit, of which an agent has done those that are not greater than what it did last.
type Orders struct {
	Rev        int64
	Placements map[unit.Name]fleet.Placement
	Admitted   bool
	Restarts   map[unit.Name]int64
}

// Orders reads a machine's placements. While one of them cannot be read, Admitted is false: its unit must not be cleared away.
func (r *Registry) Orders(ctx context.Context, p Presence) (Orders, error) {
	o, _, err := r.orders(ctx, p)
	return o, err
}

// orders reads a machine's placements; partial tells that some cannot be read.
func (r *Registry) orders(ctx context.Context, p Presence) (o Orders, partial bool, err error) {
	prefix := r.of(placements, p.Machine)
	kvs, rev, err := r.store.Range(ctx, prefix, r.admittedKey(p.Machine), r.machineKey(p.Machine), r.of(restarts, p.Machine))
	if err != nil {
		return Orders{}, false, storeErr("read orders", err)
	}
	o = Orders{Rev: rev, Placements: make(map[unit.Name]fleet.Placement, len(kvs[0])), Restarts: r.restartsOf(p.Machine, kvs[3])}
	d := r.newDecoder()
	for _, kv := range kvs[0] {
		key := fleet.Key{Machine: p.Machine, Unit: unit.Name(strings.TrimPrefix(kv.Key, prefix))}
		if pl, ok := d.placement(key, kv); ok {
			o.Placements[key.Unit] = pl
		} else {
			partial = true
		}
	}
	o.Admitted = !partial && r.admitted(p, kvs[1], kvs[2])
	return o, partial, nil
}

// admitted tells, by the records of admission and registration, each there or not, whether p is registered and admitted.
func (r *Registry) admitted(p Presence, admission, registration []kv.KV) bool {
	return len(registration) == 1 && registration[0].Create == p.Rev && len(admission) == 1 && r.admits(p, admission[0])
}

// admits tells whether an admission is of this registration.
func (r *Registry) admits(p Presence, kv kv.KV) bool {
	rec, err := decode[admittedRecord](kv.Value)
	if err != nil {
		r.unreadable(kv, err)
		return false
	}
	return rec.Rev == p.Rev
}

// WatchOrders delivers a whole new Orders whenever a machine's placements or admission changed after from.Rev, latest wins (a slow
// agent skips states in between), until ctx ends. It recovers from compaction by itself.
func (r *Registry) WatchOrders(ctx context.Context, p Presence, from Orders) <-chan Orders {
	out := make(chan Orders)
	from.Placements, from.Restarts = maps.Clone(from.Placements), maps.Clone(from.Restarts)
	if from.Placements == nil {
		from.Placements = map[unit.Name]fleet.Placement{}
	}
	w := &orderWatch{r: r, p: p, cur: from, decoder: r.newDecoder()}
	go func() {
		defer close(out)
		for w.run(ctx, out) {
		}
	}()
	return out
}

// orderWatch keeps Orders up to date: placements by their events, which come in order by themselves. An admission may be seen
// before placements that were written earlier, since it comes by a watch of its own; it must not count before they are
// known, so it makes everything be read anew at one revision. That is once per registration.
type orderWatch struct {
	r       *Registry
	p       Presence
	cur     Orders
	decoder *decoder
	dirty   bool // cur is newer than what was delivered
	copied  bool // what is to be delivered is a copy of cur as it is now
	partial bool // a placement cannot be read: events are not enough to tell when that is over
}

// run watches until ctx ends (false) or the watches must be made anew (true).
func (w *orderWatch) run(ctx context.Context, out chan<- Orders) bool {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := w.r.store.Watch(inner, w.cur.Rev+1, w.r.of(placements, w.p.Machine))
	admission := w.r.store.Watch(inner, w.cur.Rev+1, w.r.admittedKey(w.p.Machine))
	restarted := w.r.store.Watch(inner, w.cur.Rev+1, w.r.of(restarts, w.p.Machine))
	var next Orders // a copy of cur, made once per change
	for {
		var send chan<- Orders
		if w.dirty {
			send = out
			if next.Rev != w.cur.Rev || next.Placements == nil || !w.copied {
				next, w.copied = w.cur, true
				next.Placements, next.Restarts = maps.Clone(w.cur.Placements), maps.Clone(w.cur.Restarts)
			}
		}
		var ok bool
		select {
		case <-ctx.Done():
			return false
		case send <- next:
			w.dirty = false
			continue
		case b := <-changed:
			if ok = w.placed(b); ok && w.partial && w.reload(ctx) != nil {
				return false
			}
			if ok && w.cur.Admitted && withdraws(b) && w.readmit(ctx) != nil {
				return false
			}
		case b := <-restarted:
			ok = w.restarted(b)
		case b := <-admission:
			ok = b.Err == nil && b.Rev != 0
			if ok && w.admission(b) && w.reload(ctx) != nil {
				return false
			}
		}
		if !ok {
			// Compacted, or the watch ended with ctx: a closed channel gives an empty batch.
			return w.reload(ctx) == nil
		}
	}
}

// placed takes the events of a batch in; false: the watch has ended.
func (w *orderWatch) placed(b kv.Batch) bool {
	if b.Err != nil || b.Rev == 0 {
		return false
	}
	prefix := w.r.of(placements, w.p.Machine)
	for _, e := range b.Events {
		if e.Mod <= w.cur.Rev {
			continue // a reload has overtaken this watch
		}
		name := unit.Name(strings.TrimPrefix(e.Key, prefix))
		delete(w.cur.Placements, name)
		if !e.Delete {
			pl, ok := w.decoder.placement(fleet.Key{Machine: w.p.Machine, Unit: name}, e.KV)
			if ok {
				w.cur.Placements[name] = pl
			}
			w.partial = w.partial || !ok
		}
		w.dirty = true
	}
	w.cur.Rev = max(w.cur.Rev, b.Rev)
	return true
}

// admission tells whether a batch admits this registration, news to us.
func (w *orderWatch) admission(b kv.Batch) bool {
	for _, e := range b.Events {
		if !e.Delete && !w.cur.Admitted && w.r.admits(w.p, e.KV) {
			return true
		}
	}
	return false
}

func withdraws(b kv.Batch) bool {
	return slices.ContainsFunc(b.Events, func(e kv.Event) bool { return e.Delete })
}

// readmit asks whether the registration lives on, before what was withdrawn is cleared away by its admission. One that is there now
// was there all the time: its create revision never comes back.
func (w *orderWatch) readmit(ctx context.Context) error {
	return w.r.insist(ctx, "watch orders", func() error {
		kvs, _, err := w.r.store.Range(ctx, w.r.admittedKey(w.p.Machine), w.r.machineKey(w.p.Machine))
		if err == nil {
			w.cur.Admitted = w.r.admitted(w.p, kvs[0], kvs[1])
		}
		return err
	})
}

// reload reads everything anew, trying until the store answers; an error is the context's.
func (w *orderWatch) reload(ctx context.Context) error {
	return w.r.insist(ctx, "watch orders", func() error {
		o, partial, err := w.r.orders(ctx, w.p)
		if err == nil {
			w.cur, w.partial, w.dirty, w.copied = o, partial, true, false
		}
		return err
	})
}
