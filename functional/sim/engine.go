package sim

import (
	"time"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/registry"
)

const (
	leaderTTL = machineTTL / 3
	// collectEvery is how often a leader removes texts that nothing names: much more often than a real one, to meet others who write.
	collectEvery = 5 * time.Second
)

// runEngine is engine.Leader's Run, step by step: it campaigns, and leads when it has won, for ever.
func (p *process) runEngine(t *task) {
	reg := t.registry()
	for back := time.Duration(0); ; {
		rev := t.w.leaderRev
		term, won, err := reg.Campaign(t.context(), p.h.id, "1", leaderTTL)
		if won {
			t.w.note("leads")
			err = p.lead(t, reg, term)
			t.w.note("leads no more: %v", err)
		}
		if err != nil {
			back = min(max(2*back, 100*time.Millisecond), 10*time.Second)
			t.sleep(back)
			continue
		}
		back = 0
		t.await(0, func() bool { return !p.h.cut && t.w.leaderRev > rev })
	}
}

// lead plans until the term ends, and ends it.
func (p *process) lead(t *task, reg *registry.Registry, term fleet.Term) error {
	l := &leader{process: p, reg: reg, term: term, renewed: t.w.now}
	p.term, p.knows = &term, time.Time{}
	renew, collect := p.spawn("renew", l.renew), p.spawn("collect", l.collect)
	err := l.follow(t)
	for err == nil {
		t.sleep(100 * time.Millisecond)
		err = l.follow(t)
	}
	if l.over != nil {
		err = l.over
	}
	renew.kill()
	collect.kill()
	if err := reg.Resign(t.context(), term); err != nil {
		t.w.note("%v", err)
	}
	p.term = nil
	return err
}

// leader is one term of one engine.
type leader struct {
	*process
	reg     *registry.Registry
	term    fleet.Term
	renewed time.Time
	over    error // the term is, so far as it can tell: guards hold it to the truth
	known   []fleet.MachineID
}

func (l *leader) renew(t *task) {
	reg := t.registry()
	for wait := leaderTTL / 3; ; {
		t.sleep(wait)
		asked := t.w.now
		err := reg.Renew(t.context(), l.term)
		switch {
		case err == nil:
			l.renewed, wait = asked, leaderTTL/3
		case t.w.now.Sub(l.renewed) >= leaderTTL*2/3:
			l.over = err
			return
		default:
			wait = leaderTTL / 12
		}
	}
}

func (l *leader) collect(t *task) {
	reg := t.registry()
	for {
		t.sleep(collectEvery)
		if n, err := reg.Collect(t.context(), l.term); n > 0 || err != nil {
			t.w.note("collected %d %v", n, err)
		}
	}
}

// follow plans on a snapshot and on all that changes after it. No error: it is too far behind, and needs a new snapshot. After a
// commit of which it is not known what was written the term must end: what is still on its way could give a unit a second machine.
func (l *leader) follow(t *task) error {
	snap, err := l.reg.Snapshot(t.context())
	if err != nil {
		return err
	}
	snap.At = t.w.now
	state, at := engine.NewState(snap), snap.Rev
	state.Remember(l.known)
	defer func() { l.known = state.Known() }()
	if l.knows.IsZero() {
		l.knows = t.w.now
	}
	for end := t.w.now.Add(leaderTTL); state.MostMissing() && t.w.now.Before(end); {
		t.await(300*time.Millisecond, nil)
		at = l.takeIn(state, at, 0)
	}
	for l.over == nil {
		wait := time.Duration(0)
		l.itIs(state)
		if _, _, err := state.UseBrake(t.context(), l.reg, l.term, brakeShare); err != nil {
			return err
		}
		l.doubt(t, state)
		if ds := state.Turn(); len(ds) > 0 {
			_, conflicts, err := l.reg.Commit(t.context(), l.term, ds)
			if err != nil {
				return err
			}
			state.Refused(conflicts)
			if len(conflicts) > 0 {
				t.w.note("%d of %d refused", len(conflicts), len(ds))
				wait = time.Second
			}
		}
		if due, any := state.Due(); any && (wait == 0 || due.Sub(t.w.now) < wait) {
			wait = max(due.Sub(t.w.now), time.Millisecond)
		}
		t.await(wait, func() bool { return l.over != nil || !l.h.cut && l.more(at) })
		if l.more(at) && at+1 < t.w.compacted {
			t.w.note("too far behind")
			return nil
		}
		at = l.takeIn(state, at, t.with.n)
	}
	return l.over
}

// itIs tells the planner the time.
func (l *leader) itIs(state *engine.State) {
	now := l.h.w.now
	if l.h.w.opt.NoWait {
		now = now.Add(time.Hour)
	}
	state.SetTime(now)
}

func (l *leader) more(at int64) bool {
	h := l.h.w.history
	return len(h) > 0 && h[len(h)-1].rev > at
}

// takeIn gives the planner the revisions after at, but not more than n if that is not 0.
func (l *leader) takeIn(state *engine.State, at int64, n int) int64 {
	if l.h.cut {
		return at
	}
	h := l.h.w.history
	from := len(h)
	for from > 0 && h[from-1].rev > at {
		from--
	}
	for i := from; i < len(h) && (n == 0 || i-from < n); i++ {
		state.Apply(l.h.w.now, h[i].changes)
		at = h[i].rev
	}
	l.h.w.note("knows %d", at)
	return at
}
