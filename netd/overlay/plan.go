// Package overlay plans what one host's network must look like so that all hosts' subnets are one network: from the
// configuration, this machine and the leases of the others it makes a network.Host. It only computes: no netlink, no store,
// no clock. netd's run.go hands the result to netd/link.
package overlay

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/fleet-init/fleet/internal/network"
)

// Self is this machine as the plan needs it.
type Self struct {
	Machine  string // machine-id
	Version  string // of netd
	Underlay network.Underlay
	// KernelWireGuard: the kernel has it; without, a process of netd's own carries the packets at many times the cost.
	KernelWireGuard bool
	PrivateKey      network.Secret // WireGuard's, base64
	PublicKey       string

	Masquerade  bool // --ip-masq
	FullyRandom bool // source ports of masqueraded connections
	Blackhole   bool // --ip-blackhole-route
	// Tracked: the kernel follows connections, for whose rules ever.
	Tracked bool
}

// Device names are flannel's, so that a netd that follows a flanneld takes its devices over, and scripts find them.
const (
	wgDevice   = "flannel-wg"
	wgDeviceV6 = "flannel-wg-v6"
	ipipDevice = "flannel.ipip"
)

// vxlanName has the VNI in it: several networks may share a host.
func vxlanName(b network.Backend, v6 bool) string {
	if v6 {
		return fmt.Sprintf("flannel-v6.%d", b.VNI)
	}
	return fmt.Sprintf("flannel.%d", b.VNI)
}

// What each way of carrying costs of a packet's size, in bytes: outer Ethernet, IP, UDP and VXLAN headers; flannel counts 80
// for WireGuard over either family, and peers of one network should agree.
const (
	vxlanOverhead   = 50
	vxlanOverheadV6 = 70
	wgOverhead      = 80
	ipipOverhead    = 20
)

// Agree says how packets are carried, and why. Where the configuration names no type, all machines come to the same answer
// from the same leases: encrypted when every kernel can, else VXLAN.
func Agree(c network.Config, self Self, others []network.Lease) (backend, reason string) {
	if c.Backend.Type != "" {
		return c.Backend.Type, "the configuration names it"
	}
	if !self.KernelWireGuard {
		return network.VXLAN, "not encrypted: this host's kernel has no WireGuard"
	}
	for _, l := range others {
		if l.Extra == nil {
			return network.VXLAN, fmt.Sprintf("not encrypted: lease %s is not from a netd", l.Name())
		}
		if !l.Extra.WireGuard {
			return network.VXLAN, fmt.Sprintf("not encrypted: the kernel of machine %s (%s) has no WireGuard", l.Extra.Machine, l.Name())
		}
	}
	return network.WireGuard, "encrypted: every host's kernel has WireGuard"
}

// vxlanData is what flannel's vxlan writes into a lease; the names of its fields are the JSON's.
type vxlanData struct {
	VNI     int
	VtepMAC network.MAC
}

// wgData is what flannel's wireguard writes.
type wgData struct {
	PublicKey string
	Port      int `json:",omitempty"`
}

// Describe gives this machine's lease but for its subnets.
func Describe(c network.Config, self Self, others []network.Lease) network.Lease {
	backend, _ := Agree(c, self, others)
	b := c.Backend
	l := network.Lease{PublicIP: self.Underlay.PublicV4, PublicIPv6: self.Underlay.PublicV6, BackendType: backend,
		Extra: &network.Extra{Machine: self.Machine, Version: self.Version, WireGuard: self.KernelWireGuard, PublicKey: self.PublicKey}}
	if c.V4.On() {
		l.Extra.VtepMAC = network.MachineMAC(self.Machine, vxlanName(b, false)).String()
	}
	if c.V6.On() {
		l.Extra.VtepMACv6 = network.MachineMAC(self.Machine, vxlanName(b, true)).String()
	} else {
		l.PublicIPv6 = netip.Addr{} // flannel publishes it only where IPv6 is on
	}
	data := func(v any) json.RawMessage {
		out, err := json.Marshal(v)
		if err != nil {
			panic(err) // two plain structs of our own
		}
		return out
	}
	switch backend {
	case network.VXLAN:
		if c.V4.On() {
			l.BackendData = data(vxlanData{b.VNI, network.MachineMAC(self.Machine, vxlanName(b, false))})
		}
		if c.V6.On() {
			l.BackendV6Data = data(vxlanData{b.VNI, network.MachineMAC(self.Machine, vxlanName(b, true))})
		}
	case network.WireGuard:
		if c.V4.On() || b.Mode != "separate" {
			l.BackendData = data(wgData{self.PublicKey, b.ListenPort})
		}
		if c.V6.On() {
			port := b.ListenPortV6
			if b.Mode != "separate" {
				port = b.ListenPort
			}
			l.BackendV6Data = data(wgData{self.PublicKey, port})
		}
	}
	return l
}

