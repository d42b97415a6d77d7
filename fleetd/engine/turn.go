package engine

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/fleet-init/fleet/internal/fleet"
)

// maxMoves is how often one turn moves one unit. The rules make more than two steps impossible as far as we know; a mistake in
// them shall cost a unit its best place, not the cluster its planner.
const maxMoves = 8

// Turn plans for all that has changed since the last one. Decisions are in the order in which they are to be written.
func (s *State) Turn() []fleet.Decision {
	s.turn++
	s.held = 0
	s.prepare()
	s.queue.start()
	for {
		it, ok := s.queue.peek()
		if s.woken != s.widened && (!ok || it.phase > check) {
			// Only now: what the checks free is there for all, whatever its name.
			s.wake()
			continue
		}
		if !ok {
			break
		}
		s.queue.pop()
		it.u.queued &^= 1 << it.phase
		switch it.phase {
		case check:
			s.check(it.u)
		case move:
			s.move(it.u)
		case spread:
			s.spread(it.u, it.m)
		case giveUp:
			s.giveUp(it.u)
		}
	}
	s.queue.stop()
	return s.decisions()
}

// prepare queues what changes of a kind that concerns many have made doubtful.
func (s *State) prepare() {
	if s.renumber {
		s.number()
	}
	if s.circles {
		s.circles = false
		for k := range s.replacers {
			for _, p := range k.places {
				s.pushAllOn(p.m)
			}
		}
		s.pushWaiting()
	}
	if s.sortedGen != s.globGen {
		s.sortedGen = s.globGen
		s.pushWaiting()
	}
	for u := range s.holding {
		if u.wanted() && len(u.places) > 0 && u.full() == nil {
			s.push(giveUp, u) // it is leaving for a place that others may have taken meanwhile
		}
	}
	for i, it := range s.queue.sorted {
		// A unit without any copy has nothing to check.
		if u := it.u; it.phase == check && len(u.places) == 0 && u.holder == nil && u.queued&(1<<move) == 0 && u.wanted() && !u.needs.global {
			u.queued = u.queued&^(1<<check) | 1<<move
			s.queue.sorted[i].phase = move
		}
	}
}

func (s *State) pushWaiting() {
	for c := range s.waiting {
		for _, u := range c.waiting {
			if u.waits == c {
				s.push(move, u)
			}
		}
	}
}

// unconfirmed units have writes of earlier turns under way.
func (s *State) unconfirmed(u *record) bool { return u.pending > 0 && u.planned != s.turn }

// putOff tells that u must wait for its writes to be confirmed; it comes up again then.
func (s *State) putOff(u *record) bool {
	if !s.unconfirmed(u) {
		return false
	}
	u.deferred = true
	s.held++
	return true
}

// check looks at a unit where it is.
func (s *State) check(u *record) {
	if u.wanted() && u.needs.global {
		if u.wasExclusive() {
			if s.putOff(u) {
				return
			}
			s.checkHeld(u)
		}
		s.rest(u)
		s.checkGlobal(u)
		return
	}
	if s.putOff(u) {
		return
	}
	s.checkHeld(u)
	if !u.wanted() {
		s.rest(u)
		s.withdrawAll(u, unwantedReason(u))
		s.tidy(u)
		return
	}
	full := u.full()
	if len(u.places) > 1 || full == nil {
		s.checkCopies(u, full)
	}
	if full == nil {
		s.push(move, u)
		return
	}
	v := s.mayStay(u, full)
	if v.ok() {
		s.settle(u, full)
		return
	}
	if v.hard() {
		s.withdraw(full, v.text(u, full.m))
	}
	s.push(move, u)
}

func unwantedReason(u *record) string {
	switch {
	case !u.exists:
		return "unit destroyed"
	case u.template:
		return "templates are not placed"
	}
	return "target state is inactive"
}

// checkCopies withdraws old copies that must not run where they are, and makes old copies of full placements that are one too
// many (a unit that was global until now).
func (s *State) checkCopies(u *record, full *place) {
	for _, p := range u.copies() {
		if p == full {
			continue
		}
		if v := s.mayStay(u, p); v.hard() {
			s.withdraw(p, v.text(u, p.m))
		} else if p.revoked() && full != nil && s.holderOf(u) == nil {
			s.withdraw(p, "let go")
		} else if !p.handover {
			s.retire(p, "runs on "+full.m.id.Short()+" only")
		}
	}
}

// settle is for a unit that stays on its machine: new contents are put there, and handovers end once it runs.
func (s *State) settle(u *record, full *place) {
	s.rest(u)
	s.update(full, image{hash: u.hash, target: u.target})
	if s.mustHold(u, full) {
		s.touch(u, full.m, "exclusive")
	}
	if old := s.handBack(u, full); old != nil {
		s.moveTo(u, old.m, "failed there, and runs on "+old.m.id.Short(), "its old copy runs there, and the new one has failed")
		return
	}
	s.endHandovers(u, full)
}

