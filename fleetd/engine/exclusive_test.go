package engine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// exclusive makes db.service exclusive, with a stop of 5 s: with leases of 10 s it fails over after 16.3 s.
func (w *world) exclusive() {
	w.unit("db.service", func(u *fleet.Unit) { u.Needs.Exclusive, u.Stop = true, 5*time.Second })
}

// expect plans, writes and compares.
func (w *world) expect(t *testing.T, what, want string) {
	t.Helper()
	if diff := cmp.Diff(want, text(w.plan(t))); diff != "" {
		t.Fatalf("%s: %s", what, diff)
	}
	if n := w.twice(); n != "" {
		t.Fatalf("%s: %s may run twice", what, n)
	}
	if rest := Plan(w.Snapshot); len(rest) > 0 {
		t.Fatalf("%s, and then: %s", what, text(rest))
	}
}

func heldByOne(t *testing.T) *world {
	w := newWorld()
	w.machine(id(1), nil)
	w.exclusive()
	w.expect(t, "first", "place db.service 00000001 launched: least loaded (0 units)\nadmit  00000001: 1 units planned for it\n")
	if h := w.Holders["db.service"]; h.Machine != id(1) || h.Wait != 16300*time.Millisecond {
		t.Fatalf("%+v", h)
	}
	w.machine(id(2), nil)
	w.expect(t, "second machine", "admit  00000002: 0 units planned for it\n")
	w.run(fleet.Key{Machine: id(1), Unit: "db.service"})
	return w
}

func TestExclusiveUnitLeavesBeforeItArrives(t *testing.T) {
	w := heldByOne(t)
	leave := func(yes bool) func(*fleet.Machine) { return func(m *fleet.Machine) { m.Leaving = yes } }
	w.machine(id(1), leave(true))
	w.expect(t, "leaving", "revoke db.service 00000001 inactive: machine 00000001 is leaving\n")
	w.machine(id(1), leave(false))
	w.expect(t, "stays after all", "place db.service 00000001 launched: not gone yet\n")
	w.machine(id(1), leave(true))
	w.expect(t, "leaving", "revoke db.service 00000001 inactive: machine 00000001 is leaving\n")
	w.machine(id(2), func(m *fleet.Machine) { m.Cordon = true })
	w.expect(t, "nowhere to go", "place db.service 00000001 launched: handed back\n")
	w.machine(id(2), func(m *fleet.Machine) { m.Cordon = false })
	w.expect(t, "leaving", "revoke db.service 00000001 inactive: machine 00000001 is leaving\n")
	w.letGo()
	w.expect(t, "gone", "withdraw db.service 00000001: let go\nplace db.service 00000002 launched: least loaded (0 units)\n")
}

func TestExclusiveUnitOfALostMachine(t *testing.T) {
	w := heldByOne(t)
	w.lose(id(1))
	w.expect(t, "lost", "")
	w.At = w.At.Add(16 * time.Second)
	w.expect(t, "may still run", "")
	w.machine(id(1), nil)
	w.expect(t, "back in time", "admit  00000001: 1 units planned for it\n")
	w.lose(id(1))
	w.At = w.At.Add(16 * time.Second)
	w.expect(t, "lost again: waits anew", "")
	w.At = w.At.Add(time.Second)
	w.expect(t, "cannot run", "withdraw db.service 00000001: machine 00000001 gone\nplace db.service 00000002 launched: least loaded (0 units)\n")
	w.machine(id(1), nil)
	w.expect(t, "back too late", "admit  00000001: 0 units planned for it\n")
}

