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
	parts(&d, have.Neighs, func(p *network.Peer) []network.Neigh { return p.Neighs },
		func(n network.Neigh) (string, netip.Addr) { return n.Dev, n.IP }, func(n *network.Neigh) Step { return Step{Neigh: n} })
	parts(&d, have.FDB, func(p *network.Peer) []network.FDB { return p.FDB },
		func(f network.FDB) (string, network.MAC) { return f.Dev, f.MAC }, func(f *network.FDB) Step { return Step{FDB: f} })
	parts(&d, have.WG, func(p *network.Peer) []network.WGPeer { return p.WG },
		func(w network.WGPeer) (string, string) { return w.Dev, w.PublicKey }, func(w *network.WGPeer) Step { return Step{WG: w} })
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

// differ gathers the steps of one comparison, by when they may be taken.
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

// devices compares by name. What cannot be changed on a device that is there (kind, VNI, port, underlay, MAC) has it made anew, and then all that
// was on it counts as gone.
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

// routes compares routes by prefix and metric, which is what the kernel tells them apart by.
func (d *differ) routes(mine func(network.Route) bool) {
	// The kernel has room for one route to a prefix with each metric.
	type place struct {
		dst    netip.Prefix
		metric int
	}
	have := make(map[place]network.Route, len(d.have.Routes))
	for _, r := range d.have.Routes {
		if !d.fresh[r.Dev] {
			have[place{r.Dst, r.Metric}] = r
		}
	}
	want := make(map[place]bool, len(d.want.Peers)+len(d.want.Routes))
	add := func(r *network.Route, peer string) {
		want[place{r.Dst, r.Metric}] = true
		if h, there := have[place{r.Dst, r.Metric}]; there && h == *r {
			return
		}
		// Replace, not add: the old way to the same place goes in the same moment.
		d.paths = append(d.paths, Step{Verb: "replace", Route: r, Peer: peer})
	}
	for i := range d.want.Routes {
		add(&d.want.Routes[i], "")
	}
	for i := range d.want.Peers {
		p := &d.want.Peers[i]
		for j := range p.Routes {
			add(&p.Routes[j], p.Name)
		}
	}
	for _, r := range d.have.Routes {
		if !want[place{r.Dst, r.Metric}] && !d.fresh[r.Dev] && (d.own[r.Dev] || mine(r)) {
			d.oldPaths = append(d.oldPaths, Step{Verb: "delete", Route: &r})
		}
	}
}

// parts compares one kind of what paths are made of, neighbours, forwarding entries or WireGuard peers: what peers want with what is
// there, by the device it is on and what is unique there.
func parts[T, K comparable](d *differ, have []T, of func(*network.Peer) []T, key func(T) (dev string, k K), step func(*T) Step) {
	type place struct {
		dev string
		k   K
	}
	at := func(t T) place {
		dev, k := key(t)
		return place{dev, k}
	}
	there := make(map[place]T, len(have))
	for _, t := range have {
		if p := at(t); !d.fresh[p.dev] {
			there[p] = t
		}
	}
	want := make(map[place]bool, len(d.want.Peers))
	add := func(verb, peer string, t *T) Step {
		s := step(t)
		s.Verb, s.Peer = verb, peer
		return s
	}
	for i := range d.want.Peers {
		peer := &d.want.Peers[i]
		all := of(peer)
		for j := range all {
			p := at(all[j])
			want[p] = true
			if old, ok := there[p]; !ok || old != all[j] {
				d.parts = append(d.parts, add("replace", peer.Name, &all[j]))
			}
		}
	}
	for i := range have {
		if p := at(have[i]); !d.fresh[p.dev] && !want[p] {
			d.oldParts = append(d.oldParts, add("delete", "", &have[i]))
		}
	}
}
