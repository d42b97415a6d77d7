package engine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// needs returns a change that gives a unit n.
func with(n unit.Needs) func(*fleet.Unit) { return func(u *fleet.Unit) { u.Needs = n } }

func target(t fleet.TargetState) func(*fleet.Unit) { return func(u *fleet.Unit) { u.Target = t } }

func textIs(h unit.Hash) func(*fleet.Unit) { return func(u *fleet.Unit) { u.Hash = h } }

func region(r string) func(*fleet.Machine) {
	return func(m *fleet.Machine) { m.Metadata["region"] = r }
}

func in(values ...string) unit.Needs {
	return unit.Needs{Metadata: map[string][]string{"region": values}}
}

// publishing asks for one port of the machine.
func publishing(host uint16, protocol string) unit.Needs {
	return unit.Needs{Publish: []unit.Port{{Host: host, Inside: 8080, Protocol: protocol}}}
}

func leave(m *fleet.Machine)  { m.Leaving = true }
func cordon(m *fleet.Machine) { m.Cordon = true }

// Each row: before is planned, written and run; then something happens, and want is the plan after it, without admissions.
var planRows = []struct {
	name   string
	before func(w *world)
	then   func(w *world)
	want   string
}{
	{
		"a batch is spread evenly, equals by machine ID", func(w *world) { w.machine(id(1), nil); w.machine(id(2), nil) },
		func(w *world) {
			w.unit("c.service", nil)
			w.unit("a.service", nil)
			w.unit("b.service", target(fleet.Loaded))
			w.unit("d.service", target(fleet.Inactive))
		},
		`place a.service 00000001 launched: least loaded (0 units)
place b.service 00000002 loaded: least loaded (0 units)
place c.service 00000001 launched: least loaded (1 units)
`,
	},
	{
		"templates are never placed, their instances are", func(w *world) { w.machine(id(1), nil) },
		func(w *world) { w.unit("web@.service", nil); w.unit("web@1.service", nil) },
		"place web@1.service 00000001 launched: least loaded (0 units)\n",
	},
	{
		"a new machine gets the new units and nothing moves", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
			w.unit("b.service", nil)
		},
		func(w *world) { w.machine(id(2), nil); w.unit("c.service", nil) },
		"place c.service 00000002 launched: least loaded (0 units)\n",
	},
	{
		"a unit goes to its machine ID, full or short", func(w *world) { w.machine(id(1), nil); w.machine(id(2), nil) },
		func(w *world) {
			w.unit("a.service", with(unit.Needs{MachineID: string(id(2))}))
			w.unit("b.service", with(unit.Needs{MachineID: "00000002"}))
			w.unit("c.service", with(unit.Needs{MachineID: "0000000"}))
		},
		`place a.service 00000002 launched: machine ID 00000002000000000000000000000002 wanted
place b.service 00000002 launched: machine ID 00000002 wanted
`,
	},
	{
		"metadata: any value of a key, every key", func(w *world) {
			w.machine(id(1), region("ap"))
			w.machine(id(2), region("us"))
			w.machine(id(3), func(m *fleet.Machine) { m.Metadata["region"], m.Metadata["disk"] = "eu", "ssd" })
		},
		func(w *world) {
			w.unit("a.service", with(in("eu", "us")))
			n := in("eu", "us")
			n.Metadata["disk"] = []string{"ssd"}
			w.unit("b.service", with(n))
			w.unit("c.service", with(in("af")))
		},
		`place a.service 00000002 launched: least loaded (0 units)
place b.service 00000003 launched: least loaded (0 units)
`,
	},
	{
		"machine gone, unit moves and its old copy is handed over", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
		},
		func(w *world) { w.lose(id(1)); w.machine(id(2), nil) },
		`handover a.service 00000001 launched: machine 00000001 gone
place a.service 00000002 launched: least loaded (0 units)
`,
	},
	{
		"machine gone and no other takes it: the placement stays", func(w *world) {
			w.machine(id(1), region("eu"))
			w.unit("a.service", with(in("eu")))
		},
		func(w *world) { w.lose(id(1)); w.machine(id(2), region("us")) }, "",
	},
	{
		"a loaded unit is no handover, for no copy of it runs", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", target(fleet.Loaded))
		},
		func(w *world) { w.machine(id(1), leave); w.machine(id(2), nil) },
		`withdraw a.service 00000001: machine 00000001 is leaving
place a.service 00000002 loaded: least loaded (0 units)
`,
	},
	{
		"a global unit now wants one machine and none fits: it runs on where it is, but on one only", func(w *world) {
			w.machine(id(1), nil)
			w.machine(id(2), nil)
			w.unit("a.service", with(unit.Needs{Global: true}))
		},
		func(w *world) { w.unit("a.service", with(unit.Needs{MachineID: string(id(3))})) },
		"withdraw a.service 00000002: runs on 00000001 now\n",
	},
	{
		"an observation of an earlier stay ends no handover", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
		},
		func(w *world) {
			o := w.Observed[fleet.Key{Machine: id(1), Unit: "a.service"}]
			w.Observed[fleet.Key{Machine: id(2), Unit: "a.service"}] = o
			w.machine(id(1), leave)
			w.machine(id(2), nil)
		},
		`handover a.service 00000001 launched: machine 00000001 is leaving
place a.service 00000002 launched: least loaded (0 units)
`,
	},
	{
		"a leaving machine hands its units over and keeps its global ones", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
			w.unit("mon.service", with(unit.Needs{Global: true}))
		},
		func(w *world) {
			w.machine(id(1), leave)
			w.machine(id(2), nil)
			w.unit("log.service", with(unit.Needs{Global: true}))
		},
		`handover a.service 00000001 launched: machine 00000001 is leaving
place a.service 00000002 launched: least loaded (0 units)
place log.service 00000002 launched: global, on 1 machines now
place mon.service 00000002 launched: global, on 2 machines now
`,
	},
	{
		"a cordoned machine keeps its units and gets global ones only", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
		},
		func(w *world) {
			w.machine(id(1), cordon)
			w.unit("b.service", nil)
			w.unit("mon.service", with(unit.Needs{Global: true}))
		},
		"place mon.service 00000001 launched: global, on 1 machines now\n",
	},
	{
		"inactive or destroyed units are withdrawn everywhere", func(w *world) {
			w.machine(id(1), nil)
			w.machine(id(2), nil)
			w.unit("a.service", nil)
			w.unit("mon.service", with(unit.Needs{Global: true}))
		},
		func(w *world) { w.destroy("a.service"); w.unit("mon.service", target(fleet.Inactive)); w.lose(id(2)) },
		`withdraw a.service 00000001: unit destroyed
withdraw mon.service 00000001: target state is inactive
withdraw mon.service 00000002: target state is inactive
`,
	},
	{
		"a new text or target is an update in place", func(w *world) {
			w.machine(id(1), nil)
			w.machine(id(2), nil)
			w.unit("a.service", nil)
			w.unit("b.service", nil)
		},
		func(w *world) { w.unit("a.service", textIs("0123456789")); w.unit("b.service", target(fleet.Loaded)) },
		`update a.service 00000001 launched: text 0123456
update b.service 00000002 loaded: target state loaded
`,
	},
	{
		"a new text that the machine does not fit moves the unit, the old copy keeps the old text", func(w *world) {
			w.machine(id(1), region("eu"))
			w.machine(id(2), region("us"))
			w.unit("a.service", nil)
		},
		func(w *world) { w.unit("a.service", with(in("us"))) },
		`handover a.service 00000001 launched: metadata region=us wanted, machine has region=eu
place a.service 00000002 launched: least loaded (0 units)
`,
	},
	{
		"a new text that fits nowhere leaves the old one, but what the user stops is stopped", func(w *world) {
			w.machine(id(1), region("eu"))
			w.unit("a.service", textIs("old"))
		},
		func(w *world) {
			w.unit("a.service", func(u *fleet.Unit) { u.Hash, u.Needs, u.Target = "new", in("us"), fleet.Loaded })
		},
		"update a.service 00000001 loaded: target state loaded\n",
	},
	{
		"conflicts hold in both directions, with globals too", func(w *world) {
			w.machine(id(1), nil)
			w.machine(id(2), nil)
			w.unit("a.service", with(unit.Needs{Conflicts: []unit.Glob{"z*"}}))
		},
		func(w *world) {
			w.unit("z@1.service", nil)
			w.unit("z@2.service", with(unit.Needs{Conflicts: []unit.Glob{"z@1.service"}}))
			w.unit("zglobal.service", with(unit.Needs{Global: true}))
		},
		`place z@1.service 00000002 launched: least loaded (0 units)
place zglobal.service 00000002 launched: global, on 1 machines now
`,
	},
	{
		"of global units in conflict the first by name wins on every machine", func(w *world) { w.machine(id(1), nil); w.machine(id(2), nil) },
		func(w *world) {
			w.unit("b.service", with(unit.Needs{Global: true}))
			w.unit("a.service", with(unit.Needs{Global: true, Conflicts: []unit.Glob{"b*"}}))
		},
		`place a.service 00000001 launched: global, on 1 machines now
place a.service 00000002 launched: global, on 2 machines now
`,
	},
	{
		"a global unit that comes later and is first by name takes the other's place", func(w *world) {
			w.machine(id(1), nil)
			w.unit("b.service", with(unit.Needs{Global: true, Conflicts: []unit.Glob{"[ac].service"}}))
			w.unit("c.service", with(unit.Needs{Global: true}))
		},
		func(w *world) {
			w.unit("a.service", with(unit.Needs{Global: true}))
			w.machine(id(2), nil)
		},
		`place a.service 00000001 launched: global, on 1 machines now
place a.service 00000002 launched: global, on 2 machines now
withdraw b.service 00000001: conflicts with a.service placed there
place c.service 00000001 launched: global, on 1 machines now
place c.service 00000002 launched: global, on 2 machines now
`,
	},
	{
		"a conflict that comes up moves the unit written last, at once", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
			w.unit("b.service", nil)
		},
		func(w *world) {
			w.unit("a.service", with(unit.Needs{Conflicts: []unit.Glob{"b*"}}))
			w.machine(id(2), nil)
		},
		`withdraw a.service 00000001: conflicts with b.service placed there
place a.service 00000002 launched: least loaded (0 units)
`,
	},
	{
		"units that publish one port do not share a machine", func(w *world) {
			w.machine(id(1), nil)
			w.machine(id(2), nil)
			w.unit("a.service", with(publishing(80, "tcp")))
		},
		func(w *world) {
			w.unit("b.service", with(publishing(80, "tcp")))
			w.unit("c.service", with(publishing(80, "udp")))
			w.unit("d.service", with(publishing(80, "tcp")))
		},
		`place b.service 00000002 launched: least loaded (0 units)
place c.service 00000001 launched: least loaded (1 units)
`,
	},
	{
		"a text that publishes a port which another has there moves the unit at once", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", with(publishing(80, "tcp")))
			w.unit("b.service", with(publishing(81, "tcp")))
		},
		func(w *world) {
			w.unit("b.service", with(publishing(80, "tcp")))
			w.machine(id(2), nil)
		},
		`withdraw b.service 00000001: port 80/tcp is published there by a.service
place b.service 00000002 launched: least loaded (0 units)
`,
	},
	{
		"a port that is given up is there for the unit that waits for it", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", with(publishing(80, "tcp")))
			w.unit("b.service", with(publishing(80, "tcp")))
		},
		func(w *world) { w.unit("a.service", with(publishing(81, "tcp"))) },
		"place b.service 00000001 launched: least loaded (1 units)\n",
	},
	{
		"a follower waits for its peer and goes where it is", func(w *world) { w.machine(id(1), nil); w.machine(id(2), region("eu")) },
		func(w *world) {
			w.unit("a.service", with(unit.Needs{MachineOf: []unit.Name{"b.service"}}))
			w.unit("b.service", with(in("eu")))
			w.unit("c.service", with(unit.Needs{MachineOf: []unit.Name{"nobody.service"}}))
		},
		`place b.service 00000002 launched: least loaded (0 units)
place a.service 00000002 launched: follows b.service
`,
	},
	{
		"a follower moves with its peer", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", with(unit.Needs{MachineOf: []unit.Name{"b.service"}}))
			w.unit("b.service", nil)
		},
		func(w *world) { w.machine(id(1), leave); w.machine(id(2), nil) },
		`handover b.service 00000001 launched: machine 00000001 is leaving
place b.service 00000002 launched: least loaded (0 units)
handover a.service 00000001 launched: machine 00000001 is leaving
place a.service 00000002 launched: follows b.service
`,
	},
	{
		"a follower goes when its peer is unloaded", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", with(unit.Needs{MachineOf: []unit.Name{"b.service"}}))
			w.unit("b.service", nil)
		},
		func(w *world) { w.unit("b.service", target(fleet.Inactive)) },
		`withdraw b.service 00000001: target state is inactive
withdraw a.service 00000001: peer b.service is not placed
`,
	},
	{
		"units that name each other are placed together where all fit", func(w *world) { w.machine(id(1), nil); w.machine(id(2), region("eu")) },
		func(w *world) {
			w.unit("a.service", with(unit.Needs{MachineOf: []unit.Name{"b.service"}}))
			n := in("eu")
			n.MachineOf = []unit.Name{"a.service"}
			w.unit("b.service", with(n))
		},
		`place a.service 00000002 launched: together with the 2 units that name each other
place b.service 00000002 launched: together with the 2 units that name each other
`,
	},
	{
		"a replacer moves the other unit away and stays", func(w *world) {
			w.machine(id(1), nil)
			w.unit("old.service", nil)
		},
		func(w *world) {
			w.unit("new.service", with(unit.Needs{Replaces: []unit.Glob{"old*"}}))
			w.machine(id(2), cordon)
		},
		`place new.service 00000001 launched: least loaded (1 units)
withdraw old.service 00000001: replaced by new.service placed there
`,
	},
	{
		"the replaced unit goes where it fits", func(w *world) {
			w.machine(id(1), region("eu"))
			w.unit("old.service", with(in("eu")))
		},
		func(w *world) {
			w.unit("new.service", with(unit.Needs{Replaces: []unit.Glob{"old*"}, Metadata: in("eu").Metadata}))
			w.machine(id(2), region("us"))
		},
		`place new.service 00000001 launched: least loaded (1 units)
withdraw old.service 00000001: replaced by new.service placed there
`,
	},
	{
		"units that replace each other share a machine", func(w *world) { w.machine(id(1), nil) },
		func(w *world) {
			w.unit("a.service", with(unit.Needs{Replaces: []unit.Glob{"b.service"}}))
			w.unit("b.service", with(unit.Needs{Replaces: []unit.Glob{"a.service"}}))
		},
		`place a.service 00000001 launched: least loaded (0 units)
place b.service 00000001 launched: least loaded (1 units)
`,
	},
	{
		"a handover ends when the new copy runs", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
		},
		func(w *world) {
			w.machine(id(1), leave)
			w.machine(id(2), nil)
			w.commit(Plan(w.Snapshot))
			w.run(fleet.Key{Machine: id(2), Unit: "a.service"})
		},
		"withdraw a.service 00000001: runs on 00000002 now\n",
	},
	{
		"a handover goes on while the new copy does not run", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
		},
		func(w *world) {
			w.machine(id(1), leave)
			w.machine(id(2), nil)
			w.commit(Plan(w.Snapshot))
		}, "",
	},
	{
		"new machine gone before the handover ended: the old copy takes over again", func(w *world) {
			w.machine(id(1), nil)
			w.unit("a.service", nil)
		},
		func(w *world) {
			w.lose(id(1))
			w.machine(id(2), nil)
			w.commit(Plan(w.Snapshot))
			w.lose(id(2))
			w.machine(id(1), nil)
		},
		`handover a.service 00000002 launched: machine 00000002 gone
place a.service 00000001 launched: its old copy is still there
`,
	},
	{
		"global units stay placed on a machine that is gone", func(w *world) {
			w.machine(id(1), nil)
			w.unit("mon.service", with(unit.Needs{Global: true}))
		},
		func(w *world) { w.lose(id(1)) }, "",
	},
	{
		"a global unit that becomes an ordinary one keeps one copy", func(w *world) {
			w.machine(id(1), nil)
			w.machine(id(2), nil)
			w.unit("mon.service", with(unit.Needs{Global: true}))
		},
		func(w *world) { w.unit("mon.service", with(unit.Needs{})) },
		"withdraw mon.service 00000002: runs on 00000001 now\n",
	},
}

