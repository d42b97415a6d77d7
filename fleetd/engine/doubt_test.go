package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// doubting is a planner in a world of n machines with a unit each, of which the store is asked by the test.
type doubting struct {
	*testing.T
	*world
	s *State
}

func newDoubting(t *testing.T, n int) *doubting {
	w := newWorld()
	w.At = time.Unix(1000, 0)
	for i := 1; i <= n; i++ {
		w.machine(id(i), nil)
		w.unit(unit.Name(fmt.Sprintf("u%02d.service", i)), nil)
		w.plan(t)
	}
	w.watch()
	s := NewState(w.Snapshot)
	s.Turn()
	return &doubting{t, w, s}
}

// turn is the leader's: lives is what the store would say, of those that have not 8 s left; no entry for nobody asks it. moved are the machines that
// something was moved from.
func (d *doubting) turn(lives map[int]time.Duration) (asked bool, moved string) {
	d.Helper()
	d.s.Apply(d.At, d.watch())
	d.s.SetTime(d.At)
	d.s.SetBrake(d.s.Brake(d.s.brake, 33))
	if asked = d.s.Doubt(33); asked {
		if lives == nil {
			d.s.Unheard()
		} else {
			d.s.Heard(d.At, d.answer(lives))
		}
		d.s.Doubt(33)
	}
	ds := d.s.Turn()
	d.s.Refused(d.commit(ds))
	d.s.Apply(d.At, d.watch())
	var from []string
	for _, c := range ds {
		if c.Kind == fleet.Handover {
			from = append(from, strings.TrimLeft(c.Machine.Short(), "0"))
		}
	}
	return asked, strings.Join(from, " ")
}

// gone is what the store says nothing about: a registration that has ended already.
const gone1 = time.Duration(-100)

func (d *doubting) answer(lives map[int]time.Duration) map[fleet.MachineID]time.Duration {
	all := map[fleet.MachineID]time.Duration{}
	for m := range d.Machines {
		all[m] = 8 * time.Second
	}
	for i, left := range lives {
		if all[id(i)] = left; left == gone1 {
			delete(all, id(i))
		}
	}
	return all
}

// want plays a turn after some time.
func (d *doubting) want(after time.Duration, lives map[int]time.Duration, asked bool, moved string) {
	d.Helper()
	d.At = d.At.Add(after)
	if a, m := d.turn(lives); a != asked || m != moved {
		d.Fatalf("asked %v, want %v; moved from %q, want %q", a, asked, m, moved)
	}
}

