package registry

import (
	"fmt"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// stage is a cluster ready for commits: m1 and m2 registered, m1 leading, web@0 to web@2 launched, web@0 placed on m1.
type stage struct {
	*fixture
	p1, p2 Presence
	term   Term
	hash   unit.Hash
}

func newStage(f *fixture) *stage {
	s := &stage{fixture: f, hash: file(f, otherText).Hash()}
	s.p1, s.p2 = f.register(m1), f.register(m2)
	s.term = f.lead(m1)
	f.submit(otherText, fleet.Launched, names(3)...)
	_, lost, err := f.Commit(f.Context(), s.term, []fleet.Decision{s.place("web@0.service", m1)})
	if err != nil || len(lost) > 0 {
		f.Fatal(lost, err)
	}
	return s
}

// place is a decision on the store as it is now.
func (s *stage) place(u unit.Name, m fleet.MachineID) fleet.Decision {
	return s.decide(fleet.Place, u, m)
}

func (s *stage) decide(kind fleet.DecisionKind, u unit.Name, m fleet.MachineID) fleet.Decision {
	snap := s.snapshot()
	return fleet.Decision{
		Kind: kind, Unit: u, Machine: m, Hash: s.hash, Target: fleet.Launched,
		UnitRev: snap.Units[u].Rev, Rev: snap.Placements[fleet.Key{Machine: m, Unit: u}].Rev, MachineRev: snap.Machines[m].Rev,
	}
}

// placed prints the placements, "unit machine target" with "handover".
func (s *stage) placed() map[string]bool {
	out := map[string]bool{}
	for k, p := range s.snapshot().Placements {
		l := fmt.Sprintf("%s %s %s", k.Unit, k.Machine.Short(), p.Target)
		if p.Handover {
			l += " handover"
		}
		out[l] = true
	}
	return out
}

// Each thing that a decision is planned on can change before it is written. Then it must not be, and the one beside it must.
func TestCommitGuards(t *testing.T) {
	rows := []struct {
		name     string
		decision func(*stage) fleet.Decision
		meddle   func(*stage)
		lost     bool
	}{
		{"place: nothing happens", func(s *stage) fleet.Decision { return s.place("web@1.service", m1) }, func(s *stage) {}, false},
		{
			"place: the unit gets another target", func(s *stage) fleet.Decision { return s.place("web@1.service", m1) },
			func(s *stage) { s.submit(otherText, fleet.Inactive, "web@1.service") }, true,
		},
		{
			"place: the unit goes", func(s *stage) fleet.Decision { return s.place("web@1.service", m1) },
			func(s *stage) { s.must(s.Destroy(s.Context(), "web@1.service")[0]) }, true,
		},
		{
			"place: the unit gets another text", func(s *stage) fleet.Decision { return s.place("web@1.service", m1) },
			func(s *stage) { s.submit(webText, fleet.Launched, "web@1.service") }, true,
		},
		{
			"place: a placement is there already", func(s *stage) fleet.Decision { return s.place("web@1.service", m1) },
			func(s *stage) { s.put("placements/"+string(m1)+"/web@1.service", `{"v":1}`) }, true,
		},
		{
			"place: the machine goes", func(s *stage) fleet.Decision { return s.place("web@1.service", m2) },
			func(s *stage) { s.must(s.Leave(s.Context(), s.p2)) }, true,
		},
		{
			"place: the machine goes and comes back", func(s *stage) fleet.Decision { return s.place("web@1.service", m2) },
			func(s *stage) { s.must(s.Leave(s.Context(), s.p2)); s.register(m2) }, true,
		},
		{
			"place: the machine's metadata changes", func(s *stage) fleet.Decision { return s.place("web@1.service", m2) },
			func(s *stage) { s.must(s.Update(s.Context(), s.p2, Hello{Instance: "instance-" + string(m2)})) }, false,
		},
		{
			"update: nothing happens", func(s *stage) fleet.Decision { return s.decide(fleet.Update, "web@0.service", m1) },
			func(s *stage) {}, false,
		},
		{
			"update: the placement changes", func(s *stage) fleet.Decision { return s.decide(fleet.Update, "web@0.service", m1) },
			func(s *stage) { s.put("placements/"+string(m1)+"/web@0.service", `{"v":1}`) }, true,
		},
		{
			"handover because the machine is gone: it is back", func(s *stage) fleet.Decision {
				d := s.decide(fleet.Handover, "web@0.service", m1)
				d.MachineRev = 0
				return d
			}, func(s *stage) {}, true,
		},
		{
			"withdraw: nothing happens", func(s *stage) fleet.Decision { return s.decide(fleet.Withdraw, "web@0.service", m1) },
			func(s *stage) {}, false,
		},
		{
			"withdraw: the placement is gone", func(s *stage) fleet.Decision { return s.decide(fleet.Withdraw, "web@0.service", m1) },
			func(s *stage) {
				s.txn(kv.Op{Key: "/fleet/placements/" + string(m1) + "/web@0.service", Delete: true})
			}, true,
		},
		{
			"withdraw because the unit is gone: it is back", func(s *stage) fleet.Decision {
				d := s.decide(fleet.Withdraw, "web@0.service", m1)
				d.UnitRev = 0
				return d
			}, func(s *stage) {}, true,
		},
		{
			"admit: the machine comes back anew", func(s *stage) fleet.Decision { return s.decide(fleet.Admit, "", m2) },
			func(s *stage) { s.must(s.Leave(s.Context(), s.p2)); s.register(m2) }, true,
		},
		{"admit: nothing happens", func(s *stage) fleet.Decision { return s.decide(fleet.Admit, "", m2) }, func(s *stage) {}, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(newFixture(t))
			d, beside := row.decision(s), s.place("web@2.service", m1)
			s.hook = func() { row.meddle(s) }
			_, lost, err := s.Commit(t.Context(), s.term, []fleet.Decision{d, beside})
			s.must(err)
			want := []fleet.Decision{}
			if row.lost {
				want = append(want, d)
			}
			s.want("lost", want, lost)
			if !s.placed()["web@2.service 11111111 launched"] {
				t.Error("the decision beside it was not written")
			}
		})
	}
}

