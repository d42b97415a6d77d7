package overlay

import (
	"fmt"
	"net/netip"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/network"
)

// Check says what keeps this machine from taking part under the configuration; nothing is programmed then. The errors are
// fleet.ErrInvalid and name what to change.
func Check(c network.Config, self Self, backend string) error {
	u := self.Underlay
	bad := func(what, hint string) error { return &fleet.InvalidError{What: what, Hint: hint} }
	for _, f := range []struct {
		key, family  string
		pool         network.Pool
		addr, public netip.Addr
	}{{"Network", "IPv4", c.V4, u.V4, u.PublicV4}, {"IPv6Network", "IPv6", c.V6, u.V6, u.PublicV6}} {
		if !f.pool.On() {
			continue
		}
		if !f.public.IsValid() {
			return bad(fmt.Sprintf("underlay %s: it has no %s address", u.Name, f.family), fmt.Sprintf("give it one, name another with --iface, or switch off Enable%s", f.family))
		}
		for _, a := range []netip.Addr{f.addr, f.public} {
			// Peers' addresses would be reached through the overlay that reaches them.
			if a.IsValid() && f.pool.Network.Contains(a) {
				return bad(fmt.Sprintf("%s %s: it contains this host's own address %s on %s", f.key, f.pool.Network, a, u.Name), "use a range that no host's address lies in")
			}
		}
		for _, b := range u.Beside {
			if f.pool.Network.Contains(b.Addr) {
				return bad(fmt.Sprintf("%s %s: it contains this host's own address %s on %s", f.key, f.pool.Network, b.Addr, b.Name), "use a range that no host's address lies in")
			}
		}
		if backend == network.HostGW && f.addr != f.public {
			return bad(fmt.Sprintf("public address %s with Backend.Type host-gw: it is not that of %s", f.public, u.Name), "leave --public-ip out or use vxlan")
		}
	}
	p := NewPlanner(c, self, network.Lease{}, backend)
	if c.Backend.MTU > u.MTU {
		return bad(fmt.Sprintf("Backend.MTU %d: larger than the %d of %s", c.Backend.MTU, u.MTU, u.Name), "raise the interface's MTU or leave Backend.MTU out")
	}
	least := 576
	if c.V6.On() {
		least = 1280 // below, Linux switches IPv6 off on a device
	}
	if p.MTU() < least {
		return bad(fmt.Sprintf("MTU %d of %s: %d remain for workloads with %s, too few", p.ext, u.Name, p.MTU(), backend),
			fmt.Sprintf("%d are needed: raise it by %d", least, least-p.MTU()))
	}
	return nil
}