func TestDoubt(t *testing.T) {
	const s = time.Second
	lives := func(left time.Duration, of ...int) map[int]time.Duration {
		m := map[int]time.Duration{}
		for _, i := range of {
			m[i] = left
		}
		return m
	}
	for _, tt := range []struct {
		name  string
		n     int
		lost  []int
		lives map[int]time.Duration
		prep  func(*doubting)
		asked bool
		moved string
	}{
		{"all others have renewed", 6, []int{1}, lives(8 * s), nil, true, "1"},
		{"two others may have gone with it", 6, []int{1}, lives(3*s, 2, 3), nil, true, ""},
		{"one other may, and a second is missed", 6, []int{1, 2}, lives(3*s, 3), nil, true, ""},
		{"one other may: two are not many", 6, []int{1}, lives(3*s, 2), nil, true, "1"},
		{"a third of nine", 9, []int{1}, lives(0, 2, 3), nil, true, ""},
		{"less than a third of ten", 10, []int{1}, lives(0, 2, 3), nil, true, "1"},
		{"half of the time to live is left", 6, []int{1}, lives(5*s, 2, 3, 4), nil, true, "1"},
		{"a bit less than half", 6, []int{1}, lives(5*s-1, 2, 3, 4), nil, true, ""},
		{"their leases have ended, and are yet to be revoked", 6, []int{1}, lives(-1, 2, 3), nil, true, ""},
		{"their registrations have gone, and the watch is yet to tell", 6, []int{1}, lives(gone1, 2, 3), nil, true, ""},
		{"those are about to leave by themselves", 6, []int{1}, lives(3*s, 2, 3),
			func(d *doubting) { d.machine(id(3), func(m *fleet.Machine) { m.Leaving = true }) }, true, "1 3"},
		{"it left by itself", 6, nil, lives(3*s, 2, 3), func(d *doubting) {
			d.machine(id(1), func(m *fleet.Machine) { m.Leaving = true })
			d.s.Apply(d.At, d.watch())
			d.lose(id(1))
		}, false, "1"},
		{"too few machines for a brake", 2, []int{1}, lives(0, 2), nil, false, "1"},
		{"all three of three", 3, []int{1}, lives(0, 2, 3), nil, true, ""},
		{"it carried nothing", 6, []int{7}, lives(0, 2, 3), func(d *doubting) { d.machine(id(7), nil); d.s.Apply(d.At, d.watch()) }, false, ""},
		{"an operator has let the brake go, and it was on then", 6, []int{1}, lives(0, 2, 3),
			func(d *doubting) {
				d.s.SetBrake(&fleet.Brake{Missing: []fleet.MachineID{id(1), id(8), id(9)}, Of: 6, Resumed: true})
			}, false, "1"},
		{"the brake is on", 6, []int{1, 2, 3}, nil, nil, false, ""},
		{"the store is silent", 6, []int{1}, nil, nil, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDoubting(t, tt.n)
			if tt.prep != nil {
				tt.prep(d)
			}
			for _, i := range tt.lost {
				d.lose(id(i))
			}
			d.want(0, tt.lives, tt.asked, tt.moved)
		})
	}
}

// Those that were late renew: they are asked for once more, when the youngest of their leases would have ended, and not before.
func TestLateMachinesThatRenewHoldNothing(t *testing.T) {
	d := newDoubting(t, 6)
	d.lose(id(1))
	d.want(0, map[int]time.Duration{2: time.Second, 3: 3 * time.Second}, true, "")
	if at, any := d.s.Due(); !any || at != d.At.Add(4*time.Second) { // a store that counts whole seconds may have meant 4
		t.Fatal(at, any)
	}
	d.unit("new.service", nil)
	d.want(3*time.Second, nil, false, "")
	d.want(time.Second, map[int]time.Duration{}, true, "1")
	if at, any := d.s.Due(); any {
		t.Errorf("due at %v", at)
	}
	if len(d.s.suspects) > 0 {
		t.Error(d.s.suspects)
	}
}

// Those that were late end, one after the other: the brake is pulled when the third is missed, and nothing has moved.
func TestLateMachinesThatEndPullTheBrake(t *testing.T) {
	d := newDoubting(t, 6)
	d.lose(id(1))
	d.want(0, map[int]time.Duration{2: time.Second, 3: 2 * time.Second}, true, "")
	d.lose(id(2))
	d.want(time.Second, nil, false, "") // the answer of before is enough
	if d.s.brake.On() {
		t.Error("an alarm before its time")
	}
	d.want(2*time.Second, map[int]time.Duration{3: -1}, true, "") // its lease has ended, and the key is there
	d.want(time.Second/2, nil, false, "")
	d.lose(id(3))
	d.want(time.Second/10, nil, false, "")
	if !d.s.brake.On() || len(d.s.brake.Missing) != 3 || d.s.brake.Of != 6 {
		t.Errorf("%+v", d.s.brake)
	}
}

