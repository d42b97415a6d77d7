package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// The brake: when many machines vanish at once, the cause is more likely a network, a store or a power supply than the machines, and to move all
// their units onto the rest would break the rest, too. So nothing is moved away from missing machines then, until enough are back or an
// operator says so. Before enough of them are missed, see doubt.go.
const (
	// brakeLeast: fewer machines never pull the brake. Small clusters must survive the loss of one.
	brakeLeast = 3
	// brakeWindow is what counts as at once, or a machine's time to live, if that is longer. Leases of machines that are lost in one moment end
	// within a third of it.
	brakeWindow = time.Minute
)

// Brake tells what the brake is to be: pulled when at least share percent of all machines have vanished within a short while, and let go when of
// those few enough are missing still. stored is what it is; the same comes back when nothing is to change. Machines that left by themselves do
// not count, nor do those for which an operator has let it go already.
func (s *State) Brake(stored *fleet.Brake, share int) *fleet.Brake {
	if stored != nil {
		still := 0
		for _, id := range stored.Missing {
			if m := s.machines[id]; m == nil || !m.here {
				still++
			}
		}
		// One is what a cluster always copes with.
		if share == 0 || still <= 1 || 3*still < stored.Of {
			stored = nil
		} else if !stored.Resumed {
			return stored
		}
	}
	lost, of := s.lost(stored)
	if share == 0 || !enough(len(lost), of, share) {
		return stored
	}
	missing := make([]fleet.MachineID, len(lost))
	for i, m := range lost {
		missing[i] = m.id
	}
	slices.Sort(missing)
	return &fleet.Brake{Since: s.now, Missing: missing, Of: of}
}

// enough tells whether n machines of so many are enough for the brake.
func enough(n, of, share int) bool { return n >= brakeLeast && 100*n >= share*of }

// lost are the machines that vanished lately and count for the brake, of how many there were. Those that resumed names do not count any more.
func (s *State) lost(resumed *fleet.Brake) (lost []*machine, of int) {
	for m := range s.away {
		if s.vanished(m) && (resumed == nil || !slices.Contains(resumed.Missing, m.id)) {
			lost = append(lost, m)
		}
	}
	return lost, len(s.machines) - len(s.away) + len(lost)
}

// vanished machines are gone, not for long, and nobody said that they would.
func (s *State) vanished(m *machine) bool {
	return !m.here && !m.left && s.now.Sub(m.goneAt) <= max(brakeWindow, m.ttl) && (m.seen || m.moves())
}

// moves tells whether m carries what is moved away when m is gone. Global units stay on machines that are gone for ever.
func (m *machine) moves() bool {
	return slices.ContainsFunc(m.on, func(e entry) bool { return !e.p.handover && !e.p.u.needs.global && e.p.u.needs.machineID == "" })
}

// MostMissing tells whether of the machines that carry units more than half are missing.
func (s *State) MostMissing() bool {
	vital, missing := 0, 0
	for _, m := range s.machines {
		if m.here && len(m.on) > 0 || !m.here && (m.seen || m.moves()) {
			vital++
			if !m.here {
				missing++
			}
		}
	}
	return 2*missing > vital
}

// awaitMost waits, when a term begins and most machines that carry units are missing, until they are back: after an outage of the store all
// registrations may have ended, and the first to be back would get all units.
func (l *Leader) awaitMost(ctx context.Context, state *State, changes <-chan fleet.Changes, wakeCollect func()) error {
	for end := time.Now().Add(l.TTL); state.MostMissing() && time.Now().Before(end); {
		if err := l.takeBurst(ctx, state, changes, true, wakeCollect); err != nil {
			return err
		}
	}
	return nil
}

// Braker is where the brake is stored.
type Braker interface {
	// SetBrake writes the brake, nil deletes it; was is the one planned on. ErrConflict: it is another, or the term is over.
	SetBrake(ctx context.Context, t fleet.Term, was, now *fleet.Brake) error
}

// UseBrake pulls the brake or lets it go, before a turn could move anything. changed: it did.
func (s *State) UseBrake(ctx context.Context, store Braker, term fleet.Term, share int) (now *fleet.Brake, changed bool, err error) {
	now = s.Brake(s.brake, share)
	if now == s.brake {
		return now, false, nil
	}
	err = store.SetBrake(ctx, term, s.brake, now)
	if errors.Is(err, fleet.ErrConflict) {
		// An operator was faster, or the term is over: the watch or the next commit will tell. Nothing is moved until then.
		s.SetBrake(&fleet.Brake{})
		return s.brake, false, nil
	}
	if err == nil {
		s.SetBrake(now)
	}
	return now, err == nil, err
}

// brake is UseBrake, told to people.
func (l *Leader) brake(ctx context.Context, term fleet.Term, state *State) error {
	was := state.brake
	now, changed, err := state.UseBrake(ctx, l.Store, term, l.BrakeShare)
	l.count(func(c *Counters) {
		if c.Missing = 0; now.On() {
			c.Missing = len(now.Missing)
		}
	})
	switch {
	case err != nil || !changed:
	case now.On():
		l.Log.Error("many machines vanished at once: nothing is moved away from them until enough are back, or somebody says fleetctl resume",
			"machines", len(now.Missing), "of", now.Of)
	case was.On():
		l.Log.Info("enough machines are back: units of the others are moved again")
	}
	return err
}
