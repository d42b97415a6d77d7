// Package registry is the cluster's memory: typed keys over a kv.Store. It gives one snapshot at one revision, takes what
// users submit, commits what the engine decided and what machines report, each write guarded by what it was planned on.
// It decides nothing. fleetd's engine, agent and API use it through small interfaces of their own.
//
// Keys under the prefix (default /fleet/), JSON values with a version field "v":
//
//	machines/<id>               who and where a machine is; on the machine's lease
//	machine-settings/<id>       metadata set at run time, cordon, leaving
//	admitted/<id>               the registration (create revision of machines/<id>) an engine has planned for
//	files/<sha>                 printed unit text, stored once, collected when no unit and no placement names it
//	units/<name>                hash, target state, raw [X-Fleet] options and description
//	placements/<machine>/<unit> hash, target, handover; written by the engine only
//	observed/<machine>/<unit>   what that machine's systemd says; on the machine's lease
//	leader                      the engine that plans; on the engine's own lease
package registry

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Registry is safe for use by many goroutines; it holds no state of the cluster.
type Registry struct {
	store  kv.Store
	prefix string
	log    *slog.Logger
}

// New returns a registry over store with all keys under prefix, which must end in "/".
func New(store kv.Store, prefix string, log *slog.Logger) *Registry {
	return &Registry{store: store, prefix: prefix, log: log}
}

var errTODO = errors.New("not written yet")

// --- what users do (called by the API) ---

// Submission is fleet.Submission: the API speaks of it too, without knowing the registry.
type Submission = fleet.Submission

// SubmitResult is fleet.SubmitResult: the API speaks of it too, without knowing the registry.
type SubmitResult = fleet.SubmitResult

// Submit writes the submissions, each whole or not at all: text, record and target state in one transaction (many small
// submissions share one). It tries again by itself when another writer was faster. One result per submission, in order.
func (r *Registry) Submit(ctx context.Context, subs ...Submission) []SubmitResult {
	return nil
}

// Destroy deletes units; the engine withdraws their placements after that. fleet.ErrNotFound per unknown name.
func (r *Registry) Destroy(ctx context.Context, names ...unit.Name) []error { return nil }

// Unit reads one unit and its text.
func (r *Registry) Unit(ctx context.Context, name unit.Name) (fleet.Unit, *unit.File, error) {
	return fleet.Unit{}, nil, errTODO
}

// Files reads unit texts by hash. A hash that is not stored is absent from the map.
func (r *Registry) Files(ctx context.Context, hashes ...unit.Hash) (map[unit.Hash]*unit.File, error) {
	return nil, errTODO
}

// Settings is fleet.Settings: the API speaks of it too, without knowing the registry.
type Settings = fleet.Settings

// SetMachine changes what is set at run time for a machine, registered or not.
func (r *Registry) SetMachine(ctx context.Context, id fleet.MachineID, s Settings) error {
	return errTODO
}

// --- reading ---

// Snapshot reads everything at one revision: one range, one revision. A record that cannot be read (a newer version's,
// damaged) is left out and logged once; it never hides the others.
func (r *Registry) Snapshot(ctx context.Context) (fleet.Snapshot, error) {
	return fleet.Snapshot{}, errTODO
}

// Change is fleet.Change: the API speaks of it too, without knowing the registry.
type Change = fleet.Change

// Changes is fleet.Changes: the API speaks of it too, without knowing the registry.
type Changes = fleet.Changes

// Watch delivers changes after the snapshot, from s.Rev+1 on, until ctx ends. The snapshot's machines are needed to join
// settings and admissions; nothing of s is kept or changed.
func (r *Registry) Watch(ctx context.Context, s fleet.Snapshot) <-chan Changes { return nil }

// --- the engine ---

// Term is fleet.Term: the engine speaks of it too, without knowing the registry. Its Lease is a kv.LeaseID.
type Term = fleet.Term

// Leader tells who leads, by the leader key; ok=false when nobody does.
func (r *Registry) Leader(ctx context.Context) (m fleet.MachineID, rev int64, ok bool, err error) {
	return "", 0, false, errTODO
}

// Campaign tries once to become leader on a lease of ttl. ok=false: someone else leads.
func (r *Registry) Campaign(ctx context.Context, self fleet.MachineID, version string, ttl time.Duration) (t Term, ok bool, err error) {
	return Term{}, false, errTODO
}