// Planner plans for one machine under one configuration. It holds values only.
type Planner struct {
	c       network.Config
	self    Self
	own     network.Lease
	backend string
	ext     int // MTU of the underlay to count with
}

// NewPlanner makes one; backend is what Agree said.
func NewPlanner(c network.Config, self Self, own network.Lease, backend string) Planner {
	p := Planner{c: c, self: self, own: own, backend: backend, ext: self.Underlay.MTU}
	if c.Backend.MTU != 0 {
		p.ext = c.Backend.MTU
	}
	return p
}

// Plan is all this host must have: its own devices and rules, and the path to each peer.
func (p Planner) Plan(peers []network.Lease) network.Host {
	h := network.Host{Backend: p.backend, MTU: p.MTU()}
	h.Devices = p.devices()
	for _, pool := range []network.Pool{p.c.V4, p.c.V6} {
		if pool.On() {
			h.Networks = append(h.Networks, pool.Network)
		}
		// WireGuard itself knows which peer has which subnet, and drops what nobody has: one route for the whole network.
		if dev := p.wgDeviceFor(pool.Network); p.backend == network.WireGuard && pool.On() {
			h.Routes = append(h.Routes, network.Route{Dst: pool.Network, Dev: dev})
		}
	}
	if p.self.Blackhole {
		for _, s := range []netip.Prefix{p.own.V4, p.own.V6} {
			if s.IsValid() {
				h.Routes = append(h.Routes, network.Route{Dst: s, Blackhole: true})
			}
		}
	}
	for _, l := range peers {
		peer, skip := p.Peer(l)
		if skip != "" {
			h.Skipped = append(h.Skipped, network.Skip{Name: l.Name(), Reason: skip})
			continue
		}
		h.Peers = append(h.Peers, peer)
	}
	network.SortPeers(h.Peers)
	h.Rules = p.rules()
	h.Sysctls = p.sysctls(h.Devices)
	return h
}

// MTU is what workloads may send: what fits every path of this host.
func (p Planner) MTU() int {
	switch p.backend {
	case network.VXLAN:
		if p.c.V6.On() {
			return p.ext - vxlanOverheadV6
		}
		return p.ext - vxlanOverhead
	case network.WireGuard:
		return p.ext - wgOverhead
	case network.IPIP:
		return p.ext - ipipOverhead
	}
	return p.ext
}

// wgDeviceFor is the device that carries a subnet: with Mode separate each family has its own, else one carries both.
func (p Planner) wgDeviceFor(s netip.Prefix) string {
	if s.IsValid() && s.Addr().Is6() && p.c.Backend.Mode == "separate" {
		return wgDeviceV6
	}
	return wgDevice
}

// devices are those of the backend, none for host-gw and alloc. A family without a subnet of ours gets none.
func (p Planner) devices() []network.Device {
	b, u := p.c.Backend, p.self.Underlay
	var out []network.Device
	// A device has its subnet's first address, for what the host itself sends to workloads elsewhere.
	base := func(s netip.Prefix) netip.Prefix { return netip.PrefixFrom(s.Addr(), s.Addr().BitLen()) }
	switch p.backend {
	case network.VXLAN:
		vx := func(v6 bool, local netip.Addr, sub netip.Prefix, overhead int) {
			name := vxlanName(b, v6)
			out = append(out, network.Device{Name: name, Kind: network.VXLAN, MTU: p.ext - overhead, Addrs: []netip.Prefix{base(sub)},
				Underlay: u.Name, Local: local, VNI: b.VNI, Port: b.Port, MAC: network.MachineMAC(p.self.Machine, name), GBP: b.GBP, Learning: b.Learning})
		}
		if p.own.V4.IsValid() {
			vx(false, u.PublicV4, p.own.V4, vxlanOverhead)
		}
		if p.own.V6.IsValid() {
			vx(true, u.PublicV6, p.own.V6, vxlanOverheadV6)
		}
		// The source of the outer packets must be an address of this host; behind NAT the public one is not.
		for i := range out {
			if out[i].Local.Is4() && u.V4.IsValid() {
				out[i].Local = u.V4
			} else if u.V6.IsValid() && out[i].Local.Is6() {
				out[i].Local = u.V6
			}
		}
	case network.WireGuard:
		wg := map[string]*network.Device{}
		for _, s := range []netip.Prefix{p.own.V4, p.own.V6} {
			if !s.IsValid() {
				continue
			}
			name := p.wgDeviceFor(s)
			if wg[name] == nil {
				out = append(out, network.Device{Name: name, Kind: network.WireGuard, MTU: p.ext - wgOverhead, Port: b.ListenPort, Key: p.self.PrivateKey})
				wg[name] = &out[len(out)-1]
				if name == wgDeviceV6 {
					wg[name].Port = b.ListenPortV6
				}
			}
			wg[name].Addrs = append(wg[name].Addrs, base(s))
		}
	case network.IPIP:
		out = append(out, network.Device{Name: ipipDevice, Kind: network.IPIP, MTU: p.ext - ipipOverhead,
			Addrs: []netip.Prefix{base(p.own.V4)}, Underlay: u.Name, Local: u.V4})
	}
	return out
}

