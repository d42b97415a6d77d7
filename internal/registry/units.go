package registry

import (
	"context"
	"fmt"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Destroy deletes units; the engine withdraws their placements after that. One error per name, in order: nil, or
// fleet.ErrNotFound for an unknown name, or the store's.
func (r *Registry) Destroy(ctx context.Context, names ...unit.Name) []error {
	errs := make([]error, len(names))
	atoms := make([]atom, len(names))
	for i, n := range names {
		key := r.unitKey(n)
		atoms[i] = atom{guards: []kv.Guard{{Key: key, Kind: kv.Exists}}, ops: []kv.Op{{Key: key, Delete: true}}}
	}
	_, lost, err := r.write(ctx, nil, atoms)
	for i, n := range names {
		switch {
		case err != nil:
			errs[i] = storeErr("destroy "+string(n), err)
		case lost[i]:
			errs[i] = fmt.Errorf("destroy %s: %w", n, fleet.ErrNotFound)
		}
	}
	return errs
}

// Unit reads one unit and its text; fleet.ErrNotFound.
func (r *Registry) Unit(ctx context.Context, name unit.Name) (fleet.Unit, *unit.File, error) {
	// The text is a second read. If the unit gets another text in between and the old one is collected, the next try sees that.
	for range tries {
		found, err := r.read(ctx, []string{r.unitKey(name)})
		if err != nil {
			return fleet.Unit{}, nil, storeErr("read "+string(name), err)
		}
		rec := found[r.unitKey(name)]
		if rec == nil {
			return fleet.Unit{}, nil, fmt.Errorf("read %s: %w", name, fleet.ErrNotFound)
		}
		u, err := unitOf(name, *rec)
		if err != nil {
			return fleet.Unit{}, nil, fmt.Errorf("read %s: record: %w", name, err)
		}
		texts, err := r.Files(ctx, u.Hash)
		if err != nil {
			return fleet.Unit{}, nil, err
		}
		if f := texts[u.Hash]; f != nil {
			return u, f, nil
		}
	}
	return fleet.Unit{}, nil, fmt.Errorf("read %s: its text is not stored, submit it again: %w", name, fleet.ErrNotFound)
}

// Files reads unit texts by hash. A hash that is not stored, or whose text is damaged, is absent from the map.
func (r *Registry) Files(ctx context.Context, hashes ...unit.Hash) (map[unit.Hash]*unit.File, error) {
	out := make(map[unit.Hash]*unit.File, len(hashes))
	for len(hashes) > 0 {
		n := min(len(hashes), kv.MaxOps) // a text may be large, and texts need no common revision
		keys := make([]string, n)
		for i, h := range hashes[:n] {
			keys[i] = r.fileKey(h)
		}
		found, err := r.read(ctx, keys)
		if err != nil {
			return nil, storeErr("read unit texts", err)
		}
		for i, h := range hashes[:n] {
			if kv := found[keys[i]]; kv != nil {
				if f := r.file(h, *kv); f != nil {
					out[h] = f
				}
			}
		}
		hashes = hashes[n:]
	}
	return out, nil
}

// file parses a stored text; nil if it is not what its hash says.
func (r *Registry) file(h unit.Hash, kv kv.KV) *unit.File {
	f, err := unit.ParseStored(kv.Value)
	if err == nil && f.Hash() != h {
		err = fmt.Errorf("the text's hash is %s", f.Hash())
	}
	if err != nil {
		r.unreadable(kv, err)
		return nil
	}
	return f
}
