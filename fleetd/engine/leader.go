package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
)

// Store is the registry as a planner uses it.
type Store interface {
	Election
	// Snapshot reads everything at one revision.
	Snapshot(ctx context.Context) (fleet.Snapshot, error)
	// Watch delivers what changed after the snapshot, whole revisions in order. Changes with Err are the last.
	Watch(ctx context.Context, s fleet.Snapshot) <-chan fleet.Changes
	// Commit writes decisions whose guards hold, all under the term, and returns the others: those are certainly not written. An error
	// means the term is over or the store failed, and an unknown part was written.
	Commit(ctx context.Context, t fleet.Term, ds []fleet.Decision) (rev int64, conflicts []fleet.Decision, err error)
	// Collect deletes texts that nothing names any more and returns how many.
	Collect(ctx context.Context, t fleet.Term) (int, error)
	Braker
	// Lives tells of each registered machine how long its lease lives on if it is not renewed, up to a second less than that; negative: it has ended.
	Lives(ctx context.Context) (map[fleet.MachineID]time.Duration, error)
}

// Election decides who leads.
type Election interface {
	// Campaign tries once to become leader; ok=false: someone else leads.
	Campaign(ctx context.Context, self fleet.MachineID, version string, ttl time.Duration) (t fleet.Term, ok bool, err error)
	Renew(ctx context.Context, t fleet.Term) error
	Resign(ctx context.Context, t fleet.Term) error
	// WatchLeader wakes when the leader may have changed.
	WatchLeader(ctx context.Context) <-chan struct{}
}

// Config is what a Leader is made of.
type Config struct {
	Self    fleet.MachineID
	Version string        // of this fleetd, for people to read in the registry
	TTL     time.Duration // of the term's lease: how long nobody plans after a leader died
	Store   Store
	Log     *slog.Logger
	// BrakeShare: when so many percent of the machines vanish at once, nothing is moved away from them. 0: it is.
	BrakeShare int
	OnTurn     func(took time.Duration) // told of every turn, for a histogram; may be nil
}

// Leader campaigns, and while it leads, keeps every unit where the rules want it.
type Leader struct {
	Config
	mu       sync.Mutex // guards counters
	counters Counters
}

// NewLeader returns a Leader that does nothing until Run.
func NewLeader(c Config) *Leader {
	return &Leader{Config: c, counters: Counters{Decisions: map[fleet.DecisionKind]uint64{}}}
}

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
	settling   = time.Millisecond // how long a burst of changes may pause and still be one turn
	maxBurst   = 50 * time.Millisecond
	// goneGrace is how long a machine's registration must be gone before its units are moved. An etcd leader that was paused may end
	// leases that others have renewed meanwhile, when it wakes: their machines register anew as soon as they see it.
	goneGrace  = 300 * time.Millisecond
	replanWait = time.Second // after a lost race, if the watch stays silent
)

// Run campaigns and leads until ctx ends, and resigns then. It returns nil: what goes wrong is logged and tried again.
func (l *Leader) Run(ctx context.Context) error {
	changed := l.Store.WatchLeader(ctx)
	back, told := time.Duration(0), ""
	for ctx.Err() == nil {
		term, ok, err := l.Store.Campaign(ctx, l.Self, l.Version, l.TTL)
		if ok {
			l.Log.Info("leads", "machine", l.Self, "rev", term.Rev)
			began := time.Now()
			err = l.lead(ctx, term)
			if time.Since(began) > maxBackoff {
				back = 0 // it went well for a while: this is a new trouble
			}
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			back = min(max(2*back, minBackoff), maxBackoff)
			level := slog.LevelWarn
			if err.Error() == told {
				level = slog.LevelDebug // an outage is one line
			}
			told = err.Error()
			l.Log.Log(ctx, level, "does not lead", "err", err, "wait", back)
			pause.For(ctx, back/2+rand.N(back))
		default:
			back, told = 0, ""
			select {
			case <-ctx.Done():
			case <-changed:
				// All engines of a cluster are woken at once, and one is enough.
				pause.For(ctx, rand.N(l.TTL/20+1))
			}
		}
	}
	return nil
}

// errResync: the watch has lost its place; a new snapshot makes good for it.
var errResync = errors.New("watch ended")

