package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/registry"
)

type tmpLeader struct {
	reg  *registry.Registry
	self fleet.MachineID
	ttl  time.Duration
	log  *slog.Logger
}

func (l *tmpLeader) Run(ctx context.Context) error {
	wake := l.reg.WatchLeader(ctx)
	for ctx.Err() == nil {
		t, ok, err := l.reg.Campaign(ctx, l.self, "x", l.ttl)
		if err != nil {
			sleep(ctx, time.Second)
			continue
		}
		if !ok {
			select {
			case <-wake:
			case <-ctx.Done():
			}
			continue
		}
		l.log.Info("leading")
		l.lead(ctx, t)
		l.reg.Resign(context.WithoutCancel(ctx), t)
	}
	return nil
}

func (l *tmpLeader) lead(ctx context.Context, t fleet.Term) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := l.reg.Snapshot(ctx)
	if err != nil {
		return
	}
	st := engine.NewState(s)
	ch := l.reg.Watch(ctx, s)
	tick := time.NewTicker(l.ttl / 3)
	for {
		ds := st.Turn()
		if len(ds) > 0 {
			_, conf, err := l.reg.Commit(ctx, t, ds)
			if err != nil {
				l.log.Warn("commit", "err", err)
				return
			}
			st.Refused(conf)
		}
		select {
		case c := <-ch:
			if c.Err != nil || c.Rev == 0 {
				return
			}
			st.Apply(c.Changes)
		case <-tick.C:
			if err := l.reg.Renew(ctx, t); err != nil {
				l.log.Warn("renew", "err", err)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
