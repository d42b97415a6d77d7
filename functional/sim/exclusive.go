package sim

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/fleetd/agent"
	"github.com/fleet-init/fleet/fleetd/guard"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// boottime is the host's guard.Now: no clock jump changes it.
func (h *host) boottime() time.Duration {
	if h.w.opt.WallClock {
		return time.Hour + h.w.since() + h.jumped
	}
	return time.Hour + h.w.since()
}

// feeder is how a fleetd moves its host's deadline on. The deadline outlives it, as a file in /run does.
func (h *host) feeder() *guard.Feeder {
	return guard.NewFeederOver(h.until, func(until time.Duration) error {
		h.until = until
		return nil
	}, h.boottime)
}

// guardDue is when the host's guard ends if nobody feeds it; zero: it does not run.
func (h *host) guardDue() time.Time {
	if !h.on || h.w.opt.NoGuard || !h.sys.GuardUp() {
		return time.Time{}
	}
	return h.w.now.Add(h.until - h.boottime())
}

// stepGuard is process 1's part: it needs no fleetd, and happens when it is due.
func (h *host) stepGuard() {
	if due := h.guardDue(); !due.IsZero() && !h.w.now.Before(due) {
		h.w.note("%s: the guard ends", h.name)
		h.sys.FailGuard()
		h.askSystemd()
	}
}

// renewed is fleetd/fence.go's.
func (p *process) renewed(now registry.Presence, sent time.Duration) {
	if p.h.w.opt.FeedAnswered {
		sent = p.h.boottime()
	}
	_ = p.feed.Renewed(now.Rev, sent, now.TTL)
}

// startLetGo is agent's.
func (r *runner) startLetGo(now time.Time) time.Duration {
	of := r.agent.Leaving()
	if r.h.w.opt.LetGoEarly {
		of = r.revoked()
	}
	if r.letting || len(of) == 0 {
		return agentCheck
	}
	if d := r.letNot.Sub(now); d > 0 {
		return d
	}
	r.letting = true
	r.spawn("letgo", func(t *task) {
		acting := r.acting // it is another goroutine that asks here
		r.acting = t
		of, err := r.agent.Down(r.ctx, of)
		r.acting = acting
		if r.h.w.opt.LetGoEarly {
			of, err = r.revoked(), nil
		}
		if err == nil {
			err = t.registry().LetGo(r.ctx, r.pres, of...)
		}
		r.let = func() {
			if err == nil {
				r.agent.LetGone(of)
			}
			r.letFail++
			if err == nil && len(of) > 0 {
				r.letFail = 0
			}
			r.letNot = r.h.clock().Add(backoff(r.letFail))
		}
	})
	return agentCheck
}

// revoked are all units that shall leave, whether they have stopped or not.
func (r *runner) revoked() (of []fleet.Placement) {
	for _, n := range slices.Sorted(maps.Keys(r.orders.Placements)) {
		if p := r.orders.Placements[n]; p.Target == fleet.Inactive {
			of = append(of, p)
		}
	}
	return of
}

// alwaysExclusive names the units whose texts are all exclusive, so that it can be told at any time where they may run.
func alwaysExclusive(n unit.Name) bool { return strings.HasPrefix(string(n), "e") }

// exclusives asks the rule of rules: whatever happens, an exclusive unit is alive on one machine at most.
func (w *world) exclusives() {
	for _, n := range slices.Sorted(maps.Keys(w.facts.exclusive)) {
		var at []string
		for _, h := range w.hosts {
			if !h.on {
				continue
			}
			if f, alive := h.sys.Alive(n); alive && f != nil {
				at = append(at, h.name)
			}
		}
		if len(at) > 1 {
			w.broken("alive twice", "%s is alive on %s", n, strings.Join(at, " and "))
		}
	}
}

// starting with a token: it is higher than those of all other machines before.
func (w *world) tokened(p *process, n unit.Name) {
	if !alwaysExclusive(n) {
		return
	}
	w.facts.exclusive[n] = true
	token := p.h.disk.LastToken(n)
	last := w.facts.tokens[n]
	if token <= last.token && last.host != p.h.name || token < last.token {
		w.broken("old token", "%s starts on %s with token %d, after %d on %s", n, p.h.name, token, last.token, last.host)
	}
	w.facts.tokens[n] = tokenAt{token, p.h.name}
}

// tokenAt is the last token that a unit was started with, and where.
type tokenAt struct {
	token int64
	host  string
}

var _ agent.Lease = (*guard.Feeder)(nil)

// longEvils are faults that outlast a lease, and what a leader waits after it.
func longEvils() []func(*maker, *host) []step {
	long := func(verb, end string) func(*maker, *host) []step {
		return func(m *maker, h *host) []step {
			m.then(8*time.Second+m.about(25*time.Second), h.name, end)
			return []step{{who: h.name, verb: verb}}
		}
	}
	return []func(*maker, *host) []step{
		long("cut", "heal"), long("cut", "heal"), long("freeze", "thaw"), long("freeze", "thaw"), long("off", "on"), long("crash", "start"),
		func(m *maker, h *host) []step { // away, back for a moment, and away again
			m.then(9*time.Second+m.about(10*time.Second), h.name, "heal")
			m.then(21*time.Second+m.about(5*time.Second), h.name, "cut")
			m.then(30*time.Second+m.about(10*time.Second), h.name, "heal")
			return []step{{who: h.name, verb: "cut"}}
		},
		func(m *maker, h *host) []step { // paused while the answer to a keep-alive is on its way
			m.then(12*time.Second+m.about(12*time.Second), h.name, "thaw")
			return []step{{who: h.name + ".presence", verb: "go", args: []string{string(held)}}, {who: h.name, verb: "freeze"}}
		},
		func(m *maker, h *host) []step { // its users want it elsewhere
			m.then(m.about(5*time.Second), pick(m, m.w.hosts).name, "set", h.name, "leaving=no")
			return []step{{who: pick(m, m.w.hosts).name, verb: "set", args: []string{h.name, "leaving=yes"}}}
		},
	}
}
