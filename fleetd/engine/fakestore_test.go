package engine

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// fakeStore is the registry as leaders see it, over a world: leases that end, watches, guarded commits, and the ways in which
// a real one fails.
type fakeStore struct {
	mu       sync.Mutex // guards all below
	t        testing.TB
	world    *world
	watchers map[chan struct{}]*watcher
	campaign map[chan struct{}]bool
	term     fleet.Term
	ends     *time.Timer
	ttl      time.Duration

	ending map[fleet.MachineID]time.Time // leases that are not renewed any more, and when they end
	deaf   bool                          // nobody is told of leases
	asked  int                           // how often somebody asked for them

	commits   int
	collects  int
	down      map[fleet.MachineID]bool // cut off from the store
	beforeTxn func()                   // runs once, before the next commit
	halfway   bool                     // the next commit writes half and then fails
}

type watcher struct {
	pending []fleet.Changes
	wake    chan struct{}
}

var errDown = errors.New("store unavailable")

func newFakeStore(t testing.TB) *fakeStore {
	return &fakeStore{t: t, world: newWorld(), watchers: map[chan struct{}]*watcher{}, campaign: map[chan struct{}]bool{},
		down: map[fleet.MachineID]bool{}, ending: map[fleet.MachineID]time.Time{}}
}

// as is the store as one machine reaches it.
func (f *fakeStore) as(m fleet.MachineID) *reach { return &reach{f, m} }

// do changes the world, and the watches tell it.
func (f *fakeStore) do(change func(w *world)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.world)
	f.publish()
}

func (f *fakeStore) publish() {
	cs := f.world.watch()
	if len(cs) == 0 {
		return
	}
	for _, w := range f.watchers {
		w.pending = append(w.pending, fleet.Changes{Changes: cs, Rev: f.world.Rev})
		poke(w.wake)
	}
	homes := map[fleet.Key]int{}
	for k, p := range f.world.Placements {
		u := f.world.Units[k.Unit]
		if p.Handover || u.Needs.Global {
			continue
		}
		if homes[fleet.Key{Unit: k.Unit}]++; homes[fleet.Key{Unit: k.Unit}] > 1 {
			f.t.Errorf("%s is placed twice at revision %d", k.Unit, f.world.Rev)
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// compact ends all watches, as a store does when they are too far behind.
func (f *fakeStore) compact() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.watchers {
		w.pending = []fleet.Changes{{Err: errors.New("revision compacted")}}
		poke(w.wake)
	}
}

func (f *fakeStore) leader() fleet.MachineID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.term.Machine
}

// endTerm must be called with mu held.
func (f *fakeStore) endTerm() {
	f.term = fleet.Term{}
	f.ends.Stop()
	for c := range f.campaign {
		poke(c)
	}
}

type reach struct {
	*fakeStore
	self fleet.MachineID
}

// enter locks the store for self, or tells that self cannot reach it.
func (r *reach) enter() error {
	r.mu.Lock()
	if r.down[r.self] {
		r.mu.Unlock()
		return errDown
	}
	return nil
}

func (r *reach) Campaign(_ context.Context, self fleet.MachineID, _ string, ttl time.Duration) (fleet.Term, bool, error) {
	if err := r.enter(); err != nil {
		return fleet.Term{}, false, err
	}
	defer r.mu.Unlock()
	if r.term.Rev != 0 {
		return fleet.Term{}, false, nil
	}
	term := fleet.Term{Machine: self, Rev: r.world.next()}
	r.term, r.ttl = term, ttl
	r.ends = time.AfterFunc(ttl, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.term == term {
			r.endTerm()
		}
	})
	return term, true, nil
}

func (r *reach) Renew(_ context.Context, t fleet.Term) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.mu.Unlock()
	if r.term != t {
		return errors.New("lease gone")
	}
	r.ends.Reset(r.ttl)
	return nil
}

func (r *reach) Resign(_ context.Context, t fleet.Term) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.mu.Unlock()
	if r.term == t {
		r.endTerm()
	}
	return nil
}

func (r *reach) WatchLeader(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.campaign[c] = true
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.campaign, c)
	})
	return c
}

func (r *reach) Snapshot(context.Context) (fleet.Snapshot, error) {
	if err := r.enter(); err != nil {
		return fleet.Snapshot{}, err
	}
	defer r.mu.Unlock()
	w := r.world
	return fleet.Snapshot{Rev: w.Rev, Machines: maps.Clone(w.Machines), Units: maps.Clone(w.Units),
		Placements: maps.Clone(w.Placements), Observed: maps.Clone(w.Observed)}, nil
}

// Watch begins with the next change: between a snapshot and its watch the tests change nothing.
func (r *reach) Watch(ctx context.Context, s fleet.Snapshot) <-chan fleet.Changes {
	out := make(chan fleet.Changes)
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Rev != r.world.Rev {
		r.t.Errorf("watch from revision %d, the store is at %d", s.Rev, r.world.Rev)
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	r.watchers[w.wake] = w
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				r.mu.Lock()
				delete(r.watchers, w.wake)
				r.mu.Unlock()
				return
			case <-w.wake:
			}
			r.mu.Lock()
			pending := w.pending
			w.pending = nil
			r.mu.Unlock()
			for _, c := range pending {
				select {
				case <-ctx.Done():
				case out <- c:
				}
			}
		}
	}()
	return out
}

func (r *reach) Commit(_ context.Context, t fleet.Term, ds []fleet.Decision) (int64, []fleet.Decision, error) {
	if err := r.enter(); err != nil {
		return 0, nil, err
	}
	defer r.mu.Unlock()
	r.commits++
	if f := r.beforeTxn; f != nil {
		r.beforeTxn = nil
		f()
	}
	if r.term != t {
		return 0, nil, errors.New("the term is over")
	}
	if r.halfway {
		r.halfway = false
		r.world.commit(ds[:len(ds)/2])
		r.publish()
		return 0, nil, errDown
	}
	refused := r.world.commit(ds)
	r.publish()
	return r.world.Rev, refused, nil
}

// Lives: whoever is registered has just renewed, but for those that a test says are late.
func (r *reach) Lives(context.Context) (map[fleet.MachineID]time.Duration, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	r.asked++
	if r.deaf {
		return nil, errDown
	}
	lives := map[fleet.MachineID]time.Duration{}
	for m := range r.world.Machines {
		lives[m] = 9 * time.Second
		if end, late := r.ending[m]; late {
			lives[m] = time.Until(end)
		}
	}
	return lives, nil
}

func (r *reach) Collect(_ context.Context, t fleet.Term) (int, error) {
	if err := r.enter(); err != nil {
		return 0, err
	}
	defer r.mu.Unlock()
	if r.term != t {
		return 0, errors.New("the term is over")
	}
	r.collects++
	return 1, nil
}

func (r *reach) SetBrake(_ context.Context, t fleet.Term, was, now *fleet.Brake) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.mu.Unlock()
	if r.term != t || (was == nil) != (r.world.Brake == nil) {
		return fleet.ErrConflict
	}
	r.world.next()
	r.world.Brake = now
	c := fleet.Change{Deleted: now == nil, Brake: &fleet.Brake{}}
	if now != nil {
		c.Brake = now
	}
	r.world.changed(c)
	r.publish()
	return nil
}
