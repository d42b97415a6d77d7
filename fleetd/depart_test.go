package main

import (
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

func TestMoved(t *testing.T) {
	const other = "fedcba9876543210fedcba9876543210"
	for _, row := range []struct {
		name  string
		build func(s fleet.Snapshot)
		want  bool
	}{
		{"the store does not know yet that this machine leaves", func(s fleet.Snapshot) {
			s.Machines[someID] = fleet.Machine{ID: someID, Rev: 1, Admitted: 1}
		}, false},
		{"nothing is placed here", func(fleet.Snapshot) {}, true},
		{"a unit has a place elsewhere that is not planned yet", func(s fleet.Snapshot) { put(s, someID, false) }, false},
		{"no other machine takes the unit", func(s fleet.Snapshot) {
			put(s, someID, false)
			delete(s.Machines, other)
		}, true},
		{"the new copy is not running yet", func(s fleet.Snapshot) {
			put(s, someID, true)
			put(s, other, false)
			s.Observed[fleet.Key{Machine: someID, Unit: "a.service"}] = fleet.Observation{Active: "active"}
		}, false},
		{"the new copy is not running, but the old one is not either", func(s fleet.Snapshot) {
			put(s, someID, true)
			put(s, other, false)
			s.Observed[fleet.Key{Machine: someID, Unit: "a.service"}] = fleet.Observation{Active: "failed"}
		}, true},
		{"the new copy has taken over", func(s fleet.Snapshot) { put(s, other, false) }, true},
		{"this machine is not registered any more", func(s fleet.Snapshot) { delete(s.Machines, someID) }, true},
	} {
		s := fleet.NewSnapshot()
		s.Machines[someID] = fleet.Machine{ID: someID, Rev: 1, Admitted: 1, Leaving: true}
		s.Machines[other] = fleet.Machine{ID: other, Rev: 2, Admitted: 2}
		row.build(s)
		if got := moved(s, someID); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

// put places the unit a.service, which is launched.
func put(s fleet.Snapshot, m fleet.MachineID, handover bool) {
	const name, hash = unit.Name("a.service"), unit.Hash("h")
	s.Units[name] = fleet.Unit{Name: name, Hash: hash, Target: fleet.Launched, Rev: 3}
	s.Placements[fleet.Key{Machine: m, Unit: name}] = fleet.Placement{
		Unit: name, Machine: m, Hash: hash, Target: fleet.Launched, Handover: handover, Rev: 4,
	}
}
