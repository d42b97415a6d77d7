package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestPodsTalkOverEachBackend(t *testing.T) {
	t.Parallel()
	const both = `"EnableIPv6":true,"IPv6Network":"fd05::/48",`
	for _, row := range []struct{ name, config, mtu string }{
		{"vxlan", `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, "1450"},
		{"vxlan with direct routing", `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}`, "1450"},
		{"vxlan both families", `{"Network":"10.5.0.0/16",` + both + `"Backend":{"Type":"vxlan"}}`, "1430"},
		{"host-gw both families", `{"Network":"10.5.0.0/16",` + both + `"Backend":{"Type":"host-gw"}}`, "1500"},
		{"wireguard", `{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}`, "1420"},
		{"wireguard both families, psk", `{"Network":"10.5.0.0/16",` + both + `"Backend":{"Type":"wireguard","PSK":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="}}`, "1420"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := newCluster(t, row.config)
			for n := 1; n <= 2; n++ {
				c.host(n, "--ip-masq").addPod()
			}
			c.talk()
			if got := c.hosts[0].env("FLANNEL_MTU"); got != row.mtu {
				t.Errorf("MTU %s, want %s", got, row.mtu)
			}
			// The pod sees who calls: nothing on the way translates.
			conn, err := c.hosts[0].pod.Dial(c.hosts[1].addr())
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			s := c.hosts[0].status("--probe")
			if !s.Ready || len(s.Peers) != 1 || s.Peers[0].Silent || s.Peers[0].RTT == 0 || s.Repairs != 0 {
				t.Errorf("status: %+v", s)
			}
			for _, h := range c.hosts {
				h.stop(syscall.SIGTERM)
				if _, err := h.netd("cleanup", "--release"); err != nil {
					t.Error(err)
				}
				if left := h.leftovers(); left != "" {
					t.Errorf("cleanup left on %s:\n%s", h.Name, left)
				}
			}
		})
	}
}

// leftovers lists what is not the test's own on a host.
func (h *host) leftovers() string {
	var out strings.Builder
	h.Must(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			// Some modules make devices in each namespace, such as ipip's tunl0.
			if n := l.Attrs().Name; !slices.Contains([]string{"lo", "eth0", "pod0", "ifb0", "ifb1", "tunl0"}, n) {
				fmt.Fprintln(&out, "device", n)
			}
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: 158}, netlink.RT_FILTER_PROTOCOL)
		for _, r := range routes {
			fmt.Fprintln(&out, "route", r)
		}
		return err
	})
	rules := exec.Command("nft", "list", "ruleset")
	var text []byte
	h.Must(func() (err error) { text, err = rules.CombinedOutput(); return err })
	out.Write(text)
	return out.String()
}

