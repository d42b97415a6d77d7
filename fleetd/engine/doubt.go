package engine

import (
	"context"
	"math"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// The first machine that is missed may be one of many that vanished with it: their leases end within a third of their time to live, each by
// itself. So before anything is moved away from it the store is asked how long the leases of the others live on. A machine that is alive renews
// each third and has at least two thirds left; one that vanished with the first has at most one. Who has less than half is late. As long as the missing
// and the late together would pull the brake nothing is moved, until each of the late has renewed, and so is alive, or is missed as well.
//
// Who is found to be late after a machine's first answer does not hold that machine's units any more: a store that is too busy to take
// renewals in time delays a move by half a time to live, and does not stop it.

// askAgain is how soon the store is asked once more that did not answer, or of which the end of a lease is yet to be heard.
const askAgain = time.Second

// Doubt decides from which missing machines nothing is moved for now. ask: the store has to be asked how long machines' leases live on; Heard
// or Unheard must follow, and Doubt once more, before the next turn.
func (s *State) Doubt(share int) (ask bool) {
	var lost []*machine
	of := 0
	if share > 0 && !s.brake.On() {
		lost, of = s.lost(s.brake)
	}
	s.keeps = false
	for _, m := range lost {
		switch {
		case of < brakeLeast || !m.moves():
		case enough(len(lost)+s.late(m), of, share):
			m.keep = true
		case m.answered.IsZero():
			m.keep, ask = true, true
		}
		s.keeps = s.keeps || m.keep
	}
	for m := range s.away {
		if m.kept && !m.keep {
			s.pushAllOn(m)
		}
		m.kept, m.keep = m.keep, false
	}
	return ask || s.keeps && !s.now.Before(s.askAt)
}

// late counts the machines that may have vanished together with m.
func (s *State) late(m *machine) (n int) {
	for o := range s.suspects {
		if !o.leaving && (m.answered.IsZero() || !o.late.After(m.answered)) {
			n++
		}
	}
	return n
}

// Heard takes in how long each machine's registration lives on unless it is renewed, of those that are registered, as it was at some moment
// between asked and the present.
func (s *State) Heard(asked time.Time, lives map[fleet.MachineID]time.Duration) {
	s.askAt = s.now.Add(askAgain)
	for m := range s.away {
		if m.answered.IsZero() {
			m.answered = asked
		}
	}
	for id, m := range s.machines {
		if !m.here {
			continue
		}
		left, there := lives[id]
		if !there {
			left = -1 // the watch will tell
		}
		if !m.late.IsZero() && left >= 0 && !before(asked, left, m.ends) {
			s.trust(m) // it has renewed
		}
		if m.late.IsZero() && (left < 0 || left < m.ttl/2) {
			// The store may count whole seconds, and has counted from now at the latest.
			m.late, m.ends = asked, s.now.Add(max(left, 0)+time.Second)
			s.suspects[m] = struct{}{}
		}
		if !m.late.IsZero() && m.ends.After(s.askAt) {
			s.askAt = m.ends // then all of them have ended, or renewed
		}
	}
}

// before tells whether at+d is before t, for a d that may be as long as can be.
func before(at time.Time, d time.Duration, t time.Time) bool {
	return d < math.MaxInt64/2 && at.Add(d).Before(t)
}

// Unheard notes that the store did not answer.
func (s *State) Unheard() { s.askAt = s.now.Add(askAgain) }

// trust ends a suspicion.
func (s *State) trust(m *machine) {
	m.late, m.ends = time.Time{}, time.Time{}
	delete(s.suspects, m)
}

// Known are the machines that are registered, or vanished lately: what the next State of this planner should not forget.
func (s *State) Known() (ids []fleet.MachineID) {
	for id, m := range s.machines {
		if m.here && !m.leaving || m.seen && s.vanished(m) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Remember notes that these machines were here before. Those that are not count as gone from now on.
func (s *State) Remember(known []fleet.MachineID) {
	for _, id := range known {
		s.machine(id).seen = true
	}
}

// doubt is Doubt, with the store asked and people told.
func (l *Leader) doubt(ctx context.Context, state *State) error {
	if !state.Doubt(l.BrakeShare) {
		return nil
	}
	asked, was := time.Now(), len(state.suspects)
	one, cancel := context.WithTimeout(ctx, l.TTL)
	lives, err := l.Store.Lives(one)
	cancel()
	state.SetTime(time.Now())
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		l.Log.Warn("a machine is missed, and the store does not say how others are: nothing is moved away from it until it does, for a minute at most",
			"err", err, "wait", askAgain)
		state.Unheard()
	default:
		state.Heard(asked, lives)
	}
	state.Doubt(l.BrakeShare)
	if state.keeps && err == nil && was == 0 {
		lost, of := state.lost(state.brake)
		l.Log.Info("more machines than are missed may have vanished: nothing is moved until they have renewed their leases or are missed too",
			"missed", len(lost), "late", len(state.suspects), "of", of, "wait", state.askAt.Sub(state.now))
	}
	return nil
}
