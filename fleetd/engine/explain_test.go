package engine

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

func TestExplain(t *testing.T) {
	w := newWorld()
	w.machine(id(1), region("eu"))
	w.machine(id(2), func(m *fleet.Machine) { m.Cordon = true })
	w.machine(id(3), region("eu"))
	w.unit("db.service", with(unit.Needs{MachineID: string(id(1)), Conflicts: []unit.Glob{"web@*"}}))
	w.unit("old.service", with(unit.Needs{MachineID: string(id(3))}))
	w.plan(t)
	w.lose(id(3))
	w.machine(id(4), leave)
	w.unit("web@1.service", nil)
	w.unit("far.service", with(in("us", "ap")))
	w.unit("side.service", with(unit.Needs{MachineOf: []unit.Name{"web@1.service"}}))
	w.unit("lost.service", with(unit.Needs{MachineOf: []unit.Name{"nobody.service"}}))
	w.unit("web@.service", target(fleet.Launched))
	w.unit("idle.service", target(fleet.Inactive))
	w.unit("mon.service", with(unit.Needs{Global: true, Metadata: in("eu").Metadata}))
	w.unit("fine.service", nil)

	refused := func(reasons ...string) []fleet.Refusal {
		var rs []fleet.Refusal
		for i, m := range []fleet.MachineID{id(1), id(2), id(4)} {
			if reasons[i] != "" {
				rs = append(rs, fleet.Refusal{Machine: m, Reason: reasons[i]})
			}
		}
		return rs
	}
	cordoned, leaving := "cordoned", "machine 00000004 is leaving"
	rows := []fleet.Explanation{
		{Unit: "db.service", Machine: id(1), Placed: true},
		{Unit: "fine.service", Machine: id(1), Reason: "least loaded (1 units)"},
		{Unit: "web@1.service", Refusals: refused("conflicts with db.service placed there", cordoned, leaving)},
		{Unit: "far.service", Refusals: refused("metadata region=us or ap wanted, machine has region=eu", cordoned, leaving)},
		{Unit: "side.service", Reason: "peer web@1.service is not placed: no machine takes it",
			Refusals: refused("peer web@1.service is not placed there", cordoned, leaving)},
		{Unit: "lost.service", Reason: "peer nobody.service is not placed: there is no such unit",
			Refusals: refused("peer nobody.service is not placed there", cordoned, leaving)},
		{Unit: "old.service", Machine: id(3), Placed: true, Reason: "machine 00000003 gone, and no other machine takes it",
			Refusals: refused("machine ID "+string(id(3))+" wanted", cordoned, leaving)},
		{Unit: "mon.service", Reason: "global unit, on 0 of 3 machines, on 1 with the next plan",
			Refusals: refused("", "metadata region=eu wanted, machine has no region", leaving)},
		{Unit: "web@.service", Reason: "templates are not placed: start an instance of it, such as web@1.service"},
		{Unit: "idle.service", Reason: "target state is inactive"},
		{Unit: "none.service", Reason: "no such unit"},
	}
	for _, want := range rows {
		t.Run(string(want.Unit), func(t *testing.T) {
			if diff := cmp.Diff([]fleet.Explanation{want}, Explain(w.Snapshot, want.Unit)); diff != "" {
				t.Error(diff)
			}
		})
	}

	var homeless []unit.Name
	for _, e := range Explain(w.Snapshot) {
		homeless = append(homeless, e.Unit)
	}
	if diff := cmp.Diff([]unit.Name{"far.service", "fine.service", "lost.service", "mon.service", "old.service", "side.service",
		"web@.service", "web@1.service"}, homeless); diff != "" {
		t.Error(diff)
	}
}

func TestExplainNamesThePortAndWhoHasIt(t *testing.T) {
	w := newWorld()
	w.machine(id(1), nil)
	w.unit("dns.service", with(publishing(53, "udp")))
	w.plan(t)
	w.unit("new.service", with(publishing(53, "udp")))
	want := []fleet.Explanation{{Unit: "new.service",
		Refusals: []fleet.Refusal{{Machine: id(1), Reason: "port 53/udp is published there by dns.service"}}}}
	if diff := cmp.Diff(want, Explain(w.Snapshot)); diff != "" {
		t.Error(diff)
	}
}

func TestExplainWithoutMachines(t *testing.T) {
	w := newWorld()
	w.unit("a.service", nil)
	want := []fleet.Explanation{{Unit: "a.service", Reason: "no machine is registered"}}
	if diff := cmp.Diff(want, Explain(w.Snapshot)); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkExplain is the answer for ten thousand units that nobody takes.
func BenchmarkExplain(b *testing.B) {
	w := newWorld()
	for i := range 1000 {
		w.machine(id(i), region("eu"))
	}
	for i := range 10_000 {
		w.unit(unit.Name(fmt.Sprintf("web@%d.service", i)), with(in("us")))
	}
	for b.Loop() {
		if n := len(Explain(w.Snapshot)); n != 10_000 {
			b.Fatal(n)
		}
	}
}
