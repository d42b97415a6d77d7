package main

import (
	"context"
	"time"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/registry"
)

const (
	// moveLimit is how long a leaving host waits for its units to be running elsewhere.
	moveLimit = 45 * time.Second
	// storeLimit is how long it waits for a store that does not answer.
	storeLimit = 5 * time.Second
	// stopLimit is how long the stops of its units may take; systemd's own limit for one is 90 s.
	stopLimit = 95 * time.Second
)

// depart is what a fleetd owes the others when it ends. One that is restarted leaves its units and its registration for the next
// process. One that is stopped, or whose host goes down (shutdown), lets its units be moved first, stops what is left, and leaves.
func (h *host) depart(ctx context.Context, shutdown bool, stopAgent func()) {
	h.departing.Store(true)
	h.say(h.notify.Stopping())
	job := "stop"
	if !shutdown {
		var err error
		if job, err = h.systemd.OwnJob(ctx); err != nil {
			h.log.Warn("it cannot be told whether fleetd is stopped or restarted: the units run on", "err", err)
		}
	}
	if job != "stop" {
		h.log.Info("ending, the units run on", "job", job)
		h.renewOnce(ctx)
		stopAgent()
		return
	}
	h.log.Info("leaving: the units are handed over")
	h.say(h.notify.Extend(moveLimit + stopLimit))
	h.presence.Say(func(hello *registry.Hello) { hello.Leaving = true })
	h.awaitMoves(ctx)
	stopAgent()
	release, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	released := h.agent.Release(release)
	if released != nil {
		h.log.Error("not all units were stopped", "err", released)
	}
	now, _, _ := h.presence.Now()
	if now == nil {
		return
	}
	h.presence.End()
	leave, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	if released == nil {
		// Else others would wait until exclusive units of a host that is gone cannot run any more.
		if err := h.registry.LetAllGo(leave, *now); err != nil {
			h.log.Warn("exclusive units will start elsewhere later than they could", "err", err)
		}
	}
	if err := h.registry.Leave(leave, *now); err != nil {
		h.log.Warn("the registration ends by itself", "ttl", now.TTL, "err", err)
	}
}

// awaitShutdown closes begins when this host is about to go down. The shutdown then waits until this process has ended.
func (h *host) awaitShutdown(ctx context.Context, begins chan<- struct{}) error {
	if h.cfg.SystemdUser {
		return nil // a user's fleetd has no say in it
	}
	said := false
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		lock, err := h.systemd.AwaitShutdown(ctx)
		if err == nil {
			close(begins)
			<-ctx.Done()
			return lock.Close()
		}
		if ctx.Err() == nil && !said {
			said = true
			h.log.Info("a shutdown of this host will not wait until its units run elsewhere", "err", err)
		}
		if !pause.For(ctx, wait) {
			return nil
		}
	}
}

func (h *host) say(err error) {
	if err != nil {
		h.log.Debug("systemd was not told", "err", err)
	}
}

// awaitMoves returns when nothing more will be moved away from this machine, or when it has waited long enough.
func (h *host) awaitMoves(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	now, _, _ := h.presence.Now()
	if now == nil {
		return // nobody places or moves units of a machine that is not registered
	}
	orders := h.registry.WatchOrders(ctx, *now, registry.Orders{})
	answered := time.Now()
	for time.Since(answered) < storeLimit {
		read, cancel := context.WithTimeout(ctx, storeLimit)
		s, err := h.registry.Snapshot(read)
		cancel()
		if err == nil {
			answered = time.Now()
			if moved(s, h.id.machine) {
				return
			}
		}
		// Each change of our orders is a step of the move. The timer is for what shows elsewhere: a machine that comes or goes.
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			h.log.Warn("not all units were running elsewhere in time: they are stopped here now")
			return
		case <-orders:
		case <-timer.C:
		}
		timer.Stop()
	}
	h.log.Warn("the store does not answer: the units are stopped here without being moved first")
}

// runs tells whether stopping a copy would end something.
func runs(o fleet.Observation) bool {
	return o.Active != "" && o.Active != "inactive" && o.Active != "failed"
}

// moved tells whether a leaving machine has nothing left that is being moved or will be: no copy waits for its successor, and no
// plan on what the store holds now would touch this machine.
func moved(s fleet.Snapshot, self fleet.MachineID) bool {
	m, registered := s.Machines[self]
	if !registered {
		return true
	}
	if !m.Leaving {
		return false
	}
	for k, p := range s.Placements {
		// A copy that has failed or ended is not worth waiting for: its successor may never run either.
		if k.Machine == self && (p.Target == fleet.Inactive || p.Handover && runs(s.Observed[k])) {
			return false
		}
	}
	for _, d := range engine.Plan(s) {
		if d.Machine == self && d.Kind != fleet.Admit {
			return false
		}
	}
	return true
}
