package engine

import (
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// An exclusive unit has a holder: the machine that is not known to have let it go. It is placed nowhere else meanwhile. To leave a machine that
// is here, its placement is revoked: the machine stops it, says so by deleting the holder, and then it is withdrawn and placed anew in one
// step. A machine that is gone says nothing: it is waited for until systemd there must have stopped the unit. docs/decisions/0015.

// holder is what the registry holds of a unit's holder.
type holder struct {
	m      *machine
	wait   time.Duration
	rev    int64
	told   bool // the unit was looked at after the wait had ended
	freed  bool // a decision to delete it is on its way
	freeIn bool // and was made in this turn
}

// revoked placements are being left: as old copies that nobody may return to by himself.
func (i image) revoked() bool { return i.target == fleet.Inactive }

// lapsed tells whether h's machine has been gone for so long that the unit cannot run there any more.
func (s *State) lapsed(h *holder) bool { return !h.m.here && s.now.Sub(h.m.goneAt) >= h.wait }

// holderOf returns who may still have u; nil if nobody does, or if u is exclusive no longer.
func (s *State) holderOf(u *record) *holder {
	h := u.holder
	if h == nil || s.lapsed(h) || u.wanted() && !u.needs.exclusive {
		return nil
	}
	return h
}

// SetHolder takes in a holder as it is stored.
func (s *State) SetHolder(f fleet.Holder) {
	u, m := s.record(f.Unit), s.machine(f.Machine)
	s.dropHolder(u)
	u.holder = &holder{m: m, wait: f.Wait, rev: f.Rev}
	m.holds++
	s.holding[u] = struct{}{}
	if !s.loading {
		s.push(check, u)
	}
}

// RemoveHolder notes that a unit has been let go.
func (s *State) RemoveHolder(name unit.Name) {
	u := s.units[name]
	if u == nil || u.holder == nil {
		return
	}
	s.dropHolder(u)
	s.push(check, u)
}

func (s *State) dropHolder(u *record) {
	if u.holder != nil {
		u.holder.m.holds--
		u.holder = nil
		delete(s.holding, u)
	}
}

// SetTime tells what time it is. Units that were waited for come up for the next turn.
func (s *State) SetTime(now time.Time) {
	s.now = now
	for u := range s.holding {
		if h := u.holder; !h.told && s.lapsed(h) {
			h.told = true
			s.push(check, u)
		}
	}
}

// Due is when the next wait for a machine that is gone ends, or the store is to be asked again.
func (s *State) Due() (at time.Time, any bool) {
	if s.keeps {
		at, any = s.askAt, true
	}
	for u := range s.holding {
		h := u.holder
		if h.m.here || h.told {
			continue
		}
		if end := h.m.goneAt.Add(h.wait); !any || end.Before(at) {
			at, any = end, true
		}
	}
	return at, any
}

// SetBrake takes in the brake; nil: it is not pulled. While it is on, what is placed on missing machines stays there.
func (s *State) SetBrake(b *fleet.Brake) {
	was := s.brake.On()
	if s.brake = b; was == b.On() {
		return
	}
	for m := range s.away {
		s.pushAllOn(m)
	}
}

// checkHeld brings the copies of a unit with a holder into order, or of one that is to have one.
func (s *State) checkHeld(u *record) {
	if h := u.holder; h != nil && !h.freed && s.holderOf(u) == nil && !(u.wanted() && u.needs.exclusive) {
		h.freed, h.freeIn = true, true
		s.frees = append(s.frees, u)
	}
	if !u.needs.exclusive && !u.wasExclusive() {
		return
	}
	h, full := s.holderOf(u), u.full()
	for _, p := range u.copies() {
		switch {
		case u.needs.exclusive && u.wanted() && h == nil && full != nil && p != full:
			s.withdraw(p, "exclusive, and on "+full.m.id.Short()) // it was not exclusive before
		case h != nil && p.m != h.m:
			s.withdraw(p, "exclusive, and on "+h.m.id.Short())
		case h == nil && p.revoked() && (u.needs.exclusive || u.needs.global || !u.wanted()):
			s.withdraw(p, "let go")
		}
	}
	if h != nil && h.m.here && u.on(h.m) == nil && !u.wanted() {
		s.recall(u, h.m, unwantedReason(u))
	}
}

// wasExclusive tells whether something is left of a time when u was exclusive, or still is.
func (u *record) wasExclusive() bool {
	return u.holder != nil || slices.ContainsFunc(u.places, func(p *place) bool { return p.revoked() })
}

// recall revokes a unit on a machine where it is not even placed: the machine shall say that it has it no more.
func (s *State) recall(u *record, m *machine, reason string) {
	s.touch(u, m, reason)
	s.attach(u, m, image{hash: u.hash, target: fleet.Inactive, handover: true})
}

// revoke asks a machine to stop an exclusive unit, let it go, and say so.
func (s *State) revoke(p *place, reason string) {
	if p.revoked() {
		return
	}
	s.touch(p.u, p.m, reason)
	hash := p.hash
	if w := s.writing[pair{p.u, p.m}]; w.had {
		hash = w.was.hash
	}
	s.change(p, image{hash: hash, target: fleet.Inactive, handover: true, rev: p.rev})
	if len(p.u.needs.replaces) > 0 {
		s.free(p.m) // it moves nobody away any more
	}
	s.pushFollowers(p.u)
}

// moveHeld moves a unit that has a holder as far as that goes. stays: no machine would take it, so let it be where it is.
func (s *State) moveHeld(u *record, h *holder, reason string) (moved, stays bool) {
	p := u.on(h.m)
	switch {
	case p == nil && s.mayArrive(u, h.m, nil).ok():
		s.moveTo(u, h.m, reason, "held there")
		return true, false
	case p == nil && h.m.here:
		s.recall(u, h.m, "held there, and must not be")
		return false, false
	case p == nil:
		return false, false
	case p.handover && s.mayStay(u, p).ok() && h.m.here && !h.m.leaving && conflict(u, h.m, nil) == nil:
		s.moveTo(u, h.m, reason, "not gone yet")
		return true, false
	}
	if !h.m.here {
		return false, true // until its wait is over
	}
	if s.find(u) != nil {
		s.withdraw(p, reason) // which is undone at the end of the turn, should others have taken the place: see giveUp
	}
	return false, true
}

// need is the wait that u's holder must have on m.
func (u *record) need(m *machine) time.Duration {
	need := fleet.Failover(m.ttl, u.stop)
	if u.holder != nil && u.holder.m == m {
		if !m.here {
			return u.holder.wait // until it is back nothing new starts there
		}
		need = max(need, u.holder.wait) // what an earlier text said may still be running
	}
	return need
}

// mustHold tells whether the holder of a unit that stays on its machine has to be written.
func (s *State) mustHold(u *record, p *place) bool {
	return u.needs.exclusive && p.m.here && (u.holder == nil || u.holder.m != p.m || u.holder.wait < u.need(p.m))
}

// hold adds to a decision what makes its machine the unit's holder.
func (w *write) hold(d *fleet.Decision) {
	h := w.u.holder
	d.Hold = w.u.need(w.m)
	if h != nil {
		d.HolderRev = h.rev
		if h.m != w.m {
			d.HolderGone = h.m.id
		}
	}
}

// freeing turns the holders that nobody needs any more into decisions.
func (s *State) freeing() []fleet.Decision {
	var ds []fleet.Decision
	for _, u := range s.frees {
		if u.holder == nil || !u.holder.freeIn {
			continue
		}
		u.holder.freeIn = false
		ds = append(ds, fleet.Decision{Kind: fleet.Free, Unit: u.name, Machine: u.holder.m.id, UnitRev: u.rev, HolderRev: u.holder.rev,
			MachineRev: u.holder.m.rev, Reason: "not exclusive any more, or gone for " + u.holder.wait.String()})
	}
	s.frees = s.frees[:0]
	return ds
}

// handBack tells whether an old copy is to be the unit's own again: it runs on a machine that is back, and the new one has failed.
func (s *State) handBack(u *record, full *place) *place {
	if u.target != fleet.Launched || !full.seen.failed || full.seen.hash != full.hash || full.rev == 0 || full.seen.order < full.rev {
		return nil
	}
	if s.writing[pair{u, full.m}] != nil {
		return nil
	}
	for _, h := range u.handovers() {
		if !h.revoked() && h.m.here && h.hash == u.hash && h.seen.started && h.seen.hash == h.hash && s.mayStay(u, h).ok() && conflict(u, h.m, nil) == nil {
			return h
		}
	}
	return nil
}
