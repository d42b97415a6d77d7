package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/netd/nettest"
)

var (
	ip  = netip.MustParseAddr
	pre = netip.MustParsePrefix
)

func mac(n int) network.MAC { return network.MAC{2, 0, 0, 0, byte(n >> 8), byte(n)} }

// vxlanHost is what overlay plans for 192.168.0.1 with the given peers 10.5.N.0/24 at 192.168.0.N.
func vxlanHost(peers ...int) network.Host {
	h := network.Host{
		Devices:  []network.Device{{Name: "flannel.1", Kind: network.VXLAN, MTU: 1450, Addrs: []netip.Prefix{pre("10.5.1.0/32")}, Underlay: "eth0", Local: ip("192.168.0.1"), VNI: 1, Port: 8472, MAC: mac(1)}},
		Networks: []netip.Prefix{pre("10.5.0.0/16")},
		Rules: []string{"prerouting udp dport 8472 notrack", "output udp dport 8472 notrack", "egress flannel.1 syn ip maxseg 1410",
			"postrouting ip mark 0x4000 return",
			"postrouting ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return",
			"postrouting ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return",
			"postrouting ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
			"forward ip saddr 10.5.0.0/16 accept"},
		Sysctls: []network.Sysctl{{Name: "net/ipv4/ip_forward", Value: "1"}},
	}
	for _, n := range peers {
		h.Peers = append(h.Peers, vxlanPeer(n))
	}
	return h
}

func vxlanPeer(n int) network.Peer {
	sub := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5 + byte(n>>8), byte(n), 0}), 24)
	return network.Peer{Name: network.Lease{V4: sub}.Name(),
		Neighs: []network.Neigh{{Dev: "flannel.1", IP: sub.Addr(), MAC: mac(n)}},
		FDB:    []network.FDB{{Dev: "flannel.1", MAC: mac(n), Dst: netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)})}},
		Routes: []network.Route{{Dst: sub, Via: sub.Addr(), Dev: "flannel.1", OnLink: true, Metric: network.Spread(sub)}}}
}

func gwHost(peers ...int) network.Host {
	h := network.Host{Networks: []netip.Prefix{pre("10.5.0.0/16")}}
	for _, n := range peers {
		p := vxlanPeer(n)
		h.Peers = append(h.Peers, network.Peer{Name: p.Name, Routes: []network.Route{{Dst: p.Routes[0].Dst, Via: p.FDB[0].Dst, Dev: "eth0"}}})
	}
	return h
}

// kernels runs a test on the fake kernel and on the real one, in a namespace with eth0 at 192.168.0.1/24.
func kernels(t *testing.T, f func(t *testing.T, k *bench)) {
	t.Run("fake", func(t *testing.T) {
		fk := newFake()
		f(t, &bench{t: t, kernel: fk, fake: fk, do: func(f func()) { f() }})
	})
	t.Run("real", func(t *testing.T) {
		h, far := nettest.New(t, "host"), nettest.New(t, "far")
		nettest.Cable(h, "eth0", far, "eth0", 1500, []string{"192.168.0.1/24"}, []string{"192.168.0.2/24"})
		h.Do(func() {
			k, err := Open(Options{Instance: "/test", Table: "netd", RunDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(k.Close)
			f(t, &bench{t: t, kernel: k, real: k})
		})
	})
}

// bench is a kernel under test with its linker. On the real one everything runs on the namespace's thread.
type bench struct {
	t      *testing.T
	kernel Kernel
	fake   *fake
	real   *Real
	l      *Linker
	do     func(func())
}

// set sets and gives the steps it took.
func (b *bench) set(h network.Host) string {
	b.t.Helper()
	if b.l == nil {
		b.l = New(b.kernel)
	}
	rep, err := b.l.Set(context.Background(), h)
	if err != nil || len(rep.Failed) > 0 {
		b.t.Fatalf("set: %v, %v", err, rep.Failed)
	}
	return strings.Join(rep.Steps, "\n")
}

func (b *bench) state(devs ...string) string {
	b.t.Helper()
	s, err := b.kernel.Observe(context.Background(), Ask{Devices: append(devs, "flannel.1")})
	if err != nil {
		b.t.Fatal(err)
	}
	return s.String()
}

func want(t *testing.T, want, got string) {
	t.Helper()
	if d := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), strings.Split(strings.TrimSpace(got), "\n")); d != "" {
		t.Error(d)
	}
}

