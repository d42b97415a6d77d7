package sim

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// facts is what the rules remember of the past.
type facts struct {
	records  map[version]fleet.Unit
	admitted map[registration]bool
	lost     map[registration]int64          // revision at which it ended
	ran      map[fleet.Key]fleet.Observation // the last time it was observed running
	placed   map[fleet.Key]int64             // revision that made the placement that is there
	offers   map[fleet.MachineID]fleet.Machine
	offered  map[fleet.MachineID]time.Time // when that last changed
	rev      map[fleet.MachineID]int64     // its last registration
	kin      map[unit.Name]bool            // units whose text ever spoke of other units, or of ports, which others may have
	globs    []unit.Glob                   // by which texts ever spoke of others
	starts   int
	stops    int

	exclusive map[unit.Name]bool // units that were started, and are always exclusive
	tokens    map[unit.Name]tokenAt

	losses  losses
	lasting map[unit.Hash]bool // texts whose programs do not end by themselves
	ended   map[fleet.Key]bool // processes that a step ended since they were started
}

// version is one version of a unit's record.
type version struct {
	name unit.Name
	rev  int64
}

// registration is one registration of a machine.
type registration struct {
	machine fleet.MachineID
	rev     int64
}

func newFacts() facts {
	return facts{
		records: map[version]fleet.Unit{}, admitted: map[registration]bool{}, lost: map[registration]int64{}, ran: map[fleet.Key]fleet.Observation{},
		placed: map[fleet.Key]int64{}, rev: map[fleet.MachineID]int64{}, offers: map[fleet.MachineID]fleet.Machine{}, offered: map[fleet.MachineID]time.Time{},
		losses: newLosses(), kin: map[unit.Name]bool{}, lasting: map[unit.Hash]bool{}, exclusive: map[unit.Name]bool{}, tokens: map[unit.Name]tokenAt{}, ended: map[fleet.Key]bool{},
	}
}

// before asks the rules that compare a write with what was stored before it.
func (w *world) before(from origin, events []kv.Event, changes []fleet.Change) {
	for _, e := range events {
		kind, rest, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
		w.mayWrite(from, kind, rest, e)
	}
	w.moving(from, changes)
	for _, c := range changes {
		if c.Unit != nil {
			w.wished(from, *c.Unit, c.Deleted)
		}
		if c.Machine != nil && !c.Deleted && from.op != nil {
			w.set(from, *c.Machine)
		}
	}
	for _, c := range changes {
		if c.Placement != nil && c.Deleted {
			w.withdrawing(*c.Placement, changes)
		}
	}
}

// mayWrite holds who writes what: docs/decisions/0001.
func (w *world) mayWrite(from origin, kind, rest string, e kv.Event) {
	writers := map[string]string{
		"machines": "presence lease depart", "machine-settings": "user", "admitted": "engine", "units": "user",
		"placements": "engine", "observed": "report presence lease depart", "leader": "engine lease renew", "files": "user",
		"holders": "engine letgo depart", "brake": "engine user",
	}[kind]
	if kind == "files" && e.Delete {
		writers = "collect"
	}
	who := from.kind
	if from.op != nil {
		who = "user"
	}
	if !slices.Contains(strings.Fields(writers), who) {
		w.broken("writer", "%s wrote %s", from.who, e.Key)
	}
	if (kind == "placements" || kind == "admitted") && (w.leaderCreate == 0 || w.leaderCreate != from.term.Rev) {
		w.broken("not leader", "%s wrote %s in its term of %d; the leader's began at %d", from.who, e.Key, from.term.Rev, w.leaderCreate)
	}
	if kind == "admitted" && !e.Delete {
		m, here := w.snap.Machines[fleet.MachineID(rest)]
		if !here {
			w.broken("gone machine", "%s admitted %s, which is not registered", from.who, rest)
		}
		w.facts.admitted[registration{m.ID, m.Rev}] = true
	}
	if kind == "observed" && !e.Delete {
		if machine, _, _ := strings.Cut(rest, "/"); fleet.MachineID(machine) != from.host.id {
			w.broken("writer", "%s wrote %s", from.who, e.Key)
		}
	}
}

