package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

const (
	attempt    = 2 * time.Second        // one of --block-attempts
	beat       = 50 * time.Millisecond  // how often timers and the progress line are looked at
	placedSoon = 150 * time.Millisecond // a unit without a machine after this is asked about
	askAgain   = time.Second
	settleFor  = time.Second      // how long a state of before the change must stay to count
	lostFor    = 30 * time.Second // how long a lost watch is tried to be opened again
	maxNames   = 2000             // in one question; with more units all are asked about

	maxRefusals = 40 // printed for one unit: a screen full
)

// wait is one wait for many goals.
type wait struct {
	*watcher
	open     map[string]*pending
	all      int
	code     int
	nextAsk  time.Time // when unplaced units are asked about
	lostAt   time.Time // when the watch was lost; zero: it is not
	progress bool      // a progress line stands on the terminal
	broken   []broken  // units that failed on a machine
}

// broken is a unit that failed, and where.
type broken struct{ name, machine string }

// maxBroken is of how many failed units the log lines are shown.
const maxBroken = 5

// pending is a goal not yet reached.
type pending struct {
	*goal
	kind     kind
	settleAt time.Time // when what is seen counts; zero: not settling
	seen     verdict
}

// wait follows the watch until every goal is reached or has failed, printing each as it comes. It returns the exit code.
func (w *watcher) wait(ctx context.Context, goals []*goal) int {
	t := &wait{watcher: w, open: map[string]*pending{}, all: len(goals), nextAsk: time.Now().Add(placedSoon)}
	for _, g := range goals {
		t.open[g.name] = &pending{goal: g}
	}
	for _, g := range goals {
		// What the command found so already is no news, and prints nothing.
		if v := judge(w.world, g); v.kind == done && !v.settle && !g.changed {
			delete(t.open, g.name)
		} else {
			t.look(g.name)
		}
	}
	var timeout <-chan time.Time
	if n := w.app.opts.blockAttempts; n > 0 {
		timer := time.NewTimer(time.Duration(n) * attempt)
		defer timer.Stop()
		timeout = timer.C
	}
	code := t.loop(ctx, timeout)
	t.clear()
	for _, b := range t.broken[:min(len(t.broken), maxBroken)] {
		head := fmt.Sprintf("\nThe last log lines of %s:\n", b.name)
		t.app.lastLines(ctx, b.name, b.machine, t.app.opts.lines, func(line []byte) {
			t.warn("%s%s", head, strings.TrimSuffix(string(line), "\n"))
			head = "" // what has logged nothing gets no heading
		})
	}
	return code
}

func (t *wait) loop(ctx context.Context, timeout <-chan time.Time) int {
	events, join := t.follow(ctx)
	defer func() { join() }()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for len(t.open) > 0 {
		if len(events) == 0 {
			t.flush()
		}
		select {
		case e, ok := <-events:
			if !ok || e.err != nil {
				events = nil // until the next beat opens it again
				if t.lostAt.IsZero() && ctx.Err() == nil {
					t.lostAt = time.Now()
					t.warn("The connection to fleetd is lost, trying again")
				}
				continue
			}
			t.world.Apply(e.event)
			t.look(touched(e.event))
		case <-tick.C:
			if !t.lostAt.IsZero() {
				if err := t.reopen(ctx); err != nil {
					t.clear()
					return t.app.refused("Error waiting for units", err)
				}
				if t.lostAt.IsZero() {
					join()
					events, join = t.follow(ctx)
				}
				continue
			}
			t.beat(ctx)
		case <-timeout:
			return t.timedOut()
		case <-ctx.Done():
			return t.interrupted()
		}
	}
	return t.code
}

func touched(e api.Event) string {
	switch {
	case e.Unit != nil:
		return e.Unit.Name
	case e.State != nil:
		return e.State.Name
	}
	return ""
}

// look judges one goal anew and prints what came of it.
func (t *wait) look(name string) {
	p := t.open[name]
	if p == nil {
		return
	}
	v := judge(t.world, p.goal)
	if v.settle {
		if p.settleAt.IsZero() || v != p.seen {
			p.settleAt, p.seen = time.Now().Add(settleFor), v
		}
		p.kind = waiting
		return
	}
	p.settleAt = time.Time{}
	p.kind = v.kind
	t.finish(p, v)
}

