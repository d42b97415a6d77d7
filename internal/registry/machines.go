package registry

import (
	"context"
	"fmt"

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

// Machine reads one registered machine; fleet.ErrNotFound when it is not.
func (r *Registry) Machine(ctx context.Context, id fleet.MachineID) (fleet.Machine, error) {
	kvs, _, err := r.store.Range(ctx, r.machineKey(id), r.settingsKey(id), r.admittedKey(id))
	if err != nil {
		return fleet.Machine{}, storeErr("read machine", err)
	}
	ro := r.rosterOf(kvs)
	if _, ok := ro.own[id]; !ok {
		return fleet.Machine{}, fmt.Errorf("machine %s: %w", id.Short(), fleet.ErrNotFound)
	}
	m, _ := ro.machine(id)
	return m, nil
}
