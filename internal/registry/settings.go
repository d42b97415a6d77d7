package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// Settings is fleet.Settings: the API speaks of it too, without knowing the registry.
type Settings = fleet.Settings

// SetMachine changes what is set at run time for a machine, registered or not. What is set stays when the machine goes and comes.
func (r *Registry) SetMachine(ctx context.Context, id fleet.MachineID, s Settings) error {
	what := "set machine " + id.Short()
	key := r.settingsKey(id)
	for range tries {
		found, err := r.read(ctx, []string{key})
		if err != nil {
			return storeErr(what, err)
		}
		cur := found[key]
		var rec settingsRecord
		guard := kv.Guard{Key: key, Kind: kv.Missing}
		if cur != nil {
			guard = kv.Guard{Key: key, Kind: kv.ModIs, Rev: cur.Mod}
			rec, err = decode[settingsRecord](cur.Value)
			if errors.Is(err, errNewer) {
				return fmt.Errorf("%s: %s: %w", what, key, err)
			}
			if err != nil {
				r.unreadable(*cur, err)
				rec = settingsRecord{} // a damaged record says nothing: begin anew
			}
		}
		value := encode(laid(rec, s))
		if cur != nil && string(value) == string(cur.Value) {
			return nil
		}
		_, ok, err := r.store.Txn(ctx, []kv.Guard{guard}, []kv.Op{{Key: key, Value: value}})
		if err != nil {
			return storeErr(what, err)
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("%s: others set it all the time: %w", what, fleet.ErrConflict)
}

// laid lays a change over a record.
func laid(rec settingsRecord, s Settings) settingsRecord {
	if s.Cordon != nil {
		rec.Cordon = *s.Cordon
	}
	if s.Leaving != nil {
		rec.Leaving = *s.Leaving
	}
	for k, v := range s.Metadata {
		if rec.Metadata == nil {
			rec.Metadata = map[string]*string{}
		}
		rec.Metadata[k] = v
	}
	return rec
}