// finish takes a goal that is done or has failed off the list.
func (t *wait) finish(p *pending, v verdict) {
	switch v.kind {
	case done:
		t.clear()
		t.app.reached(t.world, p.goal, v.machine)
	case failed:
		t.code = exitFailed
		text := v.what
		if v.machine != "" {
			text += " on " + legend(t.world.Machines, v.machine, t.app.opts.full)
			t.broken = append(t.broken, broken{p.name, v.machine})
		}
		if v.why != "" {
			text += ": " + v.why
		}
		t.warn("%s: unit %s %s", p.doing, p.name, text)
	default:
		return
	}
	delete(t.open, p.name)
}

// reached prints the line of a goal reached. A global unit's came when it was triggered.
func (a *app) reached(w *api.World, g *goal, machine string) {
	switch {
	case g.gone:
		a.printf("Destroyed %s\n", g.name)
	case g.global:
	case machine == "":
		a.printf("Unit %s %s\n", g.name, g.target)
	default:
		a.printf("Unit %s %s on %s\n", g.name, g.target, legend(w.Machines, machine, a.opts.full))
	}
}

// beat looks at all that depends on time.
func (t *wait) beat(ctx context.Context) {
	now := time.Now()
	for _, name := range t.waitingFor() {
		if p := t.open[name]; !p.settleAt.IsZero() && now.After(p.settleAt) {
			t.finish(p, verdict{kind: p.seen.kind, machine: p.seen.machine, what: p.seen.what, why: p.seen.why})
		}
	}
	if now.After(t.nextAsk) {
		t.nextAsk = now.Add(askAgain)
		t.ask(ctx)
	}
	t.draw()
}

