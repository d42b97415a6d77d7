package registry

import (
	"context"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// mostNamed is how many keys SnapshotOf asks for one by one. With more, one range of everything is the lesser work.
const mostNamed = 4 * kv.MaxOps

// SnapshotOf reads of the cluster what concerns these units, and all machines: for an answer about one unit out of ten thousand. The placements are
// read whole, since their keys begin with the machine, but only those of the units are decoded. Observations may be newer than the rest, which is all
// at Rev; it is no snapshot to watch from, nor to plan on.
func (r *Registry) SnapshotOf(ctx context.Context, names ...unit.Name) (fleet.Snapshot, error) {
	if len(names) > mostNamed {
		return r.Snapshot(ctx)
	}
	keys := []string{r.under(machines), r.under(settings), r.under(admitted), r.under(placements)}
	wanted := make(map[unit.Name]bool, len(names))
	// What is no name is no unit; as a key it could be the prefix of all.
	names = slices.DeleteFunc(slices.Clone(names), func(n unit.Name) bool {
		_, err := unit.ParseName(string(n))
		return err != nil
	})
	slices.Sort(names)
	names = slices.Compact(names)
	for _, n := range names {
		wanted[n] = true
		keys = append(keys, r.unitKey(n))
	}
	kvs, rev, err := r.store.Range(ctx, keys...)
	if err != nil {
		return fleet.Snapshot{}, storeErr("read units", err)
	}
	s := fleet.NewSnapshot()
	s.Rev = rev
	ro := r.rosterOf(kvs[:3])
	for id := range ro.own {
		s.Machines[id], _ = ro.machine(id)
	}
	if len(names)*len(s.Machines) > mostNamed {
		return r.Snapshot(ctx)
	}
	d := r.newDecoder()
	for _, kv := range kvs[3] {
		if key := pair(strings.TrimPrefix(kv.Key, keys[3])); wanted[key.Unit] {
			if p, ok := d.placement(key, kv); ok {
				s.Placements[key] = p
			}
		}
	}
	for i, n := range names {
		for _, kv := range kvs[4+i] {
			if u, ok := d.unit(n, kv); ok {
				s.Units[n] = u
			}
		}
	}
	return s, r.observedOf(ctx, d, s, names)
}

// observedOf adds what the registered machines say of units. Others' words have gone with their leases.
func (r *Registry) observedOf(ctx context.Context, d *decoder, s fleet.Snapshot, names []unit.Name) error {
	keys := map[string]fleet.Key{}
	for id := range s.Machines {
		for _, n := range names {
			keys[r.of(observed, id)+string(n)] = fleet.Key{Machine: id, Unit: n}
		}
	}
	list := make([]string, 0, len(keys))
	for k := range keys {
		list = append(list, k)
	}
	found, err := r.read(ctx, list)
	if err != nil {
		return storeErr("read states", err)
	}
	for k, kv := range found {
		if o, ok := d.observation(keys[k], *kv); ok {
			s.Observed[keys[k]] = o
		}
	}
	return nil
}