const vxlanTwo = `device flannel.1 vxlan vni 1 port 8472 mac 02:00:00:00:00:01 local 192.168.0.1 on eth0 mtu 1450 addr 10.5.1.0/32
fdb 02:00:00:00:00:02 dst 192.168.0.2 dev flannel.1
fdb 02:00:00:00:00:03 dst 192.168.0.3 dev flannel.1
neigh 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1
neigh 10.5.3.0 lladdr 02:00:00:00:00:03 dev flannel.1
route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
rule egress flannel.1 syn ip maxseg 1410
rule forward ip saddr 10.5.0.0/16 accept
rule output udp dport 8472 notrack
rule postrouting ip mark 0x4000 return
rule postrouting ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
rule postrouting ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return
rule postrouting ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
rule prerouting udp dport 8472 notrack
`

func TestSetMakesItSoOnceAndCleansUp(t *testing.T) {
	kernels(t, func(t *testing.T, b *bench) {
		b.set(vxlanHost(2, 3))
		want(t, vxlanTwo, b.state())
		want(t, "", b.set(vxlanHost(2, 3)))
		b.l = nil // a restarted netd finds everything in place
		want(t, "", b.set(vxlanHost(2, 3)))
		rep, err := b.l.Clean(context.Background())
		if err != nil || len(rep.Failed) > 0 {
			t.Fatal(err, rep.Failed)
		}
		want(t, "", b.state())
	})
}

func TestStepsComeInTheOrderPacketsNeed(t *testing.T) {
	kernels(t, func(t *testing.T, b *bench) {
		b.set(vxlanHost(2, 3))
		// 2 goes, 3 has a new device, 4 is new: new parts, new ways, then the old way, then old parts.
		h := vxlanHost(3, 4)
		h.Peers[0].Neighs[0].MAC, h.Peers[0].FDB[0].MAC = mac(33), mac(33)
		want(t, `replace neigh 10.5.3.0 lladdr 02:00:00:00:00:21 dev flannel.1
replace neigh 10.5.4.0 lladdr 02:00:00:00:00:04 dev flannel.1
replace fdb 02:00:00:00:00:21 dst 192.168.0.3 dev flannel.1
replace fdb 02:00:00:00:00:04 dst 192.168.0.4 dev flannel.1
replace route 10.5.4.0/24 via 10.5.4.0 dev flannel.1 onlink
delete route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
delete neigh 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1
delete fdb 02:00:00:00:00:02 dst 192.168.0.2 dev flannel.1
delete fdb 02:00:00:00:00:03 dst 192.168.0.3 dev flannel.1`, sortedWithin(b.set(h)))
		want(t, "", b.set(h))
	})
}

// sortedWithin puts runs of the same kind of step in one order: a dump's is the kernel's own.
func sortedWithin(steps string) string {
	lines := strings.Split(steps, "\n")
	kind := func(s string) string { f := strings.Fields(s); return f[0] + f[1] }
	for i := 0; i < len(lines); {
		n := i
		for n < len(lines) && kind(lines[n]) == kind(lines[i]) {
			n++
		}
		if strings.HasPrefix(lines[i], "delete") {
			slices.Sort(lines[i:n])
		}
		i = n
	}
	return strings.Join(lines, "\n")
}