// lead plans until the term ends, and ends it.
func (l *Leader) lead(ctx context.Context, term fleet.Term) error {
	leading, end := context.WithCancelCause(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { end(l.renew(leading, term)) })
	unused := make(chan struct{}, 1)
	wakeCollect := func() {
		select {
		case unused <- struct{}{}:
		default:
		}
	}
	tasks.Go(func() { l.collect(leading, term, unused) })
	l.count(func(c *Counters) { c.Leading, c.Since = true, time.Now() })

	err := errResync
	var known []fleet.MachineID
	for back := minBackoff; errors.Is(err, errResync) && leading.Err() == nil; back = min(2*back, maxBackoff) {
		began := time.Now()
		if err = l.follow(leading, term, &known, wakeCollect); errors.Is(err, errResync) && leading.Err() == nil {
			if time.Since(began) > maxBackoff {
				back = minBackoff
			}
			l.Log.Debug("reads the cluster anew", "err", err, "wait", back)
			l.count(func(c *Counters) { c.Resyncs++ })
			pause.For(leading, back)
		}
	}
	if leading.Err() != nil {
		err = context.Cause(leading)
	}
	end(nil)
	tasks.Wait()
	l.count(func(c *Counters) { c.Leading = false })

	// Also after an error: if the store can be reached, others need not wait for the lease to end.
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.TTL/3)
	defer cancel()
	if resignErr := l.Store.Resign(bye, term); resignErr != nil {
		l.Log.Debug("leaves its term to end by itself", "err", resignErr)
	}
	return err
}

// renew keeps the term's lease alive until ctx ends, or until it cannot be sure of it any more.
func (l *Leader) renew(ctx context.Context, term fleet.Term) error {
	renewed := time.Now()
	wait := l.TTL / 3
	for {
		pause.For(ctx, wait)
		if ctx.Err() != nil {
			return nil
		}
		asked := time.Now()
		try, cancel := context.WithDeadline(ctx, renewed.Add(l.TTL))
		err := l.Store.Renew(try, term)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			renewed, wait = asked, l.TTL/3
		case time.Since(renewed) >= l.TTL*2/3:
			return fmt.Errorf("renew the leader's term: %w", err)
		default:
			wait = l.TTL / 12
		}
	}
}

// follow plans on a snapshot and on all that changes after it. errResync asks for a new snapshot; other errors end the term. known are the machines
// that this term has seen.
func (l *Leader) follow(ctx context.Context, term fleet.Term, known *[]fleet.MachineID, wakeCollect func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	snap, err := l.Store.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	snap.At = time.Now()
	state := NewState(snap)
	state.Remember(*known)
	defer func() { *known = state.Known() }()
	changes := l.Store.Watch(ctx, snap)
	if someGone(snap) {
		if err := l.takeBurst(ctx, state, changes, true, wakeCollect); err != nil {
			return err
		}
		if err := l.awaitMost(ctx, state, changes, wakeCollect); err != nil {
			return err
		}
	}
	snap = fleet.Snapshot{} // let go of it: the state holds what counts
	for {
		lost, err := l.turn(ctx, term, state)
		if err != nil {
			return err
		}
		var again <-chan time.Time
		gone := false
		due := l.due(state)
		if lost {
			// What made a guard fail is on its way through the watch: to plan before it is here would fail the same way.
			again = time.After(replanWait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-again:
			continue
		case <-due:
			continue
		case c, ok := <-changes:
			if gone, err = l.take(state, c, ok, wakeCollect); err != nil {
				return err
			}
		}
		if err := l.takeBurst(ctx, state, changes, gone, wakeCollect); err != nil {
			return err
		}
	}
}

// due wakes when the wait for the machine of an exclusive unit is over; nil: there is none.
func (l *Leader) due(state *State) <-chan time.Time {
	at, any := state.Due()
	if !any {
		return nil
	}
	return time.After(time.Until(at) + time.Millisecond)
}

// someGone tells whether anything is placed on a machine that is not registered.
func someGone(s fleet.Snapshot) bool {
	for k := range s.Placements {
		if _, here := s.Machines[k.Machine]; !here {
			return true
		}
	}
	return false
}

// takeBurst takes in all that comes close together, so that it is planned in one turn. gone: a machine was among it, which may be
// back in a moment.
func (l *Leader) takeBurst(ctx context.Context, state *State, changes <-chan fleet.Changes, gone bool, wakeCollect func()) error {
	wait, most := settling, maxBurst
	if gone {
		wait, most = goneGrace, goneGrace+maxBurst
	}
	limit := time.After(most)
	quiet := time.NewTimer(wait)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limit:
			return nil
		case <-quiet.C:
			return nil
		case c, ok := <-changes:
			more, err := l.take(state, c, ok, wakeCollect)
			if err != nil {
				return err
			}
			if more && !gone {
				return l.takeBurst(ctx, state, changes, true, wakeCollect)
			}
			if !gone {
				quiet.Reset(wait)
			}
		}
	}
}

