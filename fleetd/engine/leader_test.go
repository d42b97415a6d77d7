package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

const testTTL = 3 * time.Second

// crew is a few leaders over one store.
type crew struct {
	*fakeStore
	leaders map[fleet.MachineID]*Leader
	stop    map[fleet.MachineID]context.CancelFunc
	done    map[fleet.MachineID]chan struct{}
}

// inCrew runs a test in fake time with n leaders, of which the first is leading, on two machines that carry nothing yet.
func inCrew(t *testing.T, n int, test func(t *testing.T, c *crew)) {
	synctest.Test(t, func(t *testing.T) {
		c := &crew{fakeStore: newFakeStore(t), leaders: map[fleet.MachineID]*Leader{}, stop: map[fleet.MachineID]context.CancelFunc{},
			done: map[fleet.MachineID]chan struct{}{}}
		c.do(func(w *world) { w.machine(id(1), nil); w.machine(id(2), nil) })
		for i := range n {
			c.start(id(i + 1))
			synctest.Wait()
		}
		test(t, c)
		for m := range c.leaders {
			c.end(m)
		}
		synctest.Wait()
		if len(c.watchers)+len(c.campaign) > 0 {
			t.Error("a watch outlives its leader")
		}
	})
}

func (c *crew) start(m fleet.MachineID) {
	ctx, cancel := context.WithCancel(context.Background())
	l := NewLeader(Config{Self: m, Version: "1", TTL: testTTL, Store: c.as(m), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	done := make(chan struct{})
	c.leaders[m], c.stop[m], c.done[m] = l, cancel, done
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			c.t.Error(err)
		}
	}()
}

func (c *crew) end(m fleet.MachineID) {
	c.stop[m]()
	<-c.done[m]
}

func (c *crew) cut(m fleet.MachineID, off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down[m] = off
}

// later lets time pass until everything is at rest again.
func later(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// home is where a unit is placed, "" if nowhere.
func (c *crew) home(name unit.Name) fleet.MachineID {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, p := range c.world.Placements {
		if k.Unit == name && !p.Handover {
			return k.Machine
		}
	}
	return ""
}

func TestUnitIsPlacedAsSoonAsTheWatchTells(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		later(time.Minute)
		commits := c.committed()
		began := time.Now()
		c.do(func(w *world) { w.unit("a.service", nil) })
		for c.home("a.service") == "" {
			later(time.Millisecond)
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("placed after %s", took)
		}
		later(time.Minute)
		if n := c.committed() - commits; n != 1 {
			t.Errorf("%d commits for one unit", n)
		}
	})
}

func TestMachineThatIsBackInAMomentKeepsItsUnits(t *testing.T) {
	inCrew(t, 2, func(t *testing.T, c *crew) {
		c.do(func(w *world) { w.unit("a.service", nil) })
		later(time.Minute)
		home := c.home("a.service")
		c.do(func(w *world) { w.lose(home) })
		later(goneGrace / 2)
		c.do(func(w *world) { w.machine(home, nil) })
		later(time.Minute)
		if now := c.home("a.service"); now != home {
			t.Errorf("the unit went from %s to %s", home, now)
		}
		// The next leader begins with a machine that is just gone.
		c.do(func(w *world) { w.lose(home) })
		c.end(c.leader())
		later(goneGrace / 2)
		c.do(func(w *world) { w.machine(home, nil) })
		later(time.Minute)
		if now := c.home("a.service"); now != home {
			t.Errorf("the unit went from %s to %s under a new leader", home, now)
		}
		c.do(func(w *world) { w.lose(home) })
		later(goneGrace * 2)
		if now := c.home("a.service"); now == home || now == "" {
			t.Errorf("the unit of the lost machine is on %q", now)
		}
	})
}

func TestBurstIsOneTurn(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		later(time.Minute)
		commits := c.committed()
		for i := range 100 {
			c.do(func(w *world) { w.unit(unit.Name(fmt.Sprintf("web@%d.service", i)), nil) })
		}
		later(time.Second)
		if n := c.committed() - commits; n != 1 || len(c.world.Placements) != 100 {
			t.Errorf("%d commits, %d placements", n, len(c.world.Placements))
		}
	})
}

func TestAnotherLeadsWhenTheLeaderResigns(t *testing.T) {
	inCrew(t, 2, func(t *testing.T, c *crew) {
		c.end(id(1))
		later(testTTL / 10)
		if got := c.leader(); got != id(2) {
			t.Errorf("leader is %q", got)
		}
		if c.leaders[id(1)].Counters().Leading || !c.leaders[id(2)].Counters().Leading {
			t.Error("the counters tell otherwise")
		}
	})
}

func TestAnotherLeadsWhenTheLeaderIsCutOff(t *testing.T) {
	inCrew(t, 2, func(t *testing.T, c *crew) {
		later(10 * testTTL)
		if got := c.leader(); got != id(1) {
			t.Fatalf("leader is %q after a quiet time", got)
		}
		c.cut(id(1), true)
		later(testTTL + testTTL/10)
		if got := c.leader(); got != id(2) {
			t.Fatalf("leader is %q", got)
		}
		if c.leaders[id(1)].Counters().Leading {
			t.Error("the old leader still believes that it leads")
		}
		c.do(func(w *world) { w.unit("a.service", nil) })
		c.cut(id(1), false)
		later(time.Minute)
		if c.home("a.service") == "" || c.leader() != id(2) {
			t.Errorf("placed on %q, leader %q", c.home("a.service"), c.leader())
		}
	})
}