// endHandovers withdraws the old copies once the unit runs where it shall.
func (s *State) endHandovers(u *record, full *place) {
	if len(u.places) == 1 || u.target == fleet.Launched && !s.runs(full) {
		return
	}
	for _, h := range u.handovers() {
		s.withdraw(h, "runs on "+full.m.id.Short()+" now")
	}
}

// runs tells whether a copy was observed to be as its placement wants it. A placement that is not written yet nobody can have seen.
func (s *State) runs(p *place) bool {
	stored := p.image
	if w := s.writing[pair{p.u, p.m}]; w != nil {
		if !w.had || !p.same(w.was) {
			return false
		}
		stored.rev = w.was.rev
	}
	return p.seen.running(stored)
}

// move finds a machine for a unit that has none, or may not stay where it is.
func (s *State) move(u *record) {
	if !u.wanted() || u.needs.global || s.putOff(u) {
		s.leaveClass(u)
		return
	}
	full, reason := u.full(), ""
	if full != nil {
		v := s.mayStay(u, full)
		if v.ok() {
			s.leaveClass(u)
			s.settle(u, full)
			return
		}
		reason = v.text(u, full.m)
		if v.hard() {
			s.withdraw(full, reason)
		}
	}
	stays := true
	if h := s.holderOf(u); h != nil && u.needs.exclusive {
		var moved bool
		if moved, stays = s.moveHeld(u, h, reason); moved {
			return
		}
		s.leaveClass(u) // what woke it up is of no use to it, and may be to others
	} else if (u.moved != s.turn || u.moves < maxMoves) && s.moveSomewhere(u, reason) {
		return
	}
	s.wait(u)
	if len(u.places) > 0 && stays {
		s.push(giveUp, u)
	}
}

// leaveClass ends u's wait and passes the turn on: only one unit of a class is woken, and it did not use what woke it up.
func (s *State) leaveClass(u *record) {
	c := u.waits
	if c == nil {
		return
	}
	s.rest(u)
	if next := c.next(); next != nil {
		s.push(move, next)
	}
}

// moveSomewhere takes the best machine there is: first where an old copy still runs, for then nothing restarts.
func (s *State) moveSomewhere(u *record, reason string) bool {
	if h := s.returnTo(u); h != nil {
		s.moveTo(u, h.m, reason, "its old copy is still there")
		return true
	}
	if group := s.circle(u); group != nil {
		if m := s.findTogether(group); m != nil {
			for _, v := range group {
				s.moveTo(v, m, reason, "together with the "+strconv.Itoa(len(group))+" units that name each other")
			}
			return true
		}
	}
	m := s.find(u)
	if m == nil {
		return false
	}
	s.moveTo(u, m, reason, s.placeReason(u, m))
	return true
}

func (s *State) placeReason(u *record, m *machine) string {
	switch {
	case u.needs.machineID != "":
		return "machine ID " + u.needs.machineID + " wanted"
	case len(u.needs.peers) > 0:
		return "follows " + string(u.needs.peers[0])
	}
	for len(s.texts) <= m.load {
		s.texts = append(s.texts, "least loaded ("+strconv.Itoa(len(s.texts))+" units)")
	}
	return s.texts[m.load]
}

// moveTo makes m the unit's machine. What it leaves behind becomes an old copy, if that shall and may run on.
func (s *State) moveTo(u *record, m *machine, leaves, arrives string) {
	if u.moved != s.turn {
		u.moved, u.moves = s.turn, 0
	}
	u.moves++
	now := image{hash: u.hash, target: u.target}
	for full := u.full(); full != nil && full.m != m; full = u.full() {
		s.retire(full, leaves)
	}
	if p := u.on(m); p != nil {
		s.update(p, now)
		if w := s.writing[pair{u, m}]; w != nil && w.turn == s.turn {
			w.reason = arrives
		}
	} else {
		s.touch(u, m, arrives)
		s.attach(u, m, now)
	}
	s.leaveClass(u) // the machine may take more of them
	if len(u.places) > 1 {
		s.push(check, u) // the old copies may go already
	}
	s.arrived(u, m)
}

// arrived queues whom a new full placement concerns: followers, and those whom the unit moves away.
func (s *State) arrived(u *record, m *machine) {
	s.pushFollowers(u)
	if u.needs.global {
		for _, e := range m.on {
			if o := e.p.u; outranks(u, o) && clash(u, o) {
				s.pushOn(e.p)
			}
		}
	}
	for _, g := range u.needs.replaces {
		for _, e := range m.on {
			if e.p.u != u && g.matches(e.p.u) {
				s.pushOn(e.p)
			}
		}
	}
}

