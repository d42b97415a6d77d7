package agent

import (
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Pending returns what the registry does not hold yet, sorted by unit: observations that differ from those told, and units that are
// gone.
func (a *Agent) Pending() (changed []fleet.Observation, gone []unit.Name) {
	now := a.observations()
	for n, o := range now {
		if told, ok := a.told[n]; !ok || a.unsure[n] || !same(told, o) {
			changed = append(changed, o)
		}
	}
	for n := range a.told {
		if _, ok := now[n]; !ok {
			gone = append(gone, n)
		}
	}
	for n := range a.unsure {
		if _, ok := now[n]; !ok {
			gone = append(gone, n)
		}
	}
	slices.SortFunc(changed, func(x, y fleet.Observation) int { return compare(x.Unit, y.Unit) })
	slices.Sort(gone)
	return changed, slices.Compact(gone)
}

func compare(x, y unit.Name) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// observations are all that is known of units on disk, and of units that could not be brought there.
func (a *Agent) observations() map[unit.Name]fleet.Observation {
	all := make(map[unit.Name]fleet.Observation, len(a.disk))
	for n, d := range a.disk {
		st, known := a.states[n]
		if d.Hash == "" || !known || a.starting(n, st) {
			// keep what was told: the unit is about to change, and one report of that is enough
			if told, ok := a.told[n]; ok {
				all[n] = told
			}
			continue
		}
		all[n] = fleet.Observation{Unit: n, Machine: a.Machine, Load: st.Load, Active: st.Active, Sub: st.Sub, Result: st.Result,
			Hash: d.Hash, Launched: d.Started == d.Hash || d.Started == stopping && st.Active == "deactivating",
			Since: st.Since.UTC().Truncate(time.Millisecond), Reason: a.reasons[n], Order: a.order(n), Restarted: a.restarted(n, d, st),
			IP: a.addrs[n].v4, IP6: a.addrs[n].v6}
	}
	for n, why := range a.reasons {
		if _, ok := all[n]; !ok && a.disk[n].Hash == "" {
			all[n] = fleet.Observation{Unit: n, Machine: a.Machine, Load: "not-found", Active: "inactive", Sub: "dead",
				Result: "success", Reason: why}
		}
	}
	return all
}

// order is the revision of the placement that a unit is here for. An old copy keeps what was told of it: nobody waits for it.
func (a *Agent) order(n unit.Name) int64 {
	if p, placed := a.orders.Placements[n]; placed && !p.Handover {
		return p.Rev
	}
	return a.told[n].Order
}

// restarted is the number of the last order to restart that was carried out to its end.
func (a *Agent) restarted(n unit.Name, d OnDisk, st fleet.UnitStatus) int64 {
	if a.jobs[n].kind == "restart" || st.Job == "restart" {
		return a.told[n].Restarted
	}
	return d.Restarted
}

// starting reports whether a unit is not up yet, but on its way without trouble so far.
func (a *Agent) starting(n unit.Name, st fleet.UnitStatus) bool {
	if st.Active != "inactive" || a.reasons[n] != "" {
		return false
	}
	p, placed := a.orders.Placements[n]
	waits := placed && !p.Handover && p.Target == fleet.Launched && a.disk[n].Started != p.Hash
	return waits || a.jobs[n].kind == "start" || a.jobs[n].kind == "restart"
}

// sinceSlack is how far two times of one change may differ: systemd's own clock tells the time of changes before this
// process, the arrival of its signal that of later ones.
const sinceSlack = 2 * time.Second

// same reports whether two observations say the same.
func same(x, y fleet.Observation) bool {
	d := x.Since.Sub(y.Since)
	x.Since, y.Since = time.Time{}, time.Time{}
	return x == y && d > -sinceSlack && d < sinceSlack
}

// Told notes that a report arrived, or with an error that nobody knows whether it did.
func (a *Agent) Told(changed []fleet.Observation, gone []unit.Name, err error) {
	for _, o := range changed {
		if err != nil {
			a.unsure[o.Unit] = true
			continue
		}
		delete(a.unsure, o.Unit)
		a.told[o.Unit] = o
	}
	for _, n := range gone {
		if err != nil {
			a.unsure[n] = true
			continue
		}
		delete(a.unsure, n)
		delete(a.told, n)
	}
}

// Begin is SetTold at the start of a registration. What was let go under an earlier one may not be known any more, if the store was restored from a
// backup: it is said again.
func (a *Agent) Begin(observed map[unit.Name]fleet.Observation) {
	clear(a.letGone)
	a.SetTold(observed)
}

// SetTold takes what the registry holds of this machine, so that only differences are reported.
func (a *Agent) SetTold(observed map[unit.Name]fleet.Observation) {
	clear(a.told)
	clear(a.unsure)
	for n, o := range observed {
		a.told[n] = o
	}
}
