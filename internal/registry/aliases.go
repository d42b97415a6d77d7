package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// A unit's Alias= must not be another unit's name: on a machine that has both, systemd would take one for the other. Both may come first, so
// aliases stand in keys of their own, which everybody reads who makes a unit:
//
//	aliases/<alias>   the units that say so; written with them, collected when none is left
//	aliases           empty; each unit with an alias writes it, each new unit is guarded by it
//
// Several units may have one alias: they may be on different machines, and systemd tells if not.
const aliases = "aliases"

// aliasRecord names the units that have an alias, the newest last. One may have been destroyed or changed since: its record tells.
type aliasRecord struct {
	stamp
	Units []unit.Name `json:"units"`
}

// mostHolders bounds what is kept of one alias; the first unit that still has it is all that a refusal needs.
const mostHolders = 64

func (r *Registry) aliasKey(n unit.Name) string { return r.under(aliases) + string(n) }
func (r *Registry) aliasMark() string           { return r.prefix + aliases }

// holdersOf are the units that are noted to have a name as their alias.
func (r *Registry) holdersOf(view map[string]*kv.KV, alias unit.Name) []unit.Name {
	rec := view[r.aliasKey(alias)]
	if rec == nil {
		return nil
	}
	a, err := decode[aliasRecord](rec.Value)
	if err != nil {
		return nil
	}
	return a.Units
}

// readAliases reads into view what planAliases asks of it: the units that have the names of todo as aliases, and those whose names todo has.
func (r *Registry) readAliases(ctx context.Context, todo []*pending, view map[string]*kv.KV) error {
	var keys []string
	for _, p := range todo {
		if p.File == nil {
			continue
		}
		for _, n := range append(r.holdersOf(view, p.Name), p.record.Aliases...) {
			keys = append(keys, r.unitKey(n))
		}
	}
	return r.readInto(ctx, view, keys)
}

// planAliases adds to the atom of a new or changed text what keeps names and aliases apart. new: there was no unit of that name.
func (r *Registry) planAliases(p *pending, view map[string]*kv.KV, a *atom, isNew bool) error {
	if isNew {
		for _, h := range r.holdersOf(view, p.Name) {
			if rec := view[r.unitKey(h)]; h != p.Name && rec != nil {
				if u, err := decode[unitRecord](rec.Value); err == nil && slices.Contains(u.Aliases, p.Name) {
					return &fleet.InvalidError{
						What: fmt.Sprintf("name: %s is an alias of unit %s (Alias= in its [Install])", p.Name, h),
						Hint: fmt.Sprintf("choose another name, or take that line out of %s", h),
					}
				}
			}
		}
		// With a text of before aliases were noted, or none, the mark is missing, and must be so still.
		a.guards = append(a.guards, unchanged(r.aliasMark(), view))
	}
	for _, n := range p.record.Aliases {
		if view[r.unitKey(n)] != nil {
			return &fleet.InvalidError{
				What: fmt.Sprintf("Alias=%s in [Install]: the cluster has a unit of that name", n),
				Hint: fmt.Sprintf("take the line out, or first: fleetctl destroy %s", n),
			}
		}
		rec := aliasRecord{Units: append(slices.DeleteFunc(r.holdersOf(view, n), func(h unit.Name) bool { return h == p.Name }), p.Name)}
		rec.Units = rec.Units[max(0, len(rec.Units)-mostHolders):]
		a.guards = append(a.guards, unchanged(r.aliasKey(n), view), kv.Guard{Key: r.unitKey(n), Kind: kv.Missing})
		a.ops = append(a.ops, kv.Op{Key: r.aliasKey(n), Value: encode(rec)})
	}
	if len(p.record.Aliases) > 0 {
		a.alone = true
		a.ops = append(a.ops, kv.Op{Key: r.aliasMark()})
	}
	return nil
}

// unchanged guards that a key is as it was read.
func unchanged(key string, view map[string]*kv.KV) kv.Guard {
	if cur := view[key]; cur != nil {
		return kv.Guard{Key: key, Kind: kv.ModIs, Rev: cur.Mod}
	}
	return kv.Guard{Key: key, Kind: kv.Missing}
}

// forgetAliases deletes the notes of aliases that no unit has any more.
func (r *Registry) forgetAliases(noted, stored []kv.KV) []atom {
	if len(noted) == 0 {
		return nil
	}
	used := map[string]bool{}
	for _, rec := range stored {
		var u struct {
			Aliases []string `json:"aliases"`
		}
		_ = json.Unmarshal(rec.Value, &u) // one that cannot be read has no alias that anybody could be told of
		for _, n := range u.Aliases {
			used[n] = true
		}
	}
	var atoms []atom
	for _, n := range noted {
		if !used[strings.TrimPrefix(n.Key, r.under(aliases))] {
			atoms = append(atoms, atom{guards: []kv.Guard{{Key: n.Key, Kind: kv.ModIs, Rev: n.Mod}}, ops: []kv.Op{{Key: n.Key, Delete: true}}})
		}
	}
	return atoms
}
