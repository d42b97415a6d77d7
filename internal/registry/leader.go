package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// Term is fleet.Term: the engine speaks of it too, without knowing the registry. Its Lease is a kv.LeaseID.
type Term = fleet.Term

// Leader tells who leads, by the leader key, and since which revision; ok=false when nobody does.
func (r *Registry) Leader(ctx context.Context) (m fleet.MachineID, rev int64, ok bool, err error) {
	cur, rec, err := r.leader(ctx)
	if err != nil || cur == nil {
		return "", 0, false, err
	}
	return rec.Machine, cur.Create, true, nil
}

// leader reads the leader key; nil when there is none. A record that cannot be read still is somebody's.
func (r *Registry) leader(ctx context.Context) (*kv.KV, leaderRecord, error) {
	found, err := r.read(ctx, []string{r.leaderKey()})
	if err != nil {
		return nil, leaderRecord{}, storeErr("read leader", err)
	}
	cur := found[r.leaderKey()]
	if cur == nil {
		return nil, leaderRecord{}, nil
	}
	rec, err := decode[leaderRecord](cur.Value)
	if err != nil {
		r.unreadable(*cur, err)
	}
	return cur, rec, nil
}

// Campaign tries once to become leader on a lease of ttl. ok=false: someone else leads. A term that this machine left behind, by
// a fleetd that was killed, is ended first: nobody but self may call with its machine ID.
func (r *Registry) Campaign(ctx context.Context, self fleet.MachineID, version string, ttl time.Duration) (t Term, ok bool, err error) {
	// Read before a lease is made: most campaigns meet a leader, and a lease is a write.
	cur, rec, err := r.leader(ctx)
	if err != nil {
		return Term{}, false, err
	}
	if cur != nil {
		if rec.Machine != self || cur.Lease == 0 || rec.Pause {
			return Term{}, false, nil
		}
		// The key must go and be made anew, so that whatever the old process still has on its way fails on the create revision.
		if err := r.store.Revoke(ctx, cur.Lease); err != nil {
			return Term{}, false, storeErr("end own earlier term", err)
		}
	}
	return r.beginTerm(ctx, leaderRecord{Machine: self, Version: version}, ttl)
}

// beginTerm makes the leader key; ok=false: it is there.
func (r *Registry) beginTerm(ctx context.Context, rec leaderRecord, ttl time.Duration) (t Term, ok bool, err error) {
	lease, _, err := r.store.Grant(ctx, ttl)
	if err != nil {
		return Term{}, false, storeErr("campaign", err)
	}
	key := r.leaderKey()
	rev, ok, err := r.store.Txn(ctx, []kv.Guard{{Key: key, Kind: kv.Missing}}, []kv.Op{{Key: key, Value: encode(rec), Lease: lease}})
	if err != nil || !ok {
		r.giveBack(ctx, lease)
		if err != nil {
			err = storeErr("campaign", err)
		}
		return Term{}, false, err
	}
	return Term{Machine: rec.Machine, Lease: int64(lease), Rev: rev}, true, nil
}

// HoldPlans ends the leader's term and begins one in which nobody plans, on a lease of ttl: until that ends, or Resign, no engine writes anything, for
// the guards of all that the old leader still has on its way fail. fleet.ErrConflict: others were faster each time.
func (r *Registry) HoldPlans(ctx context.Context, self fleet.MachineID, version string, ttl time.Duration) (Term, error) {
	for range tries {
		cur, _, err := r.leader(ctx)
		if err != nil {
			return Term{}, err
		}
		if cur != nil && cur.Lease != 0 {
			// The key goes, and is made anew: plans are guarded by the revision that made it.
			if err := r.store.Revoke(ctx, cur.Lease); err != nil {
				return Term{}, storeErr("end the leader's term", err)
			}
		}
		t, ok, err := r.beginTerm(ctx, leaderRecord{Machine: self, Version: version, Pause: true}, ttl)
		if ok || err != nil {
			return t, err
		}
	}
	return Term{}, fmt.Errorf("hold all plans: %w", fleet.ErrConflict)
}

// giveBack ends a lease that came to no use; if that fails too, it ends by its time.
func (r *Registry) giveBack(ctx context.Context, lease kv.LeaseID) {
	if err := r.store.Revoke(ctx, lease); err != nil {
		r.log.Debug("unused lease is left to end by itself", "err", err)
	}
}

// Renew lengthens the term by its lease; kv.ErrLeaseGone: the term is over.
func (r *Registry) Renew(ctx context.Context, t Term) error {
	if err := r.store.Renew(ctx, kv.LeaseID(t.Lease)); err != nil {
		return storeErr("renew term", err)
	}
	return nil
}

// Resign ends the term at once, so that another engine can lead; a term that is over is no error.
func (r *Registry) Resign(ctx context.Context, t Term) error {
	if err := r.store.Revoke(ctx, kv.LeaseID(t.Lease)); err != nil {
		return storeErr("resign", err)
	}
	return nil
}

// WatchLeader wakes at once, and then whenever the leader key changed (several changes may be one wake); the channel is
// closed when ctx ends.
func (r *Registry) WatchLeader(ctx context.Context) <-chan struct{} {
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		r.serveLeader(ctx, out)
	}()
	return out
}

func (r *Registry) serveLeader(ctx context.Context, out chan<- struct{}) {
	wake := func() {
		select {
		case out <- struct{}{}:
		default: // a wake is waiting already
		}
	}
	for {
		// The position comes before the wake: whoever reads the leader after it misses nothing that this watch does not bring.
		var rev int64
		if r.insist(ctx, "watch leader", func() (err error) {
			_, rev, err = r.store.Range(ctx, r.leaderKey())
			return err
		}) != nil {
			return
		}
		wake()
		for b := range r.store.Watch(ctx, rev+1, r.leaderKey()) {
			if b.Err == nil {
				wake()
			}
		}
		// Compacted, or ctx has ended: begin again from the newest revision.
	}
}
