package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

// Sweep removes what machines said of their updates, and the orders for them, when they are not up and have said nothing since a time: they are
// gone for good, or say it again when they come back. n is how many were removed.
func (r Rollouts) Sweep(ctx context.Context, up func(machine string) bool, before time.Time) (n int, err error) {
	kvs, _, err := r.Store.Range(ctx, r.hosts())
	if err != nil {
		return 0, fmt.Errorf("read the state of updates: %w", err)
	}
	for _, e := range kvs[0] {
		var rec hostRecord
		if json.Unmarshal(e.Value, &rec) != nil || rec.V != version || up(rec.Machine) || !rec.At.Before(before) {
			continue // what a newer release wrote is its affair
		}
		_, ok, terr := r.Store.Txn(ctx, []kv.Guard{{Key: e.Key, Kind: kv.ModIs, Rev: e.Mod}},
			[]kv.Op{{Key: e.Key, Delete: true}, {Key: r.orders(rec.Machine), Delete: true}, {Key: r.report(rec.Channel, rec.Machine), Delete: true}})
		if terr != nil {
			err = errors.Join(err, fmt.Errorf("forget the updates of %s: %w", rec.Machine, terr))
		}
		if ok {
			n++
		}
	}
	return n, err
}