func (f *fixture) txn(ops ...kv.Op) {
	f.Helper()
	_, _, err := f.raw.Txn(f.Context(), nil, ops)
	f.must(err)
}

func TestCommitMove(t *testing.T) { eachStore(t, testMove) }

func testMove(t *testing.T, f *fixture) {
	s := newStage(f)
	move := []fleet.Decision{s.place("web@0.service", m2), s.decide(fleet.Handover, "web@0.service", m1)}
	rev, lost, err := s.Commit(t.Context(), s.term, move)
	s.must(err)
	s.want("lost", 0, len(lost))
	snap := s.snapshot()
	s.want("one revision for both", [2]int64{rev, rev}, [2]int64{
		snap.Placements[fleet.Key{Machine: m1, Unit: "web@0.service"}].Rev, snap.Placements[fleet.Key{Machine: m2, Unit: "web@0.service"}].Rev,
	})
	s.want("placed", map[string]bool{"web@0.service 22222222 launched": true, "web@0.service 11111111 launched handover": true}, s.placed())

	// The end of the handover loses a race on its one guard; the move back, planned with it, must then not happen either.
	back := []fleet.Decision{s.place("web@0.service", m1), s.decide(fleet.Withdraw, "web@0.service", m2), s.place("web@1.service", m1)}
	s.hook = func() {
		s.put("placements/"+string(m2)+"/web@0.service", s.get("placements/"+string(m2)+"/web@0.service"))
	}
	_, lost, err = s.Commit(t.Context(), s.term, back)
	s.must(err)
	s.want("lost", back[:2], lost)
	s.want("placed", map[string]bool{
		"web@0.service 22222222 launched": true, "web@0.service 11111111 launched handover": true, "web@1.service 11111111 launched": true,
	}, s.placed())
}

func TestCommitAfterTheTerm(t *testing.T) {
	f := newFixture(t)
	s := newStage(f)
	d := s.place("web@1.service", m1)
	s.must(s.Resign(t.Context(), s.term))
	_, _, err := s.Commit(t.Context(), s.term, []fleet.Decision{d})
	s.wantErr("without leader", err, kv.ErrLeaseGone)
	s.lead(m2)
	_, _, err = s.Commit(t.Context(), s.term, []fleet.Decision{d})
	s.wantErr("with another leader", err, kv.ErrLeaseGone)
	s.want("placed", map[string]bool{"web@0.service 11111111 launched": true}, s.placed())
}

