package agent

import (
	"context"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// A report that failed, or that an earlier fleetd sent before it was killed, may still be on its way: a paused or partitioned member
// writes it when it goes on, over what was reported since. What the registry holds would then stay wrong until the unit's next
// change. So it is read once more when nothing can be on its way any longer, and what differs is reported again.

// recallAfter is longer than a request can be on its way: etcd gives one up after 5 s and two elections.
const recallAfter = 30 * time.Second

type recalled struct {
	told map[unit.Name]fleet.Observation
	err  error
}

// doubt notes that the registry may come to hold something else than was told.
func (r *runner) doubt(now time.Time) { r.recallAt = now.Add(recallAfter) }

// startRecall reads what the registry holds, if there is doubt. No report is sent meanwhile, so that the answer is the newest.
func (r *runner) startRecall(ctx context.Context, now time.Time) {
	if r.recallAt.IsZero() || now.Before(r.recallAt) || r.sending || r.recalling {
		return
	}
	r.recalling = true
	go func() {
		ctx, cancel := context.WithTimeout(ctx, recallAfter)
		defer cancel()
		told, err := r.reg.Observed(ctx)
		r.recalled <- recalled{told, err}
	}()
}

func (r *runner) recall(now time.Time, end recalled) {
	r.recalling = false
	if end.err != nil {
		r.Log.Debug("own states cannot be read", "err", end.err)
		r.doubt(now)
		return
	}
	r.recallAt = time.Time{}
	r.SetTold(end.told)
}
