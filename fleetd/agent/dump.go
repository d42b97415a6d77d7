package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Dump is what the agent knows, for people who look for a fault.
type Dump struct {
	Machine    fleet.MachineID `json:"machineID"`
	Rev        int64           `json:"revision"` // of the orders
	Admitted   bool            `json:"admitted"`
	Checked    time.Time       `json:"checked"` // last full check
	Stale      bool            `json:"reloadDue"`
	Unreported int             `json:"unreported"` // units whose state the registry does not hold yet
	Units      []DumpUnit      `json:"units"`
}

// DumpUnit is one unit that is placed, on disk, or both.
type DumpUnit struct {
	Unit     unit.Name         `json:"unit"`
	Target   fleet.TargetState `json:"target,omitempty"` // as placed
	Ordered  unit.Hash         `json:"ordered,omitempty"`
	Handover bool              `json:"handover,omitempty"`
	OnDisk   unit.Hash         `json:"onDisk,omitempty"`
	Started  unit.Hash         `json:"started,omitempty"`
	Active   string            `json:"active,omitempty"`
	Sub      string            `json:"sub,omitempty"`
	Job      string            `json:"job,omitempty"` // asked for and not ended
	Reason   string            `json:"reason,omitempty"`
}

// Dump asks the running agent.
func (a *Agent) Dump(ctx context.Context) (Dump, error) {
	answer := make(chan Dump, 1)
	select {
	case a.dumps <- answer:
		return <-answer, nil
	case <-ctx.Done():
		return Dump{}, ctx.Err()
	}
}

func (a *Agent) dump() Dump {
	changed, gone := a.Pending()
	d := Dump{Machine: a.Machine, Rev: a.orders.Rev, Admitted: a.orders.Admitted, Checked: a.checked, Stale: a.stale,
		Unreported: len(changed) + len(gone)}
	all := maps.Clone(a.reasons) // names only: units that could not be loaded are nowhere else
	for n := range a.orders.Placements {
		all[n] = ""
	}
	for n := range a.disk {
		all[n] = ""
	}
	for _, n := range slices.Sorted(maps.Keys(all)) {
		p, disk, st := a.orders.Placements[n], a.disk[n], a.states[n]
		d.Units = append(d.Units, DumpUnit{Unit: n, Target: p.Target, Ordered: p.Hash, Handover: p.Handover, OnDisk: disk.Hash,
			Started: disk.Started, Active: st.Active, Sub: st.Sub, Job: a.jobs[n].kind, Reason: a.reasons[n]})
	}
	return d
}
