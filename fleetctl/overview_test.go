package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

func TestAnOverviewNamesWhatIsNotAsItShallBe(t *testing.T) {
	w := api.NewWorld()
	state := func(machine, unit, active string) {
		w.Apply(api.Event{State: &api.UnitState{MachineID: machine, Name: unit, SystemdActiveState: active}})
	}
	for name, u := range map[string]api.Unit{
		"a.service": {DesiredState: "launched", MachineID: "m1"}, "b.service": {DesiredState: "launched", MachineID: "m1"},
		"new.service": {DesiredState: "launched", MachineID: "m1"}, "nowhere.service": {DesiredState: "launched"},
		"all.service": {DesiredState: "launched", Global: true}, "t@.service": {DesiredState: "inactive"},
	} {
		u.Name = name
		w.Apply(api.Event{Unit: &u})
	}
	state("m1", "a.service", "active")
	state("m1", "b.service", "failed")
	state("m2", "all.service", "active")
	troubles, counts := troublesOf(w, false)
	want := []string{"b.service failed on m1", "nowhere.service is on no machine: fleetctl status nowhere.service"}
	if d := cmp.Diff(want, troubles); d != "" {
		t.Error(d)
	}
	if counts != "6 known, 2 active, 1 failed, 1 waiting for a machine" {
		t.Error(counts)
	}

	line, bad := storeLine(fleet.StoreMembers{Lost: "no quorum", Members: []fleet.StoreMember{
		{Name: "h1", Role: "voter", Leader: true, Health: "ok"}, {Name: "h2", Role: "voter", Health: "away"}, {Name: "h3", Role: "stand-by", Health: "ok"},
	}})
	if line != "2 voters, led by h1" {
		t.Error(line)
	}
	want = []string{"h2 holds the store and is not well (away): fleetctl members", "the store does not answer: no quorum"}
	if d := cmp.Diff(want, bad); d != "" {
		t.Error(d)
	}
}
