package api

import (
	"cmp"
	"maps"
	"slices"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// view is a snapshot with the one index that all answers need: where each unit is placed. It makes the wire's entities
// out of records that never stand together in the store.
type view struct {
	snap   fleet.Snapshot
	placed map[unit.Name][]fleet.MachineID
}

func newView(s fleet.Snapshot) *view {
	v := &view{snap: s, placed: make(map[unit.Name][]fleet.MachineID, len(s.Units))}
	for k := range s.Placements {
		v.placed[k.Unit] = append(v.placed[k.Unit], k.Machine)
	}
	return v
}

// unit derives what fleet calls current state: inactive until the machine of the placement has the unit loaded, loaded
// then, launched once its agent has started it. An old copy that a handover still keeps running does not count: the
// unit is where it is going. Global units are on many machines and have no current state.
func (v *view) unit(name unit.Name) (Unit, bool) {
	u, ok := v.snap.Units[name]
	if !ok {
		return Unit{}, false
	}
	w := Unit{
		Name: string(name), DesiredState: string(u.Target), Hash: string(u.Hash),
		Description: u.Description, Global: u.Needs.Global, Rev: u.Rev, Main: string(u.Main),
	}
	if !w.Global {
		w.CurrentState = string(fleet.Inactive)
	}
	for _, m := range v.placed[name] {
		key := fleet.Key{Machine: m, Unit: name}
		switch {
		case v.snap.Placements[key].Handover:
		case w.Global:
			// On a machine that is gone a global unit stays placed, for when it comes back.
			if _, here := v.snap.Machines[m]; here {
				w.Machines++
			}
		default:
			w.MachineID = string(m)
			w.CurrentState = string(current(v.snap.Observed[key]))
		}
	}
	return w, true
}

// current is the state one machine has brought a unit to. The zero Observation, of a machine that has not reported, is inactive.
func current(o fleet.Observation) fleet.TargetState {
	switch {
	case o.Load == "" || o.Load == "not-found":
		return fleet.Inactive
	case o.Launched:
		return fleet.Launched
	}
	return fleet.Loaded
}

func wireState(o fleet.Observation) UnitState {
	w := UnitState{
		Name: string(o.Unit), MachineID: string(o.Machine), Hash: string(o.Hash),
		SystemdLoadState: o.Load, SystemdActiveState: o.Active, SystemdSubState: o.Sub,
		Result: o.Result, Since: o.Since, Launched: o.Launched, Reason: o.Reason, Restarted: o.Restarted,
	}
	if o.IP.IsValid() {
		w.IP = o.IP.String()
	}
	if o.IP6.IsValid() {
		w.IP6 = o.IP6.String()
	}
	return w
}

func wireMachine(m fleet.Machine) Machine {
	w := Machine{ID: string(m.ID), Metadata: m.Metadata, Name: m.Name, Version: m.Version, Leaving: m.Leaving, Cordon: m.Cordon}
	if m.IP.IsValid() {
		w.PrimaryIP = m.IP.String()
	}
	return w
}

// units lists all units by name.
func (v *view) units() []Unit {
	list := make([]Unit, 0, len(v.snap.Units))
	for _, name := range slices.Sorted(maps.Keys(v.snap.Units)) {
		u, _ := v.unit(name)
		list = append(list, u)
	}
	return list
}

// states lists the states that fit the filters (empty: all) by unit, then machine.
func (v *view) states(machine fleet.MachineID, name unit.Name) []UnitState {
	keys := make([]fleet.Key, 0, len(v.snap.Observed))
	for k := range v.snap.Observed {
		if (machine == "" || k.Machine == machine) && (name == "" || k.Unit == name) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b fleet.Key) int {
		return cmp.Or(cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Machine, b.Machine))
	})
	list := make([]UnitState, 0, len(keys))
	for _, k := range keys {
		list = append(list, wireState(v.snap.Observed[k]))
	}
	return list
}

// machines lists the registered machines by ID.
func (v *view) machines() []Machine {
	list := make([]Machine, 0, len(v.snap.Machines))
	for _, id := range slices.Sorted(maps.Keys(v.snap.Machines)) {
		list = append(list, wireMachine(v.snap.Machines[id]))
	}
	return list
}

// trimUnit, trimState and trimMachine leave what fleet v1 sent.
func trimUnit(u Unit) Unit {
	return Unit{
		Name: u.Name, CurrentState: u.CurrentState, DesiredState: u.DesiredState, MachineID: u.MachineID, Options: u.Options,
	}
}

func trimState(s UnitState) UnitState {
	return UnitState{
		Name: s.Name, Hash: s.Hash, MachineID: s.MachineID,
		SystemdActiveState: s.SystemdActiveState, SystemdLoadState: s.SystemdLoadState, SystemdSubState: s.SystemdSubState,
	}
}

func trimMachine(m Machine) Machine {
	return Machine{ID: m.ID, Metadata: m.Metadata, PrimaryIP: m.PrimaryIP}
}

// apply takes one change in. The view must own its snapshot's maps.
func (v *view) apply(c fleet.Change) {
	switch {
	case c.Machine != nil:
		set(v.snap.Machines, c.Machine.ID, *c.Machine, c.Deleted)
	case c.Unit != nil:
		set(v.snap.Units, c.Unit.Name, *c.Unit, c.Deleted)
	case c.Observation != nil:
		set(v.snap.Observed, fleet.Key{Machine: c.Observation.Machine, Unit: c.Observation.Unit}, *c.Observation, c.Deleted)
	case c.Placement != nil:
		p := *c.Placement
		set(v.snap.Placements, fleet.Key{Machine: p.Machine, Unit: p.Unit}, p, c.Deleted)
		rest := slices.DeleteFunc(v.placed[p.Unit], func(m fleet.MachineID) bool { return m == p.Machine })
		if !c.Deleted {
			rest = append(rest, p.Machine)
		}
		set(v.placed, p.Unit, rest, len(rest) == 0)
	}
}

func set[K comparable, V any](m map[K]V, k K, v V, gone bool) {
	if gone {
		delete(m, k)
	} else {
		m[k] = v
	}
}