// Renew lengthens the term by its lease; kv.ErrLeaseGone: the term is over. Resign ends it at once.
func (r *Registry) Renew(ctx context.Context, t Term) error  { return errTODO }
func (r *Registry) Resign(ctx context.Context, t Term) error { return errTODO }

// WatchLeader wakes whenever the leader key changed; the channel is closed when ctx ends.
func (r *Registry) WatchLeader(ctx context.Context) <-chan struct{} { return nil }

// Commit writes decisions in order, many in one transaction, each guarded as fleet.Decision says, all by the term. Decisions
// that lost a race are left out and named in conflicts (plan again on a newer snapshot); the others are written. An
// error means the term is over or the store failed, and an unknown part was written. Rev is the last revision written.
func (r *Registry) Commit(ctx context.Context, t Term, ds []fleet.Decision) (rev int64, conflicts []fleet.Decision, err error) {
	return 0, nil, errTODO
}

// Collect deletes texts that no unit and no placement names, each guarded so that a text taken into use meanwhile
// stays. It returns how many were deleted.
func (r *Registry) Collect(ctx context.Context, t Term) (int, error) { return 0, errTODO }

// --- one machine's agent ---

// Presence is one machine's registration.
type Presence struct {
	Machine fleet.MachineID
	Lease   kv.LeaseID
	TTL     time.Duration
	Rev     int64 // create revision of machines/<id>
}

// Hello is what a machine says of itself. Instance tells two hosts with the same machine ID apart: it is made once per
// installation (a cloned disk shares it) joined with the boot ID by the caller, so that a restarted fleetd takes its own
// registration over and a clone does not.
type Hello struct {
	fleet.Machine        // ID, Name, IP, Metadata (static), Version
	Instance      string // this installation
}

// Register makes the machine's lease and record. The own record of an earlier process of this Instance is taken over with its
// observations (same create revision, so the units stay as they are). Another Instance's live record:
// *DuplicateError.
func (r *Registry) Register(ctx context.Context, h Hello, ttl time.Duration) (Presence, error) {
	return Presence{}, errTODO
}

// DuplicateError: another host is registered under this machine ID.
type DuplicateError struct {
	Machine fleet.MachineID
	Name    string // the other host's name
	IP      string // and address
}

func (e *DuplicateError) Error() string {
	return "machine ID " + string(e.Machine) + " is already registered by host " + e.Name + " (" + e.IP +
		"): if that is another host, make a new ID on one of them (rm /etc/machine-id && systemd-machine-id-setup) and restart fleetd there; " +
		"if it was this host before, its entry ends with its lease"
}

// KeepAlive renews the presence; kv.ErrLeaseGone: register again. Leave ends it at once (machine record and observations go).
func (r *Registry) KeepAlive(ctx context.Context, p Presence) error { return errTODO }
func (r *Registry) Leave(ctx context.Context, p Presence) error     { return errTODO }

// Update rewrites the machine's own record (metadata or address changed), keeping the registration.
func (r *Registry) Update(ctx context.Context, p Presence, h Hello) error { return errTODO }

// Orders is all an agent must know, at one revision: its machine's placements. Admitted tells that an engine has planned for
// this registration: until then a unit without placement is left alone.
type Orders struct {
	Rev        int64
	Placements map[unit.Name]fleet.Placement
	Admitted   bool
}

// Orders reads a machine's placements.
func (r *Registry) Orders(ctx context.Context, p Presence) (Orders, error) {
	return Orders{}, errTODO
}

// WatchOrders delivers a whole new Orders whenever a machine's placements or admission changed after rev, latest wins (a slow
// agent skips states in between), until ctx ends. It recovers from compaction by itself.
func (r *Registry) WatchOrders(ctx context.Context, p Presence, from Orders) <-chan Orders {
	return nil
}

// Report writes changed observations of p's machine and removes those of units that are gone, in few transactions, on p's lease,
// guarded by p's registration.
func (r *Registry) Report(ctx context.Context, p Presence, changed []fleet.Observation, gone []unit.Name) error {
	return errTODO
}

// Observed reads what this machine has reported (a restarted agent sends only the difference).
func (r *Registry) Observed(ctx context.Context, id fleet.MachineID) (map[unit.Name]fleet.Observation, error) {
	return nil, errTODO
}
