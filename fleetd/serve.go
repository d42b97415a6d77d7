package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/fleet-init/fleet/fleetd/agent"
	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/registry"
	daemon "github.com/fleet-init/fleet/internal/run"
	"github.com/fleet-init/fleet/internal/unit"
)

// leaderTTL is short beside the machines' time to live, so that another engine plans before the dead leader's own units move.
func leaderTTL(machine time.Duration) time.Duration {
	return min(max(machine/3, 2*time.Second), 10*time.Second)
}

// run is the host's life: until told ends, and what it owes the others then.
func (h *host) run(told context.Context, signals daemon.Signals) error {
	g := daemon.NewGroup(context.WithoutCancel(told))
	h.api = h.apiHandler()
	listeners, err := h.listen()
	if err != nil {
		return err
	}
	g.Base("member", h.runMember)
	g.Base("audit", h.deeds.Run)
	if h.trust != nil {
		g.Go("certificate", h.runTrust)
	}
	g.Go("presence", h.presence.Run)
	agentCtx, stopAgent := context.WithCancel(g.Context())
	agentDone := make(chan struct{})
	g.Go("agent", func(context.Context) error {
		defer close(agentDone)
		return h.runAgent(agentCtx)
	})
	if h.leader != nil {
		g.Go("engine", h.runEngine)
	}
	g.Go("api", func(ctx context.Context) error { return h.serveAPI(ctx, listeners) })
	g.Go("hosts", h.hosts.run)
	g.Go("permits", h.watchPermits)
	g.Go("updates", h.sweepUpdates)
	g.Go("fleetlock", h.serveFleetLock)
	g.Go("status", h.tell)
	g.Go("watchdog", func(ctx context.Context) error { return h.notify.Watchdog(ctx, h.healthy) })
	g.Go("address", h.followAddress)
	g.Go("seat", h.followSeat)
	g.Go("backups", h.runBackups)
	g.Go("continuity", func(ctx context.Context) error {
		return h.obeyed.run(ctx, func() (string, <-chan struct{}) { st, changed := h.member.Watch(); return st.Cluster, changed })
	})
	g.Go("signals", func(ctx context.Context) error { return h.obey(ctx, signals) })
	shutdown := make(chan struct{})
	g.Go("shutdown", func(ctx context.Context) error { return h.awaitShutdown(ctx, shutdown) })
	g.Go("end", func(ctx context.Context) error {
		down := false
		select {
		case <-ctx.Done():
			return nil
		case <-told.Done():
		case <-shutdown:
			down = true
		}
		defer g.Stop()
		h.depart(ctx, down, func() { stopAgent(); <-agentDone })
		return nil
	})
	err = g.Wait()
	stopAgent()
	return err
}

// runAgent runs the agent on one registration after another.
func (h *host) runAgent(ctx context.Context) error {
	for ctx.Err() == nil {
		now, changed, _ := h.presence.Now()
		if now == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		if err := h.runAgentAs(ctx, *now); err != nil {
			return err
		}
	}
	return nil
}

// runAgentAs runs it until ctx ends or there is another registration. While there is none the agent goes on with the old one's
// orders: losing a lease stops no unit.
func (h *host) runAgentAs(ctx context.Context, p registry.Presence) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			now, changed, _ := h.presence.Now()
			if now != nil && *now != p {
				cancel()
				return
			}
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	}()
	return h.agent.Run(ctx, view{h.registry, p, h.admitted, h.obeyed})
}

// view is the registry as one registration's agent sees it.
type view struct {
	reg *registry.Registry
	p   registry.Presence
	// admitted is told when the agent has orders that were planned for this registration.
	admitted func(registry.Presence)
	ok       *continuity
}

func (v view) Orders(ctx context.Context) (agent.Orders, error) {
	o, err := v.reg.Orders(ctx, v.p)
	if err == nil {
		// Not before: the store may become another one between the two.
		err = v.ok.check(ctx)
	}
	if err != nil {
		return agent.Orders{}, err
	}
	if o.Admitted {
		v.admitted(v.p)
	}
	return agent.Orders(o), nil
}