// rules are the lines of netd's nftables table; the order and meaning of the masquerading ones are flannel's. Its rules that
// accept forwarded packets are left out: in nftables an accept in one table does not overrule a drop in another, so that they
// would only cost time.
func (p Planner) rules() []string {
	var out []string
	udp := func(port int) {
		if !p.self.Tracked && !p.self.Masquerade {
			return // every packet would pay for nothing
		}
		// Connection tracking would keep an entry per inner flow for the outer packets too, to no one's use.
		out = append(out, fmt.Sprintf("prerouting udp dport %d notrack", port), fmt.Sprintf("output udp dport %d notrack", port))
	}
	switch p.backend {
	case network.VXLAN:
		udp(p.c.Backend.Port)
	case network.WireGuard:
		for _, d := range p.devices() {
			udp(d.Port)
		}
	}
	for _, d := range p.devices() {
		// What another bridge's containers, or units from before the network changed, take for granted does not fit a tunnel. Nor may they
		// learn it: many a firewall drops the packets that would tell them. Streams are asked to begin smaller; where they enter the tunnel,
		// since any other place would cost packets that do not.
		for _, a := range d.Addrs {
			ip, headers := "ip", 40 // of IP and TCP, which a segment's size does not count
			if a.Addr().Is6() {
				ip, headers = "ip6", 60
			}
			out = append(out, fmt.Sprintf("egress %s syn %s maxseg %d", d.Name, ip, p.MTU()-headers))
		}
	}
	for _, f := range []struct {
		ip    string
		pool  network.Pool
		own   netip.Prefix
		multi string
	}{{"ip", p.c.V4, p.own.V4, "224.0.0.0/4"}, {"ip6", p.c.V6, p.own.V6, "ff00::/8"}} {
		if !f.pool.On() || !f.own.IsValid() {
			continue
		}
		add := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
		if p.self.Masquerade {
			masq := "masquerade"
			if p.self.FullyRandom {
				masq = "masquerade fully-random"
			}
			n := f.pool.Network
			// Somebody (a service proxy) has marked it and will masquerade it itself.
			add("postrouting %s mark 0x4000 return", f.ip)
			add("postrouting %s saddr %s %s daddr %s return", f.ip, f.own, f.ip, n)
			add("postrouting %s saddr %s %s daddr %s return", f.ip, n, f.ip, f.own)
			// From outside to a workload here: it shall see who calls.
			add("postrouting %s saddr != %s %s daddr %s return", f.ip, n, f.ip, f.own)
			add("postrouting %s saddr %s %s daddr != %s %s", f.ip, n, f.ip, f.multi, masq)
			add("postrouting %s saddr != %s %s daddr %s %s", f.ip, n, f.ip, n, masq)
		}
	}
	return out
}

// sysctls are the settings without which no packet goes from one interface to another. Nothing else on a host need set them: a host without workloads does
// not forward yet, and its peers' first packet finds that out.
func (p Planner) sysctls(devs []network.Device) []network.Sysctl {
	var out []network.Sysctl
	if p.c.V4.On() {
		out = append(out, network.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"})
	}
	if p.c.V6.On() {
		// A forwarding host ignores router advertisements unless told not to, and would lose its own default route.
		out = append(out, network.Sysctl{Name: "net/ipv6/conf/" + p.self.Underlay.Name + "/accept_ra", Value: "2"},
			network.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"})
	}
	for _, d := range devs {
		if p.c.V4.On() {
			// Loose: with direct routing, two hosts may disagree for a moment about which way a packet should come.
			out = append(out, network.Sysctl{Name: "net/ipv4/conf/" + d.Name + "/rp_filter", Value: "2"})
		}
		if p.c.V6.On() {
			out = append(out, network.Sysctl{Name: "net/ipv6/conf/" + d.Name + "/accept_ra", Value: "0"})
		}
	}
	return out
}
