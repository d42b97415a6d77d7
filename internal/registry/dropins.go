package registry

import (
	"context"
	"slices"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// keepDropIns gives each submission the stored drop-ins that its text does not speak for: those of the unit it replaces, or those of the
// template of a new instance. What is read for that goes into view. Units without drop-ins, which is nearly all, cost nothing here.
//
// The unit's record guards the write, so the drop-ins are those of the text that is replaced. A template's record does not: an
// instance that is made while its template changes is as one that was made just before.
func (r *Registry) keepDropIns(ctx context.Context, todo []*pending, view map[string]*kv.KV) error {
	from := map[*pending]unit.Hash{}
	var keys []string
	for _, p := range todo {
		if h := r.keepsFrom(p, view); h != "" {
			from[p] = h
			keys = append(keys, r.fileKey(h))
		} else if p.joined {
			p.take(p.File) // another try, and the unit has lost its drop-ins meanwhile
			p.joined = false
			keys = append(keys, r.fileKey(p.record.Hash))
		}
	}
	if err := r.readInto(ctx, view, keys); err != nil {
		return err
	}
	keys = keys[:0]
	for p, h := range from {
		text := view[r.fileKey(h)]
		if text == nil {
			continue // collected: the record has changed since, and its guard will tell
		}
		stored := r.file(h, *text)
		if stored == nil {
			continue // damaged: there is nothing to keep
		}
		p.take(p.File.Keeping(stored, p.SpeaksFor))
		p.joined = true
		keys = append(keys, r.fileKey(p.record.Hash))
	}
	return r.readInto(ctx, view, keys)
}

// keepsFrom is the text whose drop-ins a submission keeps; empty if there is none.
func (r *Registry) keepsFrom(p *pending, view map[string]*kv.KV) unit.Hash {
	if p.File == nil {
		return ""
	}
	folders, of := unit.Folders(p.Name), p.Name
	if view[r.unitKey(p.Name)] == nil {
		folders, of = folders[:len(folders)-1], "" // a new unit has none of its own
		if len(folders) > 0 {
			of = folders[0]
		}
	}
	cur := view[r.unitKey(of)]
	if cur == nil || !slices.ContainsFunc(folders, func(n unit.Name) bool { return !slices.Contains(p.SpeaksFor, n) }) {
		return ""
	}
	rec, err := decode[unitRecord](cur.Value)
	if err != nil || rec.Main == "" {
		return "" // what is wrong with a unit's own record is told by plan
	}
	return rec.Hash
}

// readInto adds what is stored under exact keys to a view.
func (r *Registry) readInto(ctx context.Context, view map[string]*kv.KV, keys []string) error {
	slices.Sort(keys)
	for chunk := range slices.Chunk(slices.Compact(keys), kv.MaxOps) { // texts may be large
		found, err := r.read(ctx, chunk)
		if err != nil {
			return err
		}
		for key, rec := range found {
			view[key] = rec
		}
	}
	return nil
}
