package subnet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/network"
)

// settle writes until this machine holds a subnet that fits the configuration and says what is true of the machine. What
// another machine took meanwhile is read and decided on anew.
func (k *Keeper) settle(ctx context.Context) error {
	c, err := k.config()
	if err != nil {
		return err
	}
	for range 20 {
		attrs, err := k.o.Describe(c, k.others())
		if err != nil {
			return fmt.Errorf("%w: %w", errDescribe, err)
		}
		if err := k.adopt(ctx, attrs); err != nil {
			return err
		}
		m, err := k.t.decide(c, k.id, attrs)
		if err != nil {
			return err
		}
		if m.keep {
			k.settled(c, m.name)
			return nil
		}
		_, ok, err := k.o.Store.Txn(ctx, m.guards, m.ops)
		if errors.Is(err, kv.ErrLeaseGone) {
			k.id.lease = 0
			continue
		}
		if err != nil {
			return fmt.Errorf("write lease %s: %w", m.name, err)
		}
		if ok && m.fresh {
			k.o.Log.Info("subnet leased", "subnet", m.name, "before", k.id.previous.Name())
		} else if ok {
			k.o.Log.Info("subnet lease rewritten", "subnet", m.name, "reason", m.reason)
		}
		if err := k.read(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("lease a subnet: lost 20 races in a row: %w", kv.ErrUnavailable)
}

// settled takes over that this machine holds the subnet of that name under that configuration.
func (k *Keeper) settled(c network.Config, name string) {
	e := k.t.leases[name]
	full := !k.Status().Held || k.view.Own.Name() != name || string(encodeLease(k.view.Own)) != string(encodeLease(e.Lease)) ||
		k.view.ConfigText != string(k.t.config)
	old := k.view.Own.Name()
	if was := k.view.Own; was.V4.IsValid() && was.V4 != e.V4 || was.V6.IsValid() && was.V6 != e.V6 {
		k.o.Log.Warn("this machine's subnet has changed: units with addresses of the old one are restarted, containers are yours to restart", "old", old, "subnet", name)
	}
	k.id.previous = e.Lease
	k.mu.Lock()
	defer k.mu.Unlock()
	k.view.Config, k.view.ConfigText, k.view.Own = c, string(k.t.config), e.Lease
	delete(k.view.Peers, name)
	// Another machine may have written over what was ours: its lease was passed over as long as the name was.
	if e, there := k.t.leases[old]; there && old != name && e.Machine() != k.o.Machine {
		k.view.Peers[old] = e.Lease
	}
	k.status.Held = true
	k.status.Until = k.until
	if e.reserved() {
		k.status.Until = time.Time{}
	}
	if full {
		k.pending.Full = true
		clear(k.pending.Set)
		clear(k.pending.Gone)
		poke(k.wake)
	}
}

// config gives the configuration in the store. A running machine whose configuration vanished or became wrong stays as it
// is: the error says so, and nothing is written.
func (k *Keeper) config() (network.Config, error) {
	if k.t.config == nil {
		return network.Config{}, fmt.Errorf(`%w at key %s: put one there, like {"Network": "10.5.0.0/16"}`, errNoConfig, k.t.configKey())
	}
	if text := string(k.t.config); k.conf.text != text {
		c, unknown, err := ParseConfig(k.t.config)
		for _, u := range unknown {
			k.o.Log.Warn("unknown key in the network configuration, not used", "key", u)
		}
		if err != nil {
			err = fmt.Errorf("key %s: %w", k.t.configKey(), err)
		}
		k.conf = parsed{text, c, err}
	}
	return k.conf.c, k.conf.err
}

// others are all leases but this machine's own.
func (k *Keeper) others() []network.Lease {
	out := make([]network.Lease, 0, len(k.t.leases))
	for _, e := range k.t.leases {
		if e.Machine() != k.o.Machine {
			out = append(out, e.Lease)
		}
	}
	return out
}

// adopt makes sure there is a lease to hang the key on: after a restart the one it hangs on already, so that nothing is
// written and no peer notices; else a new one.
func (k *Keeper) adopt(ctx context.Context, attrs network.Lease) error {
	if k.id.lease != 0 {
		return nil
	}
	for _, e := range k.t.leases {
		// Only by machine-id: a flanneld's lease would be ended by that flanneld.
		if e.Machine() != k.o.Machine || e.kv.Lease == 0 {
			continue
		}
		err := k.o.Store.Renew(ctx, e.kv.Lease)
		if err == nil {
			k.id.lease = e.kv.Lease
			k.renewed()
			return nil
		}
		if !errors.Is(err, kv.ErrLeaseGone) {
			return fmt.Errorf("renew lease: %w", err)
		}
	}
	id, ttl, err := k.o.Store.Grant(ctx, k.o.TTL)
	if err != nil {
		return fmt.Errorf("get a lease: %w", err)
	}
	k.id.lease = id
	k.o.TTL = ttl
	k.renewed()
	return nil
}

// renewed notes how long the lease is ours now. It counts from after the answer: a little less than the store grants, never more.
func (k *Keeper) renewed() {
	now := time.Now()
	k.until = now.Add(k.o.TTL)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Renewed, k.status.Until = now, k.until
}

// due is when to renew: a third into the lease, so that an outage of the store finds most of it left, and never later than
// the margin before its end.
func (k *Keeper) due() time.Time {
	third := k.until.Add(-k.o.TTL * 2 / 3)
	// A margin that is longer than the lease itself would have it renewed without end.
	if m := k.until.Add(-k.o.Margin); m.Before(third) && k.o.Margin < k.o.TTL {
		return m
	}
	return third
}

// nextTimer is how long the keeper may wait for the store to speak first.
func (k *Keeper) nextTimer(problem error) time.Duration {
	next := time.Minute
	if problem != nil {
		next = 10 * time.Second
	}
	if k.id.lease != 0 {
		next = min(next, time.Until(k.due()))
	}
	for _, t := range k.held {
		next = min(next, time.Until(t))
	}
	return max(next, 10*time.Millisecond)
}

// renewIfDue renews the lease when it is time. One that is gone is no reason to stop: the subnet is taken again, by the rules of any start.
func (k *Keeper) renewIfDue(ctx context.Context) error {
	if k.id.lease == 0 || time.Now().Before(k.due()) {
		return nil
	}
	err := k.o.Store.Renew(ctx, k.id.lease)
	switch {
	case errors.Is(err, kv.ErrLeaseGone):
		// Settle takes a new one; the key is gone with the old, or will be in a moment, and the watch tells.
		k.o.Log.Warn("subnet lease was lost, taking it again", "subnet", k.view.Own.Name())
		k.id.lease = 0
		return k.read(ctx)
	case err != nil:
		return fmt.Errorf("renew lease: %w", err)
	}
	k.renewed()
	return nil
}

// Release gives the subnet back now, for a machine that leaves for good. A reservation stays.
func (k *Keeper) Release(ctx context.Context) error {
	if err := k.read(ctx); err != nil {
		return err
	}
	for _, e := range k.t.leases {
		if e.Machine() != k.o.Machine || e.reserved() {
			continue
		}
		if _, _, err := k.o.Store.Txn(ctx, []kv.Guard{{Key: e.kv.Key, Kind: kv.ModIs, Rev: e.kv.Mod}}, []kv.Op{{Key: e.kv.Key, Delete: true}}); err != nil {
			return fmt.Errorf("give back subnet %s: %w", e.Name(), err)
		}
		if err := k.o.Store.Revoke(ctx, e.kv.Lease); err != nil {
			return fmt.Errorf("end lease of subnet %s: %w", e.Name(), err)
		}
	}
	return nil
}
