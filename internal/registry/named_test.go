package registry

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// asked notes which prefixes were read.
type asked struct {
	kv.Store
	prefixes []string
}

func (a *asked) Range(ctx context.Context, prefixes ...string) ([][]kv.KV, int64, error) {
	a.prefixes = append(a.prefixes, prefixes...)
	return a.Store.Range(ctx, prefixes...)
}

func TestSnapshotOfUnitsIsTheSnapshotOfThem(t *testing.T) { eachStore(t, testSnapshotOf) }

func testSnapshotOf(t *testing.T, f *fixture) {
	term := f.lead(m1)
	p1 := f.register(m1)
	f.register(m2)
	names := []unit.Name{"a.service", "b.service", "c@1.service"}
	f.submit(webText, fleet.Launched, append(names, "other.service")...)
	s := f.snapshot()
	var plan []fleet.Decision
	for i, n := range append(names, "other.service") {
		m := []fleet.MachineID{m1, m2}[i%2]
		plan = append(plan, fleet.Decision{Kind: fleet.Place, Unit: n, Machine: m, Hash: s.Units[n].Hash, Target: fleet.Launched, UnitRev: s.Units[n].Rev, MachineRev: s.Machines[m].Rev})
	}
	_, lost, err := f.Commit(t.Context(), term, plan)
	f.must(err)
	f.want("lost", 0, len(lost))
	f.must(f.Report(t.Context(), p1, []fleet.Observation{{Unit: "a.service", Machine: m1, Load: "loaded", Active: "active", Sub: "running"},
		{Unit: "other.service", Machine: m1, Load: "loaded", Active: "active", Sub: "running"}}, nil))

	want := f.snapshot()
	keep := func(n unit.Name) bool { return slices.Contains(names, n) }
	for n := range want.Units {
		if !keep(n) {
			delete(want.Units, n)
		}
	}
	for k := range want.Placements {
		if !keep(k.Unit) {
			delete(want.Placements, k)
		}
	}
	for k := range want.Observed {
		if !keep(k.Unit) {
			delete(want.Observed, k)
		}
	}
	store := &asked{Store: f.raw}
	r := New(store, "/fleet/", f.log)
	got, err := r.SnapshotOf(t.Context(), append(names, "unknown.service", "", "other.service/", "../x", "a.service")...)
	f.must(err)
	f.want("of three, and of names that there are not", want, got)
	for _, p := range store.prefixes {
		if p == f.under(units) || p == f.under(observed) || strings.HasPrefix(p, f.under(files)) {
			t.Errorf("it read all of %s", p)
		}
	}
	many := make([]unit.Name, mostNamed+1)
	for i := range many {
		many[i] = names[i%len(names)]
	}
	whole, err := r.SnapshotOf(t.Context(), many...)
	f.must(err)
	f.want("of very many", f.snapshot(), whole)
}