// ask finds out why units are still without a machine. Those that none takes have failed; for the others a plan is coming.
func (t *wait) ask(ctx context.Context) {
	var names []string
	for _, name := range t.waitingFor() {
		if k := t.open[name].kind; k == unplaced || k == outdated {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	if len(names) > maxNames {
		names = nil
	}
	answers, err := t.app.client.Explain(ctx, names...)
	if err != nil {
		return // asked again; if fleetd is gone, the watch ends too
	}
	refused := map[string][]string{} // units by the reason they share
	behind := map[string][]string{}  // likewise, but these run on with an old text
	for _, x := range answers {
		p := t.open[string(x.Unit)]
		if p == nil || p.kind != unplaced && p.kind != outdated || t.comes(p, x) {
			continue
		}
		why := explained(t.world.Machines, x, t.app.opts.full)
		if p.global {
			t.warn("Unit %s runs on no machine now, and will on each that fits:%s", p.name, why)
			delete(t.open, p.name)
			continue
		}
		if p.kind == outdated {
			behind[why] = append(behind[why], p.name)
		} else {
			refused[why] = append(refused[why], p.name)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(refused)) {
		t.nowhere(refused[why], why)
	}
	for _, why := range slices.Sorted(maps.Keys(behind)) {
		t.stays(behind[why], why)
	}
}

// stays prints that no machine takes the new text of units.
func (t *wait) stays(names []string, why string) {
	t.code = exitFailed
	t.warn("%s: no machine takes the new text of %s:%s", t.open[names[0]].doing, shortList(names), why)
	t.warn("What runs goes on with the old one until a machine fits. To take it back, replace it with the old text.")
	for _, name := range names {
		delete(t.open, name)
	}
}

func shortList(names []string) string {
	text := strings.Join(names[:min(len(names), 5)], " ")
	if len(names) > 5 {
		text += " ..."
	}
	return text
}

// comes reports whether some machine takes the unit, so that a placement is on its way.
func (t *wait) comes(p *pending, x fleet.Explanation) bool {
	if p.global {
		return len(x.Refusals) < len(t.world.Machines)
	}
	_, here := t.world.Machines[x.Machine]
	return here && len(x.Refusals) == 0 // one that may not stay where it is, and can go nowhere, has both
}

// nowhere prints that no machine takes the units, and what that means for them.
func (t *wait) nowhere(names []string, why string) {
	t.code = exitFailed
	p := t.open[names[0]]
	unit, its := "unit ", "Its"
	if len(names) > 1 {
		unit, its = fmt.Sprintf("%d units: ", len(names)), "Their"
	}
	shown := shortList(names)
	back := shown
	if len(names) > 5 {
		back = "UNIT..."
	}
	t.warn("%s: no machine takes %s%s:%s", p.doing, unit, shown, why)
	t.warn("%s target state stays %s until a machine fits. To take it back: fleetctl unload %s", its, p.target, back)
	for _, name := range names {
		delete(t.open, name)
	}
}

// explained is the rest of a message that ends in a colon: the reason in the same line, then one line per machine.
func explained(machines map[fleet.MachineID]api.Machine, x fleet.Explanation, full bool) string {
	var b strings.Builder
	if x.Reason != "" {
		b.WriteString(" " + x.Reason)
	}
	for i, r := range x.Refusals {
		if i == maxRefusals {
			fmt.Fprintf(&b, "\n  ... and %d machines more", len(x.Refusals)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s: %s", legend(machines, string(r.Machine), full), r.Reason)
	}
	return b.String()
}

// reopen tries to get a lost watch back. It goes on in the next beat if that fails, and gives up after a while.
func (t *wait) reopen(ctx context.Context) error {
	t.stream.Close()
	err := t.watcher.open(ctx)
	if err != nil {
		if time.Since(t.lostAt) > lostFor {
			return err
		}
		return nil
	}
	t.lostAt = time.Time{}
	for _, name := range t.waitingFor() {
		t.look(name)
	}
	return nil
}

func (t *wait) waitingFor() []string { return slices.Sorted(maps.Keys(t.open)) }

func (t *wait) timedOut() int {
	t.warn("Error waiting for units: not reached within %v", time.Duration(t.app.opts.blockAttempts)*attempt)
	for _, name := range t.waitingFor() {
		t.warn("Unit %s did not report %s: %s", name, t.open[name].wanted(), t.known(name))
	}
	return exitFailed
}

func (t *wait) interrupted() int {
	waiting := t.waitingFor()
	rest := ""
	if len(waiting) > 1 {
		rest = fmt.Sprintf(" and %d more", len(waiting)-1)
	}
	p := t.open[waiting[0]]
	t.warn("Interrupted. The cluster goes on bringing %s%s to %s in the background; to see how far it is: fleetctl list-unit-files", p.name, rest, p.wanted())
	return exitInterrupted
}

func (g *goal) wanted() string {
	if g.gone {
		return "destroyed"
	}
	return string(g.target)
}

// known says in a few words how a unit is.
func (t *wait) known(name string) string {
	u, ok := t.world.Units[name]
	if !ok {
		return "it is no longer in the registry, a machine still has it"
	}
	if u.MachineID == "" {
		return "it has no machine"
	}
	s, ok := t.world.States[fleet.MachineID(u.MachineID)][name]
	where := legend(t.world.Machines, u.MachineID, t.app.opts.full)
	if !ok {
		return "machine " + where + " has not reported it yet"
	}
	return "on " + where + " systemd says " + saysSystemd(s)
}

// warn prints one line on stderr, in the place of the progress line.
func (t *wait) warn(format string, args ...any) {
	t.clear()
	t.app.warn(format, args...)
}

// flush lets the user see what was printed so far.
func (t *wait) flush() {
	if t.app.out.Buffered() > 0 {
		t.clear()
		_ = t.app.out.Flush() // its error is kept and found at the end
	}
}

// draw shows how many are there, on a terminal and for more than one unit.
func (t *wait) draw() {
	if !t.app.tty || t.all < 2 || len(t.open) == 0 {
		return
	}
	p := t.open[t.waitingFor()[0]]
	fmt.Fprintf(t.app.err, "\r\x1b[K%d/%d %s", t.all-len(t.open), t.all, p.wanted())
	t.progress = true
}

func (t *wait) clear() {
	if t.progress {
		fmt.Fprint(t.app.err, "\r\x1b[K")
		t.progress = false
	}
}
