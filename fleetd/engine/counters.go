package engine

import (
	"maps"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// Counters are what a Leader has done since it was made, for main to export. In fleet's words: a turn is a reconcile, place and
// handover are attemptscheduleunit, withdraw is unscheduleunit, a conflict or failure is a failed task.
type Counters struct {
	Leading   bool
	Since     time.Time // when the last term began
	Turns     uint64
	Decisions map[fleet.DecisionKind]uint64 // written
	Conflicts uint64                        // decisions not written, because what they were planned on had changed
	Failures  uint64                        // commits that ended the term
	Resyncs   uint64                        // snapshots read because a watch had ended
	Collected uint64                        // unused texts deleted
	Missing   int                           // machines for which the brake is on
}

// Counters returns a copy.
func (l *Leader) Counters() Counters {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counters
	c.Decisions = maps.Clone(c.Decisions)
	return c
}

func (l *Leader) count(f func(*Counters)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.counters)
}
