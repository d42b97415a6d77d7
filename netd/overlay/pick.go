package overlay

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/network"
)

// Want is how the user names the interface; the first way that gives one is taken.
type Want struct {
	Ifaces   []string // names or addresses
	Regexps  []string // matched against addresses, then names
	CanReach string   // an address; Links holds the way there
	// PublicIP and PublicIPv6 are what peers send to, where that is not the interface's own address.
	PublicIP, PublicIPv6 netip.Addr
}

// Pick chooses the underlay: by the user's words, else where the default route goes.
func Pick(w Want, links network.Links) (network.Underlay, error) {
	u, err := pick(w, links)
	for _, i := range links.Ifaces {
		// Bridges, tunnels and cables to containers may well have addresses of the overlay. Hardware has not.
		if err != nil || i.Name == u.Name || !slices.Contains([]string{"device", "vlan", "bond", "team"}, i.Kind) || i.Loopback {
			continue
		}
		for _, a := range i.Addrs {
			if !a.Prefix.Addr().IsLinkLocalUnicast() {
				u.Beside = append(u.Beside, network.Beside{Name: i.Name, Addr: a.Prefix.Addr()})
			}
		}
	}
	return u, err
}

// pick is Pick but for what is beside the underlay.
func pick(w Want, links network.Links) (network.Underlay, error) {
	bad := func(what, hint string) (network.Underlay, error) {
		return network.Underlay{}, &fleet.InvalidError{What: what, Hint: hint}
	}
	// Who names something gets that or an error, never something else.
	named := len(w.Ifaces)+len(w.Regexps) > 0 || w.CanReach != ""
	for _, word := range w.Ifaces {
		if i, a, ok := find(links, word); ok {
			return underlay(i, a, w), nil
		}
	}
	for _, re := range w.Regexps {
		r, err := regexp.Compile(re)
		if err != nil {
			return bad(fmt.Sprintf("--iface-regex %q: %v", re, err), "write a regular expression in Go's syntax")
		}
		if i, a, ok := match(links, r); ok {
			return underlay(i, a, w), nil
		}
	}
	if i, _, ok := find(links, links.Reach); ok && w.CanReach != "" {
		return underlay(i, links.ReachSrc, w), nil
	}
	if named {
		return bad("interface: none is what --iface, --iface-regex or --iface-can-reach ask for", "this host has "+names(links))
	}
	// A public address that is one of this host's says which interface it is on; behind a NAT it is none of them.
	for _, a := range []netip.Addr{w.PublicIP, w.PublicIPv6} {
		if i, at, ok := find(links, a.String()); ok && a.IsValid() {
			return underlay(i, at, w), nil
		}
	}
	// The way to everywhere leads to the other hosts too, mostly.
	for _, name := range []string{links.Default4, links.Default6} {
		if i, _, ok := find(links, name); ok {
			return underlay(i, netip.Addr{}, w), nil
		}
	}
	return bad("interface: no default route and none named", "name one with --iface; this host has "+names(links))
}

// find looks an interface up by name or by one of its addresses, which it then gives too.
func find(l network.Links, word string) (network.Iface, netip.Addr, bool) {
	if word == "" {
		return network.Iface{}, netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(word)
	for _, i := range l.Ifaces {
		if i.Name == word {
			return i, netip.Addr{}, true
		}
		for _, a := range i.Addrs {
			if err == nil && a.Prefix.Addr() == addr {
				return i, addr, true
			}
		}
	}
	return network.Iface{}, netip.Addr{}, false
}

// match finds the first interface that fits: any address counts before any name, as with flannel.
func match(l network.Links, r *regexp.Regexp) (network.Iface, netip.Addr, bool) {
	for _, i := range l.Ifaces {
		for _, a := range i.Addrs {
			if r.MatchString(a.Prefix.Addr().String()) {
				return i, a.Prefix.Addr(), true
			}
		}
	}
	for _, i := range l.Ifaces {
		if r.MatchString(i.Name) {
			return i, netip.Addr{}, true
		}
	}
	return network.Iface{}, netip.Addr{}, false
}

// names lists the interfaces, so that an error can say what there is to choose from.
func names(l network.Links) string {
	s := ""
	for _, i := range l.Ifaces {
		if s != "" {
			s += ", "
		}
		s += i.Name
	}
	return s
}

// underlay takes the interface's best address of each family, or the one asked for.
func underlay(i network.Iface, at netip.Addr, w Want) network.Underlay {
	u := network.Underlay{Name: i.Name, Index: i.Index, MTU: i.MTU, V4: best(i, false), V6: best(i, true)}
	if at.Is4() {
		u.V4 = at
	} else if at.Is6() {
		u.V6 = at
	}
	// What peers send to: the same, unless the user says that a NAT stands before it.
	u.PublicV4, u.PublicV6 = u.V4, u.V6
	if w.PublicIP.IsValid() {
		u.PublicV4 = w.PublicIP
	}
	if w.PublicIPv6.IsValid() {
		u.PublicV6 = w.PublicIPv6
	}
	for _, a := range i.Addrs {
		if !a.Prefix.Addr().IsLinkLocalUnicast() && a.Prefix.Bits() < a.Prefix.Addr().BitLen() {
			u.OnLink = append(u.OnLink, a.Prefix.Masked())
		}
	}
	return u
}

// best prefers global over link-local, lasting over temporary, fixed over dynamic; deprecated and tentative ones are left out.
// Of equals the first, which is the interface's primary one.
func best(i network.Iface, v6 bool) netip.Addr {
	// Each reason against an address outweighs all that come before it in the list.
	rank := func(a network.Addr) int {
		r := 0
		for n, worse := range []bool{a.Dynamic, a.Temporary, a.Prefix.Addr().IsLinkLocalUnicast()} {
			if worse {
				r += 1 << n
			}
		}
		return r
	}
	var ok []network.Addr
	for _, a := range i.Addrs {
		ip := a.Prefix.Addr()
		if v6 && ip.IsLinkLocalUnicast() {
			continue // means nothing on another host
		}
		if ip.Is6() == v6 && !a.Deprecated && !a.Tentative {
			ok = append(ok, a)
		}
	}
	if len(ok) == 0 {
		return netip.Addr{}
	}
	return slices.MinFunc(ok, func(a, b network.Addr) int { return rank(a) - rank(b) }).Prefix.Addr()
}