// wished: a unit's record changes as one request wants it, and in nothing else.
func (w *world) wished(from origin, u fleet.Unit, deleted bool) {
	if from.op == nil {
		return
	}
	before, was := w.snap.Units[u.Name]
	wish, asked := from.op.wishes[u.Name]
	from.op.wrote[u.Name] = w.rev
	want := before
	switch {
	case !asked || wish.destroy != deleted:
		w.broken("wish", "%s changed %s, which it was not asked to", from.who, u.Name)
		return
	case deleted:
		return
	case wish.file != nil && (!was || before.Hash != wish.file.Hash()):
		want.Hash, want.Target = wish.file.Hash(), fleet.Inactive
	case !was:
		w.broken("wish", "%s made %s without a text", from.who, u.Name)
	}
	if wish.target != nil {
		want.Target = *wish.target
	}
	if u.Hash != want.Hash || u.Target != want.Target {
		w.broken("wish", "%s made %s %s %s, not %s %s", from.who, u.Name, short(u.Hash), u.Target, short(want.Hash), want.Target)
	}
}

// set likewise: a machine's settings change as the request wants it, and in nothing else.
func (w *world) set(from origin, m fleet.Machine) {
	was, here := w.snap.Machines[m.ID]
	if !here {
		return
	}
	wish := from.op.settings
	for k := range m.Metadata {
		if _, asked := wish.Metadata[k]; !asked && m.Metadata[k] != was.Metadata[k] {
			w.broken("wish", "%s changed %s of %s, which it was not asked to", from.who, k, w.name(m.ID))
		}
	}
	if wish.Cordon == nil && m.Cordon != was.Cordon || wish.Leaving == nil && m.Leaving != was.Leaving {
		w.broken("wish", "%s changed cordon or leaving of %s, which it was not asked to", from.who, w.name(m.ID))
	}
}

func short(h unit.Hash) string { return string(h[:min(7, len(h))]) }

// withdrawing: a unit that shall run is taken from a machine only when it runs elsewhere. That holds for units that know of no
// others; those that conflict with some, follow or replace them can have to go at once.
func (w *world) withdrawing(p fleet.Placement, with []fleet.Change) {
	k := fleet.Key{Machine: p.Machine, Unit: p.Unit}
	u, there := w.snap.Units[p.Unit]
	old := w.snap.Placements[k]
	if !there || u.Target != fleet.Launched || old.Target != fleet.Launched || w.related(p.Unit) || u.Needs.Exclusive {
		return
	}
	if u.Needs.Global {
		m, here := w.snap.Machines[p.Machine]
		if here && fitsAlone(u, m) && w.now.Sub(w.facts.offered[p.Machine]) > engineLag {
			w.broken("needless withdrawal", "global %s from %s, which it fits", p.Unit, w.name(p.Machine))
		}
		return
	}
	for _, full := range w.fulls(p.Unit, with) {
		to := fleet.Key{Machine: full.Machine, Unit: p.Unit}
		// One placed just now has not run, even if it is still observed running there from an earlier time.
		if ran, ok := w.facts.ran[to]; ok && w.facts.placed[to] != 0 && full.Machine != p.Machine && ran.Hash == full.Hash {
			return
		}
	}
	w.broken("needless withdrawal", "%s from %s, and it has not run elsewhere", p.Unit, w.name(p.Machine))
}

// engineLag is how long a leader may not know of a change of a machine: no guard holds it to that, as it holds it to a unit's.
const engineLag = 30 * time.Second

// fulls are the placements of a unit that are no handovers, with changes applied.
func (w *world) fulls(n unit.Name, with []fleet.Change) []fleet.Placement {
	var ps []fleet.Placement
	changed := map[fleet.MachineID]bool{}
	for _, c := range with {
		if c.Placement != nil && c.Placement.Unit == n {
			changed[c.Placement.Machine] = true
			if !c.Deleted && !c.Placement.Handover {
				ps = append(ps, *c.Placement)
			}
		}
	}
	for _, h := range w.hosts {
		p, ok := w.snap.Placements[fleet.Key{Machine: h.id, Unit: n}]
		if ok && !p.Handover && !changed[h.id] {
			ps = append(ps, p)
		}
	}
	return ps
}

