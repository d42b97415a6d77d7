package link

import (
	"net/netip"
	"slices"

	"github.com/fleet-init/fleet/internal/network"
)

// diff says what to change so that have becomes want. What is new is added before what is old goes, and a path's parts in
// the order in which packets need them, so that a change loses no packet. mine tells of a route on somebody else's device
// whether it is ours to remove.
func diff(have State, want network.Host, mine func(network.Route) bool) []Step {
	d := differ{have: have, want: want, fresh: map[string]bool{}, own: map[string]bool{}}
	d.devices()
	for _, s := range want.Sysctls {
		if v, ok := have.Sysctls[s.Name]; !ok || v != s.Value {
			d.steps = append(d.steps, Step{Verb: "set", Sysctl: &s})
		}
	}
	d.routes(mine)
	d.neighs()
	d.fdb()
	d.wireguard()
	// Parts of a path, in order, then the paths, then removal the other way round.
	d.steps = append(d.steps, d.parts...)
	d.steps = append(d.steps, d.paths...)
	if !slices.Equal(byChain(have.Rules), byChain(want.Rules)) {
		d.steps = append(d.steps, Step{Verb: "replace", Rules: byChain(want.Rules)})
	}
	if want.KeepOthers {
		return d.steps
	}
	d.steps = append(d.steps, d.oldPaths...)
	d.steps = append(d.steps, d.oldParts...)
	return append(d.steps, d.oldDevices...)
}

type differ struct {
	have  State
	want  network.Host
	fresh map[string]bool // devices made anew or removed: nothing of what was on them is left
	own   map[string]bool // devices that are wanted

	steps, parts, paths, oldPaths, oldParts, oldDevices []Step
}

// same reports whether a device can stay, with at most its MTU, addresses and state changed.
func same(a, b network.Device) bool {
	if a.Kind == network.WireGuard || a.Name == "" {
		return a.Kind == b.Kind
	}
	a.MTU, a.Addrs, b.MTU, b.Addrs = 0, nil, 0, nil
	return a.String() == b.String()
}

func (d *differ) devices() {
	have := map[string]Device{}
	for _, h := range d.have.Devices {
		have[h.Name] = h
	}
	for _, w := range d.want.Devices {
		d.own[w.Name] = true
		h, there := have[w.Name]
		if there && !same(h.Device, w) {
			// The kernel allows no second device with the name, nor with the VNI and port.
			// A stranger of another kind stays: the add fails then and says so.
			if h.Ours || h.Kind == w.Kind {
				d.steps = append(d.steps, Step{Verb: "delete", Device: &h.Device})
			}
			there = false
		}
		switch {
		case !there:
			d.fresh[w.Name] = true
			d.steps = append(d.steps, Step{Verb: "add", Device: &w})
		case !h.Ours || !h.Up || h.String() != w.String() || h.Key != w.Key:
			d.steps = append(d.steps, Step{Verb: "set", Device: &w})
		}
	}
	for _, h := range d.have.Devices {
		if !d.own[h.Name] && h.Ours {
			d.fresh[h.Name] = true
			d.oldDevices = append(d.oldDevices, Step{Verb: "delete", Device: &h.Device})
		}
	}
}

// each calls f for every peer.
func (d *differ) each(f func(p *network.Peer)) {
	for i := range d.want.Peers {
		f(&d.want.Peers[i])
	}
}

func (d *differ) routes(mine func(network.Route) bool) {
	have := make(map[netip.Prefix]network.Route, len(d.have.Routes))
	for _, r := range d.have.Routes {
		if !d.fresh[r.Dev] {
			have[r.Dst] = r
		}
	}
	want := make(map[netip.Prefix]bool, len(d.want.Peers)+len(d.want.Routes))
	add := func(r *network.Route, peer string) {
		want[r.Dst] = true
		if h, there := have[r.Dst]; there && h == *r {
			return
		}
		// Replace, not add: the old way to the same place goes in the same moment.
		d.paths = append(d.paths, Step{Verb: "replace", Route: r, Peer: peer})
	}
	for i := range d.want.Routes {
		add(&d.want.Routes[i], "")
	}
	d.each(func(p *network.Peer) {
		for i := range p.Routes {
			add(&p.Routes[i], p.Name)
		}
	})
	for _, r := range d.have.Routes {
		if !want[r.Dst] && !d.fresh[r.Dev] && (d.own[r.Dev] || mine(r)) {
			d.oldPaths = append(d.oldPaths, Step{Verb: "delete", Route: &r})
		}
	}
}

func (d *differ) neighs() {
	type key struct {
		dev string
		ip  netip.Addr
	}
	have := make(map[key]network.MAC, len(d.have.Neighs))
	for _, n := range d.have.Neighs {
		if !d.fresh[n.Dev] {
			have[key{n.Dev, n.IP}] = n.MAC
		}
	}
	want := make(map[key]bool, len(d.want.Peers))
	d.each(func(p *network.Peer) {
		for i := range p.Neighs {
			n := &p.Neighs[i]
			k := key{n.Dev, n.IP}
			want[k] = true
			if mac, there := have[k]; !there || mac != n.MAC {
				d.parts = append(d.parts, Step{Verb: "replace", Neigh: n, Peer: p.Name})
			}
		}
	})
	for _, n := range d.have.Neighs {
		if !d.fresh[n.Dev] && !want[key{n.Dev, n.IP}] {
			d.oldParts = append(d.oldParts, Step{Verb: "delete", Neigh: &n})
		}
	}
}

func (d *differ) fdb() {
	type key struct {
		dev string
		mac network.MAC
	}
	have := make(map[key]netip.Addr, len(d.have.FDB))
	for _, f := range d.have.FDB {
		if !d.fresh[f.Dev] {
			have[key{f.Dev, f.MAC}] = f.Dst
		}
	}
	want := make(map[key]bool, len(d.want.Peers))
	d.each(func(p *network.Peer) {
		for i := range p.FDB {
			f := &p.FDB[i]
			k := key{f.Dev, f.MAC}
			want[k] = true
			if dst, there := have[k]; !there || dst != f.Dst {
				d.parts = append(d.parts, Step{Verb: "replace", FDB: f, Peer: p.Name})
			}
		}
	})
	for _, f := range d.have.FDB {
		if !d.fresh[f.Dev] && !want[key{f.Dev, f.MAC}] {
			d.oldParts = append(d.oldParts, Step{Verb: "delete", FDB: &f})
		}
	}
}

func (d *differ) wireguard() {
	type key struct{ dev, pub string }
	have := make(map[key]network.WGPeer, len(d.have.WG))
	for _, w := range d.have.WG {
		if !d.fresh[w.Dev] {
			have[key{w.Dev, w.PublicKey}] = w
		}
	}
	want := map[key]bool{}
	d.each(func(p *network.Peer) {
		for i := range p.WG {
			w := &p.WG[i]
			k := key{w.Dev, w.PublicKey}
			want[k] = true
			h, there := have[k]
			if !there || h != *w {
				d.parts = append(d.parts, Step{Verb: "replace", WG: w, Peer: p.Name})
			}
		}
	})
	for _, w := range d.have.WG {
		if !d.fresh[w.Dev] && !want[key{w.Dev, w.PublicKey}] {
			d.oldParts = append(d.oldParts, Step{Verb: "delete", WG: &w})
		}
	}
}
