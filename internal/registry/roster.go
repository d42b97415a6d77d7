package registry

import (
	"maps"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// roster holds what is known of machines, in the three records that make one fleet.Machine.
type roster struct {
	r        *Registry
	own      map[fleet.MachineID]ownRecord
	settings map[fleet.MachineID]settingsRecord
	admitted map[fleet.MachineID]int64
}

type ownRecord struct {
	machineRecord
	rev int64 // create revision
}

func (r *Registry) newRoster() *roster {
	return &roster{
		r:        r,
		own:      map[fleet.MachineID]ownRecord{},
		settings: map[fleet.MachineID]settingsRecord{},
		admitted: map[fleet.MachineID]int64{},
	}
}

// put takes one of the three records in. One that cannot be read counts as absent.
func (ro *roster) put(kind string, id fleet.MachineID, kv kv.KV) {
	ro.drop(kind, id)
	var err error
	switch kind {
	case machines:
		var rec machineRecord
		if rec, err = decode[machineRecord](kv.Value); err == nil {
			ro.own[id] = ownRecord{rec, kv.Create}
		}
	case settings:
		var rec settingsRecord
		if rec, err = decode[settingsRecord](kv.Value); err == nil {
			ro.settings[id] = rec
		}
	case admitted:
		var rec admittedRecord
		if rec, err = decode[admittedRecord](kv.Value); err == nil {
			ro.admitted[id] = rec.Rev
		}
	}
	if err != nil {
		ro.r.unreadable(kv, err)
	}
}

func (ro *roster) drop(kind string, id fleet.MachineID) {
	switch kind {
	case machines:
		delete(ro.own, id)
	case settings:
		delete(ro.settings, id)
	case admitted:
		delete(ro.admitted, id)
	}
}

// machine joins the records; ok=false when the machine is not registered.
func (ro *roster) machine(id fleet.MachineID) (m fleet.Machine, ok bool) {
	own, ok := ro.own[id]
	if !ok {
		return fleet.Machine{}, false
	}
	set := ro.settings[id]
	m = fleet.Machine{
		ID: id, Name: own.Name, IP: own.IP, HostAddr: own.HostAddr, Version: own.Version, Seat: own.Seat, Leaving: own.Leaving || set.Leaving,
		Cordon: set.Cordon, Rev: own.rev, Admitted: ro.admitted[id], TTL: time.Duration(own.Granted) * time.Millisecond,
		Metadata: maps.Clone(own.Metadata),
	}
	for k, v := range set.Metadata {
		switch {
		case v == nil:
			delete(m.Metadata, k)
		case m.Metadata == nil:
			m.Metadata = map[string]string{k: *v}
		default:
			m.Metadata[k] = *v
		}
	}
	if len(m.Metadata) == 0 {
		m.Metadata = nil
	}
	return m, true
}
