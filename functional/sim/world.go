package sim

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Options are what a run is made with beside its steps.
type Options struct {
	Hosts int // 1 to 9
	Trace bool
	// LeaveOut, if set, drops guards of transactions: a run without one of them must go wrong. kind is the writing task's.
	LeaveOut func(kind string, g kv.Guard) bool
	// Hasty lets agents clear away before they are admitted.
	Hasty bool
	// Focus makes seeds of little else than exclusive units, on hosts that are cut, paused and lost. It is for the maker only.
	Focus bool
	// Ports makes seeds of units that publish ports of their hosts, of which there are few. It is for the maker only.
	Ports bool
	// Each of these leaves out something that keeps exclusive units from being alive twice.
	NoGuard      bool // process 1 stops nothing
	FeedAnswered bool // a keep-alive counts from its answer
	LetGoEarly   bool // an agent lets go what has not stopped
	NoWait       bool // a leader does not wait for a machine that is gone
	WallClock    bool // leases are counted by a clock that can be set
	NoSettle     bool // they do not wait when the store is not the one of before
	KeepStale    bool // who was there and who led is still in a restored store
	NoFloor      bool // tokens are placements' revisions, also where those are of a backup
	// Obedient hosts carry out what a restored store says before anybody has confirmed it.
	Obedient bool
	// NoQuestion: a leader does not ask how long other machines' leases live before it moves what a missed one has.
	NoQuestion bool
	// AtOnce makes seeds in which many of five hosts vanish in one moment; it is for the maker only.
	AtOnce bool
	// Restores makes more seeds with stores set back; it is for the maker only.
	Restores bool
}

// machineTTL is the time to live of a registration.
const machineTTL = 10 * time.Second

// world is the cluster, its users and their surroundings.
type world struct {
	opt   Options
	log   *slog.Logger
	start time.Time
	now   time.Time
	hosts []*host
	mem   *kv.Memory

	// What is stored, as of rev, in fleet's words.
	rev          int64
	snap         fleet.Snapshot
	files        map[unit.Hash]bool
	leaderCreate int64 // create revision of the leader key; 0: there is none
	leaderRev    int64 // when it last changed
	ordersRev    map[fleet.MachineID]int64
	history      []revision
	compacted    int64

	storeOff bool // it has no quorum: nothing is answered, and no lease ends
	inFlight []flight
	flights  int
	users    int // user operations so far
	turns    int // of the fair scheduler

	cluster   int       // goes up with each restore
	confirmed int       // the last one that somebody has confirmed
	saved     *kv.Saved // the last backup
	floor     int64     // the revision at which the present cluster began

	facts facts
	notes []string
	bad   *Bad
}

// Bad is a broken rule.
type Bad struct {
	At   time.Duration
	Rule string // one or two words, the same for every breach of that rule
	What string
}

func (b *Bad) Error() string { return fmt.Sprintf("%.3f %s: %s", b.At.Seconds(), b.Rule, b.What) }

func newWorld(o Options) *world {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	w := &world{
		opt: o, log: quiet(), start: start, now: start, rev: 1, snap: fleet.NewSnapshot(), files: map[unit.Hash]bool{},
		ordersRev: map[fleet.MachineID]int64{}, facts: newFacts(), cluster: 1, confirmed: 1,
	}
	w.mem = kv.NewMemory(func() time.Time { return w.now })
	for i := 1; i <= o.Hosts; i++ {
		w.hosts = append(w.hosts, newHost(w, i))
	}
	for _, h := range w.hosts {
		h.power(true)
	}
	return w
}

// end ends all tasks, so that no coroutine is left.
func (w *world) end() {
	for _, h := range w.hosts {
		h.crash()
	}
}

// broken notes the first broken rule; what comes after it may only be its consequence.
func (w *world) broken(rule, format string, args ...any) {
	if w.bad == nil {
		w.bad = &Bad{At: w.since(), Rule: rule, What: fmt.Sprintf(format, args...)}
	}
}

func (w *world) since() time.Duration { return w.now.Sub(w.start) }

// note adds to what the transcript says came of the step.
func (w *world) note(format string, args ...any) {
	if w.opt.Trace {
		w.notes = append(w.notes, strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

// attribute says when and by whom the notes since before are.
func (w *world) attribute(before int, who string) {
	if len(w.notes) > before {
		all := strings.Join(w.notes[before:], ", ")
		w.notes = append(w.notes[:before], fmt.Sprintf("\n#   %.3f %s: %s", w.since().Seconds(), who, all))
	}
}

// pass lets time pass until at: leases end, and the hosts' units go on by themselves.
func (w *world) pass(at time.Duration) {
	if to := w.start.Add(at); to.After(w.now) {
		w.now = to
		w.tick()
	}
	for len(w.inFlight) > 0 && !w.now.Before(w.inFlight[0].by) {
		w.deliver(w.inFlight[0].id)
	}
	for _, h := range w.hosts {
		h.stepSystemd()
		h.stepGuard()
	}
	w.exclusives()
}

func (w *world) host(name string) *host {
	for _, h := range w.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// hostOf finds a host by its machine ID.
func (w *world) hostOf(id fleet.MachineID) *host {
	for _, h := range w.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}

// task finds a task by its name, such as h2.agent.
func (w *world) task(name string) *task {
	host, _, _ := strings.Cut(name, ".")
	h := w.host(host)
	if h == nil || h.p == nil {
		return nil
	}
	for _, t := range h.p.tasks {
		if t.name == name && !t.done {
			return t
		}
	}
	return nil
}

// waiting returns the tasks that can go on now, in a fixed order.
func (w *world) waiting() []*task {
	var ts []*task
	for _, h := range w.hosts {
		if h.p == nil {
			continue
		}
		for _, t := range h.p.tasks {
			if t.ready() {
				ts = append(ts, t)
			}
		}
	}
	return ts
}

// next is when something happens by itself.
func (w *world) next() (at time.Duration, any bool) {
	var first time.Time
	take := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	for _, h := range w.hosts {
		take(h.sysDue)
		take(h.guardDue())
		if h.p == nil || h.frozen {
			continue
		}
		for _, t := range h.p.tasks {
			if !t.done {
				take(t.due)
			}
		}
	}
	return first.Sub(w.start), !first.IsZero()
}

// runFor lets everybody go on for d, one after the other, each a millisecond after the one before, without faults but those
// that last already.
func (w *world) runFor(d time.Duration) {
	end := w.since() + d
	most := 20000 + int(d/time.Millisecond)
	for steps := 0; w.bad == nil; steps++ {
		if steps > most {
			w.broken("restless", "more than %d steps within %s: tasks wake each other for ever", most, d)
			return
		}
		ts := w.waiting()
		if len(ts) == 0 {
			at, any := w.next()
			if !any || at >= end {
				break
			}
			w.pass(max(at, w.since()))
			continue
		}
		w.turns++
		t, before := ts[w.turns%len(ts)], len(w.notes)
		t.resume(goOn{})
		w.attribute(before, t.name)
		w.exclusives()
		w.pass(w.since() + time.Millisecond)
		if w.since() >= end {
			break
		}
	}
	w.pass(end)
}
