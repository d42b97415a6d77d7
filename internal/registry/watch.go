package registry

import (
	"context"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Change is fleet.Change: the API speaks of it too, without knowing the registry.
type Change = fleet.Change

// Changes is fleet.Changes: the API speaks of it too, without knowing the registry.
type Changes = fleet.Changes

// Watch delivers changes after the snapshot, from s.Rev+1 on, until ctx ends. Nothing of s is kept or changed; only its
// revision counts.
//
// Settings and admissions are joined to what the store holds of the machine when the watch begins. So while it catches up to that
// revision, machines may come as they are there already; from then on all is as of Changes.Rev.
func (r *Registry) Watch(ctx context.Context, s fleet.Snapshot) <-chan Changes {
	out := make(chan Changes)
	go func() {
		defer close(out)
		r.serveWatch(ctx, s.Rev+1, out)
	}()
	return out
}

func (r *Registry) serveWatch(ctx context.Context, from int64, out chan<- Changes) {
	ro, base, err := r.roster(ctx)
	if err != nil {
		lastChanges(out, err)
		return
	}
	// One watch over the whole prefix, rather than one per kind: the texts and the leader's key are little beside the rest, and
	// whole revisions come in order by themselves.
	w := watcher{r: r, roster: ro, base: base, decoder: r.newDecoder()}
	for b := range r.store.Watch(ctx, from, r.prefix) {
		if b.Err != nil {
			if ctx.Err() != nil {
				lastChanges(out, b.Err)
				return
			}
			select {
			case out <- Changes{Err: storeErr("watch", b.Err)}:
			case <-ctx.Done():
			}
			return
		}
		c := Changes{Rev: b.Rev}
		for _, e := range b.Events {
			if change, ok := w.change(e); ok {
				c.Changes = append(c.Changes, change)
			}
		}
		if len(c.Changes) == 0 {
			continue
		}
		select {
		case out <- c:
		case <-ctx.Done():
			return
		}
	}
}

// lastChanges tells a receiver that still waits why the watch ends.
func lastChanges(out chan<- Changes, err error) {
	select {
	case out <- Changes{Err: err}:
	default:
	}
}

// roster reads the machines, trying until the store answers; an error is the context's.
func (r *Registry) roster(ctx context.Context) (ro *roster, rev int64, err error) {
	err = r.insist(ctx, "watch", func() error {
		kvs, at, err := r.store.Range(ctx, r.under(machines), r.under(settings), r.under(admitted))
		if err == nil {
			ro, rev = r.rosterOf(kvs), at
		}
		return err
	})
	return ro, rev, err
}

// insist does do until it succeeds, with growing waits in between, for watches, which have nobody to tell of an error until ctx
// ends; its error is the context's.
func (r *Registry) insist(ctx context.Context, what string, do func() error) error {
	const first, last = 50 * time.Millisecond, 2 * time.Second
	for wait := first; ; wait = min(2*wait, last) {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.log.Debug("the store does not answer, trying again", "wait", wait, "err", storeErr(what, err))
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// watcher turns a watch's events into typed changes.
type watcher struct {
	r       *Registry
	roster  *roster
	base    int64 // revision that the roster was read at
	decoder *decoder
}

// change types one event; ok=false when it is of no kind that a snapshot holds. A record that cannot be read is as good as gone,
// as in a snapshot.
func (w *watcher) change(e kv.Event) (Change, bool) {
	kind, rest := w.r.split(e.Key)
	switch kind {
	case machines, settings, admitted:
		return w.machine(kind, fleet.MachineID(rest), e)
	case units:
		if !e.Delete {
			if u, ok := w.decoder.unit(unit.Name(rest), e.KV); ok {
				return Change{Unit: &u}, true
			}
		}
		return Change{Deleted: true, Unit: &fleet.Unit{Name: unit.Name(rest)}}, true
	case placements:
		key := pair(rest)
		if !e.Delete {
			if p, ok := w.decoder.placement(key, e.KV); ok {
				return Change{Placement: &p}, true
			}
		}
		return Change{Deleted: true, Placement: &fleet.Placement{Unit: key.Unit, Machine: key.Machine}}, true
	case holders:
		if !e.Delete {
			if h, ok := w.r.holder(unit.Name(rest), e.KV); ok {
				return Change{Holder: &h}, true
			}
		}
		return Change{Deleted: true, Holder: &fleet.Holder{Unit: unit.Name(rest)}}, true
	case brake:
		if b := w.r.brakeOf(e.KV); !e.Delete && b != nil {
			return Change{Brake: b}, true
		}
		return Change{Deleted: true, Brake: &fleet.Brake{}}, true
	case observed:
		key := pair(rest)
		if !e.Delete {
			if o, ok := w.decoder.observation(key, e.KV); ok {
				return Change{Observation: &o}, true
			}
		}
		return Change{Deleted: true, Observation: &fleet.Observation{Unit: key.Unit, Machine: key.Machine}}, true
	}
	return Change{}, false
}

func (w *watcher) machine(kind string, id fleet.MachineID, e kv.Event) (Change, bool) {
	if e.Mod > w.base { // else the roster has it already
		if e.Delete {
			w.roster.drop(kind, id)
		} else {
			w.roster.put(kind, id, e.KV)
		}
	}
	m, ok := w.roster.machine(id)
	if ok {
		return Change{Machine: &m}, true
	}
	// Settings of a machine that is not registered are nothing to a snapshot.
	return Change{Deleted: true, Machine: &fleet.Machine{ID: id}}, kind == machines
}
