package engine

import "github.com/fleet-init/fleet/internal/fleet"

// retire turns a full placement into an old copy. One that is not to run any more, or was never written, goes at once.
func (s *State) retire(p *place, reason string) {
	if p.u.needs.exclusive {
		s.withdraw(p, reason) // two copies are never
		return
	}
	w := s.writing[pair{p.u, p.m}]
	fresh := w != nil && w.turn == s.turn && !w.had
	if p.u.target != fleet.Launched || p.target != fleet.Launched || fresh {
		s.withdraw(p, reason)
		return
	}
	s.touch(p.u, p.m, reason)
	was := p.image
	if w := s.writing[pair{p.u, p.m}]; w.had {
		was = w.was // an update of this very turn is not wanted on the old copy
	}
	was.handover = true
	s.change(p, was)
	if len(p.u.needs.replaces) > 0 {
		s.free(p.m) // an old copy moves nobody away
	}
	if other := conflict(p.u, p.m, p); other != nil {
		s.withdraw(p, "conflicts with "+string(other.name)+" placed there") // as an old copy it is the one that gives way
	}
	s.pushFollowers(p.u)
}

// withdraw deletes a placement.
func (s *State) withdraw(p *place, reason string) {
	u, m, full := p.u, p.m, !p.handover
	if h := s.holderOf(u); h != nil && h.m == m {
		s.revoke(p, reason)
		return
	}
	s.touch(u, m, reason)
	s.detach(p)
	s.free(m)
	if full {
		s.pushFollowers(u)
	}
	for g := range s.globals {
		if g.on(m) == nil && clash(g, u) {
			s.pushSpread(g, m)
		}
	}
}

func (s *State) withdrawAll(u *record, reason string) {
	for _, p := range u.copies() {
		s.withdraw(p, reason)
	}
}

// update gives a placement the contents now, as a full one.
func (s *State) update(p *place, now image) {
	now.rev = p.rev
	if p.image == now {
		return
	}
	reason := "text " + shortHash(string(now.hash))
	switch {
	case p.handover:
		reason = "handed back"
	case p.hash == now.hash:
		reason = "target state " + string(now.target)
	}
	s.touch(p.u, p.m, reason)
	arrives := p.handover
	s.change(p, now)
	if arrives {
		s.arrived(p.u, p.m)
	}
}

func shortHash(h string) string { return h[:min(len(h), 7)] }
