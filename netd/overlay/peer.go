package overlay

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fleet-init/fleet/internal/network"
)

// Peer plans the path to one other machine, or says why there is none. It looks at nothing but this lease, so that one
// change among thousands costs the same as among ten.
func (p Planner) Peer(l network.Lease) (peer network.Peer, skip string) {
	peer.Name = l.Name()
	// A netd of another backend is about to change over, or cannot: its lease has all that the way of before needs, and that way is better
	// than none until the two agree.
	if p.c.Backend.Type != "" && l.BackendType != p.backend && l.Extra == nil {
		return peer, fmt.Sprintf("its backend is %q, this machine's %q: use one Backend.Type and restart what has the old one", l.BackendType, p.backend)
	}
	if l.Overlaps(p.own) {
		return peer, "overlaps this machine's own subnet: remove the lease whose machine is gone"
	}
	for _, f := range []struct {
		sub  netip.Prefix
		to   netip.Addr
		own  netip.Prefix
		pool network.Pool
	}{{l.V4, l.PublicIP, p.own.V4, p.c.V4}, {l.V6, l.PublicIPv6, p.own.V6, p.c.V6}} {
		if !f.sub.IsValid() || !f.own.IsValid() {
			continue
		}
		if f.pool.Network.Contains(f.to) {
			return peer, fmt.Sprintf("its address %s lies in %s, and would be reached through the overlay that reaches it: use another range", f.to, f.pool.Network)
		}
		switch p.backend {
		case network.VXLAN:
			skip = p.vxlan(&peer, l, f.sub, f.to)
		case network.HostGW:
			skip = p.hostGW(&peer, f.sub, f.to)
		case network.IPIP:
			skip = p.ipip(&peer, f.sub, f.to)
		case network.WireGuard:
			skip = p.wireguard(&peer, l, f.sub)
		}
		if skip != "" {
			return peer, skip
		}
	}
	return peer, ""
}

// direct reports whether a host is on our own link, so that its subnet needs no tunnel.
func (p Planner) direct(to netip.Addr) bool {
	return slices.ContainsFunc(p.self.Underlay.OnLink, func(n netip.Prefix) bool { return n.Contains(to) })
}

// noAddress is the reason when a lease has a subnet of a family and no address of that family to send to.
func noAddress(sub netip.Prefix) string {
	return fmt.Sprintf("its lease names no address for %s", sub)
}

// vxlan plans the three parts of a path through the tunnel: the peer's device answers to the first address of its subnet, its MAC lives at the peer's
// address, and the subnet is behind it. With DirectRouting a peer on our own link gets a plain route instead.
func (p Planner) vxlan(peer *network.Peer, l network.Lease, sub netip.Prefix, to netip.Addr) string {
	if !to.IsValid() {
		return noAddress(sub)
	}
	if p.c.Backend.DirectRouting && p.direct(to) {
		peer.Routes = append(peer.Routes, network.Route{Dst: sub, Via: to, Dev: p.self.Underlay.Name})
		return ""
	}
	v6 := sub.Addr().Is6()
	mac, err := vtepMAC(l, v6, p.c.Backend)
	if err != nil {
		return err.Error()
	}
	dev := vxlanName(p.c.Backend, v6)
	peer.Neighs = append(peer.Neighs, network.Neigh{Dev: dev, IP: sub.Addr(), MAC: mac})
	peer.FDB = append(peer.FDB, network.FDB{Dev: dev, MAC: mac, Dst: to})
	peer.Routes = append(peer.Routes, network.Route{Dst: sub, Via: sub.Addr(), Dev: dev, OnLink: true, Metric: network.Spread(sub)})
	return ""
}

// vtepMAC finds the address of the peer's VXLAN device: in flannel's place, or, when the machines agreed on VXLAN without
// being told and this one has not yet written so, in netd's own.
func vtepMAC(l network.Lease, v6 bool, b network.Backend) (network.MAC, error) {
	raw := l.BackendData
	if v6 {
		raw = l.BackendV6Data
	}
	if l.BackendType == network.VXLAN && len(raw) > 0 {
		var d vxlanData
		if err := json.Unmarshal(raw, &d); err != nil {
			return network.MAC{}, fmt.Errorf("its backend data: %w", err)
		}
		if d.VNI != 0 && d.VNI != b.VNI {
			return network.MAC{}, fmt.Errorf("its VNI is %d, this machine's %d: restart the one with the old configuration", d.VNI, b.VNI)
		}
		if d.VtepMAC != (network.MAC{}) {
			return d.VtepMAC, nil
		}
	}
	if l.Extra != nil {
		s := l.Extra.VtepMAC
		if v6 {
			s = l.Extra.VtepMACv6
		}
		if s != "" {
			return network.ParseMAC(s)
		}
	}
	return network.MAC{}, fmt.Errorf("its lease has no VtepMAC")
}

