package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/systemd"
	"github.com/fleet-init/fleet/internal/unit"
)

const (
	sleeper = "[Service]\nExecStart=/bin/sleep infinity\n"
	slow    = "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 20\n"
	waiter  = "[Service]\nType=notify\nExecStart=/bin/app\nTimeoutStartSec=60\n"
	oneshot = "[Service]\nType=oneshot\nExecStart=/bin/sleep 3\n"
	failing = "[Service]\nType=oneshot\nExecStart=/bin/false\n"
	bad     = "[Service]\nType=simple\n"
)

func parse(s string) *unit.File {
	f, err := unit.Parse([]byte(s))
	if err != nil {
		panic(err) // a text of these tests
	}
	return f
}

// store is a registry's memory for one machine.
type store struct {
	mu       sync.Mutex // guards all below
	orders   Orders
	texts    map[unit.Hash]*unit.File
	observed map[unit.Name]fleet.Observation
	away     bool // answers nothing
	reports  int
	puts     int
	reads    int // of texts
	unread   int // reads of texts that will fail yet, though the store takes reports
	running  int // reports at once
	letGo    []unit.Name
	watch    chan Orders
}

func newStore() *store {
	return &store{texts: map[unit.Hash]*unit.File{}, observed: map[unit.Name]fleet.Observation{},
		orders: Orders{Placements: map[unit.Name]fleet.Placement{}, Admitted: true}, watch: make(chan Orders, 1)}
}

var errAway = errors.New("the store is away")

func (s *store) Orders(context.Context) (Orders, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return Orders{}, errAway
	}
	return s.copied(), nil
}

func (s *store) copied() Orders {
	o := s.orders
	o.Placements, o.Restarts = maps.Clone(o.Placements), maps.Clone(o.Restarts)
	return o
}

func (s *store) WatchOrders(context.Context, Orders) <-chan Orders { return s.watch }

func (s *store) Observed(context.Context) (map[unit.Name]fleet.Observation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, errAway
	}
	return maps.Clone(s.observed), nil
}

func (s *store) LetGo(_ context.Context, of []fleet.Placement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	for _, p := range of {
		s.letGo = append(s.letGo, p.Unit)
	}
	return nil
}

// Report takes five milliseconds, as a transaction may.
func (s *store) Report(ctx context.Context, changed []fleet.Observation, gone []unit.Name) error {
	s.mu.Lock()
	s.running++
	if s.running > 1 {
		panic("two reports at once")
	}
	s.mu.Unlock()
	time.Sleep(5 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if s.away {
		return errAway
	}
	s.reports++
	s.puts += len(changed) + len(gone)
	for _, o := range changed {
		s.observed[o.Unit] = o
	}
	for _, n := range gone {
		delete(s.observed, n)
	}
	return nil
}

func (s *store) Files(_ context.Context, hashes ...unit.Hash) (map[unit.Hash]*unit.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, errAway
	}
	s.reads++
	if s.unread > 0 {
		s.unread--
		return nil, fmt.Errorf("read unit texts: %w", fleet.ErrNoStore)
	}
	found := map[unit.Hash]*unit.File{}
	for _, h := range hashes {
		if f := s.texts[h]; f != nil {
			found[h] = f
		}
	}
	return found, nil
}

// rig is an agent with a fake world that outlives it, in a synctest bubble.
type rig struct {
	*testing.T
	*store
	sys   *systemd.Fake
	disk  *Memory
	agent *Agent
	end   func() // ends Run
	done  chan error

	more func(*Config) // changes the surroundings of agents that are started after it was set

	calls  map[string]int // of systemd since forget, one per unit, by kind; guarded by the store's mu
	denied string         // kind of calls that systemd refuses; likewise
}

// world runs a test in a bubble with fake time.
func world(t *testing.T, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, store: newStore(), disk: NewMemory(), calls: map[string]int{}}
		r.sys = systemd.NewFake(systemd.FakeOptions{ReadFile: r.disk.ReadFile, Refuse: func(call string, n unit.Name) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.calls[call]++
			if r.denied != "" && r.denied == call {
				return errors.New("denied")
			}
			return nil
		}})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.sys.Run(ctx) }()
		r.start()
		test(r)
		r.stop()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// start runs a new agent, as a restarted fleetd does.
func (r *rig) start() {
	c := Config{Machine: "m", Systemd: r.sys, Signals: r.sys, Files: r.store, Disk: r.disk, Log: slog.New(slog.DiscardHandler)}
	if r.more != nil {
		r.more(&c)
	}
	r.agent = New(c)
	ctx, cancel := context.WithCancel(context.Background())
	r.end, r.done = cancel, make(chan error)
	go func() { r.done <- r.agent.Run(ctx, r.store) }()
	synctest.Wait()
}

// stop ends Run, leaving the world as it is.
func (r *rig) stop() {
	if r.end == nil {
		return
	}
	r.end()
	r.end = nil
	if err := <-r.done; err != nil {
		r.Error(err)
	}
}

// order changes placements: "name target" with a text, or "name" alone to withdraw.
func (r *rig) order(text string, lines ...string) {
	r.mu.Lock()
	f := parse(text)
	r.texts[f.Hash()] = f
	for _, l := range lines {
		w := strings.Fields(l)
		n := unit.Name(w[0])
		if len(w) == 1 {
			delete(r.orders.Placements, n)
			continue
		}
		r.orders.Placements[n] = fleet.Placement{Unit: n, Machine: "m", Hash: f.Hash(), Target: fleet.TargetState(w[1]), Handover: len(w) > 2}
	}
	r.push()
}

// push sends the orders as they are; it unlocks r.mu.
func (r *rig) push() {
	r.orders.Rev++
	o := r.copied()
	r.mu.Unlock()
	select {
	case <-r.watch:
	default:
	}
	r.watch <- o
}

// forget starts counting anew.
func (r *rig) forget() {
	r.sys.Log()
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.calls)
	r.reports, r.puts, r.reads = 0, 0, 0
}

// deny makes systemd refuse one kind of calls; "" ends that.
func (r *rig) deny(call string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.denied = call
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// expect compares what the registry holds, as "name load active sub [launched] [reason]" lines.
func (r *rig) expect(want ...string) {
	r.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var got []string
	for _, n := range slices.Sorted(maps.Keys(r.observed)) {
		o := r.observed[n]
		l := fmt.Sprintf("%s %s %s %s", n, o.Load, o.Active, o.Sub)
		if o.Launched {
			l += " launched"
		}
		if o.Reason != "" {
			l += ": " + o.Reason
		}
		got = append(got, l)
	}
	if !slices.Equal(got, want) {
		r.Errorf("reported:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// did compares what systemd was asked for since the last did.
func (r *rig) did(want ...string) {
	r.Helper()
	synctest.Wait()
	if got := r.sys.Log(); !slices.Equal(got, want) {
		r.Errorf("systemd was asked:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