func TestBackendsChangeByReplacingRoutes(t *testing.T) {
	kernels(t, func(t *testing.T, b *bench) {
		b.set(vxlanHost(2, 3))
		want(t, `replace route 10.5.2.0/24 via 192.168.0.2 dev eth0
replace route 10.5.3.0/24 via 192.168.0.3 dev eth0
replace rules (0)
delete device flannel.1`, b.set(gwHost(2, 3)))
		want(t, `route 10.5.2.0/24 via 192.168.0.2 dev eth0
route 10.5.3.0/24 via 192.168.0.3 dev eth0`, b.state())
		b.set(vxlanHost(2, 3))
		want(t, vxlanTwo, b.state())
		// A change of network takes the old one's routes on eth0 along, also those of a netd before this one.
		b.set(gwHost(2))
		h := gwHost()
		h.Networks = []netip.Prefix{pre("10.9.0.0/16")}
		want(t, "delete route 10.5.2.0/24 via 192.168.0.2 dev eth0", b.set(h))
	})
}

func TestDevicesAreSetOrMadeAnew(t *testing.T) {
	kernels(t, func(t *testing.T, b *bench) {
		b.set(vxlanHost(2, 3))
		h := vxlanHost(2, 3)
		h.Devices[0].MTU, h.Devices[0].Addrs = 1400, []netip.Prefix{pre("10.5.7.0/32")}
		want(t, "set device flannel.1 vxlan vni 1 port 8472 mac 02:00:00:00:00:01 local 192.168.0.1 on eth0 mtu 1400 addr 10.5.7.0/32", b.set(h))
		want(t, "", b.set(h))
		h.Devices[0].VNI = 1
		h.Devices[0].Port = 4789
		steps := b.set(h)
		if !strings.HasPrefix(steps, "delete device flannel.1\nadd device flannel.1 vxlan vni 1 port 4789") || strings.Count(steps, "\n") != 7 {
			t.Errorf("a changed port: all on the device is made anew, but:\n%s", steps)
		}
		want(t, "", b.set(h))
		want(t, strings.Replace(strings.Replace(strings.Replace(vxlanTwo, "mtu 1450", "mtu 1400", 1), "addr 10.5.1.0/32", "addr 10.5.7.0/32", 1), "port 8472", "port 4789", 1), b.state())
	})
}

func TestPeersChangesOnlyThose(t *testing.T) {
	kernels(t, func(t *testing.T, b *bench) {
		b.set(vxlanHost(2, 3))
		moved := vxlanPeer(2)
		moved.FDB[0].Dst = ip("192.168.0.77")
		rep, err := b.l.Peers(context.Background(), []network.Peer{moved, vxlanPeer(4)}, []string{"10.5.3.0-24", "10.5.99.0-24"})
		if err != nil || len(rep.Failed) > 0 {
			t.Fatal(err, rep.Failed)
		}
		want(t, `replace neigh 10.5.4.0 lladdr 02:00:00:00:00:04 dev flannel.1
replace fdb 02:00:00:00:00:02 dst 192.168.0.77 dev flannel.1
replace fdb 02:00:00:00:00:04 dst 192.168.0.4 dev flannel.1
replace route 10.5.4.0/24 via 10.5.4.0 dev flannel.1 onlink
delete route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
delete neigh 10.5.3.0 lladdr 02:00:00:00:00:03 dev flannel.1
delete fdb 02:00:00:00:00:03 dst 192.168.0.3 dev flannel.1`, strings.Join(rep.Steps, "\n"))
		h := vxlanHost(2, 4)
		h.Peers[0] = moved
		want(t, "", b.set(h)) // the whole agrees
	})
}

func TestOnePeerThatFailsDoesNotStopTheOthers(t *testing.T) {
	fk := newFake()
	fk.fails["replace neigh 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1"] = errors.New("table full")
	rep, err := New(fk).Set(context.Background(), vxlanHost(2, 3))
	if err != nil {
		t.Fatal(err)
	}
	wantMap := map[string]string{"10.5.2.0-24": "replace neigh 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1: table full"}
	if d := cmp.Diff(wantMap, rep.Failed); d != "" {
		t.Error(d)
	}
	if !strings.Contains(fk.s.String(), "route 10.5.3.0/24") {
		t.Errorf("the other peer has no route:\n%s", fk.s)
	}
}

