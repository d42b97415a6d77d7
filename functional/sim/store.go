package sim

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// prefix is where all keys are.
const prefix = "/fleet/"

// gate is one task's way to the store.
type gate struct{ t *task }

// registry is a registry for one task: what it asks of the store it waits for.
func (t *task) registry() *registry.Registry { return registry.New(gate{t}, prefix, t.w.log) }

// origin says who writes, as of when the request was sent.
type origin struct {
	who  string // task
	kind string
	host *host
	p    *process
	term fleet.Term // engine's
	// knows is since when that engine has seen who is there.
	knows time.Time
	op    *userOp // a user's
}

func (g gate) origin() origin {
	p := g.t.p
	o := origin{who: g.t.name, kind: g.t.kind, host: p.h, p: p, op: p.ops[g.t.kind]}
	if p.term != nil {
		o.term, o.knows = *p.term, p.knows
	}
	return o
}

func (g gate) Range(ctx context.Context, prefixes ...string) (kvs [][]kv.KV, rev int64, err error) {
	if e := g.t.request(ctx, "range", func() {
		g.t.w.tick()
		kvs, rev, err = g.t.w.mem.Range(context.Background(), prefixes...)
	}); e != nil {
		return nil, 0, e
	}
	return kvs, rev, err
}

func (g gate) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (rev int64, done bool, err error) {
	from := g.origin()
	if e := g.t.request(ctx, "txn", func() { rev, done, err = g.t.w.txn(from, guards, ops) }); e != nil {
		return 0, false, e
	}
	return rev, done, err
}

// Watch is not for tasks: they take in changes when a step says so.
func (g gate) Watch(context.Context, int64, ...string) <-chan kv.Batch {
	panic("the simulation has no goroutine to serve a watch")
}

func (g gate) Grant(ctx context.Context, ttl time.Duration) (id kv.LeaseID, granted time.Duration, err error) {
	if e := g.t.request(ctx, "grant", func() {
		g.t.w.tick()
		id, granted, err = g.t.w.mem.Grant(context.Background(), ttl)
		g.t.p.leases[id] = g.t.w.cluster
		g.t.w.facts.losses.granted[id] = g.t.w.now
	}); e != nil {
		return 0, 0, e
	}
	return id, granted, err
}

func (g gate) Renew(ctx context.Context, id kv.LeaseID) (err error) {
	from := g.origin()
	if e := g.t.request(ctx, "renew", func() {
		g.t.w.tick()
		if err = g.t.w.mem.Renew(context.Background(), id); err == nil {
			g.t.w.facts.losses.renewed[g.t.w.facts.losses.lease[id]] = g.t.w.now
			if err = g.t.p.sameCluster(id); err != nil {
				_ = g.t.w.mem.Revoke(context.Background(), id) // it has no errors
				g.t.w.sync(from)
			}
		}
	}); e != nil {
		return e
	}
	return err
}

func (g gate) Revoke(ctx context.Context, id kv.LeaseID) (err error) {
	from := g.origin()
	if e := g.t.request(ctx, "revoke", func() {
		g.t.w.tick()
		err = g.t.w.mem.Revoke(context.Background(), id)
		g.t.w.sync(from)
	}); e != nil {
		return e
	}
	return err
}

func (g gate) Left(ctx context.Context, ids ...kv.LeaseID) (left []time.Duration, err error) {
	if e := g.t.request(ctx, "left", func() {
		g.t.w.tick()
		left, err = g.t.w.mem.Left(context.Background(), ids...)
	}); e != nil {
		return nil, e
	}
	return left, err
}

// flight is a request that was given up by who sent it, and arrives later.
type flight struct {
	id   int
	what string
	by   time.Time // it arrives by then, or never
	do   func()
}

// maxFlight is how late a request can arrive that its sender has given up: etcd's own limit is 5 s and two elections.
const maxFlight = 20 * time.Second

func (w *world) onItsWay(what string, do func()) {
	w.flights++
	w.inFlight = append(w.inFlight, flight{w.flights, what, w.now.Add(maxFlight), do})
}

// deliver lets such a request arrive; false: there is none of that number.
func (w *world) deliver(id int) bool {
	i := slices.IndexFunc(w.inFlight, func(f flight) bool { return f.id == id })
	if i < 0 {
		return false
	}
	f := w.inFlight[i]
	w.inFlight = slices.Delete(w.inFlight, i, i+1)
	if w.storeOff {
		return true // and is lost
	}
	w.note("%s arrives", f.what)
	f.do()
	return true
}

