package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// world is a store in a few lines: a snapshot that takes decisions with their guards and tells what changed. It stands in for the
// registry, which a room must not import; functional/sim runs the engine over the real one.
type world struct {
	fleet.Snapshot
	pending []fleet.Change // since the watch was last read
}

func newWorld() *world { return &world{Snapshot: fleet.NewSnapshot()} }

func (w *world) next() int64 { w.Rev++; return w.Rev }

func (w *world) changed(c fleet.Change) { w.pending = append(w.pending, c) }

// watch hands out what changed since the last call.
func (w *world) watch() []fleet.Change {
	cs := w.pending
	w.pending = nil
	return cs
}

// machine adds or changes a machine; a machine that was gone gets a new registration.
func (w *world) machine(id fleet.MachineID, change func(*fleet.Machine)) {
	m, here := w.Machines[id]
	if !here {
		m = fleet.Machine{ID: id, Rev: w.next()}
	}
	m.Metadata = maps.Clone(m.Metadata)
	if m.Metadata == nil {
		m.Metadata = map[string]string{}
	}
	w.next()
	if change != nil {
		change(&m)
	}
	w.Machines[id] = m
	w.changed(fleet.Change{Machine: &m})
}

// lose takes a machine away with all it reported.
func (w *world) lose(id fleet.MachineID) {
	w.next()
	delete(w.Machines, id)
	w.changed(fleet.Change{Deleted: true, Machine: &fleet.Machine{ID: id}})
	var reports []fleet.Key
	for k := range w.Observed {
		if k.Machine == id {
			reports = append(reports, k)
		}
	}
	slices.SortFunc(reports, compareKeys)
	for _, k := range reports {
		delete(w.Observed, k)
		w.changed(fleet.Change{Deleted: true, Observation: &fleet.Observation{Unit: k.Unit, Machine: id}})
	}
}

func compareKeys(a, b fleet.Key) int {
	return strings.Compare(string(a.Unit)+" "+string(a.Machine), string(b.Unit)+" "+string(b.Machine))
}

func (w *world) unit(name unit.Name, change func(*fleet.Unit)) {
	u, ok := w.Units[name]
	if !ok {
		u = fleet.Unit{Name: name, Hash: unit.Hash("hash-of-" + name), Target: fleet.Launched}
	}
	if change != nil {
		change(&u)
	}
	u.Rev = w.next()
	w.Units[name] = u
	w.changed(fleet.Change{Unit: &u})
}

func (w *world) destroy(name unit.Name) {
	w.next()
	delete(w.Units, name)
	w.changed(fleet.Change{Deleted: true, Unit: &fleet.Unit{Name: name}})
}

// run lets the agent of a machine report what its placement asks for.
func (w *world) run(k fleet.Key) {
	p, ok := w.Placements[k]
	if _, here := w.Machines[k.Machine]; !ok || !here {
		return
	}
	o := fleet.Observation{Unit: k.Unit, Machine: k.Machine, Load: "loaded", Active: "inactive", Result: "success", Hash: p.Hash, Order: p.Rev}
	if p.Target == fleet.Launched {
		o.Active, o.Launched = "active", true
	}
	w.next()
	w.Observed[k] = o
	w.changed(fleet.Change{Observation: &o})
}

// runAll lets all agents catch up.
func (w *world) runAll() {
	for _, k := range slices.SortedFunc(maps.Keys(w.Placements), compareKeys) {
		w.run(k)
	}
}

// commit writes decisions whose guards hold and returns the others.
func (w *world) commit(ds []fleet.Decision) (refused []fleet.Decision) {
	for _, d := range ds {
		if !w.holds(d) {
			refused = append(refused, d)
			continue
		}
		w.write(d)
	}
	return refused
}

func (w *world) holds(d fleet.Decision) bool {
	if w.Machines[d.Machine].Rev != d.MachineRev {
		return false
	}
	return d.Kind == fleet.Admit ||
		w.Units[d.Unit].Rev == d.UnitRev && w.Placements[fleet.Key{Machine: d.Machine, Unit: d.Unit}].Rev == d.Rev
}

func (w *world) write(d fleet.Decision) {
	k := fleet.Key{Machine: d.Machine, Unit: d.Unit}
	rev := w.next()
	switch d.Kind {
	case fleet.Admit:
		m := w.Machines[d.Machine]
		m.Admitted = d.MachineRev
		w.Machines[d.Machine] = m
		w.changed(fleet.Change{Machine: &m})
	case fleet.Withdraw:
		delete(w.Placements, k)
		w.changed(fleet.Change{Deleted: true, Placement: &fleet.Placement{Unit: d.Unit, Machine: d.Machine}})
	default:
		p := fleet.Placement{Unit: d.Unit, Machine: d.Machine, Hash: d.Hash, Target: d.Target, Handover: d.Kind == fleet.Handover, Rev: rev}
		w.Placements[k] = p
		w.changed(fleet.Change{Placement: &p})
	}
}

// plan plans and writes once; every decision must be writable.
func (w *world) plan(t testing.TB) []fleet.Decision {
	t.Helper()
	ds := Plan(w.Snapshot)
	if refused := w.commit(ds); len(refused) > 0 {
		t.Fatalf("plan on a snapshot of this moment was refused: %s", text(refused))
	}
	return ds
}

// text shows decisions to people, one a line.
func text(ds []fleet.Decision) string {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintf(&b, "%s %s %s", d.Kind, d.Unit, d.Machine.Short())
		if d.Target != "" {
			fmt.Fprintf(&b, " %s", d.Target)
		}
		fmt.Fprintf(&b, ": %s\n", d.Reason)
	}
	return b.String()
}

func id(n int) fleet.MachineID { return fleet.MachineID(fmt.Sprintf("%08x%024x", n, n)) }
