package registry

import (
	"context"

	"github.com/fleet-init/fleet/internal/fleet"
)

// Machines reads the registered machines at one revision, and nothing else: a snapshot of a large cluster is mostly units.
func (r *Registry) Machines(ctx context.Context) (map[fleet.MachineID]fleet.Machine, error) {
	kvs, _, err := r.store.Range(ctx, r.under(machines), r.under(settings), r.under(admitted))
	if err != nil {
		return nil, storeErr("read machines", err)
	}
	ro := r.rosterOf(kvs)
	list := make(map[fleet.MachineID]fleet.Machine, len(ro.own))
	for id := range ro.own {
		list[id], _ = ro.machine(id)
	}
	return list, nil
}
