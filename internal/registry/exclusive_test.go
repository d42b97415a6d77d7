package registry

import (
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

const exclusiveText = "[Service]\nExecStart=/bin/db\nTimeoutStopSec=5\n[X-Fleet]\nExclusive=yes\n"

func TestExclusiveUnit(t *testing.T) { eachStore(t, testExclusiveUnit) }

func testExclusiveUnit(t *testing.T, f *fixture) {
	ctx := t.Context()
	s := newStage(f)
	s.hash = file(t, exclusiveText).Hash()
	f.submit(exclusiveText, fleet.Launched, "db.service")
	if u := f.snapshot().Units["db.service"]; !u.Needs.Exclusive || u.Stop != 12*time.Second {
		t.Fatalf("unit: %+v", u)
	}
	commit := func(lost int, ds ...fleet.Decision) {
		t.Helper()
		_, conflicts, err := f.Commit(ctx, s.term, ds)
		if err != nil || len(conflicts) != lost {
			t.Fatal(conflicts, err)
		}
	}
	place := func(m fleet.MachineID, holder int64, gone fleet.MachineID) fleet.Decision {
		d := s.place("db.service", m)
		d.Hold, d.HolderRev, d.HolderGone = 23*time.Second, holder, gone
		return d
	}
	commit(0, place(m1, 0, ""))
	held := f.snapshot().Holders["db.service"]
	f.want("holder", fleet.Holder{Unit: "db.service", Machine: m1, Wait: 23 * time.Second, Rev: held.Rev}, held)

	// While a machine holds it, nobody else gets it.
	commit(1, place(m2, 0, ""))
	commit(1, place(m2, held.Rev, m1)) // m1 is registered
	placed := f.snapshot().Placements[fleet.Key{Machine: m1, Unit: "db.service"}]

	// Only who holds it lets it go, and only by the placement that it knows.
	f.must(f.LetGo(ctx, s.p2, placed))
	old := placed
	old.Rev--
	f.wantErr("an old placement", f.LetGo(ctx, s.p1, old), fleet.ErrConflict)
	d := s.decide(fleet.Revoke, "db.service", m1)
	commit(0, d)
	revoked := f.snapshot().Placements[fleet.Key{Machine: m1, Unit: "db.service"}]
	if revoked.Target != fleet.Inactive || revoked.Handover {
		t.Fatalf("revoked: %+v", revoked)
	}
	gone := s.p1
	gone.Rev--
	f.wantErr("a lost registration", f.LetGo(ctx, gone, revoked), kv.ErrLeaseGone)
	f.must(f.LetGo(ctx, s.p1, revoked))
	f.must(f.LetGo(ctx, s.p1, revoked))
	if len(f.snapshot().Holders) != 0 {
		t.Fatal(f.snapshot().Holders)
	}
	w := s.decide(fleet.Withdraw, "db.service", m1)
	commit(0, w, place(m2, 0, ""))

	// A holder that is gone is followed by another in one transaction.
	held = f.snapshot().Holders["db.service"]
	f.must(f.Leave(ctx, s.p2))
	commit(0, place(m1, held.Rev, m2))
	// A machine that has stopped all lets all go that it is not ordered to run: back again, it would run that.
	f.must(f.LetAllGo(ctx, s.p1))
	if f.snapshot().Holders["db.service"].Machine != m1 {
		t.Fatal("let go, and ordered to run there")
	}
	commit(0, s.decide(fleet.Revoke, "db.service", m1))
	f.must(f.LetAllGo(ctx, s.p1))
	if len(f.snapshot().Holders) != 0 {
		t.Fatal(f.snapshot().Holders)
	}
	commit(0, s.decide(fleet.Withdraw, "db.service", m1))
	commit(0, place(m1, 0, ""))
	free := fleet.Decision{Kind: fleet.Free, Unit: "db.service", Machine: m1, UnitRev: f.snapshot().Units["db.service"].Rev,
		HolderRev: f.snapshot().Holders["db.service"].Rev, MachineRev: s.p1.Rev}
	wrong := free
	wrong.HolderRev--
	commit(1, wrong)
	commit(0, free)
	if len(f.snapshot().Holders) != 0 {
		t.Fatal(f.snapshot().Holders)
	}
}

func TestHoldersAndBrakeAreWatched(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	s := newStage(f)
	from := f.snapshot()
	changes := f.Watch(ctx, from)
	d := s.place("web@1.service", m2)
	d.Hold = time.Second
	if _, lost, err := f.Commit(ctx, s.term, []fleet.Decision{d}); err != nil || len(lost) > 0 {
		t.Fatal(lost, err)
	}
	next := func() (all []fleet.Change) { return (<-changes).Changes }
	var got *fleet.Holder
	for _, c := range next() {
		if c.Holder != nil {
			got = c.Holder
		}
	}
	if got == nil || got.Machine != m2 || got.Unit != "web@1.service" {
		t.Fatal(got)
	}
	f.must(f.LetGo(ctx, s.p2, f.snapshot().Placements[fleet.Key{Machine: m2, Unit: "web@1.service"}]))
	f.want("let go", []fleet.Change{{Deleted: true, Holder: &fleet.Holder{Unit: "web@1.service"}}}, next())

	f.must(f.Resume(ctx)) // nothing to let go
	b := fleet.Brake{Since: time.Unix(100, 0).UTC(), Missing: []fleet.MachineID{m2}, Of: 5}
	f.must(f.SetBrake(ctx, s.term, nil, &b))
	b.Rev = f.rev()
	f.want("pulled", []fleet.Change{{Brake: &b}}, next())
	f.want("stored", &b, f.snapshot().Brake)
	f.wantErr("planned on none", f.SetBrake(ctx, s.term, nil, nil), fleet.ErrConflict)
	f.must(f.Resume(ctx))
	b.Resumed, b.Rev = true, f.rev()
	f.want("resumed", []fleet.Change{{Brake: &b}}, next())
	f.must(f.Resume(ctx))
	read, err := f.Brake(ctx)
	f.must(err)
	f.want("read", &b, read)
	f.must(f.SetBrake(ctx, s.term, read, nil))
	f.want("let go", []fleet.Change{{Deleted: true, Brake: &fleet.Brake{}}}, next())
	if f.snapshot().Brake != nil {
		t.Error(f.snapshot().Brake)
	}
	other := s.term
	other.Rev--
	f.wantErr("by one who does not lead", f.SetBrake(ctx, other, nil, &b), fleet.ErrConflict)
	f.put("brake", "?")
	f.want("damaged", (*fleet.Brake)(nil), f.snapshot().Brake)
}