// A thousand decisions go in few transactions, and a few lost ones among them cost little more.
func TestCommitMany(t *testing.T) {
	f := newFixture(t)
	s := newStage(f)
	const n = 1000
	f.submit(otherText, fleet.Launched, names(n)...)
	snap := s.snapshot()
	var ds []fleet.Decision
	for i, u := range names(n)[3:] {
		m := []fleet.MachineID{m1, m2}[i%2]
		ds = append(ds, fleet.Decision{
			Kind: fleet.Place, Unit: u, Machine: m, Hash: s.hash, Target: fleet.Launched, UnitRev: snap.Units[u].Rev, MachineRev: snap.Machines[m].Rev,
		})
	}
	f.txns = 0
	f.submit(webText, fleet.Launched, "web@500.service", "web@501.service", "web@900.service")
	before := f.txns
	_, lost, err := s.Commit(t.Context(), s.term, ds)
	s.must(err)
	s.want("lost", []fleet.Decision{ds[497], ds[498], ds[897]}, lost)
	s.want("placements", n-3-3+1, len(s.snapshot().Placements))
	// 128 guards: the leader, two machines, and two for each decision, so 62 decisions; two transactions are written again.
	s.want("transactions", 17+2, f.txns-before)
}

// A global unit has more decisions than a transaction; a lost one takes no other with it.
func TestCommitGlobal(t *testing.T) {
	f := newFixture(t)
	s := newStage(f)
	f.submit("[X-Fleet]\nGlobal=true\n", fleet.Launched, "all.service")
	var ds []fleet.Decision
	var ps []Presence
	for i := range 150 {
		id := fleet.MachineID(fmt.Sprintf("%032x", i))
		ps = append(ps, f.register(id))
		kind := fleet.Place
		if i%2 == 0 {
			kind = fleet.Withdraw
			f.put("placements/"+string(id)+"/all.service", `{"v":1,"hash":"h","target":"loaded"}`)
		}
		ds = append(ds, s.decide(kind, "all.service", id))
	}
	f.must(f.Leave(t.Context(), ps[75]))
	_, lost, err := s.Commit(t.Context(), s.term, ds)
	f.must(err)
	f.want("lost", ds[75:76], lost)
	f.want("placements", 75-1+1, len(s.snapshot().Placements))
}

// An agent clears away what it is not told to run once it is admitted. So no admission while a decision for it was lost.
func TestCommitAdmitsAfterAllElse(t *testing.T) {
	f := newFixture(t)
	s := newStage(f)
	ds := []fleet.Decision{
		s.decide(fleet.Admit, "", m1), s.decide(fleet.Admit, "", m2), s.place("web@1.service", m1), s.place("web@2.service", m2),
	}
	f.submit(webText, fleet.Launched, "web@1.service")
	_, lost, err := s.Commit(t.Context(), s.term, ds)
	f.must(err)
	f.want("lost", []fleet.Decision{ds[0], ds[2]}, lost)
	snap := s.snapshot()
	f.want("admitted", [2]int64{0, s.p2.Rev}, [2]int64{snap.Machines[m1].Admitted, snap.Machines[m2].Admitted})
}

func TestCollect(t *testing.T) {
	f := newFixture(t)
	s := newStage(f)
	ctx := t.Context()
	web := file(t, webText).Hash()
	stored := func() int {
		kvs, _, err := f.raw.Range(ctx, "/fleet/files/")
		f.must(err)
		return len(kvs[0])
	}
	collect := func(want int) {
		t.Helper()
		n, err := f.Collect(ctx, s.term)
		f.must(err)
		f.want("collected", want, n)
	}
	collect(0)
	f.submit(webText, fleet.Launched, names(3)...)
	collect(0) // the placement of web@0 still names the old text
	_, _, err := f.Commit(ctx, s.term, []fleet.Decision{s.decide(fleet.Withdraw, "web@0.service", m1)})
	f.must(err)
	collect(1)
	f.want("texts", 1, stored())

	// A text taken into use between Collect's look and its write stays.
	for _, err := range f.Destroy(ctx, names(3)...) {
		f.must(err)
	}
	f.hook = func() { f.submit(webText, fleet.Launched, "web@1.service") }
	collect(0)
	texts, err := f.Files(ctx, web)
	f.must(err)
	f.want("text in use", 1, len(texts))

	// Nor is anything deleted while a record does not say what it needs, or by a leader of yesterday.
	f.must(f.Destroy(ctx, "web@1.service")[0])
	f.put("units/new.service", `{"v":7,"content":"sha256:…"}`)
	if n, err := f.Collect(ctx, s.term); n != 0 || err == nil {
		t.Errorf("collected %d beside a record of unknown form, err=%v", n, err)
	}
	f.must(f.Destroy(ctx, "new.service")[0])
	f.must(f.Resign(ctx, s.term))
	_, err = f.Collect(ctx, s.term)
	f.wantErr("after the term", err, kv.ErrLeaseGone)
	f.want("texts", 1, stored())
}

