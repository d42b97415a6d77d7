package subnet

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/network"
)

// Admin changes what an operator decides on: the network's configuration and the reservations. Every machine's keeper sees it at once.
type Admin struct {
	Store  Store
	Prefix string // as in Options
}

// Config gives the configuration as it is stored; nil if there is none.
func (a Admin) Config(ctx context.Context) ([]byte, error) {
	kvs, _, err := a.Store.Range(ctx, newTable(a.Prefix).configKey())
	if err != nil {
		return nil, fmt.Errorf("read the network's configuration: %w", err)
	}
	for _, e := range kvs[0] {
		if e.Key == newTable(a.Prefix).configKey() {
			return e.Value, nil
		}
	}
	return nil, nil
}

// SetConfig stores a configuration that ParseConfig finds no fault with, and no key that nothing reads.
func (a Admin) SetConfig(ctx context.Context, text []byte) error {
	_, unknown, err := ParseConfig(text)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return invalid("keys "+strings.Join(unknown, ", "), "nothing reads them: correct or remove them")
	}
	if _, _, err := a.Store.Txn(ctx, nil, []kv.Op{{Key: newTable(a.Prefix).configKey(), Value: text}}); err != nil {
		return fmt.Errorf("write the network's configuration: %w", err)
	}
	return nil
}

// Reserve keeps subnets for the machine with that address, for good: it has them from now on, or from when it comes. What another
// machine has is not to be had.
func (a Admin) Reserve(ctx context.Context, v4, v6 netip.Prefix, to netip.Addr) error {
	t, err := a.read(ctx)
	if err != nil {
		return err
	}
	c, _, err := ParseConfig(t.config)
	if err != nil {
		return err
	}
	want := network.Lease{V4: v4, V6: v6, PublicIP: to}
	if to.Is6() {
		want.PublicIP, want.PublicIPv6 = netip.Addr{}, to
	}
	if !fits(c, want) {
		return invalid("subnet "+want.Name(), "want one of each family that is on: "+pools(c))
	}
	guard := kv.Guard{Key: t.key(want.Name()), Kind: kv.Missing}
	for _, e := range t.leases {
		// A machine that is here is named, so that nobody else's may write there.
		if id := e.Machine(); id != "" && (e.PublicIP.IsValid() && e.PublicIP == to || e.PublicIPv6.IsValid() && e.PublicIPv6 == to) {
			want.Extra = &network.Extra{Machine: id}
		}
	}
	for _, e := range t.leases {
		switch {
		case e.Name() == want.Name() && (e.PublicIP.IsValid() && e.PublicIP == to || e.PublicIPv6.IsValid() && e.PublicIPv6 == to):
			// Its own: the same, without an end.
			guard, want = kv.Guard{Key: e.kv.Key, Kind: kv.ModIs, Rev: e.kv.Mod}, e.Lease
		case e.Overlaps(want):
			return invalid(fmt.Sprintf("subnet %s: lease %s is %s's", want.Name(), e.Name(), firstValid(e.PublicIP, e.PublicIPv6)), "reserve another, or end that lease first")
		}
	}
	return a.write(ctx, "reserve "+want.Name(), guard, kv.Op{Key: guard.Key, Value: encodeLease(want)})
}

// Unreserve ends a reservation. The machine that has it keeps the subnet, with a lease that ends like any other.
func (a Admin) Unreserve(ctx context.Context, v4, v6 netip.Prefix) error {
	t, err := a.read(ctx)
	if err != nil {
		return err
	}
	name := network.Lease{V4: v4, V6: v6}.Name()
	e, there := t.leases[name]
	if !there || !e.reserved() {
		return fmt.Errorf("end the reservation of %s: %w", name, fleet.ErrNotFound)
	}
	return a.write(ctx, "end the reservation of "+name, kv.Guard{Key: e.kv.Key, Kind: kv.ModIs, Rev: e.kv.Mod}, kv.Op{Key: e.kv.Key, Delete: true})
}

// read takes the network's keys at one revision. Without a configuration nothing can be decided on.
func (a Admin) read(ctx context.Context) (*table, error) {
	t := newTable(a.Prefix)
	kvs, rev, err := a.Store.Range(ctx, t.configKey(), t.subnetsPrefix())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", a.Prefix, err)
	}
	t.load(kvs, rev)
	if t.config == nil {
		return nil, fmt.Errorf("%w at key %s: store one first", errNoConfig, t.configKey())
	}
	return t, nil
}

// write makes one guarded change. What lost a race is fleet.ErrConflict: somebody decided on the same subnet at that moment.
func (a Admin) write(ctx context.Context, what string, guard kv.Guard, op kv.Op) error {
	_, ok, err := a.Store.Txn(ctx, []kv.Guard{guard}, []kv.Op{op})
	if err == nil && !ok {
		err = fmt.Errorf("its key has just changed: try again: %w", fleet.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// pools says what subnets a configuration has.
func pools(c network.Config) string {
	var all []string
	for _, p := range []network.Pool{c.V4, c.V6} {
		if p.On() {
			all = append(all, fmt.Sprintf("a /%d from %s to %s", p.SubnetLen, p.Min, p.Max))
		}
	}
	return strings.Join(all, " and ")
}
