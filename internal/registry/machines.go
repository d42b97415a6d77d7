package registry

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
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

// Lives tells how long each machine's registration lives on if the machine does not renew it, as kv.Store's Left counts: negative when it
// has ended and is about to go. A machine that is not in it is not registered; one whose record hangs on no lease lives for ever.
func (r *Registry) Lives(ctx context.Context) (map[fleet.MachineID]time.Duration, error) {
	kvs, _, err := r.store.Range(ctx, r.under(machines))
	if err != nil {
		return nil, storeErr("read machines", err)
	}
	lives := make(map[fleet.MachineID]time.Duration, len(kvs[0]))
	var asked []fleet.MachineID
	var leases []kv.LeaseID
	for _, kv := range kvs[0] {
		id := fleet.MachineID(strings.TrimPrefix(kv.Key, r.under(machines)))
		if lives[id] = math.MaxInt64; kv.Lease != 0 {
			asked, leases = append(asked, id), append(leases, kv.Lease)
		}
	}
	left, err := r.store.Left(ctx, leases...)
	if err != nil {
		return nil, storeErr("ask how long machines' registrations live", err)
	}
	for i, id := range asked {
		lives[id] = left[i]
	}
	return lives, nil
}
