package registry

import (
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// GuardMachine is the condition that a machine of a snapshot is still registered, by the same registration: for transactions of others on
// what they decided from that snapshot.
func (r *Registry) GuardMachine(m fleet.Machine) kv.Guard {
	return kv.Guard{Key: r.machineKey(m.ID), Kind: kv.CreateIs, Rev: m.Rev}
}
