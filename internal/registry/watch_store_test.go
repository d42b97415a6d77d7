package registry

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// unreachable fails its first ranges.
type unreachable struct {
	kv.Store
	left *atomic.Int64
}

func (s unreachable) Range(ctx context.Context, prefixes ...string) ([][]kv.KV, int64, error) {
	if s.left.Add(-1) >= 0 {
		return nil, 0, kv.ErrUnavailable
	}
	return s.Store.Range(ctx, prefixes...)
}

// Watches that begin, or must begin anew, while the store is away go on when it is back.
func TestWatchesWaitForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		s := newStage(f)
		snap := f.snapshot()
		from, err := f.Orders(t.Context(), s.p1)
		f.must(err)
		f.submit(webText, fleet.Launched, "web@1.service")
		_, _, err = f.Commit(t.Context(), s.term, []fleet.Decision{s.place("web@2.service", m1)})
		f.must(err)

		var left atomic.Int64
		left.Store(5)
		away := New(unreachable{f.mem, &left}, "/fleet/", f.log)
		f.want("changes", 2, len((<-away.Watch(t.Context(), snap)).Changes))
		left.Store(5)
		<-away.WatchLeader(t.Context())
		f.mem.Compact(f.rev())
		left.Store(5)
		f.want("orders", 2, len((<-away.WatchOrders(t.Context(), s.p1, from)).Placements))

		// And end with their context, store or not.
		ctx, cancel := context.WithCancel(t.Context())
		left.Store(1 << 30)
		changes, wakes := away.Watch(ctx, snap), away.WatchLeader(ctx)
		synctest.Wait()
		cancel()
		for range changes {
			continue
		}
		for range wakes {
			continue
		}
	})
}
