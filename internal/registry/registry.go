// Package registry is the cluster's memory: typed keys over a kv.Store. It gives one snapshot at one revision, takes what
// users submit, commits what the engine decided and what machines report, each write guarded by what it was planned on.
// It decides nothing. fleetd's engine, agent and API use it through small interfaces of their own.
//
// Keys under the prefix (default /fleet/), JSON values with a version field "v", but for the texts, which are stored as they are:
//
//	machines/<id>               who and where a machine is; on the machine's lease
//	machine-settings/<id>       metadata set at run time, cordon, leaving
//	admitted/<id>               the registration (create revision of machines/<id>) an engine has planned for
//	files/<sha>                 printed unit text with its drop-ins, stored once, collected when no unit and no placement names it
//	units/<name>                hash, target state, raw [X-Fleet] options and description
//	placements/<machine>/<unit> hash, target, handover; written by the engine only
//	holders/<unit>              machine not yet known to have let an exclusive unit go; written by the engine, deleted by that machine
//	brake                       many machines vanished at once: nothing is moved away from missing ones; written by the engine
//	restarts/<machine>/<unit>   somebody wants the unit restarted there; written by the API, collected when it is placed there no more
//	aliases, aliases/<alias>    the units that have another name by their [Install]; see aliases.go
//	observed/<machine>/<unit>   what that machine's systemd says; on the machine's lease
//	leader                      the engine that plans; on the engine's own lease
package registry

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Registry is safe for use by many goroutines; it holds no state of the cluster.
type Registry struct {
	store  kv.Store
	prefix string
	log    *slog.Logger

	submits submitQueue

	mu     sync.Mutex       // guards logged
	logged map[string]int64 // unreadable records that were logged: key → mod revision
}

// New returns a registry over store with all keys under prefix, which must end in "/".
func New(store kv.Store, prefix string, log *slog.Logger) *Registry {
	return &Registry{store: store, prefix: prefix, log: log, logged: map[string]int64{}}
}

// The kinds of keys: the first word behind the prefix.
const (
	machines   = "machines"
	settings   = "machine-settings"
	admitted   = "admitted"
	files      = "files"
	units      = "units"
	placements = "placements"
	restarts   = "restarts"
	observed   = "observed"
	leader     = "leader"
	holders    = "holders"
	brake      = "brake"
)

// Leased are the beginnings of the keys that say who is there and who leads. They hang on leases, with all else that a machine says of itself.
func Leased(prefix string) []string { return []string{prefix + leader, prefix + machines + "/"} }

// under is the prefix of all keys of a kind.
func (r *Registry) under(kind string) string { return r.prefix + kind + "/" }

func (r *Registry) machineKey(id fleet.MachineID) string  { return r.under(machines) + string(id) }
func (r *Registry) settingsKey(id fleet.MachineID) string { return r.under(settings) + string(id) }
func (r *Registry) admittedKey(id fleet.MachineID) string { return r.under(admitted) + string(id) }
func (r *Registry) fileKey(h unit.Hash) string            { return r.under(files) + string(h) }
func (r *Registry) unitKey(n unit.Name) string            { return r.under(units) + string(n) }
func (r *Registry) leaderKey() string                     { return r.prefix + leader }

// of is the prefix of one machine's keys of a kind, placements or observed.
func (r *Registry) of(kind string, id fleet.MachineID) string {
	return r.under(kind) + string(id) + "/"
}

// split cuts a key into its kind and the rest; a key of no known shape has neither.
func (r *Registry) split(key string) (kind, rest string) {
	tail, ok := strings.CutPrefix(key, r.prefix)
	if !ok {
		return "", ""
	}
	kind, rest, _ = strings.Cut(tail, "/")
	return kind, rest
}

// pair cuts "<machine>/<unit>".
func pair(rest string) fleet.Key {
	m, u, _ := strings.Cut(rest, "/")
	return fleet.Key{Machine: fleet.MachineID(m), Unit: unit.Name(u)}
}

// storeErr says what the store's error kept us from. A store that cannot be reached is fleet.ErrNoStore too, so that rooms that
// do not know kv can tell.
func storeErr(what string, err error) error {
	if errors.Is(err, kv.ErrUnavailable) {
		return fmt.Errorf("%s: %w: %w", what, fleet.ErrNoStore, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
