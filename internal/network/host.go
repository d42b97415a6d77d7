package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Host is what one host's network must look like: a plain value that prints as text, one line per thing in the kernel.
type Host struct {
	Devices []Device // in the order to make them
	Routes  []Route  // that belong to no peer
	Peers   []Peer   // by name
	Rules   []string // of the nftables table, in order; netd/link knows the few forms
	Sysctls []Sysctl
	MTU     int // for workloads: the smallest of the paths
	Backend string
	// Networks are the ranges of the whole overlay: routes into them are this host's network's to remove.
	Networks []netip.Prefix
	// KeepOthers leaves paths and devices alone that nobody here asks for: the plan is from a state on disk, and may be older
	// than what is in the kernel.
	KeepOthers bool
	Skipped    []Skip // leases that have no path, and why
}

// Device is a network device that netd makes and owns.
type Device struct {
	Name     string
	Kind     string // vxlan, wireguard or ipip
	MTU      int
	Addrs    []netip.Prefix
	Underlay string     // vxlan: name of the interface it is bound to
	Local    netip.Addr // vxlan, ipip: source of the outer packets

	VNI, Port     int // vxlan; Port is wireguard's listen port too
	MAC           MAC
	GBP, Learning bool

	Key Secret // wireguard: private key, base64
}

// Peer is all the kernel needs to reach one other machine's subnet.
type Peer struct {
	Name   string // of its lease
	Routes []Route
	Neighs []Neigh
	FDB    []FDB
	WG     []WGPeer
}

// Route is one line of the main routing table.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr // invalid for none
	Dev    string     // empty for a blackhole
	OnLink bool       // Via is reachable on Dev although no address there says so
	Metric int        // 0, or Spread(Dst)
	// Blackhole drops what no more exact route takes.
	Blackhole bool
}

// Spread gives an IPv4 route into a tunnel a metric of its own. Metrics decide between routes to one prefix only, of which there are
// never two; but the kernel files gateways by device and metric, and looks through all of one file when a route comes: among 5,000
// with one metric on one device that took it 128 µs, with metrics spread as among ten, 6 (tried on 6.18). Routes on a device that is not
// netd's do without: there a route of somebody else's to the same prefix must be replaced, not outranked.
func Spread(dst netip.Prefix) int {
	if !dst.Addr().Is4() {
		return 0 // IPv6 routes are filed by prefix
	}
	a := dst.Addr().As4()
	n := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	// Neighbouring subnets differ in their low bits, at whatever length: fold all of them in.
	return 1000 + int(n*2654435761>>19)
}

// Neigh is a permanent ARP or neighbour entry.
type Neigh struct {
	Dev string
	IP  netip.Addr
	MAC MAC
}

// FDB says to which host a VXLAN device sends frames for MAC.
type FDB struct {
	Dev string
	MAC MAC
	Dst netip.Addr
}

// WGPeer is one peer of a WireGuard device.
type WGPeer struct {
	Dev       string
	PublicKey string         // base64
	Endpoint  netip.AddrPort // invalid: the peer calls us
	Allowed   string         // prefixes, comma separated, so that the value can be compared
	PSK       Secret
	Keepalive int // seconds
}

// Sysctl is one kernel setting; Name has dots, as in net.ipv4.ip_forward.
type Sysctl struct{ Name, Value string }

// Skip is a lease without a path.
type Skip struct{ Name, Reason string }

// String prints the host, one line per thing in the kernel.
func (h Host) String() string {
	var b strings.Builder
	for _, d := range h.Devices {
		fmt.Fprintf(&b, "device %s\n", d)
	}
	for _, r := range h.Routes {
		fmt.Fprintf(&b, "route %s\n", r)
	}
	for _, p := range h.Peers {
		fmt.Fprintf(&b, "peer %s\n%s", p.Name, p)
	}
	for _, r := range h.Rules {
		fmt.Fprintf(&b, "rule %s\n", r)
	}
	for _, s := range h.Sysctls {
		fmt.Fprintf(&b, "sysctl %s=%s\n", s.Name, s.Value)
	}
	for _, s := range h.Skipped {
		fmt.Fprintf(&b, "skip %s: %s\n", s.Name, s.Reason)
	}
	if h.MTU > 0 {
		fmt.Fprintf(&b, "mtu %d\n", h.MTU)
	}
	return b.String()
}

// String prints a path, one line per part, in the order in which packets need the parts: who the neighbour is, where its frames go, then
// the route. Each line is indented, to stand below its peer.
func (p Peer) String() string {
	var b strings.Builder
	for _, n := range p.Neighs {
		fmt.Fprintf(&b, "  neigh %s\n", n)
	}
	for _, f := range p.FDB {
		fmt.Fprintf(&b, "  fdb %s\n", f)
	}
	for _, w := range p.WG {
		fmt.Fprintf(&b, "  wireguard %s\n", w)
	}
	for _, r := range p.Routes {
		fmt.Fprintf(&b, "  route %s\n", r)
	}
	return b.String()
}

// String prints a device in ip's words. Two devices that print the same need no change; of a key only whether there is one shows, so keys are
// compared beside it.
func (d Device) String() string {
	s := d.Name + " " + d.Kind
	switch d.Kind {
	case VXLAN:
		s += fmt.Sprintf(" vni %d port %d mac %s local %s on %s", d.VNI, d.Port, d.MAC, d.Local, d.Underlay)
	case WireGuard:
		s += fmt.Sprintf(" port %d key %s", d.Port, d.Key)
	case IPIP:
		s += fmt.Sprintf(" local %s on %s", d.Local, d.Underlay)
	}
	if d.GBP {
		s += " gbp"
	}
	if d.Learning {
		s += " learning"
	}
	s += fmt.Sprintf(" mtu %d", d.MTU)
	for _, a := range d.Addrs {
		s += " addr " + a.String()
	}
	return s
}

// String prints a route as ip does. The metric is left out where it is the one that follows from the prefix.
func (r Route) String() string {
	if r.Blackhole {
		return "blackhole " + r.Dst.String()
	}
	s := r.Dst.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	s += " dev " + r.Dev
	if r.OnLink {
		s += " onlink"
	}
	if r.Metric != 0 && r.Metric != Spread(r.Dst) {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	return s
}

// String prints it as `ip neigh` does.
func (n Neigh) String() string { return fmt.Sprintf("%s lladdr %s dev %s", n.IP, n.MAC, n.Dev) }

// String prints it as `bridge fdb` does.
func (f FDB) String() string { return fmt.Sprintf("%s dst %s dev %s", f.MAC, f.Dst, f.Dev) }

// String prints a peer in the order of `wg show`; a preshared key shows only that it is there.
func (w WGPeer) String() string {
	s := w.PublicKey
	if w.Endpoint.IsValid() {
		s += " endpoint " + w.Endpoint.String()
	}
	s += " allowed " + w.Allowed
	if w.PSK != "" {
		s += " psk " + w.PSK.String()
	}
	if w.Keepalive > 0 {
		s += fmt.Sprintf(" keepalive %d", w.Keepalive)
	}
	return s + " dev " + w.Dev
}

// SortPeers puts peers in the order of their names.
func SortPeers(p []Peer) {
	slices.SortFunc(p, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
}
