package engine

import (
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/unit"
)

// why says in one word what keeps a unit off a machine; the zero value: nothing does.
type why int

const (
	fits why = iota
	gone
	leaving
	cordoned
	otherID
	otherMetadata
	peerElsewhere
	conflicting
	replaced
)

// verdict is one machine's answer to one unit. It is a value without text, because most of them are never read.
type verdict struct {
	why why
	who unit.Name // the peer, the unit in conflict, the replacer
	key int       // which of the unit's metadata wishes
}

func (v verdict) ok() bool { return v.why == fits }

// hard verdicts concern units that must not run together: the copy on that machine goes at once.
func (v verdict) hard() bool { return v.why == conflicting || v.why == replaced }

// text explains the verdict to people.
func (v verdict) text(u *record, m *machine) string {
	switch v.why {
	case gone:
		return "machine " + m.id.Short() + " gone"
	case leaving:
		return "machine " + m.id.Short() + " is leaving"
	case cordoned:
		return "cordoned"
	case otherID:
		return "machine ID " + u.needs.machineID + " wanted"
	case otherMetadata:
		w := u.needs.metadata[v.key]
		want := "metadata " + w.key + "=" + strings.Join(w.values, " or ") + " wanted, machine has "
		if have, ok := m.metadata[w.key]; ok {
			return want + w.key + "=" + have
		}
		return want + "no " + w.key
	case peerElsewhere:
		return "peer " + string(v.who) + " is not placed there"
	case conflicting:
		if p, ok := portOf(u, m, v.who); ok {
			return "port " + p.String() + " is published there by " + string(v.who)
		}
		return "conflicts with " + string(v.who) + " placed there"
	case replaced:
		return "replaced by " + string(v.who) + " placed there"
	}
	return ""
}

// mayArrive tells whether m takes u now. The units of group count as being there already: they come along.
func (s *State) mayArrive(u *record, m *machine, group []*record) verdict {
	switch {
	case !m.here:
		return verdict{why: gone}
	case m.leaving:
		return verdict{why: leaving}
	case m.cordon && !u.needs.global:
		return verdict{why: cordoned}
	}
	if v := suits(u, m); !v.ok() {
		return v
	}
	if v := s.peersThere(u, m, group); !v.ok() {
		return v
	}
	if other := conflict(u, m, nil); other != nil {
		return verdict{why: conflicting, who: other.name}
	}
	return s.replacedOn(u, m)
}

// mayStay tells whether m may go on carrying u, whose placement there is p. What forbids it at once is asked first.
func (s *State) mayStay(u *record, p *place) verdict {
	if other := conflict(u, p.m, p); other != nil {
		return verdict{why: conflicting, who: other.name}
	}
	if v := s.replacedOn(u, p.m); !v.ok() {
		return v
	}
	switch {
	case !p.m.here && (s.brake.On() || p.m.kept):
		return verdict{} // it may be back with many others
	case !p.m.here:
		return verdict{why: gone}
	case p.m.leaving && !u.needs.global:
		return verdict{why: leaving}
	}
	if v := suits(u, p.m); !v.ok() {
		return v
	}
	return s.peersThere(u, p.m, nil)
}

// suits looks at what the machine is, not at what it carries.
func suits(u *record, m *machine) verdict {
	n := u.needs
	if id := n.machineID; id != "" && id != string(m.id) && (len(id) != 8 || id != m.id.Short()) {
		return verdict{why: otherID}
	}
	for i, w := range n.metadata {
		have, ok := m.metadata[w.key]
		if !ok || !slices.Contains(w.values, have) {
			return verdict{why: otherMetadata, key: i}
		}
	}
	return verdict{}
}

func (s *State) peersThere(u *record, m *machine, group []*record) verdict {
	for _, name := range u.needs.peers {
		peer := s.units[name]
		if peer != nil && (peer == u || slices.Contains(group, peer)) {
			continue
		}
		if peer == nil || !peer.wanted() {
			return verdict{why: peerElsewhere, who: name}
		}
		if p := peer.on(m); p == nil || p.handover {
			return verdict{why: peerElsewhere, who: name}
		}
	}
	return verdict{}
}

// peerNowhere returns the first of u's peers that no machine carries.
func (s *State) peerNowhere(u *record) (unit.Name, bool) {
	for _, name := range u.needs.peers {
		peer := s.units[name]
		if peer == u {
			continue
		}
		if peer == nil || !peer.wanted() || peer.full() == nil {
			return name, true
		}
	}
	return "", false
}

// conflict returns a unit on m that must not be there together with u, the first by name: by Conflicts, or because both publish one
// port. Old copies count: they still run.
// With own, u's placement on m, only those count that u has to give way to. A global unit does not mind another one that will
// give way to it.
func conflict(u *record, m *machine, own *place) *record {
	var first *record
	found := func(p *place) {
		if p.u == u || !p.u.wanted() || own != nil && !yields(own, p) || own == nil && outranks(u, p.u) {
			return // a unit that is not wanted is being withdrawn
		}
		if first == nil || p.u.name < first.name {
			first = p.u
		}
	}
	for _, g := range u.needs.conflicts {
		for _, e := range m.on {
			if (g.stem == 0 || g.stem == e.stem) && g.pattern.Match(e.p.u.name) {
				found(e.p)
			}
		}
	}
	for _, h := range m.globs {
		if (h.stem == 0 || h.stem == u.stem) && h.pattern.Match(u.name) {
			found(h.p)
		}
	}
	for _, t := range m.ports {
		if slices.Contains(u.needs.ports, t.port) {
			found(t.p)
		}
	}
	return first
}

