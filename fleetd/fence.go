package main

import (
	"context"
	"time"

	"github.com/fleet-init/fleet/internal/registry"
)

// renewed moves the deadline of this host's exclusive units on. That it cannot be moved is no reason to give the lease up: then they stop.
func (h *host) renewed(now registry.Presence, sent time.Duration) {
	if err := h.guard.Renewed(now.Rev, sent, now.TTL); err != nil {
		h.log.Error("exclusive units will be stopped", "err", err)
	}
}

// admitted likewise, when the agent has orders of the present registration.
func (h *host) admitted(now registry.Presence) {
	if err := h.guard.Admitted(now.Rev); err != nil {
		h.log.Error("exclusive units will be stopped", "err", err)
	}
}

// renewOnce gives the next process of fleetd as much time as there can be until exclusive units would be stopped.
func (h *host) renewOnce(ctx context.Context) {
	now, _, _ := h.presence.Now()
	if now == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // a restart must not wait for a store that is away
	defer cancel()
	if err := h.presence.keepAlive(ctx, *now); err != nil {
		h.log.Debug("registration not renewed before the restart", "err", err)
	}
}
