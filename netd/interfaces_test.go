package main

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fleet-init/fleet/netd/nettest"
)

// second gives a host another interface, eth1, on a switch of its own with a smaller MTU: 192.168.78.N. Its default route goes by the
// first.
func (h *host) second() {
	h.c.t.Helper()
	port := fmt.Sprint("back", h.n)
	nettest.Cable(h.Host, "eth1", h.c.sw, port, 1400, []string{fmt.Sprintf("192.168.78.%d/24", h.n)}, nil)
	h.c.sw.Enslave("br1", port)
	h.Route("0.0.0.0/0", "192.168.77.254")
}

func (h *host) set(dev string, up bool) {
	h.c.t.Helper()
	h.Must(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	})
}

// Hosts with two interfaces have their overlay on the one that was asked for, need no other, and survive that it goes away for a
// while.
func TestTwoInterfaces(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, backend, flag, iface, other, mtu string }{
		{"by name", "vxlan", "--iface=eth1", "eth1", "eth0", "1350"},
		{"by address", "host-gw", "--iface=192.168.78.%d", "eth1", "eth0", "1400"},
		{"by a pattern", "host-gw", "--iface-regex=^192\\.168\\.78\\.", "eth1", "eth0", "1400"},
		{"by what it reaches", "vxlan", "--iface-can-reach=192.168.78.200", "eth1", "eth0", "1350"},
		{"by the default route", "vxlan", "--ip-masq", "eth0", "eth1", "1450"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := newCluster(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"`+row.backend+`"}}`)
			c.sw.Bridge("br1")
			for n := 1; n <= 2; n++ {
				h := c.cable(n)
				h.second()
				h.choose, h.flags = true, []string{row.flag}
				if row.name == "by address" {
					h.flags = []string{fmt.Sprintf(row.flag, n)}
				}
				h.start()
				h.addPod()
			}
			c.talk()
			for _, h := range c.hosts {
				want := fmt.Sprintf("%s 192.168.7%s.%d", row.iface, map[string]string{"eth0": "7", "eth1": "8"}[row.iface], h.n)
				if s := h.status(); s.Iface+" "+s.Lease.PublicIP != want {
					t.Errorf("%s uses %s %s, want %s", h.Name, s.Iface, s.Lease.PublicIP, want)
				}
				if got := h.env("FLANNEL_MTU"); got != row.mtu {
					t.Errorf("MTU %s, want %s", got, row.mtu)
				}
				h.set(row.other, false)
			}
			c.talk()
			if row.iface == "eth0" {
				return
			}
			// The kernel drops an interface's routes with it, and does not bring them back.
			c.hosts[0].set(row.iface, false)
			c.hosts[0].set(row.iface, true)
			c.talk()
		})
	}
}