// giveUp is for a unit with copies that no machine takes. It stays as it is, so that nothing restarts when its machine comes
// back; only what the user wants stopped is stopped. Without its peers it does not stay.
func (s *State) giveUp(u *record) {
	if !u.wanted() || u.needs.global || s.putOff(u) {
		return
	}
	full := u.full()
	if full != nil && s.mayStay(u, full).ok() {
		s.settle(u, full)
		return
	}
	if peer, ok := s.peerNowhere(u); ok {
		s.withdrawAll(u, "peer "+string(peer)+" is not placed")
		s.wait(u)
		return
	}
	if full == nil {
		if u.needs.exclusive && s.holderOf(u) != nil && s.find(u) != nil {
			return // it is leaving, and that machine still takes it
		}
		hs := slices.DeleteFunc(u.handovers(), func(p *place) bool { return p.revoked() && s.mayStay(u, p).hard() })
		if len(hs) == 0 {
			return
		}
		full = hs[0]
		s.update(full, image{hash: full.hash, target: u.target})
		s.pushAllOn(full.m) // an old copy beside it that conflicts gives way to a full one
	}
	now := image{hash: u.hash, target: u.target}
	if v := s.mayStay(u, full); v.why == otherID || v.why == otherMetadata {
		now.hash = full.hash // the new text forbids this machine
	}
	s.update(full, now)
	// It stays where it may not be, but on one machine only.
	s.endHandovers(u, full)
}

// touch notes that this turn changes a pair, and how the pair was before.
func (s *State) touch(u *record, m *machine, reason string) {
	k := pair{u, m}
	if w := s.writing[k]; w != nil {
		w.reason = reason
		return
	}
	w := &write{pair: k, turn: s.turn, reason: reason}
	if p := u.on(m); p != nil {
		w.had, w.was = true, p.image
	}
	s.writing[k] = w
	s.touched = append(s.touched, w)
	u.pending++
	u.planned = s.turn
	m.pending++
}

// decisions turns what this turn touched into what is to be written, and admits the machines that were planned for.
func (s *State) decisions() []fleet.Decision {
	ds := make([]fleet.Decision, 0, len(s.touched)+len(s.admit))
	for _, w := range s.touched {
		d, any := w.decision()
		if p := w.u.on(w.m); p != nil && !p.handover && w.u.needs.exclusive && (any && d.Kind == fleet.Place || s.mustHold(w.u, p)) {
			if w.hold(&d); !any {
				d.Kind, d.Hash, d.Target, any = fleet.Update, p.hash, p.target, true
			}
		}
		if any {
			ds = append(ds, d)
			continue
		}
		delete(s.writing, w.pair)
		w.u.pending--
		w.m.pending--
		s.tidy(w.u)
	}
	ds = append(ds, s.freeing()...)
	if cap(s.touched) > 1<<16 {
		s.touched = nil
	}
	clear(s.touched)
	s.touched = s.touched[:0]
	if s.held > 0 {
		return ds // a machine is admitted when all its units have been planned
	}
	return append(ds, s.admissions()...)
}

func (s *State) admissions() []fleet.Decision {
	var ds []fleet.Decision
	for m := range s.admit {
		if m.here && m.admitted != m.rev {
			m.admitted = m.rev
			ds = append(ds, fleet.Decision{Kind: fleet.Admit, Machine: m.id, MachineRev: m.rev,
				Reason: strconv.Itoa(m.load) + " units planned for it"})
		}
	}
	clear(s.admit)
	slices.SortFunc(ds, func(a, b fleet.Decision) int { return cmp.Compare(a.Machine, b.Machine) })
	return ds
}

// decision compares a pair with what it was.
func (w *write) decision() (d fleet.Decision, any bool) {
	p := w.u.on(w.m)
	d = fleet.Decision{Unit: w.u.name, Machine: w.m.id, Rev: w.was.rev, UnitRev: w.u.rev, MachineRev: w.m.rev, Reason: w.reason}
	switch {
	case p == nil && !w.had:
		return d, false
	case p == nil:
		d.Kind = fleet.Withdraw
		return d, true
	case w.had && p.same(w.was):
		p.rev = w.was.rev
		return d, false
	case p.revoked():
		d.Kind = fleet.Revoke
	case p.handover:
		d.Kind = fleet.Handover
	case !w.had || w.was.handover:
		d.Kind = fleet.Place
	default:
		d.Kind = fleet.Update
	}
	d.Hash, d.Target = p.hash, p.target
	return d, true
}