func (v view) WatchOrders(ctx context.Context, from agent.Orders) <-chan agent.Orders {
	in := v.reg.WatchOrders(ctx, v.p, registry.Orders(from))
	out := make(chan agent.Orders)
	go func() {
		defer close(out)
		for o := range in {
			v.ok.await(ctx)
			select {
			case out <- agent.Orders(o):
				if o.Admitted {
					v.admitted(v.p)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (v view) Observed(ctx context.Context) (map[unit.Name]fleet.Observation, error) {
	return v.reg.Observed(ctx, v.p.Machine)
}

func (v view) LetGo(ctx context.Context, of []fleet.Placement) error {
	return v.reg.LetGo(ctx, v.p, of...)
}

func (v view) Report(ctx context.Context, changed []fleet.Observation, gone []unit.Name) error {
	return v.reg.Report(ctx, v.p, changed, gone)
}

// tell keeps systemd up to date: ready once this machine has registered, and a status line that says what is waited for.
func (h *host) tell(ctx context.Context) error {
	ready := false
	for ctx.Err() == nil {
		now, registered, why := h.presence.Now()
		st, settled := h.member.Watch()
		waits, admitted := h.trust.watch()
		if waits != "" {
			st.Doing = waits
		}
		if now != nil && !ready {
			ready = true
			if err := h.notify.Ready(); err != nil {
				h.log.Warn("systemd was not told", "err", err)
			}
		}
		held, judged := h.obeyed.why()
		if err := h.notify.Status(statusLine(now, why, st, held)); err != nil {
			h.log.Debug("systemd was not told", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-registered:
		case <-settled:
		case <-judged:
		case <-admitted:
		}
	}
	return nil
}

func statusLine(now *registry.Presence, why error, st member.Status, held string) string {
	switch {
	case held != "":
		return "Not obeying the store: " + held
	case st.Lost != "":
		return "Store: " + st.Lost
	case st.Doing != "":
		return "Store: " + st.Doing
	case now == nil:
		return "Not registered: " + why.Error()
	case st.Role == member.External:
		return "Registered, store elsewhere"
	default:
		return fmt.Sprintf("Registered, store %s of %d members", st.Role, len(st.Members))
	}
}

// healthy is the watchdog's question. The agent answers only between two turns, so an answer means that it turns.
func (h *host) healthy() error {
	now, _, _ := h.presence.Now()
	if now == nil || h.departing.Load() {
		// Nothing to turn on yet, the store may be away for as long as it likes; or nothing any more, and stops of units take what they
		// take, under a limit of their own.
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := h.agent.Dump(ctx); err != nil {
		return errors.New("the agent has been in one turn for 10s")
	}
	return nil
}

// followAddress publishes a new address when the host gets one (DHCP, a cable). Looking costs some microseconds.
func (h *host) followAddress(ctx context.Context) error {
	for pause.For(ctx, time.Minute) {
		if ip := publicIP(h.cfg, hostAddrs()); ip != h.presence.said().IP {
			h.log.Info("new address", "ip", ip)
			h.presence.Say(func(hello *registry.Hello) { hello.IP = ip })
		}
	}
	return nil
}

// obey answers SIGHUP and SIGUSR1.
func (h *host) obey(ctx context.Context, s daemon.Signals) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.Reload:
			h.reload()
		case <-s.Dump:
			h.dump(ctx)
		}
	}
}

// reload takes over what can change in a running fleetd, and says what cannot.
func (h *host) reload() {
	if err := errors.Join(h.notify.Reloading()); err != nil {
		h.log.Debug("systemd was not told", "err", err)
	}
	defer func() { _ = h.notify.Ready() }() // as above: worth no second line
	c, res, err := h.reread()
	if err != nil {
		h.log.Error("configuration not read anew, the old one stays", "err", err)
		return
	}
	for _, w := range res.Warnings {
		h.log.Warn(w)
	}
	rest := c
	rest.Metadata, rest.PublicIP, rest.Verbosity, rest.Name = h.cfg.Metadata, h.cfg.PublicIP, h.cfg.Verbosity, h.cfg.Name
	if !reflect.DeepEqual(rest, h.cfg) {
		h.log.Warn("only metadata, public_ip, name and verbosity change while fleetd runs: restart it for the rest, the units run on")
	}
	setLevel(h.level, c)
	machine, err := describe(c, h.id)
	if err != nil {
		h.log.Error("configuration not read anew, the old one stays", "err", err)
		return
	}
	machine.IP = publicIP(c, hostAddrs())
	h.presence.Say(func(hello *registry.Hello) {
		machine.Leaving, machine.HostAddr, machine.Seat = hello.Leaving, hello.HostAddr, hello.Seat
		hello.Machine = machine
	})
	h.log.Info("configuration read anew")
}

// dump prints the state as one line of JSON on standard output.
func (h *host) dump(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now, _, why := h.presence.Now()
	state := struct {
		Version   string             `json:"version"`
		Presence  *registry.Presence `json:"presence"`
		NotReason string             `json:"notRegistered,omitempty"`
		Member    member.Status      `json:"member"`
		Agent     *agent.Dump        `json:"agent,omitempty"`
	}{Version: daemon.Version(), Presence: now, Member: h.member.Status()}
	if why != nil {
		state.NotReason = why.Error()
	}
	if d, err := h.agent.Dump(ctx); err == nil {
		state.Agent = &d
	}
	if err := json.NewEncoder(h.stdout).Encode(state); err != nil {
		h.log.Error("state not printed", "err", err)
	}
}
