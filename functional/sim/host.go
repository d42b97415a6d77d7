package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fleet-init/fleet/fleetd/agent"
	"github.com/fleet-init/fleet/fleetd/guard"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/systemd"
	"github.com/fleet-init/fleet/internal/unit"
)

// host is one machine: its systemd and its disk outlive its fleetd.
type host struct {
	w        *world
	name     string // h1
	id       fleet.MachineID
	ip       netip.Addr
	metadata map[string]string
	skew     time.Duration // of its clock
	jumped   time.Duration // it was set by somebody

	on   bool
	boot int
	sys  *systemd.Fake
	disk *agent.Memory
	// sysDue is when sys does something by itself; zero: never.
	sysDue time.Time
	p      *process // nil: no fleetd runs

	until time.Duration // deadline of its guard, by boottime

	// What is in its seen.json, see restore.go.
	first     int // cluster that it ever obeyed
	seen      int // and last
	floor     int64
	settling  bool
	settledAt time.Time

	frozen bool      // its fleetd gets no processor
	cut    bool      // its fleetd does not reach the store
	cutAt  time.Time // since then
	deaf   bool      // it reaches the store, but hears no answer
	busOff bool      // systemd does not answer
	lostAt time.Time // since then its fleetd cannot renew; zero: it can
}

func newHost(w *world, n int) *host {
	h := &host{
		w: w, name: fmt.Sprintf("h%d", n), id: fleet.MachineID(fmt.Sprintf("%08x%024x", n, n)),
		ip:       netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}),
		metadata: map[string]string{"zone": string(rune('a' + n%2)), "rack": string(rune('x' + n%3))},
		// Clocks of real hosts differ. No decision may hang on comparing two of them.
		skew: time.Duration(n*n*7%11-5) * 700 * time.Millisecond,
		disk: agent.NewMemory(),
	}
	return h
}

// steady is the host's own time by a clock that nobody sets: systemd goes by that.
func (h *host) steady() time.Time { return h.w.now.Add(h.skew) }

// clock is the host's time of day. A real fleetd's times hold a monotonic clock beside it; here whatever goes by it must bear that it jumps.
func (h *host) clock() time.Time { return h.steady().Add(h.jumped) }

var errBus = errors.New("simulated: systemd does not answer")

// power switches a host on, with fleetd, or pulls its plug: all that /run and the memory held is gone.
func (h *host) power(on bool) {
	if on == h.on {
		return
	}
	h.on = on
	if !on {
		h.crash()
		h.frozen, h.busOff, h.sysDue, h.until = false, false, time.Time{}, 0
		return
	}
	h.boot++
	h.disk.Reboot()
	h.sys = systemd.NewFake(systemd.FakeOptions{Now: h.steady, ReadFile: h.disk.ReadFile, Refuse: func(string, unit.Name) error {
		if h.busOff {
			return errBus
		}
		return nil
	}, Guard: func() bool { return h.w.opt.NoGuard || h.boottime() < h.until }})
	h.startFleetd()
}

// stepSystemd lets happen what is due in the host's systemd.
func (h *host) stepSystemd() {
	if h.on && !h.sysDue.IsZero() && !h.w.now.Before(h.sysDue) {
		h.sys.Step()
		h.askSystemd()
	}
}

// askSystemd finds out when systemd does something next.
func (h *host) askSystemd() {
	h.sysDue = time.Time{}
	if at, any := h.sys.Next(); any {
		h.sysDue = at.Add(-h.skew)
	}
}

// startFleetd starts it, unless it runs.
func (h *host) startFleetd() {
	if !h.on || h.p != nil {
		return
	}
	h.frozen = false
	p := &process{h: h, ops: map[string]*userOp{}, leases: map[kv.LeaseID]int{}}
	p.hello = registry.Hello{
		Machine:  fleet.Machine{ID: h.id, Name: h.name, IP: h.ip, Metadata: h.metadata, Version: "1"},
		Instance: h.name, Boot: fmt.Sprintf("%s-%d", h.name, h.boot),
	}
	h.p = p
	h.sys.Lose() // a new connection knows of no jobs of the old one
	p.feed = h.feeder()
	p.settleOn()
	p.agent = agent.New(agent.Config{Machine: h.id, Systemd: bus{p}, Signals: bus{p}, Disk: platter{p}, Log: h.w.log, Lease: p.feed})
	p.spawn("presence", p.keepPresence)
	p.spawn("agent", p.runAgent)
	p.spawn("engine", p.runEngine)
}

// crash ends fleetd without a word. Units run on.
func (h *host) crash() {
	if h.p == nil {
		return
	}
	p := h.p
	h.p = nil
	for _, t := range p.tasks {
		t.kill()
	}
}

// process is one run of fleetd.
type process struct {
	h     *host
	tasks []*task
	hello registry.Hello

	present *registry.Presence // nil: not registered
	said    bool               // hello has changed

	term  *fleet.Term // its engine leads, so far as it knows
	knows time.Time   // and has seen since then who is there

	feed      *guard.Feeder
	agent     *agent.Agent
	acting    *task // that turns the agent
	orders    agent.Orders
	ordersOf  int64         // registration they are of
	newOrders *agent.Orders // not taken in yet
	agentStop bool
	agentDone bool

	met      int // cluster for which exclusive units are held down
	heldTill time.Time
	leases   map[kv.LeaseID]int // the cluster that each is of

	departing bool
	ops       map[string]*userOp
}

// keepPresence is fleetd/presence.go, step by step.
func (p *process) keepPresence(t *task) {
	reg := t.registry()
	for {
		now := p.register(t, reg)
		p.present = &now
		p.keep(t, reg, now)
		p.present = nil
		p.hello.Again = true
		p.said = true
	}
}

func (p *process) register(t *task, reg *registry.Registry) registry.Presence {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		sent := p.h.boottime()
		now, err := reg.Register(t.context(), p.hello, machineTTL)
		if err == nil {
			p.renewed(now, sent)
			return now
		}
		t.w.note("not registered: %v", err)
		t.sleep(wait)
	}
}

// keep renews until the registration is lost.
func (p *process) keep(t *task, reg *registry.Registry, now registry.Presence) {
	every := now.TTL / 3
	for wait := every; ; {
		t.await(wait, func() bool { return p.said })
		var err error
		if p.said {
			p.said = false
			if err = reg.Update(t.context(), now, p.hello); err != nil && !leaseGone(err) {
				p.said = true
				t.sleep(100 * time.Millisecond)
			}
		} else {
			sent := p.h.boottime()
			if err = reg.KeepAlive(t.context(), now); err == nil {
				p.renewed(now, sent)
			}
		}
		wait = every
		if leaseGone(err) {
			t.w.note("registration lost")
			return
		}
		if err != nil {
			wait = min(every, time.Second)
		}
	}
}
