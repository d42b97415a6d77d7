package overlay

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/network"
)

var (
	ip  = netip.MustParseAddr
	pre = netip.MustParsePrefix
)

func self() Self {
	return Self{Machine: "a", PublicKey: "KEYA", PrivateKey: "secret", KernelWireGuard: true, Tracked: true, Underlay: network.Underlay{
		Name: "eth0", MTU: 1500, V4: ip("192.168.0.1"), PublicV4: ip("192.168.0.1"), V6: ip("fd99::1"), PublicV6: ip("fd99::1"),
		OnLink: []netip.Prefix{pre("192.168.0.0/24"), pre("fd99::/64")}}}
}

func config(backend string) network.Config {
	return network.Config{
		V4:      network.Pool{Network: pre("10.5.0.0/16"), SubnetLen: 24, Min: ip("10.5.1.0"), Max: ip("10.5.255.0")},
		Backend: network.Backend{Type: backend, VNI: 1, Port: 8472, ListenPort: 51820, ListenPortV6: 51821, Mode: "separate"}}
}

func dual(backend string) network.Config {
	c := config(backend)
	c.V6 = network.Pool{Network: pre("fd05::/48"), SubnetLen: 64, Min: ip("fd05:0:0:1::"), Max: ip("fd05:0:0:ffff::")}
	return c
}

func own(c network.Config) network.Lease {
	l := network.Lease{V4: pre("10.5.1.0/24"), PublicIP: ip("192.168.0.1"), PublicIPv6: ip("fd99::1")}
	if c.V6.On() {
		l.V6 = pre("fd05:0:0:1::/64")
	}
	return l
}

// flannel makes a lease as flannel's VXLAN writes it.
func flannel(sub, public, backend, data string) network.Lease {
	return network.Lease{V4: pre(sub), PublicIP: ip(public), BackendType: backend, BackendData: json.RawMessage(data)}
}