// take takes changes in; gone tells that a machine is among them that was here.
func (l *Leader) take(state *State, c fleet.Changes, ok bool, wakeCollect func()) (gone bool, err error) {
	if !ok {
		return false, errResync
	}
	if c.Err != nil {
		return false, fmt.Errorf("%w: %w", errResync, c.Err)
	}
	for _, change := range c.Changes {
		if change.Deleted && change.Unit != nil {
			wakeCollect()
		}
		gone = gone || change.Deleted && change.Machine != nil
	}
	state.Apply(time.Now(), c.Changes)
	return gone, nil
}

// turn plans and writes; lost tells that some decisions came too late.
func (l *Leader) turn(ctx context.Context, term fleet.Term, state *State) (lost bool, err error) {
	began := time.Now()
	state.SetTime(began)
	if err := l.brake(ctx, term, state); err != nil {
		return false, fmt.Errorf("plan: %w", err)
	}
	if err := l.doubt(ctx, state); err != nil {
		return false, err
	}
	ds := state.Turn()
	took := time.Since(began)
	if l.OnTurn != nil {
		l.OnTurn(took)
	}
	l.count(func(c *Counters) { c.Turns++ })
	if len(ds) == 0 {
		return false, nil
	}
	_, conflicts, err := l.Store.Commit(ctx, term, ds)
	if err != nil {
		l.count(func(c *Counters) { c.Failures++ })
		return false, fmt.Errorf("write %d decisions: %w", len(ds), err)
	}
	state.Refused(conflicts)
	l.count(func(c *Counters) {
		for _, d := range ds {
			c.Decisions[d.Kind]++
		}
		for _, d := range conflicts {
			c.Decisions[d.Kind]--
		}
		c.Conflicts += uint64(len(conflicts))
	})
	l.tell(ctx, ds, conflicts)
	return len(conflicts) > 0, nil
}

// manyDecisions is from where on a turn is told in one line.
const manyDecisions = 32

func (l *Leader) tell(ctx context.Context, ds, conflicts []fleet.Decision) {
	if len(conflicts) > 0 {
		l.Log.Debug("planned on what has changed meanwhile", "decisions", len(conflicts), "err", fleet.ErrConflict)
	}
	level := slog.LevelInfo
	if len(ds) > manyDecisions {
		l.Log.Info("many decisions", "decisions", len(ds)-len(conflicts))
		level = slog.LevelDebug
	}
	if !l.Log.Enabled(ctx, level) {
		return
	}
	refused := make(map[fleet.Key]bool, len(conflicts))
	for _, d := range conflicts {
		refused[fleet.Key{Machine: d.Machine, Unit: d.Unit}] = true
	}
	for _, d := range ds {
		if refused[fleet.Key{Machine: d.Machine, Unit: d.Unit}] {
			continue
		}
		if d.Kind == fleet.Admit {
			l.Log.Log(ctx, level, string(d.Kind), "machine", d.Machine.Short(), "reason", d.Reason)
			continue
		}
		l.Log.Log(ctx, level, string(d.Kind), "unit", d.Unit, "machine", d.Machine.Short(), "reason", d.Reason)
	}
}

const (
	collectEvery = time.Hour
	collectSoon  = 10 * time.Minute // after a unit was destroyed; reading all names is too much for every time
)

// collect deletes unused texts now and then.
func (l *Leader) collect(ctx context.Context, term fleet.Term, unused <-chan struct{}) {
	next := time.Now().Add(collectEvery)
	for {
		due := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			due.Stop()
			return
		case <-unused:
			due.Stop()
			if soon := time.Now().Add(collectSoon); soon.Before(next) {
				next = soon
			}
			continue
		case <-due.C:
		}
		next = time.Now().Add(collectEvery)
		n, err := l.Store.Collect(ctx, term)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			l.Log.Warn("unused unit texts were not deleted", "err", err)
		case n > 0:
			l.Log.Debug("unused unit texts deleted", "texts", n)
		}
		l.count(func(c *Counters) { c.Collected += uint64(n) })
	}
}