func TestARestartCutsNoConnectionAndNeedsNoStore(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "host-gw", "wireguard"} {
		t.Run(backend, func(t *testing.T) {
			c, a, _, exchange := connected(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"`+backend+`"}}`)
			exchange("before")
			a.stop(syscall.SIGTERM)
			exchange("while netd is down")
			c.etcd.Cut(true)
			exchange("while the store is down too")
			a.start()
			exchange("with a netd that never saw the store")
			c.etcd.Cut(false)
			c.soon("contact", func() error {
				if s := a.status(); !s.Store.Contact || !s.Lease.Held {
					return fmt.Errorf("status: %+v", s.Store)
				}
				return nil
			})
			exchange("after")
			// A killed one comes back the same.
			a.stop(syscall.SIGKILL)
			a.start()
			exchange("after a kill")
			if n := a.status().Repairs; n != 0 {
				t.Errorf("%d repairs, want none", n)
			}
		})
	}
}

func TestHostsComeAndGoAndMove(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	a, b := c.host(1), c.host(2)
	a.addPod()
	b.addPod()
	c.talk()
	// b's address changes: the lease follows, and the peers.
	b.Must(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		old, _ := netlink.ParseAddr("192.168.77.2/24")
		now, _ := netlink.ParseAddr("192.168.77.22/24")
		return errors.Join(netlink.AddrDel(l, old), netlink.AddrAdd(l, now))
	})
	c.soon("peers follow the address", func() error {
		if s := a.status(); s.Peers[0].PublicIP != "192.168.77.22" {
			return errors.New(s.Peers[0].PublicIP)
		}
		return nil
	})
	c.talk()
	// The device is taken away by another hand and comes back, with its peers.
	a.Must(func() error {
		l, err := netlink.LinkByName("flannel.1")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	c.talk()
	// A third host joins, and all talk.
	d := c.host(3)
	d.addPod()
	c.talk()
	// b gives its subnet back: its peers forget it.
	sub := b.status().Lease.Subnet
	b.stop(syscall.SIGTERM)
	if _, err := b.netd("cleanup", "--release"); err != nil {
		t.Fatal(err)
	}
	c.soon("peers forget", func() error {
		for _, p := range a.status().Peers {
			if p.Subnet == sub {
				return errors.New("still a peer")
			}
		}
		return nil
	})
	a.Must(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: 158}, netlink.RT_FILTER_PROTOCOL)
		if len(routes) != 1 {
			return fmt.Errorf("routes left: %v", routes)
		}
		return err
	})
	// The backend changes under way.
	c.hosts = []*host{a, d}
	c.put("config", `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`)
	c.soon("backend changes", func() error {
		for _, h := range c.hosts {
			if s := h.status(); s.Backend != "host-gw" || s.Peers[0].Skipped != "" {
				return fmt.Errorf("%s: %s, %s", h.Name, s.Backend, s.Peers[0].Skipped)
			}
		}
		return nil
	})
	c.talk()
}

// A host that flannel's own words describe, and whose kernel is set up the way flannel does it, is a peer like any other.
func TestAFlanneldIsAPeer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	a := c.host(1)
	a.addPod()
	f := c.cable(2)
	s := a.status()
	f.Must(func() error {
		under, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "flannel.1"
		attrs.HardwareAddr = net.HardwareAddr{0xc6, 1, 2, 3, 4, 5}
		dev := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: under.Attrs().Index, SrcAddr: net.IPv4(192, 168, 77, 2), Port: 8472}
		if err := netlink.LinkAdd(dev); err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
	})
	f.Up("flannel.1", "10.5.200.0/32")
	f.Must(func() error {
		dev, err := netlink.LinkByName("flannel.1")
		if err != nil {
			return err
		}
		leases, err := c.etcd.Client.Get(t.Context(), "/coreos.com/network/subnets/"+s.Lease.Subnet)
		if err != nil || len(leases.Kvs) != 1 {
			return fmt.Errorf("the lease is not where flannel looks: %v, %w", leases, err)
		}
		_, rest, ok := strings.Cut(string(leases.Kvs[0].Value), `"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"`)
		if !ok {
			return fmt.Errorf("the lease is not as flannel reads it: %s", leases.Kvs[0].Value)
		}
		mac, err := net.ParseMAC(rest[:17])
		if err != nil {
			return err
		}
		base := net.ParseIP(s.Lease.V4.Addr().String())
		_, sub, _ := net.ParseCIDR(s.Lease.V4.String())
		idx := dev.Attrs().Index
		return errors.Join(
			netlink.NeighSet(&netlink.Neigh{LinkIndex: idx, State: netlink.NUD_PERMANENT, IP: base, HardwareAddr: mac}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: idx, State: netlink.NUD_PERMANENT, Family: syscall.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: net.IPv4(192, 168, 77, 1), HardwareAddr: mac}),
			netlink.RouteReplace(&netlink.Route{LinkIndex: idx, Dst: sub, Gw: base, Flags: int(netlink.FLAG_ONLINK)}))
	})
	if err := os.WriteFile(f.path("subnet.env"), []byte("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.200.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.addPod()
	c.put("subnets/10.5.200.0-24", `{"PublicIP":"192.168.77.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:01:02:03:04:05"}}`)
	c.talk()
}

func TestShow(t *testing.T) {
	var s Status
	s.Ready, s.Backend, s.Why, s.MTU, s.Iface = true, "vxlan", "the configuration names it", 1450, "eth0"
	s.Lease.Subnet, s.Lease.PublicIP, s.Lease.Until = "10.5.1.0-24", "192.168.0.1", time.Unix(86400, 0)
	s.Store.Contact = true
	s.Peers = []PeerStatus{{Subnet: "10.5.2.0-24", Machine: "0123456789abcdef", PublicIP: "192.168.0.2", Backend: "vxlan", RTT: 1234567},
		{Subnet: "10.5.3.0-24", PublicIP: "192.168.0.3", Backend: "host-gw", Skipped: "its backend is \"host-gw\""}}
	var out strings.Builder
	if err := show(&out, s, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	want := `state     ready
subnet    10.5.1.0-24 (ends in 24h0m0s if not renewed)
underlay  eth0 192.168.0.1
backend   vxlan (the configuration names it)
mtu       1450
store     reached

PEER         MACHINE   ADDRESS      BACKEND  STATE
10.5.2.0-24  01234567  192.168.0.2  vxlan    answers in 1.235ms
10.5.3.0-24  flannel   192.168.0.3  host-gw  no path: its backend is "host-gw"
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// A network of IPv6 alone, which flannel cannot do over etcd: the hosts reach each other's devices.
func TestIPv6Alone(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "wireguard"} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"`+backend+`"}}`)
			a, b := c.host(1), c.host(2)
			for _, h := range []*host{a, b} {
				c.soon("peer answers", func() error {
					s := h.status("--probe")
					if len(s.Peers) != 1 || s.Peers[0].RTT == 0 {
						return fmt.Errorf("%+v", s.Peers)
					}
					return nil
				})
			}
			if got := a.env("FLANNEL_NETWORK") + a.env("FLANNEL_IPV6_NETWORK"); got != "fd05::/48" {
				t.Errorf("subnet file names %q", got)
			}
		})
	}
}

// What an operator does with netd's own commands, the hosts follow.
func TestOperatorsCommands(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "")
	a := c.cable(1)
	refused := func(want string, args ...string) {
		t.Helper()
		if out, err := a.netd(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("netd %v: %s, %v, want %s", args, out, err, want)
		}
	}
	refused("no network is configured", "config")
	refused("no such file", "config", "nowhere")
	file := a.path("network")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlna"}}`)
	refused(`invalid Backend.Type "vxlna": use vxlan, host-gw, wireguard, ipip or alloc`, "config", file)
	write(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Prot":1}}`)
	refused("invalid keys Backend.Prot: nothing reads them", "config", file)
	write(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}` + "\n")
	if out, err := a.netd("config", file); err != nil || out != "10.5.0.0/16: subnets of /24 from 10.5.1.0 to 10.5.255.0\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := a.netd("config"); err != nil || out != `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	for _, args := range [][]string{{"reserve", "10.5.20.0/24", "192.168.77.1"}, {"reserve", "10.5.21.0/24", "192.168.77.9"}, {"unreserve", "10.5.21.0/24"}} {
		if out, err := a.netd(args...); err != nil || out != "" {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	refused(`invalid subnet "10.5.20.1/24": want its first address and length`, "reserve", "10.5.20.1/24", "192.168.77.1")
	refused(`invalid address "h1"`, "reserve", "10.5.22.0/24", "h1")
	refused("invalid subnet 10.5.20.0-24: lease 10.5.20.0-24 is 192.168.77.1's", "reserve", "10.5.20.0/24", "192.168.77.2")
	refused("end the reservation of 10.5.21.0-24: not found", "unreserve", "10.5.21.0/24")
	refused(`invalid command "confg": netd --help lists all`, "confg")
	a.start()
	if got := a.env("FLANNEL_SUBNET"); got != "10.5.20.1/24" {
		t.Errorf("the host has %s, not what is reserved for it", got)
	}
}

// Whatever becomes of a lease, the host has it again, its peers follow, and no connection notices.
func TestALeaseThatIsLostIsTakenAgain(t *testing.T) {
	t.Parallel()
	c, a, b, exchange := connected(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	key := "subnets/" + b.status().Lease.Subnet
	for what, harm := range map[string]func() error{
		"its key is deleted": func() error { c.put(key, ""); return nil },
		"its etcd lease is revoked": func() error {
			kv, err := c.etcd.Client.Get(t.Context(), "/coreos.com/network/"+key)
			if err == nil && len(kv.Kvs) == 1 {
				_, err = c.etcd.Client.Revoke(t.Context(), clientv3.LeaseID(kv.Kvs[0].Lease))
			}
			return err
		},
		"another machine writes over it": func() error {
			lease, err := c.etcd.Client.Grant(t.Context(), 3600) // without one it would be a reservation
			if err == nil {
				_, err = c.etcd.Client.Put(t.Context(), "/coreos.com/network/"+key,
					`{"PublicIP":"192.168.77.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}}`, clientv3.WithLease(lease.ID))
			}
			return err
		},
	} {
		if err := harm(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		c.soon(what+": to be had again", func() error {
			kv, err := c.etcd.Client.Get(t.Context(), "/coreos.com/network/"+key)
			if err != nil || len(kv.Kvs) != 1 || !strings.Contains(string(kv.Kvs[0].Value), fmt.Sprintf("%032d", 2)) || kv.Kvs[0].Lease == 0 {
				return fmt.Errorf("%v, %w", kv, err)
			}
			if s := a.status(); len(s.Peers) != 1 || s.Peers[0].Machine != fmt.Sprintf("%032d", 2) || s.Peers[0].Skipped != "" {
				return fmt.Errorf("%+v", s.Peers)
			}
			return nil
		})
		exchange(what)
	}
	// While a sleeps, its connection ends, the history goes on and is compacted: where it was is no place to go on from.
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer a.cmd.Process.Signal(syscall.SIGCONT) // whatever happens: it shall end
	c.etcd.Cut(true)
	c.etcd.Cut(false)
	var rev int64
	for range 5 {
		c.soon("the store", func() error {
			resp, err := c.etcd.Client.Put(t.Context(), "/coreos.com/network/subnets/10.5.77.0-24", `{"PublicIP":"192.168.77.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}`)
			if err == nil {
				rev = resp.Header.Revision
			}
			return err
		})
	}
	if _, err := c.etcd.Client.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.soon("the new peer", func() error {
		if s := a.status(); len(s.Peers) != 2 || !s.Store.Contact {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	exchange("after a sleep")
}