func TestPlan(t *testing.T) {
	near := flannel("10.5.2.0/24", "192.168.0.2", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`)
	far := flannel("10.5.3.0/24", "192.168.9.3", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:03"}`)
	both := near
	both.V6, both.PublicIPv6, both.BackendV6Data = pre("fd05:0:0:2::/64"), ip("fd99::2"), json.RawMessage(`{"VNI":1,"VtepMAC":"02:00:00:00:66:02"}`)
	wg := flannel("10.5.2.0/24", "192.168.0.2", "wireguard", `{"PublicKey":"KEYB","Port":4000}`)
	wg2 := wg
	wg2.V6, wg2.PublicIPv6, wg2.BackendV6Data = pre("fd05:0:0:2::/64"), ip("fd99::2"), json.RawMessage(`{"PublicKey":"KEYB"}`)
	gw := flannel("10.5.2.0/24", "192.168.0.2", "host-gw", "")
	gwFar := flannel("10.5.3.0/24", "192.168.9.3", "host-gw", "")
	mode := func(c network.Config, f func(*network.Backend)) network.Config { f(&c.Backend); return c }
	mac, mac6 := network.MachineMAC("a", "flannel.1").String(), network.MachineMAC("a", "flannel-v6.1").String()
	for _, row := range []struct {
		name  string
		c     network.Config
		peers []network.Lease
		want  string
	}{
		{"vxlan, two of flannel's peers, in the order of their subnets", config("vxlan"), []network.Lease{far, near}, `
			device flannel.1 vxlan vni 1 port 8472 mac ` + mac + ` local 192.168.0.1 on eth0 mtu 1450 addr 10.5.1.0/32
			peer 10.5.2.0-24
			  neigh 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1
			  fdb 02:00:00:00:00:02 dst 192.168.0.2 dev flannel.1
			  route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
			peer 10.5.3.0-24
			  neigh 10.5.3.0 lladdr 02:00:00:00:00:03 dev flannel.1
			  fdb 02:00:00:00:00:03 dst 192.168.9.3 dev flannel.1
			  route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
			rule prerouting udp dport 8472 notrack
			rule output udp dport 8472 notrack
			rule egress flannel.1 syn ip maxseg 1410
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv4/conf/flannel.1/rp_filter=2
			mtu 1450`},
		{"direct routing to the peer on our link only", mode(config("vxlan"), func(b *network.Backend) { b.DirectRouting = true; b.MTU = 1400 }), []network.Lease{far, near}, `
			device flannel.1 vxlan vni 1 port 8472 mac ` + mac + ` local 192.168.0.1 on eth0 mtu 1350 addr 10.5.1.0/32
			peer 10.5.2.0-24
			  route 10.5.2.0/24 via 192.168.0.2 dev eth0
			peer 10.5.3.0-24
			  neigh 10.5.3.0 lladdr 02:00:00:00:00:03 dev flannel.1
			  fdb 02:00:00:00:00:03 dst 192.168.9.3 dev flannel.1
			  route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
			rule prerouting udp dport 8472 notrack
			rule output udp dport 8472 notrack
			rule egress flannel.1 syn ip maxseg 1310
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv4/conf/flannel.1/rp_filter=2
			mtu 1350`},
		{"both families: a peer without IPv6 is reached by IPv4, and workloads fit the smaller MTU", dual("vxlan"), []network.Lease{both, far}, `
			device flannel.1 vxlan vni 1 port 8472 mac ` + mac + ` local 192.168.0.1 on eth0 mtu 1450 addr 10.5.1.0/32
			device flannel-v6.1 vxlan vni 1 port 8472 mac ` + mac6 + ` local fd99::1 on eth0 mtu 1430 addr fd05:0:0:1::/128
			peer 10.5.2.0-24&fd05:0:0:2::-64
			  neigh 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1
			  neigh fd05:0:0:2:: lladdr 02:00:00:00:66:02 dev flannel-v6.1
			  fdb 02:00:00:00:00:02 dst 192.168.0.2 dev flannel.1
			  fdb 02:00:00:00:66:02 dst fd99::2 dev flannel-v6.1
			  route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
			  route fd05:0:0:2::/64 via fd05:0:0:2:: dev flannel-v6.1 onlink
			peer 10.5.3.0-24
			  neigh 10.5.3.0 lladdr 02:00:00:00:00:03 dev flannel.1
			  fdb 02:00:00:00:00:03 dst 192.168.9.3 dev flannel.1
			  route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
			rule prerouting udp dport 8472 notrack
			rule output udp dport 8472 notrack
			rule egress flannel.1 syn ip maxseg 1390
			rule egress flannel-v6.1 syn ip6 maxseg 1370
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv6/conf/eth0/accept_ra=2
			sysctl net/ipv6/conf/all/forwarding=1
			sysctl net/ipv4/conf/flannel.1/rp_filter=2
			sysctl net/ipv6/conf/flannel.1/accept_ra=0
			sysctl net/ipv4/conf/flannel-v6.1/rp_filter=2
			sysctl net/ipv6/conf/flannel-v6.1/accept_ra=0
			mtu 1430`},
		{"host-gw: a peer beyond a gateway has no path", config("host-gw"), []network.Lease{gw, gwFar, near}, `
			peer 10.5.2.0-24
			  route 10.5.2.0/24 via 192.168.0.2 dev eth0
			sysctl net/ipv4/ip_forward=1
			skip 10.5.3.0-24: 192.168.9.3 is not on the link of eth0 [192.168.0.0/24 fd99::/64], which host-gw needs: use vxlan with DirectRouting
			skip 10.5.2.0-24: its backend is "vxlan", this machine's "host-gw": use one Backend.Type and restart what has the old one
			mtu 1500`},
		{"wireguard: the key is not shown, one route for all", mode(config("wireguard"), func(b *network.Backend) { b.PSK = "p"; b.Keepalive = 25 }), []network.Lease{wg}, `
			device flannel-wg wireguard port 51820 key hidden mtu 1420 addr 10.5.1.0/32
			route 10.5.0.0/16 dev flannel-wg
			peer 10.5.2.0-24
			  wireguard KEYB endpoint 192.168.0.2:4000 allowed 10.5.2.0/24 psk hidden keepalive 25 dev flannel-wg
			rule prerouting udp dport 51820 notrack
			rule output udp dport 51820 notrack
			rule egress flannel-wg syn ip maxseg 1380
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv4/conf/flannel-wg/rp_filter=2
			mtu 1420`},
		{"wireguard, both families, separate devices", dual("wireguard"), []network.Lease{wg2}, `
			device flannel-wg wireguard port 51820 key hidden mtu 1420 addr 10.5.1.0/32
			device flannel-wg-v6 wireguard port 51821 key hidden mtu 1420 addr fd05:0:0:1::/128
			route 10.5.0.0/16 dev flannel-wg
			route fd05::/48 dev flannel-wg-v6
			peer 10.5.2.0-24&fd05:0:0:2::-64
			  wireguard KEYB endpoint 192.168.0.2:4000 allowed 10.5.2.0/24 dev flannel-wg
			  wireguard KEYB endpoint [fd99::2]:51821 allowed fd05:0:0:2::/64 dev flannel-wg-v6
			rule prerouting udp dport 51820 notrack
			rule output udp dport 51820 notrack
			rule prerouting udp dport 51821 notrack
			rule output udp dport 51821 notrack
			rule egress flannel-wg syn ip maxseg 1380
			rule egress flannel-wg-v6 syn ip6 maxseg 1360
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv6/conf/eth0/accept_ra=2
			sysctl net/ipv6/conf/all/forwarding=1
			sysctl net/ipv4/conf/flannel-wg/rp_filter=2
			sysctl net/ipv6/conf/flannel-wg/accept_ra=0
			sysctl net/ipv4/conf/flannel-wg-v6/rp_filter=2
			sysctl net/ipv6/conf/flannel-wg-v6/accept_ra=0
			mtu 1420`},
		{"wireguard, both families over one device", mode(dual("wireguard"), func(b *network.Backend) { b.Mode = "auto" }), []network.Lease{wg2}, `
			device flannel-wg wireguard port 51820 key hidden mtu 1420 addr 10.5.1.0/32 addr fd05:0:0:1::/128
			route 10.5.0.0/16 dev flannel-wg
			route fd05::/48 dev flannel-wg
			peer 10.5.2.0-24&fd05:0:0:2::-64
			  wireguard KEYB endpoint 192.168.0.2:4000 allowed 10.5.2.0/24,fd05:0:0:2::/64 dev flannel-wg
			rule prerouting udp dport 51820 notrack
			rule output udp dport 51820 notrack
			rule egress flannel-wg syn ip maxseg 1380
			rule egress flannel-wg syn ip6 maxseg 1360
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv6/conf/eth0/accept_ra=2
			sysctl net/ipv6/conf/all/forwarding=1
			sysctl net/ipv4/conf/flannel-wg/rp_filter=2
			sysctl net/ipv6/conf/flannel-wg/accept_ra=0
			mtu 1420`},
		{"ipip", mode(config("ipip"), func(b *network.Backend) { b.DirectRouting = true }), []network.Lease{flannel("10.5.2.0/24", "192.168.0.2", "ipip", ""), flannel("10.5.3.0/24", "192.168.9.3", "ipip", "")}, `
			device flannel.ipip ipip local 192.168.0.1 on eth0 mtu 1480 addr 10.5.1.0/32
			peer 10.5.2.0-24
			  route 10.5.2.0/24 via 192.168.0.2 dev eth0
			peer 10.5.3.0-24
			  route 10.5.3.0/24 via 192.168.9.3 dev flannel.ipip onlink
			rule egress flannel.ipip syn ip maxseg 1440
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv4/conf/flannel.ipip/rp_filter=2
			mtu 1480`},
		{"a netd that has changed over already is reached as before", config("vxlan"), []network.Lease{
			{V4: pre("10.5.2.0/24"), PublicIP: ip("192.168.0.2"), BackendType: "wireguard", BackendData: json.RawMessage(`{"PublicKey":"K"}`),
				Extra: &network.Extra{Machine: "b", VtepMAC: "02:00:00:00:00:02", PublicKey: "K"}}}, `
			device flannel.1 vxlan vni 1 port 8472 mac ` + mac + ` local 192.168.0.1 on eth0 mtu 1450 addr 10.5.1.0/32
			peer 10.5.2.0-24
			  neigh 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1
			  fdb 02:00:00:00:00:02 dst 192.168.0.2 dev flannel.1
			  route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
			rule prerouting udp dport 8472 notrack
			rule output udp dport 8472 notrack
			rule egress flannel.1 syn ip maxseg 1410
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv4/conf/flannel.1/rp_filter=2
			mtu 1450`},
		{"alloc gives subnets and no paths", config("alloc"), []network.Lease{flannel("10.5.2.0/24", "192.168.0.2", "alloc", "")}, `
			peer 10.5.2.0-24
			sysctl net/ipv4/ip_forward=1
			mtu 1500`},
		{"leases that give no path say why", config("vxlan"), []network.Lease{
			flannel("10.5.2.0/24", "192.168.0.2", "vxlan", `{"VNI":7,"VtepMAC":"02:00:00:00:00:02"}`),
			flannel("10.5.3.0/24", "192.168.0.3", "vxlan", `{"VNI":1,"VtepMAC":"zz"}`),
			flannel("10.5.4.0/24", "192.168.0.4", "vxlan", ``),
			{V4: pre("10.5.5.0/24"), BackendType: "vxlan"},
			flannel("10.5.7.0/24", "10.5.200.7", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:07"}`),
			flannel("10.5.0.0/20", "192.168.0.6", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}`)}, `
			device flannel.1 vxlan vni 1 port 8472 mac ` + mac + ` local 192.168.0.1 on eth0 mtu 1450 addr 10.5.1.0/32
			rule prerouting udp dport 8472 notrack
			rule output udp dport 8472 notrack
			rule egress flannel.1 syn ip maxseg 1410
			sysctl net/ipv4/ip_forward=1
			sysctl net/ipv4/conf/flannel.1/rp_filter=2
			skip 10.5.2.0-24: its VNI is 7, this machine's 1: restart the one with the old configuration
			skip 10.5.3.0-24: its backend data: parse MAC address "zz": want six hex bytes with colons
			skip 10.5.4.0-24: its lease has no VtepMAC
			skip 10.5.5.0-24: its lease names no address for 10.5.5.0/24
			skip 10.5.7.0-24: its address 10.5.200.7 lies in 10.5.0.0/16, and would be reached through the overlay that reaches it: use another range
			skip 10.5.0.0-20: overlaps this machine's own subnet: remove the lease whose machine is gone
			mtu 1450`},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := NewPlanner(row.c, self(), own(row.c), row.c.Backend.Type).Plan(row.peers)
			want := strings.ReplaceAll(strings.TrimPrefix(row.want, "\n"), "\t\t\t", "") + "\n"
			if d := cmp.Diff(want, h.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRules(t *testing.T) {
	s := self()
	s.Masquerade, s.FullyRandom, s.Blackhole = true, true, true
	h := NewPlanner(config("host-gw"), s, own(config("")), "host-gw").Plan(nil)
	want := `route blackhole 10.5.1.0/24
rule postrouting ip mark 0x4000 return
rule postrouting ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
rule postrouting ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
rule postrouting ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return
rule postrouting ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
rule postrouting ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
sysctl net/ipv4/ip_forward=1
mtu 1500
`
	if d := cmp.Diff(want, h.String()); d != "" {
		t.Error(d)
	}
}

// What keeps the tunnel out of connection tracking costs every packet of it: it is there where connections are tracked, and only there.
func TestNoRulesForATrackingThatIsNotThere(t *testing.T) {
	s := self()
	s.Tracked = false
	rules := func() string {
		return strings.Join(NewPlanner(config("vxlan"), s, own(config("")), "vxlan").Plan(nil).Rules, "\n")
	}
	if d := cmp.Diff("egress flannel.1 syn ip maxseg 1410", rules()); d != "" {
		t.Error(d)
	}
	s.Masquerade = true // by rules of our own, which make the kernel track
	if r := rules(); !strings.HasPrefix(r, "prerouting udp dport 8472 notrack\noutput udp dport 8472 notrack\n") {
		t.Error(r)
	}
}

// Machines that nobody told how to carry packets agree, from the same leases, and reach each other by what netd adds to them.
func TestAgree(t *testing.T) {
	c := config("")
	peer := func(name, sub, public string, wg bool) network.Lease {
		s := self()
		s.Machine, s.KernelWireGuard, s.PublicKey, s.Underlay.PublicV4 = name, wg, "KEY-"+name, ip(public)
		l := Describe(c, s, nil)
		l.V4 = pre(sub)
		return l
	}
	can, cannot := peer("b", "10.5.2.0/24", "192.168.0.2", true), peer("c", "10.5.3.0/24", "192.168.0.3", false)
	blind := self()
	blind.KernelWireGuard = false
	for _, row := range []struct {
		name   string
		self   Self
		others []network.Lease
		want   string
	}{
		{"all can", self(), []network.Lease{can}, "wireguard: encrypted: every host's kernel has WireGuard"},
		{"one cannot", self(), []network.Lease{can, cannot}, "vxlan: not encrypted: the kernel of machine c (10.5.3.0-24) has no WireGuard"},
		{"this one cannot", blind, []network.Lease{can}, "vxlan: not encrypted: this host's kernel has no WireGuard"},
		{"a flanneld is among them", self(), []network.Lease{flannel("10.5.2.0/24", "192.168.0.2", "vxlan", "")}, "vxlan: not encrypted: lease 10.5.2.0-24 is not from a netd"},
	} {
		backend, why := Agree(c, row.self, row.others)
		if d := cmp.Diff(row.want, backend+": "+why); d != "" {
			t.Errorf("%s: %s", row.name, d)
		}
	}
	// b wrote its lease when all were on WireGuard; now the machines are on VXLAN, and before b has written anew it is reached.
	got, skip := NewPlanner(c, self(), own(c), network.VXLAN).Peer(can)
	want := "  neigh 10.5.2.0 lladdr " + network.MachineMAC("b", "flannel.1").String() + " dev flannel.1\n" +
		"  fdb " + network.MachineMAC("b", "flannel.1").String() + " dst 192.168.0.2 dev flannel.1\n" +
		"  route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink\n"
	if d := cmp.Diff(want, got.String()); d != "" || skip != "" {
		t.Error(d, skip)
	}
	got, skip = NewPlanner(c, self(), own(c), network.WireGuard).Peer(cannot)
	if d := cmp.Diff("  wireguard KEY-c endpoint 192.168.0.3:51820 allowed 10.5.3.0/24 dev flannel-wg\n", got.String()); d != "" || skip != "" {
		t.Error(d, skip)
	}
}

// What one machine describes, another plans a path by.
func TestDescribeIsReadByPeers(t *testing.T) {
	for _, backend := range []string{"vxlan", "wireguard", "host-gw", "alloc"} {
		for _, c := range []network.Config{config(backend), dual(backend)} {
			s := self()
			s.Machine, s.Underlay.PublicV4, s.Underlay.PublicV6 = "b", ip("192.168.0.2"), ip("fd99::2")
			l := Describe(c, s, nil)
			l.V4 = pre("10.5.2.0/24")
			if c.V6.On() {
				l.V6 = pre("fd05:0:0:2::/64")
			}
			if _, skip := NewPlanner(c, self(), own(c), backend).Peer(l); skip != "" {
				t.Errorf("%s: %s", backend, skip)
			}
		}
	}
}

func TestAutoModeChoosesTheFamilyThatBothShow(t *testing.T) {
	c := dual("wireguard")
	c.Backend.Mode = "auto"
	for _, row := range []struct{ ours4, ours6, theirs4, theirs6, want string }{
		{"192.168.0.1", "fd99::1", "192.168.0.2", "fd99::2", "192.168.0.2"},
		{"192.168.0.1", "2001:db8::1", "192.168.0.2", "2001:db8::2", "2001:db8::2"},
		{"8.8.8.1", "2001:db8::1", "8.8.8.2", "2001:db8::2", "8.8.8.2"},
		{"192.168.0.1", "2001:db8::1", "192.168.0.2", "fd99::2", "192.168.0.2"},
	} {
		o := own(c)
		o.PublicIP, o.PublicIPv6 = ip(row.ours4), ip(row.ours6)
		l := flannel("10.5.2.0/24", row.theirs4, "wireguard", "")
		l.PublicIPv6 = ip(row.theirs6)
		if got := NewPlanner(c, self(), o, "wireguard").endpoint(l, l.V4); got != ip(row.want) {
			t.Errorf("%+v: got %s", row, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, row := range []struct {
		name, backend, want string
		change              func(*network.Config, *Self)
	}{
		{"all is well", "vxlan", "", func(*network.Config, *Self) {}},
		{"overlay around the host", "vxlan", "invalid Network 192.168.0.0/16: it contains this host's own address 192.168.0.1 on eth0: use a range that no host's address lies in",
			func(c *network.Config, _ *Self) { c.V4.Network = pre("192.168.0.0/16") }},
		{"overlay around another network of the host's", "vxlan", "invalid Network 10.5.0.0/16: it contains this host's own address 10.5.7.7 on eth1: use a range that no host's address lies in",
			func(_ *network.Config, s *Self) {
				s.Underlay.Beside = []network.Beside{{Name: "eth2", Addr: ip("10.6.0.1")}, {Name: "eth1", Addr: ip("10.5.7.7")}}
			}},
		{"no IPv6 here", "vxlan", "invalid underlay eth0: it has no IPv6 address: give it one, name another with --iface, or switch off EnableIPv6",
			func(c *network.Config, s *Self) {
				*c, s.Underlay.V6, s.Underlay.PublicV6 = dual("vxlan"), netip.Addr{}, netip.Addr{}
			}},
		{"host-gw behind NAT", "host-gw", "invalid public address 1.2.3.4 with Backend.Type host-gw: it is not that of eth0: leave --public-ip out or use vxlan",
			func(_ *network.Config, s *Self) { s.Underlay.PublicV4 = ip("1.2.3.4") }},
		{"MTU above the interface's", "vxlan", "invalid Backend.MTU 9000: larger than the 1500 of eth0: raise the interface's MTU or leave Backend.MTU out",
			func(c *network.Config, _ *Self) { c.Backend.MTU = 9000 }},
		{"MTU too small for IPv6", "vxlan", "invalid MTU 1340 of eth0: 1270 remain for workloads with vxlan, too few: 1280 are needed: raise it by 10",
			func(c *network.Config, s *Self) { *c, s.Underlay.MTU = dual("vxlan"), 1340 }},
	} {
		c, s := config(row.backend), self()
		row.change(&c, &s)
		err := Check(c, s, row.backend)
		if got := errText(err); got != row.want || err != nil && !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s:\n got %s\nwant %s", row.name, got, row.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestPick(t *testing.T) {
	links := network.Links{Default4: "eth0", Reach: "eth1", ReachSrc: ip("10.1.0.1"), Ifaces: []network.Iface{
		{Name: "lo", Kind: "device", MTU: 65536, Loopback: true, Addrs: []network.Addr{{Prefix: pre("127.0.0.1/8")}}},
		{Name: "eth0", MTU: 1500, Addrs: []network.Addr{{Prefix: pre("169.254.3.3/16")}, {Prefix: pre("192.168.0.1/24")}, {Prefix: pre("192.168.0.2/24")},
			{Prefix: pre("fe80::1/64")}, {Prefix: pre("fd99::aaaa/64"), Temporary: true, Dynamic: true}, {Prefix: pre("fd99::9/64"), Deprecated: true}, {Prefix: pre("fd99::5/64"), Dynamic: true}}},
		{Name: "netd0", Kind: "bridge", Addrs: []network.Addr{{Prefix: pre("10.5.1.1/24")}}},
		{Name: "eth1", Kind: "device", MTU: 9000, Addrs: []network.Addr{{Prefix: pre("10.1.0.1/24")}, {Prefix: pre("10.1.0.77/24")}}},
	}}
	for _, row := range []struct {
		name string
		w    Want
		want string
	}{
		{"nothing said: the default route's, its best addresses", Want{}, "eth0 192.168.0.1 fd99::5"},
		{"by name, the first that exists", Want{Ifaces: []string{"eth9", "eth1"}}, "eth1 10.1.0.1 -"},
		{"by address, which is then used", Want{Ifaces: []string{"10.1.0.77"}}, "eth1 10.1.0.77 -"},
		{"by expression on an address", Want{Regexps: []string{`^10\.1\..*\.77`}}, "eth1 10.1.0.77 -"},
		{"by expression on a name", Want{Regexps: []string{"eth[1-9]"}}, "eth1 10.1.0.1 -"},
		{"by reachability", Want{CanReach: "10.1.0.9"}, "eth1 10.1.0.1 -"},
		{"by the public address if it is one of ours", Want{PublicIP: ip("192.168.0.2")}, "eth0 192.168.0.2 fd99::5"},
		{"a public address of a NAT", Want{PublicIP: ip("8.8.8.8")}, "eth0 192.168.0.1 fd99::5 public 8.8.8.8"},
		{"nothing that was asked for", Want{Ifaces: []string{"wlan0"}}, "invalid interface: none is what --iface, --iface-regex or --iface-can-reach ask for: this host has lo, eth0, netd0, eth1"},
		{"a bad expression", Want{Regexps: []string{"("}}, "invalid --iface-regex \"(\": error parsing regexp: missing closing ): `(`: write a regular expression in Go's syntax"},
	} {
		u, err := Pick(row.w, links)
		got := errText(err)
		if err == nil {
			show := func(a netip.Addr) string {
				if !a.IsValid() {
					return "-"
				}
				return a.String()
			}
			got = u.Name + " " + show(u.V4) + " " + show(u.V6)
			if u.PublicV4 != u.V4 {
				got += " public " + show(u.PublicV4)
			}
		}
		if got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.name, got, row.want)
		}
	}
	u, err := Pick(Want{}, links)
	if d := cmp.Diff([]network.Beside{{Name: "eth1", Addr: ip("10.1.0.1")}, {Name: "eth1", Addr: ip("10.1.0.77")}}, u.Beside, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || err != nil {
		t.Error(d, err)
	}
	if _, err := Pick(Want{}, network.Links{}); err == nil || !strings.Contains(err.Error(), "no default route and none named") {
		t.Error(err)
	}
}