// portOf returns a port that u publishes and the unit of that name has on m.
func portOf(u *record, m *machine, name unit.Name) (port, bool) {
	for _, t := range m.ports {
		if t.p.u.name == name && slices.Contains(u.needs.ports, t.port) {
			return t.port, true
		}
	}
	return port{}, false
}

// clash tells whether two units must not be on one machine.
func clash(a, b *record) bool {
	return matchesAny(a.needs.conflicts, b) || matchesAny(b.needs.conflicts, a) ||
		slices.ContainsFunc(a.needs.ports, func(p port) bool { return slices.Contains(b.needs.ports, p) })
}

// outranks tells whether a wins over b on every machine where both would be: of global units the first by name does, whichever
// came first. By time, hosts that join would carry others than those that were there.
func outranks(a, b *record) bool { return a.needs.global && b.needs.global && a.name < b.name }

// yields tells which of two conflicting placements on one machine goes: the global unit that is outranked, else the old copy before the
// full one, then the unit written last, for its writer brought the conflict about.
func yields(a, b *place) bool {
	if a.u.needs.global && b.u.needs.global {
		return outranks(b.u, a.u)
	}
	if a.handover != b.handover {
		return a.handover
	}
	if a.u.rev != b.u.rev {
		return a.u.rev > b.u.rev
	}
	return a.u.name > b.u.name
}

// replacedOn tells whether a unit on m moves u away from there.
func (s *State) replacedOn(u *record, m *machine) verdict {
	if u.needs.global {
		return verdict{}
	}
	var first unit.Name
	for _, k := range m.replacers {
		if s.replaces(k.u, u) && (first == "" || k.u.name < first) {
			first = k.u.name
		}
	}
	if first == "" {
		return verdict{}
	}
	return verdict{why: replaced, who: first}
}

// replaces tells whether k moves r away. It does not when r's own move would make k move in turn, directly (they replace each
// other) or through others: such a circle would never come to rest.
func (s *State) replaces(k, r *record) bool {
	return k != r && k.wanted() && matchesAny(k.needs.replaces, r) && !s.movedBy(k, r)
}

func matchesAny(gs []glob, u *record) bool {
	return slices.ContainsFunc(gs, func(g glob) bool { return g.matches(u) })
}

// movedBy tells whether a move of r can lead to a move of k: k follows it, or is replaced by it, at any number of steps.
func (s *State) movedBy(k, r *record) bool {
	done := map[*record]bool{k: true}
	for next := []*record{k}; len(next) > 0; {
		u := next[len(next)-1]
		next = next[:len(next)-1]
		causes := s.causes(u)
		for _, c := range causes {
			if c == r {
				return true
			}
			if !done[c] {
				done[c] = true
				next = append(next, c)
			}
		}
	}
	return false
}

// causes lists the units whose move may move u: its peers and its replacers.
func (s *State) causes(u *record) []*record {
	var cs []*record
	for _, name := range u.needs.peers {
		if peer := s.units[name]; peer != nil && peer.exists && peer != u {
			cs = append(cs, peer)
		}
	}
	for k := range s.replacers {
		if k != u && matchesAny(k.needs.replaces, u) {
			cs = append(cs, k)
		}
	}
	return cs
}

// circle returns the units that must be placed together with u because they name each other in MachineOf, directly or
// through others, u among them, by name; nil when there is no such circle.
func (s *State) circle(u *record) []*record {
	var group []*record
	for _, v := range s.followed(u) {
		if v == u || slices.Contains(s.followed(v), u) {
			group = append(group, v)
		}
	}
	if len(group) < 2 {
		return nil
	}
	slices.SortFunc(group, func(a, b *record) int { return strings.Compare(string(a.name), string(b.name)) })
	return group
}

// followed lists what u follows, at any number of steps; u itself only if the way leads back to it.
func (s *State) followed(u *record) []*record {
	var all []*record
	for i, v := -1, u; ; v = all[i] {
		for _, name := range v.needs.peers {
			if peer := s.units[name]; peer != nil && peer.exists && peer != v && !slices.Contains(all, peer) {
				all = append(all, peer)
			}
		}
		if i++; i >= len(all) {
			return all
		}
	}
}

// legal tells whether the units of a group may be on one machine at all.
func (s *State) legal(group []*record) bool {
	for _, a := range group {
		if !a.wanted() || a.needs.global || s.putOff(a) {
			return false
		}
		for _, b := range group {
			if a != b && clash(a, b) {
				return false
			}
		}
	}
	return true
}