func TestPlan(t *testing.T) {
	for _, row := range planRows {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld()
			row.before(w)
			w.plan(t)
			w.runAll()
			row.then(w)
			var ds []fleet.Decision
			for _, d := range w.plan(t) {
				if d.Kind != fleet.Admit {
					ds = append(ds, d)
				}
			}
			if diff := cmp.Diff(strings.Split(row.want, "\n"), strings.Split(text(ds), "\n")); diff != "" {
				t.Error(diff)
			}
			if rest := Plan(w.Snapshot); len(rest) > 0 {
				t.Errorf("the plan of the applied plan: %s", text(rest))
			}
		})
	}
}

func TestMachineIsAdmittedAfterItsPlacements(t *testing.T) {
	w := newWorld()
	w.machine(id(1), nil)
	w.unit("a.service", nil)
	want := "place a.service 00000001 launched: least loaded (0 units)\nadmit  00000001: 1 units planned for it\n"
	if got := text(w.plan(t)); got != want {
		t.Errorf("first registration:\n%s", got)
	}
	w.lose(id(1))
	w.machine(id(1), nil)
	if got := text(w.plan(t)); got != "admit  00000001: 1 units planned for it\n" {
		t.Errorf("second registration:\n%s", got)
	}
}

func TestEveryDecisionNamesWhatItWasPlannedOn(t *testing.T) {
	w := newWorld()
	w.machine(id(1), nil)
	w.unit("a.service", nil)
	w.plan(t)
	w.lose(id(1))
	w.machine(id(2), nil)
	k := fleet.Key{Machine: id(1), Unit: "a.service"}
	want := []fleet.Decision{
		{Kind: fleet.Handover, Unit: "a.service", Machine: id(1), Hash: "hash-of-a.service", Target: fleet.Launched,
			UnitRev: w.Units["a.service"].Rev, Rev: w.Placements[k].Rev, MachineRev: 0, Reason: "machine 00000001 gone"},
		{Kind: fleet.Place, Unit: "a.service", Machine: id(2), Hash: "hash-of-a.service", Target: fleet.Launched,
			UnitRev: w.Units["a.service"].Rev, Rev: 0, MachineRev: w.Machines[id(2)].Rev, Reason: "least loaded (0 units)"},
		{Kind: fleet.Admit, Machine: id(2), MachineRev: w.Machines[id(2)].Rev, Reason: "1 units planned for it"},
	}
	if diff := cmp.Diff(want, Plan(w.Snapshot)); diff != "" {
		t.Error(diff)
	}
}
