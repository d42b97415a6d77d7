package registry

import (
	"context"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Snapshot reads everything at one revision: one range, one revision. A record that cannot be read (a newer version's,
// damaged) is left out and logged once; it never hides the others. At stays zero: the time is its reader's to say.
func (r *Registry) Snapshot(ctx context.Context) (fleet.Snapshot, error) {
	kinds := []string{machines, settings, admitted, units, placements, observed, holders}
	prefixes := make([]string, len(kinds), len(kinds)+1)
	for i, k := range kinds {
		prefixes[i] = r.under(k)
	}
	prefixes = append(prefixes, r.brakeKey())
	kvs, rev, err := r.store.Range(ctx, prefixes...)
	if err != nil {
		return fleet.Snapshot{}, storeErr("read snapshot", err)
	}
	s := fleet.Snapshot{
		Rev:        rev,
		Machines:   make(map[fleet.MachineID]fleet.Machine, len(kvs[0])),
		Units:      make(map[unit.Name]fleet.Unit, len(kvs[3])),
		Placements: make(map[fleet.Key]fleet.Placement, len(kvs[4])),
		Observed:   make(map[fleet.Key]fleet.Observation, len(kvs[5])),
		Holders:    make(map[unit.Name]fleet.Holder, len(kvs[6])),
		Gone:       map[fleet.MachineID]time.Time{},
	}
	ro := r.rosterOf(kvs[:3])
	for id := range ro.own {
		s.Machines[id], _ = ro.machine(id)
	}
	d := r.newDecoder()
	for _, kv := range kvs[3] {
		name := unit.Name(strings.TrimPrefix(kv.Key, prefixes[3]))
		if u, ok := d.unit(name, kv); ok {
			s.Units[name] = u
		}
	}
	for _, kv := range kvs[4] {
		key := pair(strings.TrimPrefix(kv.Key, prefixes[4]))
		if p, ok := d.placement(key, kv); ok {
			s.Placements[key] = p
		}
	}
	for _, kv := range kvs[5] {
		key := pair(strings.TrimPrefix(kv.Key, prefixes[5]))
		if o, ok := d.observation(key, kv); ok {
			s.Observed[key] = o
		}
	}
	for _, kv := range kvs[6] {
		if h, ok := r.holder(unit.Name(strings.TrimPrefix(kv.Key, prefixes[6])), kv); ok {
			s.Holders[h.Unit] = h
		}
	}
	for _, kv := range kvs[7] {
		s.Brake = r.brakeOf(kv)
	}
	return s, nil
}

// rosterOf fills a roster with ranges of machines, settings and admissions.
func (r *Registry) rosterOf(kvs [][]kv.KV) *roster {
	ro := r.newRoster()
	for i, kind := range []string{machines, settings, admitted} {
		for _, kv := range kvs[i] {
			ro.put(kind, fleet.MachineID(strings.TrimPrefix(kv.Key, r.under(kind))), kv)
		}
	}
	return ro
}