// fitsAlone tells whether a machine is what a unit asks for, other units apart.
func fitsAlone(u fleet.Unit, m fleet.Machine) bool {
	if id := u.Needs.MachineID; id != "" && id != string(m.ID) && id != m.ID.Short() {
		return false
	}
	for k, values := range u.Needs.Metadata {
		if !slices.Contains(values, m.Metadata[k]) {
			return false
		}
	}
	return true
}

// related tells whether other units can have a say in where n is.
func (w *world) related(n unit.Name) bool {
	return w.facts.kin[n] || slices.ContainsFunc(w.facts.globs, func(g unit.Glob) bool { return g.Match(n) })
}

func (w *world) name(id fleet.MachineID) string {
	if h := w.hostOf(id); h != nil {
		return h.name
	}
	return string(id)
}

// after asks the rules that hold for all that is stored, as far as a write can have broken them.
func (w *world) after(from origin, events []kv.Event, changes []fleet.Change) {
	for _, c := range changes {
		switch {
		case c.Unit != nil && !c.Deleted:
			w.remember(*c.Unit)
			if !w.files[c.Unit.Hash] {
				w.broken("lost text", "%s names %s", c.Unit.Name, short(c.Unit.Hash))
			}
		case c.Placement != nil:
			w.placing(from, *c.Placement, c.Deleted)
		case c.Machine != nil && !c.Deleted:
			w.offering(*c.Machine)
			w.facts.rev[c.Machine.ID] = c.Machine.Rev
		case c.Machine != nil:
			w.facts.lost[registration{c.Machine.ID, w.facts.rev[c.Machine.ID]}] = w.rev
		case c.Observation != nil && !c.Deleted:
			o := *c.Observation
			if p := w.snap.Placements[fleet.Key{Machine: o.Machine, Unit: o.Unit}]; o.Running(o.Hash, p.Target) {
				w.facts.ran[fleet.Key{Machine: o.Machine, Unit: o.Unit}] = o
			}
		}
	}
	if slices.ContainsFunc(events, func(e kv.Event) bool { return e.Delete && strings.HasPrefix(e.Key, prefix+"files/") }) {
		w.texts()
	}
}

func (w *world) remember(u fleet.Unit) {
	w.facts.records[version{u.Name, u.Rev}] = u
	n := u.Needs
	if len(n.Conflicts)+len(n.Replaces)+len(n.MachineOf)+len(n.Publish) == 0 {
		return
	}
	w.facts.kin[u.Name] = true
	for _, g := range append(slices.Clone(n.Conflicts), n.Replaces...) {
		if !slices.Contains(w.facts.globs, g) {
			w.facts.globs = append(w.facts.globs, g)
		}
	}
}

// offering notes when a machine changes what keeps units on it.
func (w *world) offering(m fleet.Machine) {
	was := w.facts.offers[m.ID]
	if !maps.Equal(was.Metadata, m.Metadata) || was.Leaving != m.Leaving {
		w.facts.offers[m.ID], w.facts.offered[m.ID] = m, w.now
	}
}

