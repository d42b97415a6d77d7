package registry

import (
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// place puts a launched unit on a machine as it is stored.
func (f *fixture) place(t Term, name unit.Name, on Presence) {
	f.Helper()
	s := f.snapshot()
	u := s.Units[name]
	_, lost, err := f.Commit(f.Context(), t, []fleet.Decision{{Kind: fleet.Place, Unit: name, Machine: on.Machine, Hash: u.Hash, Target: u.Target,
		UnitRev: u.Rev, MachineRev: on.Rev}})
	f.must(err)
	if len(lost) > 0 {
		f.Fatal("place", lost)
	}
}

func TestRestart(t *testing.T) { eachStore(t, testRestart) }

func testRestart(t *testing.T, f *fixture) {
	ctx := t.Context()
	p1, p2, term := f.register(m1), f.register(m2), f.lead(m1)
	f.submit(webText, fleet.Launched, "web.service", "db.service")
	f.place(term, "web.service", p1)
	from, err := f.Orders(ctx, p1)
	f.must(err)
	ch := f.WatchOrders(ctx, p1, from)
	on := func(id fleet.MachineID) fleet.Key { return fleet.Key{Machine: id, Unit: "web.service"} }

	res := f.Restart(ctx, on(m1), on(m2), fleet.Key{Machine: "3", Unit: "web.service"})
	f.must(res[0].Err)
	f.wantErr("not placed there", res[1].Err, fleet.ErrConflict)
	f.wantErr("no such machine", res[2].Err, fleet.ErrConflict)
	got := <-ch
	f.want("order", map[unit.Name]int64{"web.service": res[0].Rev}, got.Restarts)
	f.want("placements", 1, len(got.Placements))
	again := f.Restart(ctx, on(m1))[0]
	f.must(again.Err)
	for got = <-ch; got.Restarts["web.service"] != again.Rev; got = <-ch {
	}
	now, err := f.Orders(ctx, p1)
	f.must(err)
	f.want("read anew", got.Restarts, now.Restarts)
	other, err := f.Orders(ctx, p2)
	f.must(err)
	f.want("the other machine's", 0, len(other.Restarts))

	// The placements that come after an order are not overlooked for it.
	f.place(term, "db.service", p1)
	for len(got.Placements) < 2 {
		got = <-ch
	}
	f.want("order", again.Rev, got.Restarts["web.service"])

	// What was done is told, and an order for what is here no more goes.
	f.must(f.Report(ctx, p1, []fleet.Observation{{Unit: "web.service", Machine: m1, Load: "loaded", Active: "active", Restarted: again.Rev}}, nil))
	f.want("told", again.Rev, f.snapshot().Observed[on(m1)].Restarted)
	if _, err := f.Collect(ctx, term); err != nil || f.get("restarts/"+string(m1)+"/web.service") == "" {
		t.Error("the order of a placed unit was collected:", err)
	}
	pl := f.snapshot().Placements[on(m1)]
	u := f.snapshot().Units["web.service"]
	_, lost, err := f.Commit(ctx, term, []fleet.Decision{{Kind: fleet.Withdraw, Unit: "web.service", Machine: m1, UnitRev: u.Rev, Rev: pl.Rev, MachineRev: p1.Rev}})
	f.must(err)
	f.want("lost", 0, len(lost))
	_, err = f.Collect(ctx, term)
	f.must(err)
	f.want("order of a unit that is gone", "", f.get("restarts/"+string(m1)+"/web.service"))
}

// Each order's number is that of its own transaction: one that waits for a later one's would wait for ever.
func TestRestartOfManyTellsEachNumber(t *testing.T) {
	f := newFixture(t)
	p1, term := f.register(m1), f.lead(m1)
	all := names(200)
	f.submit(webText, fleet.Launched, all...)
	var keys []fleet.Key
	for _, n := range all {
		f.place(term, n, p1)
		keys = append(keys, fleet.Key{Machine: m1, Unit: n})
	}
	res := f.Restart(t.Context(), keys...)
	o, err := f.Orders(t.Context(), p1)
	f.must(err)
	for i, k := range keys {
		f.must(res[i].Err)
		f.want(string(k.Unit), o.Restarts[k.Unit], res[i].Rev)
	}
}
