package engine

import (
	"slices"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// machine returns the machine with that ID, new if need be.
func (s *State) machine(id fleet.MachineID) *machine {
	m := s.machines[id]
	if m == nil {
		m = &machine{id: id, rank: -1, goneAt: s.now}
		s.machines[id] = m
		s.away[m] = struct{}{}
	}
	return m
}

// record returns the unit of that name, new if need be.
func (s *State) record(name unit.Name) *record {
	u := s.units[name]
	if u == nil {
		u = &record{name: name, stem: stemOf(string(name)), template: name.IsTemplate(), needs: s.internNeeds(unit.Needs{})}
		s.units[name] = u
	}
	return u
}

// tidy forgets a unit that nothing speaks of any more.
func (s *State) tidy(u *record) {
	if u.exists || len(u.places) > 0 || u.pending > 0 || u.holder != nil {
		return
	}
	s.rest(u)
	s.dropNeeds(u.needs)
	delete(s.units, u.name)
}

// internNeeds returns the one needs equal to n, with one more user.
func (s *State) internNeeds(n unit.Needs) *needs {
	key := needsKey(n)
	found := s.needs[key]
	if found == nil {
		found = makeNeeds(n)
		found.key = key
		s.needs[key] = found
		for _, g := range found.conflicts {
			if s.conflictGlobs.add(g) {
				s.globGen++
			}
		}
		for _, g := range found.replaces {
			if s.replaceGlobs.add(g) {
				s.globGen++
			}
		}
	}
	found.refs++
	return found
}

func (s *State) dropNeeds(n *needs) {
	if n.refs--; n.refs > 0 {
		return
	}
	delete(s.needs, n.key)
	for _, g := range n.conflicts {
		if s.conflictGlobs.remove(g) {
			s.globGen++
		}
	}
	for _, g := range n.replaces {
		if s.replaceGlobs.remove(g) {
			s.globGen++
		}
	}
}

// changeNeeds gives u other needs: the indexes follow, and whoever shares a machine with u is looked at again.
func (s *State) changeNeeds(u *record, n *needs) {
	old := u.needs
	if old == n {
		s.dropNeeds(n)
		return
	}
	for _, p := range u.places {
		s.drop(p)
	}
	if !slices.Equal(old.peers, n.peers) {
		s.unfollow(u, old.peers)
		for _, peer := range n.peers {
			s.followers[peer] = append(s.followers[peer], u)
		}
	}
	note(s.replacers, u, len(n.replaces) > 0)
	note(s.globals, u, n.global)
	if len(old.replaces)+len(n.replaces) > 0 || len(s.followers[u.name]) > 0 && !slices.Equal(old.peers, n.peers) {
		s.circles = true
	}
	u.needs, u.class = n, nil
	for _, p := range u.places {
		s.take(p)
	}
	s.dropNeeds(old)
	if s.loading {
		return
	}
	for _, p := range u.places {
		s.freeFor(p.m)
		if len(n.conflicts)+len(n.replaces)+len(n.ports) > 0 {
			s.pushAllOn(p.m)
		}
	}
}

func note(set map[*record]struct{}, u *record, in bool) {
	if in {
		set[u] = struct{}{}
	} else {
		delete(set, u)
	}
}

func (s *State) unfollow(u *record, peers []unit.Name) {
	for _, peer := range peers {
		rest := slices.DeleteFunc(s.followers[peer], func(o *record) bool { return o == u })
		if len(rest) == 0 {
			delete(s.followers, peer)
		} else {
			s.followers[peer] = rest
		}
	}
}

// manyPlaces is from where on a unit's placements are found by a map.
const manyPlaces = 8

// attach makes a placement known to its unit and its machine.
func (s *State) attach(u *record, m *machine, i image) *place {
	p := &place{u: u, m: m, image: i}
	if len(s.unplaced) > 0 {
		k := fleet.Key{Machine: m.id, Unit: u.name}
		if o, ok := s.unplaced[k]; ok {
			p.seen = o
			delete(s.unplaced, k)
		}
	}
	u.places = append(u.places, p)
	switch {
	case u.at != nil:
		u.at[m] = p
	case len(u.places) > manyPlaces:
		u.at = make(map[*machine]*place, 2*manyPlaces)
		for _, o := range u.places {
			u.at[o.m] = o
		}
	}
	p.index = len(m.on)
	m.on = append(m.on, entry{stem: u.stem, p: p})
	s.take(p)
	return p
}

// detach forgets a placement; what was observed there is kept.
func (s *State) detach(p *place) {
	s.drop(p)
	last := len(p.m.on) - 1
	p.m.on[p.index] = p.m.on[last]
	p.m.on[p.index].p.index = p.index
	p.m.on[last] = entry{}
	p.m.on = p.m.on[:last]
	i := slices.Index(p.u.places, p)
	p.u.places[i] = p.u.places[len(p.u.places)-1]
	p.u.places[len(p.u.places)-1] = nil
	p.u.places = p.u.places[:len(p.u.places)-1]
	if p.u.at != nil {
		delete(p.u.at, p.m)
	}
	if p.seen != (seen{}) {
		s.unplaced[fleet.Key{Machine: p.m.id, Unit: p.u.name}] = p.seen
	}
	s.tidy(p.u)
}

// change gives a placement other contents.
func (s *State) change(p *place, i image) {
	if p.handover == i.handover {
		p.image = i
		return
	}
	s.drop(p)
	p.image = i
	s.take(p)
}

// take counts a placement into what its machine carries; drop counts it out.
func (s *State) take(p *place) {
	for _, g := range p.u.needs.conflicts {
		p.m.globs = append(p.m.globs, held{g, p})
	}
	for _, t := range p.u.needs.ports {
		p.m.ports = append(p.m.ports, taken{t, p})
	}
	if p.handover {
		return
	}
	if len(p.u.needs.replaces) > 0 {
		p.m.replacers = append(p.m.replacers, p)
	}
	s.unshelve(p.m)
	p.m.load++
	s.shelve(p.m)
}

func (s *State) drop(p *place) {
	if len(p.u.needs.conflicts) > 0 {
		p.m.globs = slices.DeleteFunc(p.m.globs, func(h held) bool { return h.p == p })
	}
	if len(p.u.needs.ports) > 0 {
		p.m.ports = slices.DeleteFunc(p.m.ports, func(t taken) bool { return t.p == p })
	}
	if p.handover {
		return
	}
	if len(p.u.needs.replaces) > 0 {
		p.m.replacers = slices.DeleteFunc(p.m.replacers, func(o *place) bool { return o == p })
	}
	s.unshelve(p.m)
	p.m.load--
	s.shelve(p.m)
}

func (s *State) shelve(m *machine) {
	if m.open() && m.rank >= 0 && m.rank < s.shelves.machines {
		s.shelves.add(m.rank, m.load)
	}
}

func (s *State) unshelve(m *machine) {
	if m.open() && m.rank >= 0 && m.rank < s.shelves.machines {
		s.shelves.remove(m.rank, m.load)
	}
}

// push queues a unit for a phase, once.
func (s *State) push(ph phase, u *record) {
	if u.queued&(1<<ph) == 0 {
		u.queued |= 1 << ph
		s.queue.push(item{phase: ph, u: u})
	}
}

func (s *State) pushSpread(g *record, m *machine) {
	if !s.loading {
		s.queue.push(item{phase: spread, u: g, m: m})
	}
}

func (s *State) pushFollowers(u *record) {
	for _, f := range s.followers[u.name] {
		s.push(check, f)
	}
}

// reconsider queues all that may come to, or go from, a machine that changed.
func (s *State) reconsider(m *machine) {
	s.freeFor(m)
	s.pushAllOn(m)
}

// freeFor notes that m may now take units it refused before, global ones too.
func (s *State) freeFor(m *machine) {
	s.free(m)
	for g := range s.globals {
		s.pushSpread(g, m)
	}
}

// pushAllOn queues whatever is placed on m.
func (s *State) pushAllOn(m *machine) {
	if s.loading {
		return
	}
	for _, e := range m.on {
		s.pushOn(e.p)
	}
}

func (s *State) pushOn(p *place) {
	if p.u.needs.global {
		s.pushSpread(p.u, p.m)
	} else {
		s.push(check, p.u)
	}
}