func TestExclusiveUnitThatIsNotWantedAnyMore(t *testing.T) {
	w := heldByOne(t)
	w.destroy("db.service")
	w.expect(t, "destroyed", "revoke db.service 00000001 inactive: unit destroyed\n")
	w.exclusive()
	w.expect(t, "made anew: its machine has it still", "place db.service 00000001 launched: not gone yet\n")
	w.destroy("db.service")
	w.expect(t, "destroyed", "revoke db.service 00000001 inactive: unit destroyed\n")
	w.lose(id(1))
	w.exclusive()
	w.expect(t, "made anew while its machine is away: another will take it", "")
	w.destroy("db.service")
	w.expect(t, "destroyed", "")
	w.At = w.At.Add(17 * time.Second)
	w.expect(t, "nothing is left", "withdraw db.service 00000001: let go\nfree db.service 00000001: not exclusive any more, or gone for 16.3s\n")
	w.machine(id(1), nil)
	w.exclusive()
	w.expect(t, "again", "place db.service 00000001 launched: least loaded (0 units)\nadmit  00000001: 1 units planned for it\n")
	w.unit("db.service", func(u *fleet.Unit) { u.Needs = unit.Needs{} })
	w.expect(t, "not exclusive any more", "free db.service 00000001: not exclusive any more, or gone for 16.3s\n")
	w.exclusive()
	w.expect(t, "exclusive again", "update db.service 00000001 launched: exclusive\n")
}

func TestHolderIsWrittenAnewWhenItsWaitGrows(t *testing.T) {
	w := heldByOne(t)
	w.unit("db.service", func(u *fleet.Unit) { u.Stop = 12 * time.Second })
	w.expect(t, "longer stop", "update db.service 00000001 launched: exclusive\n")
	if h := w.Holders["db.service"]; h.Wait != fleet.Failover(10*time.Second, 12*time.Second) {
		t.Error(h)
	}
	w.unit("db.service", func(u *fleet.Unit) { u.Stop = time.Second })
	w.expect(t, "shorter: the old copy may still take its time", "")
}

// A new copy that cannot run is withdrawn when the old one is back and runs.
func TestFailedMoveIsHandedBack(t *testing.T) {
	w := newWorld()
	w.machine(id(1), nil)
	w.unit("a.service", nil)
	w.plan(t)
	old, fresh := fleet.Key{Machine: id(1), Unit: "a.service"}, fleet.Key{Machine: id(2), Unit: "a.service"}
	w.run(old)
	w.machine(id(2), nil)
	w.lose(id(1))
	w.expect(t, "lost", "handover a.service 00000001 launched: machine 00000001 gone\nplace a.service 00000002 launched: least loaded (0 units)\n"+
		"admit  00000002: 1 units planned for it\n")
	o := fleet.Observation{Unit: "a.service", Machine: id(2), Load: "loaded", Active: "failed", Result: "exit-code", Launched: true,
		Hash: w.Placements[fresh].Hash, Order: w.Placements[fresh].Rev}
	w.Observed[fresh] = o
	w.expect(t, "failed, and nobody else has it", "")
	w.machine(id(1), nil)
	w.expect(t, "back, and silent", "admit  00000001: 0 units planned for it\n")
	w.run(old)
	w.expect(t, "back, and running", "handover a.service 00000002 launched: failed there, and runs on 00000001\n"+
		"place a.service 00000001 launched: its old copy runs there, and the new one has failed\n")
	w.run(old)
	w.expect(t, "seen as placed", "withdraw a.service 00000002: runs on 00000001 now\n")
}

