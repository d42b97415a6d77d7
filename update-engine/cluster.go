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
)

// cluster asks the other hosts' leave by way of the store.
type cluster struct {
	log      *slog.Logger
	registry *registry.Registry
	permits  reboot.Permits
	group    string
	id       fleet.MachineID
	boot     string
	now      func() time.Time
}

func newCluster(store kv.Store, prefix, group string, id fleet.MachineID, boot string, log *slog.Logger, now func() time.Time) *cluster {
	return &cluster{log: log, registry: registry.New(store, prefix, log), permits: reboot.Permits{Store: store, Prefix: prefix}, group: group,
		id: id, boot: boot, now: now}
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
