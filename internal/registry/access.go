package registry

import (
	"bytes"
	"context"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
)

// Access is what a machine without a vote may do to the store: kinds and keys of this registry, and what others keep beside it under the same
// prefix. What is not named here is refused to it, so a new kind of keys that an agent needs must be added. fleetd hands it to the door of the store.
type Access struct {
	Read, Write []Span // Write does not include Read
	Known       []Span // one key at a time, see MayKnow
	Drop        []Span // may be deleted where the value names the machine
	// Mine may be written, with a value that names the machine, where there is none, one that names it, or one that names nobody.
	Mine []Span
	// Once may be written where there is nothing yet, or the same again.
	Once []Span
	// Names stands in every value of Mine that names somebody.
	Names string
}

// Span is a range of keys from From to To, which does not belong to it.
type Span struct{ From, To string }

// Access is the table. Reading lists (who is there, what runs where) is free, for draining and updates are decided on them; texts, the CA, tokens and
// the audit are not. A machine writes what it says of itself and nothing that makes others act: no unit, no placement, no admission, no leadership.
func (r *Registry) Access(id fleet.MachineID) Access {
	a := Access{Known: []Span{r.kind(files)}, Drop: []Span{r.kind(holders)}}
	for _, kind := range []string{machines, settings, admitted, units, placements, restarts, observed, holders} {
		a.Read = append(a.Read, r.kind(kind))
	}
	a.Read = append(a.Read, one(r.leaderKey()), one(r.brakeKey()), one(r.prefix+"origin")) // the last is the member's: which cluster this is
	a.Write = []Span{one(r.machineKey(id)), one(r.settingsKey(id)), tree(r.of(observed, id))}
	// internal/reboot and internal/rollout. Permits and rollouts are one record that all hosts write, each its part: a stolen key can hold updates up.
	for _, shared := range []string{"reboot/", "rollouts/", "rollout-reports/"} {
		a.Read, a.Write = append(a.Read, tree(r.prefix+shared)), append(a.Write, tree(r.prefix+shared))
	}
	a.Read = append(a.Read, tree(r.prefix+"updates/"), one(r.prefix+"update-orders/"+string(id)))
	a.Write = append(a.Write, one(r.prefix+"updates/"+string(id)), one(r.prefix+"update-orders/"+string(id)))
	// Users' own keys, which all hosts share, are whatever is outside, but for netd's: a machine has its own subnet, and the network's configuration
	// is an operator's, but for the first one: units of old write it on each host before they start flannel. (Where netd's etcd_prefix is another, its keys are users' own.)
	outside := []Span{{"\x00", r.prefix}, {end(r.prefix), "\x00"}}
	a.Read, a.Write = append(a.Read, outside...), append(a.Write, without(outside, tree(network))...)
	a.Mine, a.Names, a.Once = []Span{tree(network + "subnets/")}, `"Machine"`, []Span{one(network + "config")}
	return a
}

// network is where netd keeps its leases, as flannel did.
const network = "/coreos.com/network/"

// without cuts a hole into spans.
func without(spans []Span, hole Span) (rest []Span) {
	for _, s := range spans {
		if hole.To <= s.From || s.To != "\x00" && s.To <= hole.From {
			rest = append(rest, s)
			continue
		}
		if s.From < hole.From {
			rest = append(rest, Span{s.From, hole.From})
		}
		if s.To == "\x00" || hole.To < s.To {
			rest = append(rest, Span{hole.To, s.To})
		}
	}
	return rest
}

// MayKnow tells whether a machine may read a text: one that a placement of it names.
func (r *Registry) MayKnow(ctx context.Context, id fleet.MachineID, key string) bool {
	hash, ok := strings.CutPrefix(key, r.under(files))
	if !ok || len(hash) < 40 {
		return false
	}
	kvs, _, err := r.store.Range(ctx, r.of(placements, id))
	if err != nil {
		return false
	}
	for _, kv := range kvs[0] {
		if bytes.Contains(kv.Value, []byte(`"`+hash+`"`)) {
			return true
		}
	}
	return false
}

func (r *Registry) kind(kind string) Span { return tree(r.under(kind)) }

func one(key string) Span     { return Span{key, key + "\x00"} }
func tree(prefix string) Span { return Span{prefix, end(prefix)} }

// end is the first key behind all that begin with prefix, which ends in a letter or a slash.
func end(prefix string) string { return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1) }