// A store that is too busy to take renewals in time: who is late at one time has renewed by the next, and others are late then. The move waits for those
// of the first time only.
func TestStoreThatIsAlwaysLateHoldsNothingForEver(t *testing.T) {
	d := newDoubting(t, 6)
	d.lose(id(1))
	d.want(0, map[int]time.Duration{2: 4 * time.Second, 3: 4 * time.Second}, true, "")
	d.want(5*time.Second, map[int]time.Duration{2: 4 * time.Second, 3: 3 * time.Second, 4: time.Second, 5: time.Second}, true, "1")
	if d.s.brake != nil {
		t.Errorf("%+v", d.s.brake)
	}
	// One that is missed later has its own first answer.
	d.lose(id(6))
	d.want(0, map[int]time.Duration{2: 4 * time.Second, 3: 3 * time.Second, 4: time.Second, 5: time.Second}, false, "")
	d.want(5*time.Second, map[int]time.Duration{}, true, "6")
}

// A machine that is back is no longer late, and what it has is its own again; when it is missed once more it has another answer.
func TestMachineThatIsBackIsNotLate(t *testing.T) {
	d := newDoubting(t, 6)
	d.lose(id(1))
	d.want(0, map[int]time.Duration{2: time.Second, 3: time.Second}, true, "")
	d.machine(id(1), nil)
	d.want(time.Second, nil, false, "")
	if _, any := d.s.Due(); any {
		t.Error("something is due with all machines here")
	}
	d.lose(id(1))
	d.want(10*time.Second, map[int]time.Duration{}, true, "1")
	d.lose(id(2))
	d.machine(id(2), nil)
	d.lose(id(3))
	d.want(10*time.Second, map[int]time.Duration{2: 8 * time.Second}, true, "3")
}

// A store that does not say delays a move until the machine is not one of those that vanished lately.
func TestSilentStoreHoldsForAMinute(t *testing.T) {
	d := newDoubting(t, 6)
	d.lose(id(1))
	d.want(0, nil, true, "")
	at, any := d.s.Due()
	if !any || at != d.At.Add(askAgain) {
		t.Fatal(at, any)
	}
	for range 60 {
		d.want(time.Second, nil, true, "")
	}
	d.want(time.Second, nil, false, "1")
}

// What a planner knew of machines with nothing on them is not forgotten when it reads the cluster anew, nor when a machine comes.
func TestMachinesAreRemembered(t *testing.T) {
	d := newDoubting(t, 4)
	for i := 5; i <= 8; i++ {
		d.machine(id(i), nil)
	}
	d.want(0, nil, false, "")
	d.lose(id(7))
	d.want(0, nil, false, "")
	d.machine(id(9), nil)
	d.want(0, nil, false, "")
	known := d.s.Known()
	d.lose(id(8)) // while nobody watches
	d.watch()
	d.s = NewState(d.Snapshot)
	d.s.Remember(known)
	d.lose(id(1))
	d.want(0, nil, false, "")
	if !d.s.brake.On() || d.s.brake.Of != 9 {
		t.Errorf("%+v", d.s.brake)
	}
	forgetful := NewState(d.Snapshot)
	forgetful.SetTime(d.At)
	if forgetful.Brake(nil, 33) != nil {
		t.Error("and of what nobody remembers it knows")
	}
}

// A leader that begins when the first is missed asks, too.
func TestNewLeaderAsks(t *testing.T) {
	d := newDoubting(t, 6)
	d.lose(id(1))
	d.watch()
	d.s = NewState(d.Snapshot)
	d.want(0, map[int]time.Duration{2: 3 * time.Second, 3: time.Second}, true, "")
	d.lose(id(2))
	d.lose(id(3))
	d.destroy("u01.service") // it counts on, though nothing is to be moved from there any more
	d.want(time.Second, nil, false, "")
	if !d.s.brake.On() {
		t.Error("no alarm")
	}
}

// The wait for an exclusive unit's machine may end while nothing is moved from there: the unit moves as soon as something may.
func TestExclusiveUnitOfAKeptMachine(t *testing.T) {
	d := newDoubting(t, 6)
	d.exclusive()
	d.want(0, nil, false, "")
	home := d.Holders["db.service"].Machine
	if home == "" {
		t.Fatal("it is nowhere")
	}
	d.lose(home)
	d.want(0, nil, true, "")
	for range 20 { // it is waited for for 16.3 s
		d.want(time.Second, nil, true, "")
	}
	if now := d.Holders["db.service"].Machine; now != home {
		t.Errorf("it went to %s", now)
	}
	d.turn(map[int]time.Duration{})
	if now := d.Holders["db.service"].Machine; now == home {
		t.Error("it did not move")
	}
	if n := d.twice(); n != "" {
		t.Errorf("%s may run twice", n)
	}
}

