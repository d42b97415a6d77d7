package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Report writes changed observations of p's machine and removes those of units that are gone, in few transactions, on p's lease,
// guarded by p's registration. kv.ErrLeaseGone: register again, then report all.
func (r *Registry) Report(ctx context.Context, p Presence, changed []fleet.Observation, gone []unit.Name) error {
	prefix := r.of(observed, p.Machine)
	var atoms []atom
	for _, o := range changed {
		op := kv.Op{Key: prefix + string(o.Unit), Value: encode(observationRecord(o)), Lease: p.Lease}
		atoms = append(atoms, atom{ops: []kv.Op{op}})
	}
	for _, n := range gone {
		atoms = append(atoms, atom{ops: []kv.Op{{Key: prefix + string(n), Delete: true}}})
	}
	self := []kv.Guard{{Key: r.machineKey(p.Machine), Kind: kv.CreateIs, Rev: p.Rev}}
	_, _, err := r.write(ctx, self, atoms)
	if errors.Is(err, errShared) {
		return fmt.Errorf("report: the registration is gone: %w", kv.ErrLeaseGone)
	}
	if err != nil {
		return storeErr("report", err)
	}
	return nil
}

// Observed reads what this machine has reported (a restarted agent sends only the difference).
func (r *Registry) Observed(ctx context.Context, id fleet.MachineID) (map[unit.Name]fleet.Observation, error) {
	prefix := r.of(observed, id)
	kvs, _, err := r.store.Range(ctx, prefix)
	if err != nil {
		return nil, storeErr("read own observations", err)
	}
	out := make(map[unit.Name]fleet.Observation, len(kvs[0]))
	d := r.newDecoder()
	for _, kv := range kvs[0] {
		key := fleet.Key{Machine: id, Unit: unit.Name(strings.TrimPrefix(kv.Key, prefix))}
		if o, ok := d.observation(key, kv); ok {
			out[key.Unit] = o
		}
	}
	return out, nil
}
