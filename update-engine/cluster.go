package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/rollout"
)

// cluster asks the other hosts' leave by way of the store.
type cluster struct {
	log      *slog.Logger
	registry *registry.Registry
	permits  reboot.Permits
	rollouts rollout.Rollouts
	channel  string
	group    string
	id       fleet.MachineID
	boot     string
	now      func() time.Time
}

func newCluster(store kv.Store, prefix, channel, group string, id fleet.MachineID, boot string, log *slog.Logger, now func() time.Time) *cluster {
	return &cluster{log: log, registry: registry.New(store, prefix, log), permits: reboot.Permits{Store: store, Prefix: prefix},
		rollouts: rollout.Rollouts{Store: store, Prefix: prefix}, channel: channel, group: group, id: id, boot: boot, now: now}
}

// facts are the machines as the registry knows them. A machine that is gone has no registration: it counts as down as long as units
// are placed there.
func (c *cluster) facts(ctx context.Context) (reboot.Cluster, []kv.Guard, error) {
	s, err := c.registry.Snapshot(ctx)
	if err != nil {
		return reboot.Cluster{}, nil, err
	}
	sem, err := c.permits.Get(ctx, c.group)
	if err != nil {
		return reboot.Cluster{}, nil, err
	}
	out := reboot.Cluster{At: c.now(), Machines: map[string]reboot.Machine{}}
	for k := range s.Placements {
		out.Machines[string(k.Machine)] = reboot.Machine{}
	}
	for id, m := range s.Machines {
		out.Machines[string(id)] = reboot.Machine{Up: true, Domain: m.Metadata[sem.Domain]}
	}
	return out, nil, nil
}

// Take implements permits.
func (c *cluster) Take(ctx context.Context, from, to string) error {
	return c.permits.Take(ctx, c.group, reboot.Holder{ID: string(c.id), Boot: c.boot, Reason: "update from " + from + " to " + to}, c.facts)
}

// Drain says that this machine leaves, and waits until the engine has moved everything that can move: what is left is marked as
// the old copy of a handover, or cannot go elsewhere (global units, units that fit nowhere) and goes down with the reboot.
func (c *cluster) Drain(ctx context.Context) error {
	yes := true
	if err := c.registry.SetMachine(ctx, c.id, registry.Settings{Leaving: &yes}); err != nil {
		return err
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	last := -1
	for quiet := 0; quiet < 3; {
		s, err := c.registry.Snapshot(ctx)
		if err != nil {
			return err
		}
		// Handovers still run their old copy here: leave only when they have been withdrawn. What stays as it is for some turns
		// while no handover is under way has nowhere to go.
		moving, all := 0, 0
		for k, p := range s.Placements {
			if k.Machine == c.id {
				all++
				if p.Handover {
					moving++
				}
			}
		}
		if quiet++; moving > 0 || all != last {
			quiet = 0
		}
		if last = all; all == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d units are still moving away from here: %w", moving, ctx.Err())
		case <-t.C:
		}
	}
	return nil
}

// GiveBack implements permits.
func (c *cluster) GiveBack(ctx context.Context) error {
	err := c.permits.Abort(ctx, c.group, string(c.id), c.boot)
	if err != nil {
		// Another boot took it: then this one has passed the gate.
		err = c.permits.Steady(ctx, c.group, string(c.id), c.boot)
	}
	if err != nil {
		return err
	}
	no := false
	return c.registry.SetMachine(ctx, c.id, registry.Settings{Leaving: &no})
}

// Hold implements permits. A release that no rollout speaks of is free for all; who has begun may go on unless it was paused or
// stopped.
func (c *cluster) Hold(ctx context.Context, version string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, ok, err := c.rollouts.Get(ctx, c.channel)
	if err != nil || !ok || r.Version != version {
		return "", err
	}
	said, err := c.rollouts.Said(ctx, c.channel, string(c.id), version)
	if err != nil {
		return "", err
	}
	if said != "" && said != rollout.GaveUp && r.Paused == "" && r.Stopped == "" {
		return "", nil
	}
	why, _ := r.Allows(rollout.Seed(string(c.id), version), c.group, c.now())
	return why, nil
}

// Report implements permits.
func (c *cluster) Report(ctx context.Context, version string, say rollout.Report, why string) error {
	r, ok, err := c.rollouts.Get(ctx, c.channel)
	if err != nil || !ok {
		return err
	}
	return c.rollouts.Tell(ctx, c.channel, string(c.id), version, say, r.Canary != "" && r.Canary == c.group, why)
}

// Reach implements permits.
func (c *cluster) Reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := c.permits.Get(ctx, c.group)
	if errors.Is(err, kv.ErrUnavailable) {
		return fmt.Errorf("the store cannot be reached: %w", err)
	}
	return err
}