// hostGW plans a plain route through the peer itself, which only a neighbour on our link can be.
func (p Planner) hostGW(peer *network.Peer, sub netip.Prefix, to netip.Addr) string {
	if !to.IsValid() {
		return noAddress(sub)
	}
	if !p.direct(to) {
		return fmt.Sprintf("%s is not on the link of %s %v, which host-gw needs: use vxlan with DirectRouting", to, p.self.Underlay.Name, p.self.Underlay.OnLink)
	}
	peer.Routes = append(peer.Routes, network.Route{Dst: sub, Via: to, Dev: p.self.Underlay.Name})
	return ""
}

// ipip plans a route through the peer into the tunnel, which needs no table of its own: the outer address is the gateway's.
func (p Planner) ipip(peer *network.Peer, sub netip.Prefix, to netip.Addr) string {
	if !to.IsValid() {
		return noAddress(sub)
	}
	if p.c.Backend.DirectRouting && p.direct(to) {
		peer.Routes = append(peer.Routes, network.Route{Dst: sub, Via: to, Dev: p.self.Underlay.Name})
		return ""
	}
	peer.Routes = append(peer.Routes, network.Route{Dst: sub, Via: to, Dev: ipipDevice, OnLink: true, Metric: network.Spread(sub)})
	return ""
}

// wireguard plans the peer's entry on the device of that family. What the entry allows is route and firewall in one: WireGuard sends to the peer what is
// for its subnet, and takes from it only what is from there.
func (p Planner) wireguard(peer *network.Peer, l network.Lease, sub netip.Prefix) string {
	b, dev := p.c.Backend, p.wgDeviceFor(sub)
	raw, port := l.BackendData, b.ListenPort
	if dev == wgDeviceV6 {
		raw, port = l.BackendV6Data, b.ListenPortV6
	}
	d := wgData{Port: port}
	if l.BackendType == network.WireGuard && len(raw) > 0 {
		if err := json.Unmarshal(raw, &d); err != nil {
			return fmt.Sprintf("its backend data: %v", err)
		}
		if d.Port == 0 {
			d.Port = port
		}
		if d.Port < 0 || d.Port > 65535 {
			return fmt.Sprintf("its backend data: port %d is none", d.Port)
		}
	}
	if d.PublicKey == "" && l.Extra != nil {
		d.PublicKey = l.Extra.PublicKey
	}
	if d.PublicKey == "" {
		return "its lease has no WireGuard public key"
	}
	// With one device for both families the second only adds to what the peer may send.
	for i := range peer.WG {
		if peer.WG[i].Dev == dev {
			peer.WG[i].Allowed += "," + sub.String()
			return ""
		}
	}
	to := p.endpoint(l, sub)
	if !to.IsValid() {
		return noAddress(sub)
	}
	peer.WG = append(peer.WG, network.WGPeer{Dev: dev, PublicKey: d.PublicKey, Endpoint: netip.AddrPortFrom(to, uint16(d.Port)),
		Allowed: sub.String(), PSK: b.PSK, Keepalive: b.Keepalive})
	return ""
}

// endpoint chooses the family of the outer packets: by Mode, and with auto IPv4 unless only IPv6 is public on both sides.
func (p Planner) endpoint(l network.Lease, sub netip.Prefix) netip.Addr {
	switch p.c.Backend.Mode {
	case "ipv4":
		return l.PublicIP
	case "ipv6":
		return l.PublicIPv6
	case "auto":
		public := func(a, b netip.Addr) bool {
			return a.IsGlobalUnicast() && !a.IsPrivate() && b.IsGlobalUnicast() && !b.IsPrivate()
		}
		v6 := l.PublicIPv6.IsValid() && p.own.PublicIPv6.IsValid()
		if !l.PublicIP.IsValid() || v6 && public(l.PublicIPv6, p.own.PublicIPv6) && !public(l.PublicIP, p.own.PublicIP) {
			return l.PublicIPv6
		}
		return l.PublicIP
	}
	if sub.Addr().Is6() {
		return l.PublicIPv6
	}
	return l.PublicIP
}