func TestLeader(t *testing.T) { eachStore(t, testLeader) }

func testLeader(t *testing.T, f *fixture) {
	ctx := t.Context()
	who := func() fleet.MachineID {
		t.Helper()
		m, rev, ok, err := f.Leader(ctx)
		f.must(err)
		if ok != (rev != 0) || ok != (m != "") {
			t.Errorf("leader %q, revision %d, ok=%v", m, rev, ok)
		}
		return m
	}
	wakes := f.WatchLeader(ctx)
	<-wakes // at once
	f.want("at first", fleet.MachineID(""), who())
	t1 := f.lead(m1)
	<-wakes
	f.want("leader", m1, who())
	before := f.rev()
	if _, ok, err := f.Campaign(ctx, m2, "1", time.Minute); ok || err != nil {
		t.Errorf("a second leader: ok=%v err=%v", ok, err)
	}
	f.want("a campaign that meets a leader writes nothing", before, f.rev())
	f.must(f.Renew(ctx, t1))
	f.must(f.Resign(ctx, t1))
	<-wakes
	f.must(f.Resign(ctx, t1))
	f.wantErr("renew after the end", f.Renew(ctx, t1), kv.ErrLeaseGone)
	t2 := f.lead(m2)
	if t2.Rev <= t1.Rev {
		t.Errorf("terms %v and %v", t1, t2)
	}

	// The leader's fleetd was killed and is back: its old term is over, the new one begins at once.
	t3 := f.lead(m2)
	if t3.Rev <= t2.Rev {
		t.Errorf("terms %v and %v", t2, t3)
	}
	f.wantErr("renew the left term", f.Renew(ctx, t2), kv.ErrLeaseGone)

	// Two campaign at once: one wins.
	f.must(f.Resign(ctx, t3))
	f.hook = func() { f.lead(m1) }
	if _, ok, err := f.Campaign(ctx, m2, "1", time.Minute); ok || err != nil {
		t.Errorf("two leaders: ok=%v err=%v", ok, err)
	}
	f.want("leader", m1, who())
}

func TestHoldPlans(t *testing.T) { eachStore(t, testHoldPlans) }

// While plans are held nobody leads, the host that holds them neither, and what the leader of before has on its way is not written.
func testHoldPlans(t *testing.T, f *fixture) {
	ctx := t.Context()
	s := newStage(f)
	old := s.term
	wakes := f.WatchLeader(ctx)
	<-wakes
	place := func(term Term) error {
		t.Helper()
		_, lost, err := f.Commit(ctx, term, []fleet.Decision{s.place("web@1.service", m1)})
		if err == nil && len(lost) > 0 {
			t.Error("refused, and the term is not over")
		}
		return err
	}
	// Another engine is quicker once, when the leader's term is ended.
	f.hook = func() { f.lead(m2) }
	held, err := f.HoldPlans(ctx, m2, "1", time.Minute)
	f.must(err)
	<-wakes
	for _, m := range []fleet.MachineID{m1, m2} {
		if _, ok, err := f.Campaign(ctx, m, "1", time.Minute); ok || err != nil {
			t.Errorf("%s leads while plans are held: ok=%v err=%v", m, ok, err)
		}
	}
	if err := place(old); err == nil {
		t.Error("a plan of before is written while plans are held")
	}
	f.wantErr("renew the old term", f.Renew(ctx, old), kv.ErrLeaseGone)
	f.must(f.Renew(ctx, held))
	f.must(f.Resign(ctx, held))
	if err := place(old); err == nil {
		t.Error("and after that")
	}
	f.must(place(f.lead(m1)))
	// With nobody to follow, and once more by the same host.
	f.must(f.Resign(ctx, f.lead(m1)))
	first, err := f.HoldPlans(ctx, m1, "1", time.Minute)
	f.must(err)
	_, err = f.HoldPlans(ctx, m1, "1", time.Minute)
	f.must(err)
	f.wantErr("renew the first hold", f.Renew(ctx, first), kv.ErrLeaseGone)
}
