package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

	// ask asks fleetd, which knows who votes and which units have no other home, for a permit (take) or whether it still holds
	// (confirm); nil: on what the registry alone can tell.
	ask func(ctx context.Context, do, group string, h reboot.Holder) error
	// members gives the client URLs of the store's members; nil: unknown.
	members func(ctx context.Context) ([]string, error)
	// answers says whether a store answers at one of these URLs, and whether anything at all does; nil: unknown.
	answers func(ctx context.Context, urls []string) (store, anything bool)
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

// Sharing implements crowd. Whoever is not registered is off or cut off: nobody shall wait for it.
func (c *cluster) Sharing(ctx context.Context) ([]rollout.Host, error) {
	up, err := c.registry.Machines(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.rollouts.Hosts(ctx)
	return slices.DeleteFunc(list, func(h rollout.Host) bool { _, ok := up[fleet.MachineID(h.Machine)]; return !ok }), err
}

// Own implements crowd.
func (c *cluster) Own(ctx context.Context) (fleet.Machine, error) {
	return c.registry.Machine(ctx, c.id)
}

// Take implements permits.
func (c *cluster) Take(ctx context.Context, from, to string) error {
	h := reboot.Holder{ID: string(c.id), Boot: c.boot, Reason: "update from " + from + " to " + to}
	if to == "" {
		h.Reason = "reboot asked for by hand"
	}
	if c.ask != nil {
		return c.ask(ctx, "take", c.group, h)
	}
	return c.permits.Take(ctx, c.group, h, c.facts)
}

// confirm is the last question before the reboot: the ground for the permit may have gone while the units left.
func (c *cluster) confirm(ctx context.Context) error {
	if c.ask == nil {
		return nil
	}
	return c.ask(ctx, "confirm", c.group, reboot.Holder{ID: string(c.id)})
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
	q := quiet{id: c.id}
	for {
		done, err := c.drained(ctx, &q)
		if done && err == nil {
			return c.confirm(ctx)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d units are still moving away from here: %w", q.moving, ctx.Err())
		case <-t.C:
		}
	}
}

// drained says whether all has left that will.
func (c *cluster) drained(ctx context.Context, q *quiet) (bool, error) {
	if c.ask != nil {
		err := c.ask(ctx, "drained", c.group, reboot.Holder{ID: string(c.id)})
		if errors.Is(err, fleet.ErrConflict) {
			return false, nil
		}
		return err == nil, err
	}
	s, err := c.registry.Snapshot(ctx)
	if err != nil {
		return false, err
	}
	return q.look(s), nil
}

// quiet finds by looking at the placements alone when nothing moves any more: handovers still run their old copy here, and what stays as
// it is for some looks while no handover is under way has nowhere to go.
type quiet struct {
	id     fleet.MachineID
	last   int
	looks  int
	moving int
}

func (q *quiet) look(s fleet.Snapshot) bool {
	moving, all := 0, 0
	for k, p := range s.Placements {
		if k.Machine == q.id {
			all++
			if p.Handover {
				moving++
			}
		}
	}
	if q.looks++; moving > 0 || all != q.last {
		q.looks = 0
	}
	q.last, q.moving = all, moving
	return all == 0 || q.looks >= 3
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
	if err != nil || !ok {
		return "", err
	}
	if r.Refuses(version) {
		return "its rollout was stopped or paused, and another has begun since: fleetctl update rollout " + version + " begins it anew", nil
	}
	if r.Version != version {
		return "", nil
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
	if _, err := c.permits.Get(ctx, c.group); err != nil {
		return fmt.Errorf("the store cannot be reached: %w", err)
	}
	if c.ask == nil {
		return nil // no fleetd: the store alone is the cluster
	}
	s, err := c.registry.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("the store cannot be reached: %w", err)
	}
	if _, ok := s.Machines[c.id]; !ok {
		return errNotJoined
	}
	return nil
}

// Outage implements permits. Where the other members answer a read, the cluster is well and the fault is here. Where they are there and
// have no answer, it is theirs. Where nothing answers at all it may be either; a release that broke the network looks just like that, so
// it counts as this host's.
func (c *cluster) Outage(ctx context.Context, peers []string) bool {
	if c.answers == nil {
		return true
	}
	if len(peers) == 0 {
		return false // the store was this host alone
	}
	store, anything := c.answers(ctx, peers)
	return anything && !store
}

// Peers implements permits.
func (c *cluster) Peers(ctx context.Context) ([]string, error) {
	if c.members == nil {
		return nil, nil
	}
	return c.members(ctx)
}

// onlooker is the cluster for a host that reboots by its own rules (strategy immediate or off): it goes by the rollouts, is counted in them and
// shown, but asks nobody for a permit, has no units moved away, and is well without the others.
type onlooker struct{ *cluster }

// Take implements permits.
func (onlooker) Take(context.Context, string, string) error { return nil }

// Drain implements permits.
func (onlooker) Drain(context.Context) error { return nil }

// GiveBack implements permits.
func (onlooker) GiveBack(context.Context) error { return nil }

// Reach implements permits.
func (onlooker) Reach(context.Context) error { return nil }
