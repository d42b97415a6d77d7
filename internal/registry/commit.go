package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Commit writes decisions in order, many in one transaction, each guarded as fleet.Decision says, all by the term. Decisions
// that lost a race are left out and named in conflicts (plan again on a newer snapshot); the others are written. An
// error means the term is over (kv.ErrLeaseGone) or the store failed, and an unknown part was written. Rev is the last revision
// written, 0 if nothing was.
//
// The decisions of one unit, such as the place and the handover of a move, are written together or lost together. Only of a
// unit with more decisions than a transaction holds, which is a global one, does each stand for itself. Admissions come
// last, and one is lost with any other decision for its machine: an agent must not clear away what it was yet to be given.
func (r *Registry) Commit(ctx context.Context, t Term, ds []fleet.Decision) (rev int64, conflicts []fleet.Decision, err error) {
	term := []kv.Guard{{Key: r.leaderKey(), Kind: kv.CreateIs, Rev: t.Rev}}
	lost := make([]bool, len(ds))
	cut := map[fleet.MachineID]bool{} // machines with a lost decision
	for _, groups := range phases(ds) {
		var atoms []atom
		var of [][]int // the decisions of each atom
		for _, group := range groups {
			if ds[group[0]].Kind == fleet.Admit && cut[ds[group[0]].Machine] {
				lost[group[0]] = true
				continue
			}
			atoms = append(atoms, r.atomOf(ds, group))
			of = append(of, group)
		}
		n, lostAtoms, err := r.write(ctx, term, atoms)
		rev = max(rev, n)
		if errors.Is(err, errShared) {
			return rev, nil, fmt.Errorf("commit: the term of %s is over: %w", t.Machine.Short(), kv.ErrLeaseGone)
		}
		if err != nil {
			return rev, nil, storeErr("commit", err)
		}
		for i, l := range lostAtoms {
			for _, d := range of[i] {
				lost[d] = l
				if l {
					cut[ds[d].Machine] = true
				}
			}
		}
	}
	for i, l := range lost {
		if l {
			conflicts = append(conflicts, ds[i])
		}
	}
	return rev, conflicts, nil
}

// phases groups the decisions, by their places in ds, into what is written together: first those of units, by first mention,
// then the admissions.
func phases(ds []fleet.Decision) [2][][]int {
	var out [2][][]int
	at := map[unit.Name]int{}
	for i, d := range ds {
		if d.Kind == fleet.Admit {
			out[1] = append(out[1], []int{i})
			continue
		}
		g, known := at[d.Unit]
		if !known {
			g = len(out[0])
			at[d.Unit] = g
			out[0] = append(out[0], nil)
		}
		out[0][g] = append(out[0][g], i)
	}
	var whole [][]int
	for _, group := range out[0] {
		if together(ds, group) {
			whole = append(whole, group)
			continue
		}
		for _, i := range group {
			whole = append(whole, []int{i})
		}
	}
	out[0] = whole
	return out
}

// together tells whether the decisions of a unit must and can be written as one: they depend on each other only when one gives
// a machine the unit and another takes it from one.
func together(ds []fleet.Decision, group []int) bool {
	give, take := false, false
	machines := map[fleet.MachineID]bool{}
	for _, i := range group {
		switch ds[i].Kind {
		case fleet.Place, fleet.Update:
			give = true
		case fleet.Handover, fleet.Withdraw, fleet.Revoke:
			take = true
		}
		if machines[ds[i].Machine] {
			return false // two decisions on one placement: the second was not planned on what the first leaves
		}
		machines[ds[i].Machine] = true
	}
	const shared = 4 // guards on the leader, the unit, its holder and that one's machine; each decision guards its placement and its machine
	return give && take && shared+2*len(group) <= kv.MaxOps
}

// atomOf makes the guards and writes of decisions that go together.
func (r *Registry) atomOf(ds []fleet.Decision, group []int) atom {
	var a atom
	for _, i := range group {
		d := ds[i]
		present := kv.Guard{Key: r.machineKey(d.Machine), Kind: kv.Missing}
		if d.MachineRev != 0 {
			present = kv.Guard{Key: present.Key, Kind: kv.CreateIs, Rev: d.MachineRev}
		}
		if d.Kind == fleet.Admit {
			a.guards = append(a.guards, present)
			a.ops = append(a.ops, kv.Op{Key: r.admittedKey(d.Machine), Value: encode(admittedRecord{Rev: d.MachineRev})})
			continue
		}
		if d.Kind == fleet.Free {
			a.guards = append(a.guards, planned(r.unitKey(d.Unit), d.UnitRev), planned(r.holderKey(d.Unit), d.HolderRev), present)
			a.ops = append(a.ops, kv.Op{Key: r.holderKey(d.Unit), Delete: true})
			continue
		}
		if d.Hold > 0 {
			a = r.hold(a, d)
		}
		key := r.of(placements, d.Machine) + string(d.Unit)
		a.guards = append(a.guards, planned(r.unitKey(d.Unit), d.UnitRev), planned(key, d.Rev), present)
		op := kv.Op{Key: key, Delete: true}
		if d.Kind == fleet.Revoke {
			op = kv.Op{Key: key, Value: encode(placementRecord{Hash: d.Hash, Target: fleet.Inactive})}
		} else if d.Kind != fleet.Withdraw {
			op = kv.Op{Key: key, Value: encode(placementRecord{Hash: d.Hash, Target: d.Target, Handover: d.Kind == fleet.Handover})}
		}
		a.ops = append(a.ops, op)
	}
	return a
}

// planned guards that a record is as it was planned on; 0: that there is none.
func planned(key string, rev int64) kv.Guard {
	if rev == 0 {
		return kv.Guard{Key: key, Kind: kv.Missing}
	}
	return kv.Guard{Key: key, Kind: kv.ModIs, Rev: rev}
}
