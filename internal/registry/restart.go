package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// restartRecord says that somebody wants a unit restarted on a machine. Which time it is the record's mod revision tells.
type restartRecord struct{ stamp }

// Restart orders units to be restarted on machines that have them. The results, in order, tell each order's number: an observation with
// Restarted of that number or more is of after it. fleet.ErrConflict: the unit is not placed there, or the machine is gone. At rest nothing
// is written: an order stays, and is no news to an agent that has carried it out.
func (r *Registry) Restart(ctx context.Context, keys ...fleet.Key) []SubmitResult {
	results := make([]SubmitResult, len(keys))
	at := 0
	for part := range slices.Chunk(keys, kv.MaxOps/2) { // two guards each: a part is one transaction, and has one revision
		atoms := make([]atom, len(part))
		for i, k := range part {
			atoms[i] = atom{
				guards: []kv.Guard{{Key: r.of(placements, k.Machine) + string(k.Unit), Kind: kv.Exists}, {Key: r.machineKey(k.Machine), Kind: kv.Exists}},
				ops:    []kv.Op{{Key: r.of(restarts, k.Machine) + string(k.Unit), Value: encode(restartRecord{})}},
			}
		}
		rev, lost, err := r.write(ctx, nil, atoms)
		for i, k := range part {
			res := &results[at+i]
			switch {
			case err != nil:
				res.Err = storeErr("restart "+string(k.Unit), err)
			case lost[i]:
				res.Err = fmt.Errorf("restart %s: it is no longer on machine %s: %w", k.Unit, k.Machine.Short(), fleet.ErrConflict)
			default:
				res.Rev = rev
			}
		}
		at += len(part)
	}
	return results
}

// restartsOf reads a machine's orders to restart, by unit.
func (r *Registry) restartsOf(id fleet.MachineID, kvs []kv.KV) map[unit.Name]int64 {
	var found map[unit.Name]int64
	for _, kv := range kvs {
		if found == nil {
			found = map[unit.Name]int64{}
		}
		found[unit.Name(strings.TrimPrefix(kv.Key, r.of(restarts, id)))] = kv.Mod
	}
	return found
}

// restarted takes the events of a batch in; false: the watch has ended. The revision of the orders is that of the placements alone: their
// events may be on their way yet.
func (w *orderWatch) restarted(b kv.Batch) bool {
	if b.Err != nil || b.Rev == 0 {
		return false
	}
	for _, e := range b.Events {
		name := unit.Name(strings.TrimPrefix(e.Key, w.r.of(restarts, w.p.Machine)))
		switch {
		case e.Mod <= w.cur.Restarts[name]: // a reload has overtaken this watch
		case e.Delete:
			delete(w.cur.Restarts, name)
		default:
			if w.cur.Restarts == nil {
				w.cur.Restarts = map[unit.Name]int64{}
			}
			w.cur.Restarts[name] = e.Mod
			w.dirty, w.copied = true, false
		}
	}
	return true
}

// forgetRestarts deletes orders to restart what is placed there no more.
func (r *Registry) forgetRestarts(orders, placed []kv.KV) []atom {
	has := make(map[string]bool, len(placed))
	if len(orders) > 0 {
		for _, kv := range placed {
			has[strings.TrimPrefix(kv.Key, r.under(placements))] = true
		}
	}
	var atoms []atom
	for _, o := range orders {
		key := strings.TrimPrefix(o.Key, r.under(restarts))
		if !has[key] {
			atoms = append(atoms, atom{
				guards: []kv.Guard{{Key: r.under(placements) + key, Kind: kv.Missing}, {Key: o.Key, Kind: kv.ModIs, Rev: o.Mod}},
				ops:    []kv.Op{{Key: o.Key, Delete: true}},
			})
		}
	}
	return atoms
}