// What somebody else takes away or changes comes back; what is not ours is let be.
func TestRepairOnTheRealKernel(t *testing.T) {
	h, far := nettest.New(t, "host"), nettest.New(t, "far")
	nettest.Cable(h, "eth0", far, "eth0", 1500, []string{"192.168.0.1/24"}, []string{"192.168.0.2/24"})
	h.Do(func() {
		k, err := Open(Options{Instance: "/test", Table: "netd", RunDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		b := &bench{t: t, kernel: k, real: k}
		// A flanneld's leftovers on its device, and an operator's own route, are there already.
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		eth0, err := netlink.LinkByName("eth0")
		must(err)
		must(k.Do(context.Background(), []Step{{Verb: "add", Device: &vxlanHost().Devices[0]}})[0])
		dev, err := netlink.LinkByName("flannel.1")
		must(err)
		must(netlink.LinkSetAlias(dev, "flannel's"))
		stale, _ := netlink.ParseIPNet("10.5.44.0/24")
		must(netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: stale}))
		// One is to a peer that is still there, and would outrank netd's own.
		outdated, _ := netlink.ParseIPNet("10.5.2.0/24")
		must(netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: outdated, Gw: []byte{10, 5, 99, 0}, Flags: int(netlink.FLAG_ONLINK)}))
		operators, _ := netlink.ParseIPNet("172.30.0.0/16")
		must(netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: operators, Gw: []byte{192, 168, 0, 9}}))
		steps := b.set(vxlanHost(2, 3))
		if !strings.Contains(steps, "delete route 10.5.44.0/24 dev flannel.1") || strings.Contains(steps, "add device") {
			t.Errorf("taking over from a flanneld: %s", steps)
		}
		want(t, vxlanTwo, b.state())
		if routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: outdated}, netlink.RT_FILTER_DST); err != nil || len(routes) != 1 ||
			routes[0].Protocol != protocol {
			t.Errorf("to a peer's subnet lead %v, %v", routes, err)
		}
		for name, harm := range map[string]func() error{
			"device down and up loses routes and neighbours": func() error { return errors.Join(netlink.LinkSetDown(dev), netlink.LinkSetUp(dev)) },
			"device down":    func() error { return netlink.LinkSetDown(dev) },
			"device deleted": func() error { l, _ := netlink.LinkByName("flannel.1"); return netlink.LinkDel(l) },
			"rules flushed":  func() error { return writeRules(k.nft, "netd", nil) },
			"MTU changed":    func() error { l, _ := netlink.LinkByName("flannel.1"); return netlink.LinkSetMTU(l, 1300) },
		} {
			if err := harm(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			b.set(vxlanHost(2, 3))
			want(t, vxlanTwo, b.state())
			dev, err = netlink.LinkByName("flannel.1")
			must(err)
		}
		if _, err := b.l.Clean(context.Background()); err != nil {
			t.Error(err)
		}
		routes, err := netlink.RouteList(eth0, netlink.FAMILY_V4)
		must(err)
		if len(routes) != 2 {
			t.Errorf("the operator's route did not stay: %v", routes)
		}
	})
}