func TestLostRaceIsPlannedAgainWithWhatChanged(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		later(time.Minute)
		commits := c.committed()
		c.mu.Lock()
		c.beforeTxn = func() {
			c.world.unit("a.service", func(u *fleet.Unit) { u.Target = fleet.Loaded })
			c.publish()
		}
		c.mu.Unlock()
		c.do(func(w *world) { w.unit("a.service", nil) })
		later(time.Minute)
		if p := c.world.Placements[fleet.Key{Machine: id(1), Unit: "a.service"}]; p.Target != fleet.Loaded {
			t.Errorf("placement is %+v", p)
		}
		if n := c.committed() - commits; n != 2 {
			t.Errorf("%d commits", n)
		}
		if got := c.leaders[id(1)].Counters(); got.Conflicts != 1 || got.Decisions[fleet.Place] != 1 {
			t.Errorf("counters %+v", got)
		}
	})
}

// A guard can fail without a change that the watch brings in time. Then it is tried again by and by, not at once and for ever.
func TestLostRaceWithoutAChangeDoesNotSpin(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		later(time.Minute)
		commits := c.committed()
		c.do(func(w *world) {
			w.unit("a.service", nil)
			u := w.Units["a.service"]
			u.Rev += 1000 // what the watch told and what the guards compare differ
			w.Units["a.service"] = u
		})
		later(10 * time.Second)
		if n := c.committed() - commits; n < 5 || n > 11 {
			t.Errorf("%d commits in 10 seconds", n)
		}
	})
}

func TestWatchTooFarBehindReadsAnew(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		later(time.Minute)
		c.do(func(w *world) { w.unit("a.service", nil) })
		c.compact()
		later(time.Minute)
		if c.home("a.service") == "" {
			t.Error("not placed")
		}
		if n := c.leaders[id(1)].Counters().Resyncs; n != 1 {
			t.Errorf("%d snapshots were needed anew", n)
		}
	})
}

func TestHalfWrittenCommitIsFinishedByTheNextTerm(t *testing.T) {
	inCrew(t, 2, func(t *testing.T, c *crew) {
		later(time.Minute)
		c.mu.Lock()
		c.halfway = true
		c.mu.Unlock()
		c.do(func(w *world) {
			for i := range 10 {
				w.unit(unit.Name(fmt.Sprintf("web@%d.service", i)), nil)
			}
		})
		later(time.Minute)
		load := map[fleet.MachineID]int{}
		for k := range c.world.Placements {
			load[k.Machine]++
		}
		if load[id(1)] != 5 || load[id(2)] != 5 {
			t.Errorf("placed %v", load)
		}
	})
}

func TestUnusedTextsAreCollected(t *testing.T) {
	inCrew(t, 1, func(t *testing.T, c *crew) {
		c.do(func(w *world) { w.unit("a.service", nil); w.unit("b.service", nil) })
		later(time.Minute)
		c.do(func(w *world) { w.destroy("a.service") })
		later(time.Minute)
		c.do(func(w *world) { w.destroy("b.service") })
		later(collectSoon)
		if n := c.collected(); n != 1 {
			t.Errorf("collected %d times after two units were destroyed", n)
		}
		later(3 * collectEvery)
		if n := c.collected(); n < 3 || n > 4 {
			t.Errorf("collected %d times in three hours", n)
		}
	})
}

func (c *crew) committed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commits
}

func (c *crew) collected() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.collects
}

// Leaders come, go, lose the store and half of their commits, while users and machines do what they do: no unit is ever placed
// twice (the store watches that), and when all is quiet everything is in its place.
func TestManyLeadersAndFaults(t *testing.T) {
	for seed := range uint64(20) {
		inCrew(t, 3, func(t *testing.T, c *crew) {
			luck := rand.New(rand.NewPCG(seed, 1))
			for range 200 {
				c.meddle(luck)
				later(time.Duration(luck.IntN(int(testTTL))))
			}
			for i := range 3 {
				c.cut(id(i+1), false)
			}
			for range 3 {
				c.do(func(w *world) { w.runAll() })
				later(time.Minute)
			}
			if bad := (oracle{c.world.Snapshot}).wrong(); len(bad) > 0 {
				t.Errorf("seed %d: %q", seed, bad)
			}
			if ds := Plan(c.world.Snapshot); len(ds) > 0 {
				t.Errorf("seed %d: not at rest:\n%s", seed, text(ds))
			}
		})
	}
}

func (c *crew) meddle(luck *rand.Rand) {
	machine, name := id(luck.IntN(4)+1), unit.Name(fmt.Sprintf("web@%d.service", luck.IntN(8)))
	switch luck.IntN(10) {
	case 0:
		c.cut(id(luck.IntN(3)+1), luck.IntN(2) == 0)
	case 1:
		c.compact()
	case 2:
		c.mu.Lock()
		c.halfway = true
		c.mu.Unlock()
	case 3:
		c.do(func(w *world) { w.lose(machine) })
	case 4, 5:
		c.do(func(w *world) { w.machine(machine, nil) })
	case 6:
		c.do(func(w *world) { w.machine(machine, func(m *fleet.Machine) { m.Leaving = !m.Leaving }) })
	case 7:
		c.do(func(w *world) { w.destroy(name) })
	case 8:
		c.do(func(w *world) { w.runAll() })
	default:
		c.do(func(w *world) {
			w.unit(name, func(u *fleet.Unit) {
				u.Target = []fleet.TargetState{fleet.Inactive, fleet.Loaded, fleet.Launched}[luck.IntN(3)]
				u.Needs.Conflicts = []unit.Glob{"web@[0-3]*"}
			})
		})
	}
}