// placing: a placement is of a unit that shall be placed, with its text, on a machine that is here; one machine per unit.
func (w *world) placing(from origin, p fleet.Placement, deleted bool) {
	k := fleet.Key{Machine: p.Machine, Unit: p.Unit}
	made := w.facts.placed[k]
	if deleted {
		delete(w.facts.placed, k)
		return
	}
	if made == 0 {
		w.facts.placed[k] = w.rev
		delete(w.facts.ran, k) // what ran there was another copy
		if _, here := w.snap.Machines[p.Machine]; !here {
			w.broken("gone machine", "%s placed %s on %s, which is not registered", from.who, p.Unit, w.name(p.Machine))
		}
	}
	if p.Target == fleet.Inactive {
		return // revoked: nothing more is asked of it
	}
	if !w.files[p.Hash] {
		w.broken("lost text", "the placement of %s on %s names %s", p.Unit, w.name(p.Machine), short(p.Hash))
	}
	u, there := w.snap.Units[p.Unit]
	if !there || u.Target == fleet.Inactive {
		w.broken("unwanted", "%s placed %s, which shall be nowhere", from.who, p.Unit)
	}
	if p.Handover {
		return
	}
	if p.Target != u.Target || made == 0 && p.Hash != u.Hash {
		w.broken("unwanted", "%s placed %s %s %s, but it shall be %s %s", from.who, p.Unit, short(p.Hash), p.Target, short(u.Hash), u.Target)
	}
	if fulls := w.fulls(p.Unit, nil); len(fulls) > 1 && !u.Needs.Global {
		w.broken("twice", "%s is placed on %d machines", p.Unit, len(fulls))
	}
}

// texts: what a unit or a placement names is stored.
func (w *world) texts() {
	for _, n := range slices.Sorted(maps.Keys(w.snap.Units)) {
		if u := w.snap.Units[n]; !w.files[u.Hash] {
			w.broken("lost text", "%s names %s", n, short(u.Hash))
		}
	}
	for _, p := range w.snap.Placements {
		if !w.files[p.Hash] && p.Target != fleet.Inactive {
			w.broken("lost text", "a placement names %s", short(p.Hash))
		}
	}
}

// acknowledged: what a user is told was written, was.
func (w *world) acknowledged(op *userOp, n unit.Name, res registry.SubmitResult) {
	wish := op.wishes[n]
	u, known := w.facts.records[version{n, res.Rev}]
	switch {
	case !known:
		w.broken("lost write", "%s was told of revision %d of %s, which there never was", op.who, res.Rev, n)
	case wish.file != nil && u.Hash != wish.file.Hash(), wish.target != nil && u.Target != *wish.target:
		w.broken("lost write", "%s was told that %s is as it wants, but it is %s %s", op.who, n, short(u.Hash), u.Target)
	}
}

// starting counts.
func (w *world) starting(p *process, n unit.Name) {
	w.facts.starts++
	w.unconfirmed(p, "starts", n)
	delete(w.facts.ended, fleet.Key{Machine: p.h.id, Unit: n})
}

// stopping: a machine's agent stops what runs only when its orders say so, and what it has no orders for only when an engine has
// planned for its registration.
func (w *world) stopping(ctx context.Context, p *process, n unit.Name) {
	w.facts.stops++
	w.unconfirmed(p, "stops", n)
	if p.departing {
		return
	}
	states, err := p.h.sys.States(ctx, []unit.Name{n})
	if err != nil || states[n].Active == "inactive" || states[n].Active == "failed" {
		return
	}
	order, placed := p.orders.Placements[n]
	disk, err := p.h.disk.Read()
	if err != nil {
		return
	}
	switch {
	case !placed:
		w.cleared(p, n)
	case order.Handover || order.Target == fleet.Launched && disk[n].Hash == order.Hash:
		w.broken("needless stop", "%s on %s, which is ordered to run there", n, p.h.name)
	}
}

// unloading likewise.
func (w *world) unloading(p *process, n unit.Name) {
	w.unconfirmed(p, "unloads", n)
	if _, placed := p.orders.Placements[n]; !placed && !p.departing {
		w.cleared(p, n)
	}
}

func (w *world) cleared(p *process, n unit.Name) {
	r := registration{p.h.id, p.ordersOf}
	if !w.facts.admitted[r] {
		w.broken("cleared", "%s took %s away before an engine had planned for its registration %d", p.h.name, n, r.rev)
	}
	if lost := w.facts.lost[r]; lost != 0 && lost <= p.orders.Rev {
		w.broken("cleared", "%s took %s away by what was planned at %d without it, for its registration %d was lost at %d",
			p.h.name, n, p.orders.Rev, r.rev, lost)
	}
}