func TestBrake(t *testing.T) {
	w := newWorld()
	for i := 1; i <= 9; i++ {
		w.machine(id(i), nil)
		w.unit(unit.Name([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i"}[i-1]+".service"), nil)
		w.plan(t)
	}
	s := NewState(w.Snapshot)
	step := func(want string) {
		t.Helper()
		s.Apply(w.At, w.watch())
		s.SetBrake(s.Brake(s.brake, 33))
		ds := s.Turn()
		s.Refused(w.commit(ds))
		s.Apply(w.At, w.watch())
		if got := text(ds); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	w.watch()
	step("")
	for _, i := range []int{1, 2, 3} {
		w.lose(id(i))
	}
	step("")
	if !s.brake.On() || s.brake.Of != 9 || len(s.brake.Missing) != 3 {
		t.Fatalf("%+v", s.brake)
	}
	w.At = w.At.Add(time.Hour)
	w.unit("new.service", nil)
	step("place new.service 00000004 launched: least loaded (1 units)\n")
	w.machine(id(1), nil)
	step("handover b.service 00000002 launched: machine 00000002 gone\nplace b.service 00000001 launched: least loaded (1 units)\n" +
		"handover c.service 00000003 launched: machine 00000003 gone\nplace c.service 00000005 launched: least loaded (1 units)\n" +
		"admit  00000001: 2 units planned for it\n")
	if s.brake != nil {
		t.Fatalf("%+v", s.brake)
	}
	// An operator's word holds for the machines that are missing then.
	for _, i := range []int{4, 6, 7} {
		w.lose(id(i))
	}
	step("")
	resumed := *s.brake
	resumed.Resumed = true
	s.SetBrake(&resumed)
	if len(s.Turn()) == 0 {
		t.Error("nothing moves after resume")
	}
	if got := s.Brake(&resumed, 33); got != &resumed {
		t.Errorf("pulled again: %+v", got)
	}
	if got := s.Brake(nil, 0); got != nil {
		t.Errorf("pulled though it is off: %+v", got)
	}
}

func TestTwoOfThreeMachinesPullNoBrake(t *testing.T) {
	w := newWorld()
	for i := 1; i <= 3; i++ {
		w.machine(id(i), nil)
		w.unit(unit.Name([]string{"a", "b", "c"}[i-1]+".service"), nil)
		w.plan(t)
	}
	s := NewState(w.Snapshot)
	s.RemoveMachine(id(1))
	s.RemoveMachine(id(2))
	if b := s.Brake(nil, 33); b != nil {
		t.Errorf("%+v", b)
	}
	if !s.MostMissing() {
		t.Error("two of three are not most")
	}
	s.RemoveMachine(id(3))
	b := s.Brake(nil, 33)
	if !b.On() {
		t.Error("all three are gone, and no brake")
	}
	s.SetMachine(fleet.Machine{ID: id(1), Rev: 100})
	if s.Brake(b, 33) != b {
		t.Error("the first to be back gets all")
	}
}

func TestLeaderWaitsForAnExclusiveUnit(t *testing.T) {
	inCrew(t, 2, func(t *testing.T, c *crew) {
		c.do(func(w *world) { w.machine(id(1), func(m *fleet.Machine) { m.Cordon = true }); w.exclusive() })
		later(time.Minute)
		if c.home("db.service") != id(2) {
			t.Fatal(c.home("db.service"))
		}
		c.do(func(w *world) { w.machine(id(1), func(m *fleet.Machine) { m.Cordon = false }); w.lose(id(2)) })
		later(16 * time.Second)
		if c.home("db.service") != id(2) {
			t.Fatal("moved before its time")
		}
		later(time.Second)
		if c.home("db.service") != id(1) {
			t.Fatal("not moved when its time had come")
		}
	})
}

func TestLeaderPullsTheBrake(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		c.leaders[id(1)].BrakeShare = 33
		c.do(func(w *world) {
			for i := 3; i <= 6; i++ {
				w.machine(id(i), nil)
			}
			for _, n := range someNames[:6] {
				w.unit(n, nil)
			}
		})
		later(time.Minute)
		was := c.home("a.service")
		lost := []fleet.MachineID{was, id(5), id(6)}
		if was == id(5) || was == id(6) {
			lost[0] = id(4)
		}
		c.do(func(w *world) {
			for _, m := range lost {
				w.lose(m)
			}
		})
		later(time.Hour)
		c.mu.Lock()
		pulled := c.world.Brake.On()
		c.mu.Unlock()
		if !pulled || c.home("a.service") != was {
			t.Fatalf("brake %v, a.service on %s", pulled, c.home("a.service"))
		}
		c.do(func(w *world) { w.machine(lost[1], nil); w.machine(lost[2], nil) })
		later(time.Minute)
		c.mu.Lock()
		pulled = c.world.Brake.On()
		c.mu.Unlock()
		if pulled || c.home("a.service") == was {
			t.Fatalf("brake %v, a.service on %s", pulled, c.home("a.service"))
		}
	})
}
