package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Collect deletes texts that no unit and no placement names, orders to restart what is placed there no more, and aliases that no unit has, each guarded so that a text taken into use meanwhile
// stays. It returns how many were deleted; kv.ErrLeaseGone: the term is over.
func (r *Registry) Collect(ctx context.Context, t Term) (int, error) {
	kvs, _, err := r.store.Range(ctx, r.under(files), r.under(units), r.under(placements), r.under(restarts), r.under(aliases))
	if err != nil {
		return 0, storeErr("collect", err)
	}
	used := map[unit.Hash]bool{}
	for _, kv := range append(kvs[1], kvs[2]...) {
		// Of any format: a record that we leave out of snapshots still needs its text.
		var named struct {
			Hash unit.Hash `json:"hash"`
		}
		if json.Unmarshal(kv.Value, &named) != nil || named.Hash == "" {
			return 0, fmt.Errorf("collect: %s does not say which text it needs: delete it or submit its unit again", kv.Key)
		}
		used[named.Hash] = true
	}
	atoms := append(r.forgetRestarts(kvs[3], kvs[2]), r.forgetAliases(kvs[4], kvs[1])...)
	for _, f := range kvs[0] {
		if used[unit.Hash(strings.TrimPrefix(f.Key, r.under(files)))] {
			continue
		}
		// Whoever takes a stored text into use writes it again: see planText.
		atoms = append(atoms, atom{guards: []kv.Guard{{Key: f.Key, Kind: kv.ModIs, Rev: f.Mod}}, ops: []kv.Op{{Key: f.Key, Delete: true}}})
	}
	_, lost, err := r.write(ctx, []kv.Guard{{Key: r.leaderKey(), Kind: kv.CreateIs, Rev: t.Rev}}, atoms)
	if errors.Is(err, errShared) {
		return 0, fmt.Errorf("collect: the term of %s is over: %w", t.Machine.Short(), kv.ErrLeaseGone)
	}
	if err != nil {
		return 0, storeErr("collect", err)
	}
	n := 0
	for _, l := range lost {
		if !l {
			n++
		}
	}
	return n, nil
}
