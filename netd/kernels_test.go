package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/netd/nettest"
)

// kernelHas tells whether this kernel can make a device of a kind, loading its module for that.
func kernelHas(t *testing.T, kind string) bool {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe"
	var l netlink.Link = &netlink.Wireguard{LinkAttrs: attrs}
	if kind == network.IPIP {
		l = &netlink.Iptun{LinkAttrs: attrs, Local: net.IPv4(192, 0, 2, 1)} // one of no address is there with the module
	}
	has := true
	nettest.New(t, "probe").Must(func() error {
		err := netlink.LinkAdd(l)
		if errors.Is(err, unix.EOPNOTSUPP) {
			has, err = false, nil
		}
		return err
	})
	return has
}

// Backends that not every kernel has: with one that has them, pods talk, and the packets go through the kernel's own devices; one without
// refuses ipip and carries WireGuard in a process. functional/vm runs this on the image's kernel, which has both.
func TestTheKernelsOwnTunnels(t *testing.T) {
	t.Parallel()
	const both = `"EnableIPv6":true,"IPv6Network":"fd05::/48",`
	for _, row := range []struct{ name, kind, config, mtu string }{
		{"ipip", network.IPIP, `{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}`, "1480"},
		{"ipip with direct routing", network.IPIP, `{"Network":"10.5.0.0/16","Backend":{"Type":"ipip","DirectRouting":true}}`, "1480"},
		{"wireguard", network.WireGuard, `{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}`, "1420"},
		{"wireguard, both families on one device, psk", network.WireGuard, `{"Network":"10.5.0.0/16",` + both +
			`"Backend":{"Type":"wireguard","Mode":"ipv6","PersistentKeepaliveInterval":1,"PSK":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="}}`, "1420"},
	} {
		t.Run(row.name, func(t *testing.T) {
			has := kernelHas(t, row.kind)
			c := newCluster(t, row.config)
			if !has && row.kind == network.IPIP {
				h := c.cable(1)
				<-h.launch()
				<-h.ended
				if !strings.Contains(h.log(), "this kernel has no ipip (module missing): load it, or choose another Backend.Type") {
					t.Errorf("got:\n%s", h.log())
				}
				return
			}
			a, b := c.host(1), c.host(2)
			a.addPod()
			b.addPod()
			c.talk()
			if got := a.env("FLANNEL_MTU"); got != row.mtu {
				t.Errorf("MTU %s, want %s", got, row.mtu)
			}
			c.devices(a, row.kind, has)
			// A restart finds all as it must be, and cuts nothing.
			conn, err := a.pod.Dial(b.addr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			a.stop(syscall.SIGKILL)
			a.start()
			if err := nettest.Exchange(conn, 100000); err != nil {
				t.Errorf("after a kill: %v", err)
			}
			// It is up out of what it remembers, and knows its peers once the store has answered.
			c.soon("it knows its peer again", func() error {
				s := a.status("--probe")
				if !s.Ready || len(s.Peers) != 1 || s.Peers[0].RTT == 0 || row.kind == network.WireGuard && s.Peers[0].Handshake.IsZero() {
					return fmt.Errorf("status: %+v", s)
				}
				return nil
			})
			if s := a.status(); s.Repairs != 0 {
				t.Errorf("repaired %d times", s.Repairs)
			}
			// One more comes, one goes.
			d := c.host(3)
			d.addPod()
			c.talk()
			b.stop(syscall.SIGTERM)
			if _, err := b.netd("cleanup", "--release"); err != nil {
				t.Error(err)
			}
			if left := b.leftovers(); left != "" {
				t.Errorf("cleanup left:\n%s", left)
			}
			c.soon("b is forgotten", func() error {
				if s := a.status(); len(s.Peers) != 1 {
					return fmt.Errorf("%d peers", len(s.Peers))
				}
				return nil
			})
			t.Logf("kernel has %s: %v", row.kind, has)
		})
	}
}

// devices checks that a host's overlay devices are of a kind: the kernel's own, or the TUN devices of a process.
func (c *cluster) devices(h *host, kind string, has bool) {
	c.t.Helper()
	if !has {
		kind = "tuntap"
	}
	n := 0
	h.Must(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "flannel") {
				n++
				if l.Type() != kind {
					c.t.Errorf("%s is a %s, want %s", l.Attrs().Name, l.Type(), kind)
				}
			}
		}
		return err
	})
	if n == 0 {
		c.t.Error("no overlay device")
	}
}

// Where the configuration names no backend, packets are encrypted as soon as, and as long as, every host's kernel can; netd says which it
// is and why, and hosts change over without a restart.
func TestEncryptedWhereEveryKernelCan(t *testing.T) {
	t.Parallel()
	has := kernelHas(t, network.WireGuard)
	c := newCluster(t, `{"Network":"10.5.0.0/16"}`)
	a, b := c.host(1), c.host(2)
	a.addPodOf(1420) // what fits either
	b.addPodOf(1420)
	expect := func(when, backend, why string) {
		t.Helper()
		for _, h := range []*host{a, b} {
			c.soon(when, func() error {
				if s := h.status(); s.Backend != backend || s.Why != why {
					return fmt.Errorf("%s, %s", s.Backend, s.Why)
				}
				return nil
			})
		}
		c.talk()
	}
	if !has {
		expect("two hosts", "vxlan", "not encrypted: this host's kernel has no WireGuard")
		return
	}
	expect("two hosts", "wireguard", "encrypted: every host's kernel has WireGuard")
	c.devices(a, network.WireGuard, true)
	for _, other := range [][3]string{
		{"subnets/10.5.0.0-24", `{"PublicIP":"192.168.77.9","PublicIPv6":null,"BackendType":"vxlan","Fleet":{"Machine":"poor","WireGuard":false,"VtepMAC":"02:00:00:00:00:09"}}`,
			"not encrypted: the kernel of machine poor (10.5.0.0-24) has no WireGuard"},
		{"subnets/10.5.0.0-24", `{"PublicIP":"192.168.77.9","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}}`,
			"not encrypted: lease 10.5.0.0-24 is not from a netd"},
	} {
		c.put(other[0], other[1])
		expect("with one that cannot", "vxlan", other[2])
		c.put(other[0], "")
		expect("without it", "wireguard", "encrypted: every host's kernel has WireGuard")
	}
}