// quorum takes the store's majority away, or gives it back.
func (w *world) quorum(there bool) {
	if there && w.storeOff {
		w.storeOff = false
		w.mem.Extend()
		for _, id := range w.facts.losses.lease {
			w.facts.losses.renewed[id] = w.now
		}
	}
	w.storeOff = !there
}

// tick ends leases whose time is up.
func (w *world) tick() {
	if w.storeOff {
		return
	}
	w.mem.Tick()
	w.sync(origin{who: "lease", kind: "lease"})
}

// txn does a transaction, without the guards that the run leaves out.
func (w *world) txn(from origin, guards []kv.Guard, ops []kv.Op) (int64, bool, error) {
	w.tick()
	if w.opt.LeaveOut != nil {
		guards = slices.DeleteFunc(slices.Clone(guards), func(g kv.Guard) bool { return w.opt.LeaveOut(from.kind, g) })
	}
	rev, done, err := w.mem.Txn(context.Background(), guards, ops)
	if done {
		w.sync(from)
	} else if err == nil {
		w.note("refused")
	}
	return rev, done, err
}

// revision is what one revision of the store changed, in fleet's words.
type revision struct {
	rev     int64
	changes []fleet.Change
}

// sync takes in what was written to the store since the last sync, all by one writer, and asks the rules.
func (w *world) sync(from origin) {
	b := w.mem.Since(w.rev+1, prefix)
	for at := 0; at < len(b.Events); {
		end := at
		for end < len(b.Events) && b.Events[end].Mod == b.Events[at].Mod {
			end++
		}
		w.rev = b.Events[at].Mod
		w.take(from, b.Events[at:end])
		at = end
	}
}

// take takes in one revision.
func (w *world) take(from origin, events []kv.Event) {
	r := revision{rev: w.rev, changes: w.typed(events)}
	if w.opt.Trace {
		w.note("→%d %s", w.rev, w.told(r.changes))
	}
	w.before(from, events, r.changes)
	for _, c := range r.changes {
		w.apply(c)
	}
	for _, e := range events {
		w.mark(e)
	}
	w.after(from, events, r.changes)
	if len(r.changes) > 0 {
		w.history = append(w.history, r)
	}
}

// told puts changes into few words: a unit, a placement as unit@host, an observation as unit@host=state.
func (w *world) told(changes []fleet.Change) string {
	var words []string
	for _, c := range changes {
		word, more := "", ""
		switch {
		case c.Machine != nil:
			word = w.name(c.Machine.ID)
			if c.Machine.Admitted == c.Machine.Rev {
				more = " admitted"
			}
			if c.Machine.Leaving {
				more += " leaving"
			}
		case c.Unit != nil:
			word, more = string(c.Unit.Name), " "+short(c.Unit.Hash)+" "+string(c.Unit.Target)
		case c.Placement != nil:
			word, more = string(c.Placement.Unit)+"@"+w.name(c.Placement.Machine), " "+short(c.Placement.Hash)+" "+string(c.Placement.Target)
			if c.Placement.Handover {
				more = " old"
			}
		case c.Holder != nil:
			word, more = string(c.Holder.Unit)+"@"+w.name(c.Holder.Machine), " held"
		case c.Brake != nil:
			word, more = "brake", " on"
		case c.Observation != nil:
			word, more = string(c.Observation.Unit)+"@"+w.name(c.Observation.Machine), "="+c.Observation.Active
		}
		if c.Deleted {
			word, more = "-"+word, ""
		}
		words = append(words, word+more)
	}
	return strings.Join(words, " ")
}

// mark notes which tasks a change wakes.
func (w *world) mark(e kv.Event) {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
	machine, _, _ := strings.Cut(rest, "/")
	switch kind {
	case "leader":
		w.leaderRev = w.rev
		w.leaderCreate = 0
		if !e.Delete {
			w.leaderCreate = e.Create
		}
	case "placements", "admitted":
		w.ordersRev[fleet.MachineID(machine)] = w.rev
	case "files":
		w.files[unit.Hash(rest)] = !e.Delete
	case "machines":
		w.leased(e)
	}
}

// apply keeps the snapshot of all that is stored up to date.
func (w *world) apply(c fleet.Change) {
	switch {
	case c.Machine != nil:
		if c.Deleted {
			w.facts.losses.left[c.Machine.ID] = w.snap.Machines[c.Machine.ID].Leaving
		} else {
			w.facts.losses.left[c.Machine.ID] = false
		}
		set(w.snap.Machines, c.Machine.ID, *c.Machine, c.Deleted)
	case c.Unit != nil:
		set(w.snap.Units, c.Unit.Name, *c.Unit, c.Deleted)
	case c.Placement != nil:
		set(w.snap.Placements, fleet.Key{Machine: c.Placement.Machine, Unit: c.Placement.Unit}, *c.Placement, c.Deleted)
	case c.Observation != nil:
		set(w.snap.Observed, fleet.Key{Machine: c.Observation.Machine, Unit: c.Observation.Unit}, *c.Observation, c.Deleted)
	}
}

