package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pause"
	daemon "github.com/fleet-init/fleet/internal/run"
)

// calmTTL is how long nobody plans after a fleetd that restores a working cluster was killed on the way. The cluster's quorum changes hands meanwhile, so
// renewals may take some seconds.
const calmTTL = 30 * time.Second

// calm takes the leadership of the engines, and does nothing with it, until resume is called: the engines campaign again then. By then they may be those of
// another cluster, where nobody knows of it.
func (h *host) calm(ctx context.Context) (resume func(), err error) {
	term, err := h.registry.HoldPlans(ctx, h.id.machine, daemon.Version(), calmTTL)
	if err != nil {
		return nil, err
	}
	h.log.Info("nobody plans until the store is restored")
	ctx, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for pause.For(ctx, calmTTL/6) {
			if err := h.registry.Renew(ctx, term); errors.Is(err, kv.ErrLeaseGone) {
				return
			}
		}
	})
	return func() {
		cancel()
		renewing.Wait()
		bye, end := context.WithTimeout(context.WithoutCancel(ctx), calmTTL/6)
		defer end()
		if err := h.registry.Resign(bye, term); err != nil {
			h.log.Debug("leaves the hold on all plans to end by itself", "err", err)
		}
	}, nil
}
