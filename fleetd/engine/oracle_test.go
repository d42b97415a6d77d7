package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// oracle judges a snapshot by the rules written down a second time, slowly and without any index: what is wrong with where
// units are, and what is wrong with where they are not.
type oracle struct{ fleet.Snapshot }

func (o oracle) wanted(n unit.Name) bool {
	u, ok := o.Units[n]
	return ok && !n.IsTemplate() && u.Target != fleet.Inactive
}

func (o oracle) names() []unit.Name { return slices.Sorted(maps.Keys(o.Units)) }

func (o oracle) fullOn(n unit.Name) []fleet.MachineID {
	var ms []fleet.MachineID
	for k, p := range o.Placements {
		if k.Unit == n && !p.Handover && p.Target != fleet.Inactive {
			ms = append(ms, k.Machine)
		}
	}
	slices.Sort(ms)
	return ms
}

// held tells whether a unit's holder may still have it.
func (o oracle) held(n unit.Name) bool {
	h, ok := o.Holders[n]
	if _, here := o.Machines[h.Machine]; here || !ok {
		return ok
	}
	since, known := o.Gone[h.Machine]
	return !known || o.At.Sub(since) < h.Wait
}

func globbed(gs []unit.Glob, n unit.Name) bool {
	return slices.ContainsFunc(gs, func(g unit.Glob) bool { return g.Match(n) })
}

func (o oracle) conflict(a, b unit.Name) bool {
	x, y := o.Units[a].Needs, o.Units[b].Needs
	port := slices.ContainsFunc(x.Publish, func(p unit.Port) bool {
		return slices.ContainsFunc(y.Publish, func(q unit.Port) bool { return p.Host == q.Host && p.Protocol == q.Protocol })
	})
	return a != b && (port || globbed(x.Conflicts, b) || globbed(y.Conflicts, a))
}

// leads tells whether a move of r may make k move.
func (o oracle) leads(r, k unit.Name, seen map[unit.Name]bool) bool {
	if seen[k] {
		return false
	}
	seen[k] = true
	for _, x := range o.names() {
		n := o.Units[x].Needs
		cause := !n.Global && x != k && globbed(n.Replaces, k) ||
			!o.Units[k].Needs.Global && x != k && slices.Contains(o.Units[k].Needs.MachineOf, x)
		if cause && (x == r || o.leads(r, x, seen)) {
			return true
		}
	}
	return false
}

func (o oracle) replaces(k, r unit.Name) bool {
	n := o.Units[k].Needs
	return k != r && !n.Global && !o.Units[r].Needs.Global && globbed(n.Replaces, r) && !o.leads(r, k, map[unit.Name]bool{})
}

// fits tells why n must not be on m beside what is placed there; "" if it may. Group members come along.
func (o oracle) fits(n unit.Name, m fleet.MachineID, group []unit.Name) string {
	u, host := o.Units[n], o.Machines[m]
	if id := u.Needs.MachineID; id != "" && id != string(m) && id != m.Short() {
		return "machine ID"
	}
	for k, vs := range u.Needs.Metadata {
		if !slices.Contains(vs, host.Metadata[k]) {
			return "metadata"
		}
	}
	if !u.Needs.Global {
		for _, peer := range u.Needs.MachineOf {
			if peer != n && !slices.Contains(group, peer) && (!o.wanted(peer) || !slices.Contains(o.fullOn(peer), m)) {
				return "peer " + string(peer)
			}
		}
	}
	for k, p := range o.Placements {
		if k.Machine != m || k.Unit == n {
			continue
		}
		// Of two globals only the second by name minds: it has to go.
		first := u.Needs.Global && o.Units[k.Unit].Needs.Global && n < k.Unit
		if o.conflict(n, k.Unit) && !first {
			return "conflict with " + string(k.Unit)
		}
		if !p.Handover && p.Target != fleet.Inactive && o.replaces(k.Unit, n) {
			return "replaced by " + string(k.Unit)
		}
	}
	return ""
}

// stays is fits for a unit that is there already: what is leaving does not count.
func (o oracle) stays(n unit.Name, m fleet.MachineID) string {
	rest := oracle{o.Snapshot}
	rest.Placements = maps.Clone(o.Placements)
	maps.DeleteFunc(rest.Placements, func(_ fleet.Key, p fleet.Placement) bool { return p.Target == fleet.Inactive })
	return rest.fits(n, m, nil)
}

// wrong lists what a plan should have put right.
func (o oracle) wrong() []string {
	var bad []string
	add := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for k, p := range o.Placements {
		u := o.Units[k.Unit]
		host, here := o.Machines[k.Machine]
		if p.Target == fleet.Inactive { // being left
			if !o.held(k.Unit) || o.Holders[k.Unit].Machine != k.Machine {
				add("%s is revoked on %s, which does not hold it", k.Unit, k.Machine.Short())
			}
			continue
		}
		if !o.wanted(k.Unit) {
			add("%s is not wanted and placed on %s", k.Unit, k.Machine.Short())
			continue
		}
		why := o.stays(k.Unit, k.Machine)
		if strings.HasPrefix(why, "conflict") || strings.HasPrefix(why, "replaced") {
			add("%s on %s: %s", k.Unit, k.Machine.Short(), why)
		}
		if p.Handover || u.Needs.Global && !here {
			continue
		}
		if p.Target != u.Target {
			add("%s on %s has target %s", k.Unit, k.Machine.Short(), p.Target)
		}
		if here && !host.Leaving && why == "" && p.Hash != u.Hash {
			add("%s on %s has an old text", k.Unit, k.Machine.Short())
		}
		if u.Needs.Global && why != "" {
			add("global %s on %s: %s", k.Unit, k.Machine.Short(), why)
		}
	}
	for _, n := range o.names() {
		if o.wanted(n) {
			o.wrongUnit(n, add)
		}
	}
	slices.Sort(bad)
	return bad
}

func (o oracle) wrongUnit(n unit.Name, add func(string, ...any)) {
	u, fulls := o.Units[n], o.fullOn(n)
	if u.Needs.Global {
		for m, host := range o.Machines {
			if !slices.Contains(fulls, m) && !host.Leaving && o.fits(n, m, nil) == "" {
				add("global %s is missing on %s", n, m.Short())
			}
		}
		return
	}
	if len(fulls) > 1 {
		add("%s is placed on %d machines", n, len(fulls))
		return
	}
	if u.Needs.Exclusive && len(fulls) == 1 && o.held(n) && o.Holders[n].Machine != fulls[0] {
		add("%s is placed on %s, and another machine holds it", n, fulls[0].Short())
	}
	if u.Needs.Exclusive && o.held(n) {
		_, here := o.Machines[o.Holders[n].Machine]
		if !here || len(fulls) == 0 {
			return // to be waited for
		}
	}
	if len(fulls) == 1 {
		host, here := o.Machines[fulls[0]]
		if here && !host.Leaving && o.stays(n, fulls[0]) == "" {
			return
		}
		for _, peer := range u.Needs.MachineOf {
			if peer != n && (!o.wanted(peer) || len(o.fullOn(peer)) == 0) {
				add("%s is placed, its peer %s is not", n, peer)
			}
		}
	}
	for m, host := range o.Machines {
		if !host.Leaving && !host.Cordon && !slices.Contains(fulls, m) && o.fits(n, m, nil) == "" {
			add("%s is not where it may be, and fits on %s", n, m.Short())
		}
	}
}