func set[K comparable, V any](m map[K]V, k K, v V, deleted bool) {
	if deleted {
		delete(m, k)
	} else {
		m[k] = v
	}
}

// typed puts events into fleet's words. The registry alone knows the records, so it reads them, from a store that has no others.
func (w *world) typed(events []kv.Event) []fleet.Change {
	v := view{}
	add := func(keys ...string) {
		for _, k := range keys {
			kvs, _, err := w.mem.Range(context.Background(), k)
			if err == nil {
				v = append(v, kvs[0]...)
			}
		}
	}
	machines := map[string]bool{}
	for _, e := range events {
		kind, rest, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
		switch kind {
		case "machines", "machine-settings", "admitted":
			machines[rest] = true
		case "units", "placements", "observed", "holders", "brake":
			if !e.Delete {
				v = append(v, e.KV)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(machines)) {
		add(prefix+"machines/"+id, prefix+"machine-settings/"+id, prefix+"admitted/"+id)
	}
	s, err := registry.New(v, prefix, w.log).Snapshot(context.Background())
	if err != nil {
		panic(err) // the view has no errors
	}
	return changesOf(s, events, machines)
}

func changesOf(s fleet.Snapshot, events []kv.Event, machines map[string]bool) []fleet.Change {
	var cs []fleet.Change
	for _, id := range slices.Sorted(maps.Keys(machines)) {
		m, here := s.Machines[fleet.MachineID(id)]
		m.ID = fleet.MachineID(id)
		if here || slices.ContainsFunc(events, func(e kv.Event) bool { return e.Key == prefix+"machines/"+id }) {
			cs = append(cs, fleet.Change{Deleted: !here, Machine: &m})
		}
	}
	for _, e := range events {
		kind, rest, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
		m, n, _ := strings.Cut(rest, "/")
		k := fleet.Key{Machine: fleet.MachineID(m), Unit: unit.Name(n)}
		switch kind {
		case "units":
			u, there := s.Units[unit.Name(rest)]
			u.Name = unit.Name(rest)
			cs = append(cs, fleet.Change{Deleted: !there, Unit: &u})
		case "placements":
			p, there := s.Placements[k]
			p.Unit, p.Machine = k.Unit, k.Machine
			cs = append(cs, fleet.Change{Deleted: !there, Placement: &p})
		case "holders":
			h, there := s.Holders[unit.Name(rest)]
			h.Unit = unit.Name(rest)
			cs = append(cs, fleet.Change{Deleted: !there, Holder: &h})
		case "brake":
			c := fleet.Change{Deleted: s.Brake == nil, Brake: &fleet.Brake{}}
			if s.Brake != nil {
				c.Brake = s.Brake
			}
			cs = append(cs, c)
		case "observed":
			o, there := s.Observed[k]
			o.Unit, o.Machine = k.Unit, k.Machine
			cs = append(cs, fleet.Change{Deleted: !there, Observation: &o})
		}
	}
	return cs
}

// view is a store that holds a few keys and can only be read.
type view []kv.KV

func (v view) Range(_ context.Context, prefixes ...string) ([][]kv.KV, int64, error) {
	out := make([][]kv.KV, len(prefixes))
	for i, p := range prefixes {
		for _, e := range v {
			if kv.Covers(p, e.Key) {
				out[i] = append(out[i], e)
			}
		}
	}
	return out, 0, nil
}

func (v view) Txn(context.Context, []kv.Guard, []kv.Op) (int64, bool, error) {
	return 0, false, kv.ErrUnavailable
}
func (v view) Watch(context.Context, int64, ...string) <-chan kv.Batch { return nil }
func (v view) Grant(context.Context, time.Duration) (kv.LeaseID, time.Duration, error) {
	return 0, 0, kv.ErrUnavailable
}
func (v view) Renew(context.Context, kv.LeaseID) error  { return kv.ErrUnavailable }
func (v view) Revoke(context.Context, kv.LeaseID) error { return kv.ErrUnavailable }
func (v view) Left(context.Context, ...kv.LeaseID) ([]time.Duration, error) {
	return nil, kv.ErrUnavailable
}

// quiet is a log that nobody reads.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
