package engine

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// names that globs, templates and order tell apart.
var someNames = []unit.Name{"a.service", "b.service", "c.service", "db.service", "mon.service", "log.service", "web@1.service", "web@2.service",
	"web@3.service", "web@.service", "x@1.service", "x@2.service"}

func drawNeeds(t *rapid.T) unit.Needs {
	glob := rapid.SampledFrom([]unit.Glob{"web@*", "web@1.service", "*", "db.service", "[ab].service", "x@*.service", "w*", "c.service"})
	name := rapid.SampledFrom(someNames)
	n := unit.Needs{}
	for range rapid.IntRange(0, 2).Draw(t, "needs") {
		switch rapid.IntRange(0, 11).Draw(t, "kind") {
		case 10, 11:
			n.Exclusive = true
		case 0:
			n.MachineID = string(id(rapid.IntRange(0, 5).Draw(t, "machine")))
			if rapid.Bool().Draw(t, "short") {
				n.MachineID = n.MachineID[:8]
			}
		case 1, 2:
			n.MachineOf = append(n.MachineOf, name.Draw(t, "peer"))
		case 3:
			n.Metadata = map[string][]string{"region": rapid.SliceOfN(rapid.SampledFrom([]string{"eu", "us"}), 1, 2).Draw(t, "values")}
		case 4:
			n.Metadata = map[string][]string{"region": {"eu"}, "disk": {"ssd"}}
		case 5, 6:
			n.Conflicts = append(n.Conflicts, glob.Draw(t, "conflicts"))
		case 7:
			n.Replaces = append(n.Replaces, glob.Draw(t, "replaces"))
		case 8:
			n.Global = true
		case 9:
			n.Publish = append(n.Publish, rapid.SampledFrom([]unit.Port{{Host: 80, Inside: 80, Protocol: "tcp"},
				{Host: 80, Inside: 8080, Protocol: "tcp"}, {Host: 80, Inside: 80, Protocol: "udp"}, {Host: 443, Inside: 443, Protocol: "tcp"}}).Draw(t, "port"))
		}
	}
	n.Exclusive = n.Exclusive && !n.Global
	return n
}

// drawEvent lets something happen in the world.
func drawEvent(t *rapid.T, w *world) {
	name := rapid.SampledFrom(someNames)
	machine := func() fleet.MachineID { return id(rapid.IntRange(0, 5).Draw(t, "machine")) }
	switch rapid.IntRange(0, 15).Draw(t, "event") {
	case 0, 1, 2:
		n, who := drawNeeds(t), name.Draw(t, "unit")
		if who == "db.service" { // always, so that it can be told where it may run
			n.Exclusive, n.Global = true, false
		}
		w.unit(who, func(u *fleet.Unit) {
			u.Stop = time.Duration(rapid.IntRange(1, 20).Draw(t, "stop")) * time.Second
			u.Needs = n
			u.Hash = unit.Hash(fmt.Sprint("hash", rapid.IntRange(0, 3).Draw(t, "hash")))
		})
	case 3, 4:
		w.unit(name.Draw(t, "unit"), func(u *fleet.Unit) {
			u.Needs.Exclusive = u.Needs.Exclusive || u.Name == "db.service"
			u.Target = rapid.SampledFrom([]fleet.TargetState{fleet.Inactive, fleet.Loaded, fleet.Launched, fleet.Launched}).Draw(t, "target")
		})
	case 5:
		if n := name.Draw(t, "unit"); w.Units[n].Rev != 0 {
			w.destroy(n)
		}
	case 6, 7:
		w.machine(machine(), nil)
	case 8:
		if m := machine(); w.Machines[m].Rev != 0 {
			w.lose(m)
		}
	case 9, 10:
		w.machine(machine(), func(m *fleet.Machine) {
			switch rapid.IntRange(0, 3).Draw(t, "change") {
			case 0:
				m.Metadata["region"] = rapid.SampledFrom([]string{"eu", "us", "ap"}).Draw(t, "region")
			case 1:
				m.Metadata["disk"] = rapid.SampledFrom([]string{"ssd", "tape"}).Draw(t, "disk")
			case 2:
				m.Leaving = !m.Leaving
			case 3:
				m.Cordon = !m.Cordon
			}
		})
	case 13, 14:
		w.letGo()
	case 15:
		w.At = w.At.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
	case 11:
		w.runAll()
	case 12:
		keys := slices.SortedFunc(maps.Keys(w.Placements), compareKeys)
		if len(keys) > 0 {
			w.run(rapid.SampledFrom(keys).Draw(t, "report"))
		}
	}
}

// many runs a property more often than rapid does by itself; go test -rapid.checks=N runs it far more often.
func many(t *testing.T, property func(*rapid.T)) {
	for range 10 {
		rapid.Check(t, property)
	}
}

func TestPlanIsCompleteAndAtRest(t *testing.T) {
	many(t, func(t *rapid.T) {
		w := newWorld()
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			for range rapid.IntRange(1, 8).Draw(t, "events") {
				drawEvent(t, w)
			}
			before := oracle{w.Snapshot}
			before.Placements = maps.Clone(w.Placements)
			ds := Plan(w.Snapshot)
			if again := Plan(w.Snapshot); !cmp.Equal(ds, again) {
				t.Fatalf("two plans of one snapshot differ:\n%s\n%s", text(ds), text(again))
			}
			if refused := w.commit(ds); len(refused) > 0 {
				t.Fatalf("refused: %s", text(refused))
			}
			if rest := Plan(w.Snapshot); len(rest) > 0 {
				t.Fatalf("plan\n%sand after it was applied\n%s", text(ds), text(rest))
			}
			if bad := (oracle{w.Snapshot}).wrong(); len(bad) > 0 {
				t.Fatalf("after plan\n%s%q", text(ds), bad)
			}
			if n := w.twice(); n == "db.service" {
				t.Fatalf("%s may run twice: %v", n, w.copies)
			}
		}
	})
}

func TestStateDecidesAsPlanDoes(t *testing.T) {
	many(t, func(t *rapid.T) {
		w := newWorld()
		for range rapid.IntRange(0, 10).Draw(t, "events before") {
			drawEvent(t, w)
		}
		w.watch()
		s := NewState(w.Snapshot)
		for range rapid.IntRange(1, 15).Draw(t, "rounds") {
			want := Plan(w.Snapshot)
			s.SetTime(w.At)
			got := s.Turn()
			if len(want)+len(got) > 0 && !cmp.Equal(want, got) {
				t.Fatalf("plan\n%sstate\n%s%s", text(want), text(got), cmp.Diff(want, got))
			}
			// Between the turn and its commit others write too: some decisions are refused.
			if rapid.Bool().Draw(t, "race") {
				drawEvent(t, w)
			}
			s.Refused(w.commit(got))
			if n := w.twice(); n == "db.service" {
				t.Fatalf("%s may run twice: %v", n, w.copies)
			}
			for range rapid.IntRange(0, 3).Draw(t, "events") {
				drawEvent(t, w)
			}
			s.Apply(w.At, w.watch())
		}
	})
}
