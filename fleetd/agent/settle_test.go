package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/systemd"
	"github.com/fleet-init/fleet/internal/unit"
)

// hand is an agent that is stepped by hand: no goroutine, no clock but its own.
type hand struct {
	now   time.Time
	sys   *systemd.Fake
	disk  *Memory
	agent *Agent
	texts map[unit.Hash]*unit.File
}

func newHand() *hand {
	h := &hand{now: time.Unix(1_700_000_000, 0), disk: NewMemory(), texts: map[unit.Hash]*unit.File{}}
	h.sys = systemd.NewFake(systemd.FakeOptions{Now: func() time.Time { return h.now }, ReadFile: h.disk.ReadFile})
	for _, text := range texts() {
		f := parse(text)
		h.texts[f.Hash()] = f
	}
	h.restart()
	return h
}

func texts() []string { return []string{sleeper, slow, oneshot, failing, waiter} }

func (h *hand) restart() {
	h.agent = New(Config{Machine: "m", Systemd: h.sys, Signals: h.sys, Disk: h.disk, Log: slog.New(slog.DiscardHandler)})
}

// step is one turn; it returns what was planned.
func (h *hand) step() []Task {
	seen, err := h.agent.Observe(context.Background(), h.now)
	if err != nil {
		panic(err) // the fake refuses nothing
	}
	tasks := Plan(h.agent.orders, seen)
	h.agent.Do(context.Background(), h.now, tasks)
	if asked := slices.Clone(h.agent.Missing()); len(asked) > 0 {
		h.agent.Fetched(h.now, asked, h.texts, nil)
	}
	changed, gone := h.agent.Pending()
	h.agent.Told(changed, gone, nil)
	return tasks
}

// rest steps until all has come to rest, or some minutes have gone by.
func (h *hand) rest() {
	for range 600 {
		h.step()
		h.now = h.now.Add(500 * time.Millisecond)
	}
}

// TestAnAppliedPlanIsEmpty changes orders, kills processes and agents at random, and then lets all come to rest: the plan is empty, every
// unit is as ordered, nothing else is left, and the registry was told so.
func TestAnAppliedPlanIsEmpty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHand()
		names := []unit.Name{"a.service", "b.service", "c@1.service"}
		orders := Orders{Placements: map[unit.Name]fleet.Placement{}, Admitted: true}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			n := rapid.SampledFrom(names).Draw(t, "unit")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				delete(orders.Placements, n)
			case 1, 2:
				orders.Placements[n] = fleet.Placement{Unit: n, Hash: parse(rapid.SampledFrom(texts()).Draw(t, "text")).Hash(),
					Target: rapid.SampledFrom([]fleet.TargetState{fleet.Loaded, fleet.Launched}).Draw(t, "target")}
			case 3:
				h.sys.Exit(n, rapid.Bool().Draw(t, "well"))
			case 4:
				h.sys.Lose()
			case 5:
				h.restart()
			}
			o := orders
			o.Placements = maps.Clone(orders.Placements)
			h.agent.SetOrders(o)
			for range rapid.IntRange(0, 3).Draw(t, "turns") {
				h.step()
				h.now = h.now.Add(time.Duration(rapid.IntRange(0, 30_000).Draw(t, "ms")) * time.Millisecond)
			}
		}
		h.rest()
		if tasks := h.step(); len(tasks) != 0 {
			t.Fatalf("still to be done:\n%s", text(tasks))
		}
		if err := h.check(orders); err != nil {
			t.Fatal(err)
		}
	})
}

func (h *hand) check(orders Orders) error {
	disk, _ := h.disk.Read() // memory
	for n, d := range disk {
		p, ok := orders.Placements[n]
		if !ok || d.Hash != p.Hash {
			return fmt.Errorf("%s is on disk as %s, ordered as %s", n, d.Hash, p.Hash)
		}
		if launched := p.Target == fleet.Launched; launched != (d.Started == p.Hash) {
			return fmt.Errorf("%s was started as %q, its target is %s", n, d.Started, p.Target)
		}
	}
	if len(disk) != len(orders.Placements) || len(h.sys.Linked()) != len(disk) || len(h.agent.told) != len(disk) {
		return fmt.Errorf("%d ordered, %d on disk, %d linked, %d told", len(orders.Placements), len(disk), len(h.sys.Linked()),
			len(h.agent.told))
	}
	states, err := h.sys.States(context.Background(), slices.Sorted(maps.Keys(disk)))
	if err != nil {
		return err
	}
	for n, st := range states {
		if o := h.agent.told[n]; o.Active != st.Active || o.Sub != st.Sub || o.Hash != disk[n].Hash {
			return fmt.Errorf("%s is %s %s, told was %+v", n, st.Active, st.Sub, o)
		}
		up := st.Active == "active" || st.Active == "activating"
		if up && orders.Placements[n].Target == fleet.Loaded {
			return fmt.Errorf("%s runs, its target is loaded", n)
		}
	}
	return nil
}

func TestUnitWhoseStopOutlivedTheAgentIsStartedWhenWantedAgain(t *testing.T) {
	world(t, func(r *rig) {
		r.order(slow, "a.service launched")
		r.pass(time.Second)
		r.order(slow, "a.service")
		r.pass(time.Second) // its ExecStop takes 20 s
		r.stop()
		r.pass(30 * time.Second)
		r.order(slow, "a.service launched")
		r.start()
		r.pass(time.Second)
		r.expect("a.service loaded active running launched")
	})
}