func TestClearErrors(t *testing.T) {
	h, far := nettest.New(t, "host"), nettest.New(t, "far")
	nettest.Cable(h, "eth0", far, "eth0", 1500, []string{"192.168.0.1/24"}, []string{"192.168.0.2/24"})
	h.Do(func() {
		k, err := Open(Options{Instance: "/test", Table: "netd", RunDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		for _, row := range []struct {
			dev  network.Device
			want string
		}{
			{network.Device{Name: "flannel.1", Kind: network.VXLAN, MTU: 1450, Underlay: "eth9", VNI: 1, Port: 8472}, "find device eth9: Link not found"},
		} {
			_, err := New(k).Set(context.Background(), network.Host{Devices: []network.Device{row.dev}})
			if err == nil || !strings.HasSuffix(err.Error(), row.want) {
				t.Errorf("got %v\nwant %s", err, row.want)
			}
		}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err = New(k).Set(context.Background(), vxlanHost())
		must(err)
		other := vxlanHost().Devices[0]
		other.Name = "flannel.2"
		_, err = New(k).Set(context.Background(), network.Host{Devices: []network.Device{vxlanHost().Devices[0], other}})
		if err == nil || !strings.Contains(err.Error(), "another device has VNI 1 and port 8472: set Backend.VNI or Port to free ones") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRuleGrammarRefuses(t *testing.T) {
	for _, r := range []string{"", "nochain accept", "forward", "forward ip saddr x accept", "forward ip saddr fd00::/8 accept", "output udp dport 99999 notrack", "output udp", "output udp sport 5 notrack", "forward jump", "postrouting ip mark zz return", "forward syn maxseg x", "forward maxsegg", "egress", "egress flannel.1", "egress flannel.1 syn maxseg x"} {
		for _, hasEgress := range []bool{true, false} {
			if _, _, err := parseRule(nil, nil, r, hasEgress); err == nil {
				t.Errorf("%q was taken", r)
			}
		}
	}
}

// A kernel without chains at a device's egress has the same rules elsewhere, and netd finds them there.
func TestRulesOnAKernelWithoutEgress(t *testing.T) {
	h := nettest.New(t, "host")
	h.Do(func() {
		k, err := Open(Options{Instance: "/test", Table: "netd", RunDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		rules := vxlanHost().Rules
		if err := writeTables(k.nft, "netd", rules, false); err != nil {
			t.Fatal(err)
		}
		got, err := readRules(k.nft, "netd")
		if d := cmp.Diff(byChain(rules), byChain(got)); d != "" || err != nil {
			t.Error(d, err)
		}
	})
}

func FuzzRule(f *testing.F) {
	for _, r := range vxlanHost().Rules {
		f.Add(r)
	}
	f.Fuzz(func(t *testing.T, r string) { parseRule(nil, nil, r, true) })
}

// Adding one peer must cost the same whatever the number of others: in memory too.
func BenchmarkOnePeerMore(b *testing.B) {
	for _, n := range []int{10, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := New(newFake())
			h := vxlanHost()
			for i := range n {
				h.Peers = append(h.Peers, vxlanPeer(2+i))
			}
			l.kernel.(*fake).s = pathState(h.Peers)
			l.remember(h.Peers)
			l.kernel = nop{}
			for b.Loop() {
				if _, err := l.Peers(context.Background(), []network.Peer{vxlanPeer(20000)}, nil); err != nil {
					b.Fatal(err)
				}
				if _, err := l.Peers(context.Background(), nil, []string{vxlanPeer(20000).Name}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type nop struct{}

func (nop) Observe(context.Context, Ask) (State, error) { return State{}, nil }
func (nop) Do(_ context.Context, s []Step) []error      { return make([]error, len(s)) }

// A plan from disk may know less than the kernel: it adds and takes nothing away.
func TestKeepOthers(t *testing.T) {
	kernels(t, func(t *testing.T, b *bench) {
		b.set(vxlanHost(2, 3))
		h := vxlanHost(2)
		h.KeepOthers = true
		want(t, "", b.set(h))
		want(t, vxlanTwo, b.state())
	})
}

func TestDropsForwarded(t *testing.T) {
	h := nettest.New(t, "host")
	h.Do(func() {
		k, err := Open(Options{Instance: "/test", Table: "netd", RunDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		drop := nftables.ChainPolicyDrop
		table := k.nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
		k.nft.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
		k.nft.AddChain(&nftables.Chain{Name: "INPUT", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		if err := k.nft.Flush(); err != nil {
			t.Fatal(err)
		}
		got, err := k.DropsForwarded()
		if d := cmp.Diff([]string{"filter FORWARD"}, got); d != "" || err != nil {
			t.Error(d, err)
		}
	})
}
