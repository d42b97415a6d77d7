package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// overlayDropIn puts a unit into the network namespace that its helper makes before it starts, and takes back after it stopped. What
// ports lead into it the helper reads from the unit's own text. BindsTo: a unit whose namespace went by hand would run on
// in one that nothing leads to.
const overlayDropIn = `# Written by fleetd, for Network=overlay
[Unit]
BindsTo=fleet-netns@%n.service
After=fleet-netns@%n.service

[Service]
NetworkNamespacePath=/run/netns/fleet-%n
`

// addresses are a unit's own: at most one of each family.
type addresses struct{ v4, v6 netip.Addr }

// lookUp notes the addresses of units whose state was read just now. They are given before a unit starts and taken back after it
// stopped, so that there is no other time to look.
func (a *Agent) lookUp(n unit.Name, st fleet.UnitStatus) {
	delete(a.addrs, n)
	if !a.disk[n].Overlay || a.Addresses == nil || st.Active == "inactive" || st.Active == "failed" {
		return
	}
	var own addresses
	for _, ip := range a.Addresses(n) {
		if ip.Is4() {
			own.v4 = ip
		} else {
			own.v6 = ip
		}
	}
	a.addrs[n] = own
}

// AddressFiles returns Config.Addresses of a host where netd keeps a file for each unit in dir, with an address a line.
func AddressFiles(dir string) func(unit.Name) []netip.Addr {
	return func(n unit.Name) []netip.Addr {
		text, err := os.ReadFile(filepath.Join(dir, string(n)))
		if err != nil {
			return nil // not given, or taken back this moment
		}
		var all []netip.Addr
		for _, w := range strings.Fields(string(text)) {
			if ip, err := netip.ParseAddr(w); err == nil {
				all = append(all, ip)
			}
		}
		return all
	}
}
