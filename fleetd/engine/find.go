package engine

import (
	"slices"
	"strconv"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
)

// find returns the least loaded machine that takes u, or nil.
func (s *State) find(u *record) *machine {
	if u.needs.machineID != "" {
		return s.leastLoaded(u, s.named(u.needs.machineID))
	}
	if len(u.needs.peers) > 0 {
		return s.leastLoaded(u, s.besidePeers(u))
	}
	c := s.classOf(u)
	if !c.private && c.failed == s.widened+1 {
		return nil // an equal unit was told so, and nothing has become freer since
	}
	var mask set // of all machines
	if !c.private {
		s.refresh(c)
		mask = c.mask
	}
	var found *machine
	s.shelves.walk(mask, func(rank int) bool {
		m := s.order[rank]
		if s.mayArrive(u, m, nil).ok() {
			found = m
			return true
		}
		if mask != nil && u.on(m) == nil { // beside its own old copy u is told what others are not
			mask.remove(rank)
		}
		return false
	})
	if found == nil {
		c.failed = s.widened + 1
	}
	return found
}

// leastLoaded picks from a few machines.
func (s *State) leastLoaded(u *record, ms []*machine) *machine {
	var best *machine
	for _, m := range ms {
		if m.open() && (best == nil || m.load < best.load || m.load == best.load && m.id < best.id) && s.mayArrive(u, m, nil).ok() {
			best = m
		}
	}
	return best
}

// named lists the machines that a MachineID means: the full ID, or its first eight characters.
func (s *State) named(id string) []*machine {
	if m := s.machines[fleet.MachineID(id)]; m != nil {
		return []*machine{m}
	}
	if len(id) != 8 {
		return nil
	}
	from, _ := slices.BinarySearchFunc(s.order, id, func(m *machine, id string) int { return strings.Compare(string(m.id), id) })
	to := from
	for to < len(s.order) && strings.HasPrefix(string(s.order[to].id), id) {
		to++
	}
	return s.order[from:to]
}

// besidePeers lists the machines where the first of u's peers is, the first that is not global if there is one.
func (s *State) besidePeers(u *record) []*machine {
	var at []*machine
	for _, name := range u.needs.peers {
		peer := s.units[name]
		if peer == u {
			continue
		}
		if peer == nil || !peer.wanted() {
			return nil
		}
		if peer.needs.global {
			if at == nil {
				for _, p := range peer.places {
					at = append(at, p.m)
				}
			}
			continue
		}
		if full := peer.full(); full != nil {
			return []*machine{full.m}
		}
		return nil
	}
	if at == nil {
		return s.order // its only peer is itself
	}
	return at
}

// returnTo returns the old copy of u that can become the full one again, on the least loaded machine.
func (s *State) returnTo(u *record) *place {
	if len(u.places) == 0 {
		return nil
	}
	var best *place
	for _, h := range u.places {
		if !h.handover || !h.m.here || h.m.leaving {
			continue
		}
		if best != nil && (best.m.load < h.m.load || best.m.load == h.m.load && best.m.id < h.m.id) {
			continue
		}
		if s.mayStay(u, h).ok() && conflict(u, h.m, nil) == nil {
			best = h
		}
	}
	return best
}

// findTogether returns a machine that takes all of a group: one that carries some of them already, else the least loaded.
func (s *State) findTogether(group []*record) *machine {
	if !s.legal(group) {
		return nil
	}
	all := func(m *machine) bool {
		return !slices.ContainsFunc(group, func(v *record) bool {
			h := s.holderOf(v)
			return h != nil && h.m != m || !s.mayArrive(v, m, group).ok()
		})
	}
	var found *machine
	for _, v := range group {
		if p := v.full(); p != nil && all(p.m) && (found == nil || p.m.id < found.id) {
			found = p.m
		}
	}
	if found != nil {
		return found
	}
	s.shelves.walk(nil, func(rank int) bool {
		if all(s.order[rank]) {
			found = s.order[rank]
		}
		return found != nil
	})
	return found
}

// checkGlobal queues every machine that u is or may be placed on.
func (s *State) checkGlobal(u *record) {
	for _, m := range s.order {
		if m.here {
			s.pushSpread(u, m)
		}
	}
	for _, p := range u.places {
		if !p.m.here {
			s.pushSpread(u, p.m)
		}
	}
}

// spread decides on one global unit on one machine. On a machine that is gone it stays as it is, unless it conflicts there.
func (s *State) spread(g *record, m *machine) {
	if !g.wanted() || !g.needs.global {
		return
	}
	if w := s.writing[pair{g, m}]; w != nil && w.turn != s.turn {
		w.deferred = true
		s.held++
		return
	}
	p := g.on(m)
	if p == nil {
		if s.mayArrive(g, m, nil).ok() {
			s.touch(g, m, "global, on "+strconv.Itoa(len(g.places)+1)+" machines now")
			s.attach(g, m, image{hash: g.hash, target: g.target})
			s.arrived(g, m)
		}
		return
	}
	v := s.mayStay(g, p)
	if v.why == gone {
		return
	}
	if !v.ok() {
		s.withdraw(p, v.text(g, m))
		return
	}
	s.update(p, image{hash: g.hash, target: g.target})
}