// Three of six vanish in one moment: their leases end one after the other, and nothing moves. What the leader asks is bounded.
func TestLeaderMovesNothingWhenManyVanish(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		homes := vanishing(c, 6)
		c.vanish(id(2), 0)
		c.vanish(id(3), 1500*time.Millisecond)
		c.vanish(id(4), 3*time.Second)
		later(time.Hour)
		c.mu.Lock()
		pulled, asked := c.world.Brake.On(), c.asked
		c.mu.Unlock()
		if !pulled || asked != 1 {
			t.Errorf("brake %v, asked %d times", pulled, asked)
		}
		c.stay(homes)
	})
}

// The others were only late.
func TestLeaderMovesWhenTheLateHaveRenewed(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		homes := vanishing(c, 6)
		c.do(func(*world) {
			c.ending[id(3)], c.ending[id(4)] = time.Now().Add(2*time.Second), time.Now().Add(3*time.Second)
		})
		c.vanish(id(2), 0)
		later(2 * time.Second)
		c.stay(homes)
		c.do(func(*world) { clear(c.ending) })
		later(time.Minute)
		c.mu.Lock()
		pulled, asked := c.world.Brake != nil, c.asked
		c.mu.Unlock()
		if pulled || asked != 2 {
			t.Errorf("brake %v, asked %d times", pulled, asked)
		}
		for name, was := range homes {
			if now := c.home(name); (now != was) != (was == id(2)) {
				t.Errorf("%s went from %s to %s", name, was, now)
			}
		}
	})
}

// A store that does not answer that one question is asked again, and nothing else waits for it.
func TestLeaderOfASilentStorePlansOn(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		homes := vanishing(c, 6)
		c.do(func(*world) { c.deaf = true })
		c.vanish(id(2), 0)
		later(10 * time.Second)
		c.stay(homes)
		c.do(func(w *world) { w.unit("new.service", nil) })
		later(time.Second)
		if c.home("new.service") == "" || c.leader() != id(1) {
			t.Errorf("new.service is on %q, %q leads", c.home("new.service"), c.leader())
		}
		c.do(func(*world) { c.deaf = false })
		later(2 * time.Second)
		for name, was := range homes {
			if now := c.home(name); (now != was) != (was == id(2)) {
				t.Errorf("%s went from %s to %s", name, was, now)
			}
		}
	})
}

// vanishing fills a crew's cluster with n machines and a unit for each.
func vanishing(c *crew, n int) map[unit.Name]fleet.MachineID {
	c.leaders[id(1)].BrakeShare = 33
	homes := map[unit.Name]fleet.MachineID{}
	c.do(func(w *world) {
		for i := 3; i <= n; i++ {
			w.machine(id(i), nil)
		}
	})
	later(time.Minute)
	for i := range n {
		name := unit.Name(fmt.Sprintf("u%02d.service", i))
		c.do(func(w *world) { w.unit(name, nil) })
		later(time.Minute)
		homes[name] = c.home(name)
	}
	return homes
}

// vanish lets a machine's lease end after a while, of which the store knows from now on.
func (c *crew) vanish(m fleet.MachineID, after time.Duration) {
	c.do(func(*world) { c.ending[m] = time.Now().Add(after) })
	time.AfterFunc(after, func() { c.do(func(w *world) { w.lose(m) }) })
}

func (c *crew) stay(homes map[unit.Name]fleet.MachineID) {
	c.t.Helper()
	for name, was := range homes {
		if now := c.home(name); now != was {
			c.t.Errorf("%s went from %s to %s", name, was, now)
		}
	}
}
