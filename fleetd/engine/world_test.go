package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// world is a store in a few lines: a snapshot that takes decisions with their guards and tells what changed. It stands in for the
// registry, which a room must not import; functional/sim runs the engine over the real one.
type world struct {
	fleet.Snapshot
	pending []fleet.Change              // since the watch was last read
	copies  map[fleet.Key]time.Duration // where an exclusive unit may run, and for how long after the machine has gone
}

func newWorld() *world {
	return &world{Snapshot: fleet.NewSnapshot(), copies: map[fleet.Key]time.Duration{}}
}

func (w *world) next() int64 { w.Rev++; return w.Rev }

func (w *world) changed(c fleet.Change) { w.pending = append(w.pending, c) }

// watch hands out what changed since the last call.
func (w *world) watch() []fleet.Change {
	cs := w.pending
	for _, c := range cs {
		if _, here := w.Machines[w.idOf(c)]; c.Machine != nil && c.Deleted && !here {
			w.Gone[c.Machine.ID] = w.At // whoever reads this knows it only now
		}
	}
	w.pending = nil
	return cs
}

func (w *world) idOf(c fleet.Change) fleet.MachineID {
	if c.Machine == nil {
		return ""
	}
	return c.Machine.ID
}

// machine adds or changes a machine; a machine that was gone gets a new registration.
func (w *world) machine(id fleet.MachineID, change func(*fleet.Machine)) {
	m, here := w.Machines[id]
	if !here {
		m = fleet.Machine{ID: id, Rev: w.next(), TTL: 10 * time.Second}
		for k, wait := range w.copies {
			if k.Machine == id && w.At.Sub(w.Gone[id]) >= wait {
				delete(w.copies, k) // systemd has stopped it
			}
		}
		delete(w.Gone, id)
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
	w.Gone[id] = w.At
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
	if _, here := w.Machines[k.Machine]; !ok || !here || p.Target == fleet.Inactive {
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

// letGo lets the agents of machines that are here let go what was revoked.
func (w *world) letGo() {
	for _, k := range slices.SortedFunc(maps.Keys(w.Placements), compareKeys) {
		if _, here := w.Machines[k.Machine]; !here || w.Placements[k].Target != fleet.Inactive {
			continue
		}
		delete(w.copies, k)
		delete(w.Observed, k)
		w.next()
		w.changed(fleet.Change{Deleted: true, Observation: &fleet.Observation{Unit: k.Unit, Machine: k.Machine}})
		if w.Holders[k.Unit].Machine == k.Machine {
			delete(w.Holders, k.Unit)
			w.changed(fleet.Change{Deleted: true, Holder: &fleet.Holder{Unit: k.Unit}})
		}
	}
}

// twice names an exclusive unit that may run on two machines.
func (w *world) twice() unit.Name {
	at := map[unit.Name]int{}
	for k, wait := range w.copies {
		if since, gone := w.Gone[k.Machine]; gone && w.At.Sub(since) >= wait {
			continue
		}
		if at[k.Unit]++; at[k.Unit] > 1 {
			return k.Unit
		}
	}
	return ""
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
	if d.Hold > 0 || d.Kind == fleet.Free {
		if _, here := w.Machines[d.HolderGone]; here || w.Holders[d.Unit].Rev != d.HolderRev {
			return false
		}
	}
	if d.Kind == fleet.Free {
		return w.Units[d.Unit].Rev == d.UnitRev
	}
	return d.Kind == fleet.Admit ||
		w.Units[d.Unit].Rev == d.UnitRev && w.Placements[fleet.Key{Machine: d.Machine, Unit: d.Unit}].Rev == d.Rev
}

func (w *world) write(d fleet.Decision) {
	k := fleet.Key{Machine: d.Machine, Unit: d.Unit}
	rev := w.next()
	if d.Hold > 0 {
		h := fleet.Holder{Unit: d.Unit, Machine: d.Machine, Wait: d.Hold, Rev: rev}
		w.Holders[d.Unit] = h
		w.changed(fleet.Change{Holder: &h})
		w.copies[k] = max(w.copies[k], d.Hold)
	}
	switch d.Kind {
	case fleet.Free:
		delete(w.Holders, d.Unit)
		w.changed(fleet.Change{Deleted: true, Holder: &fleet.Holder{Unit: d.Unit}})
	case fleet.Revoke:
		p := fleet.Placement{Unit: d.Unit, Machine: d.Machine, Hash: d.Hash, Target: fleet.Inactive, Rev: rev}
		w.Placements[k] = p
		w.changed(fleet.Change{Placement: &p})
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
