// Package fleet is the vocabulary all rooms share: machines, units, placements, observations, the snapshot that a
// planner reads and the decisions it returns. It holds values and their rules, and does no I/O.
package fleet

import (
	"errors"
	"net/netip"
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

// Errors that cross rooms. Test with errors.Is; the API maps each to one status.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrConflict = errors.New("changed meanwhile") // a guard of a write did not hold: plan again
	ErrInvalid  = unit.ErrInvalid                 // the user's input is wrong: 400; also what unit's errors are
	ErrNoStore  = errors.New("the store cannot be reached")
	// ErrForbidden: who asks may not: 403.
	ErrForbidden = errors.New("not allowed")
)

// MachineID is a host's /etc/machine-id: 32 lower-case hex digits.
type MachineID string

// Short is the form shown to people: the first eight characters, or all if there are fewer.
func (m MachineID) Short() string {
	if len(m) <= 8 {
		return string(m)
	}
	return string(m[:8])
}

// Machine is one registered host.
type Machine struct {
	ID       MachineID
	Name     string            // host name
	IP       netip.Addr        // the address others reach it at; invalid if unknown
	Metadata map[string]string // what the host says, with what was set at run time laid over it
	Version  string            // version of its fleetd
	HostAddr netip.AddrPort    // where other hosts' fleetds reach it; invalid: nowhere
	Leaving  bool              // drains: takes no new units, its own are moved away before it goes
	Cordon   bool              // takes no new units, keeps its own
	Rev      int64             // create revision of this registration; a new one means the host came back
	Admitted int64             // the Rev an engine has planned for; see Admit
	TTL      time.Duration     // of its lease, as granted
	Seat     StoreSeat         // its part in the store
}

// TargetState is what the user wishes for a unit.
type TargetState string

const (
	Inactive TargetState = "inactive" // known, not placed
	Loaded   TargetState = "loaded"   // placed and known to systemd there, not started
	Launched TargetState = "launched" // placed and started
)

// ParseTargetState accepts the three states; the empty word means inactive.
func ParseTargetState(s string) (TargetState, error) {
	switch t := TargetState(s); t {
	case "":
		return Inactive, nil
	case Inactive, Loaded, Launched:
		return t, nil
	}
	return "", &InvalidError{What: "target state " + quote(s), Hint: "use inactive, loaded or launched"}
}

// Unit is what the user wants to run: a name, a text (by hash) and a target state.
type Unit struct {
	Name        unit.Name
	Hash        unit.Hash // of its text with its drop-ins
	Main        unit.Hash // of its text without them; empty if it has none
	Target      TargetState
	Needs       unit.Needs // its [X-Fleet] section, specifiers expanded for Name
	Description string
	Rev         int64         // mod revision of its record; every write names it
	Stop        time.Duration // of an exclusive unit: how long stopping it takes at most, its host's reset included
}

// Placement is the engine's word that a machine shall carry a unit. An agent needs nothing else to act.
type Placement struct {
	Unit    unit.Name
	Machine MachineID
	Hash    unit.Hash
	Target  TargetState // loaded or launched
	// Handover marks the old copy of a moved unit: it runs on until the new one is active, then the engine withdraws it.
	// A unit has at most one placement that is not a handover; a global unit has one on each machine.
	Handover bool
	Rev      int64 // mod revision of its record
}

// Observation is what one machine's systemd says of one unit.
type Observation struct {
	Unit     unit.Name
	Machine  MachineID
	Load     string // systemd's LoadState
	Active   string // systemd's ActiveState
	Sub      string // systemd's SubState
	Result   string // systemd's Result of the unit's type, "success" if there is none
	Hash     unit.Hash
	Launched bool      // the agent has started it, by the user's wish, since it was loaded
	Since    time.Time // when ActiveState last changed, by that machine's clock
	Reason   string    // why the agent could not do what was asked; empty if it could
	// Its own addresses on the overlay while it runs; invalid if it has none of that family.
	IP, IP6 netip.Addr
	// Order is the Rev of the placement that the agent acted on when it saw this; 0 if it had none but an old copy's. What is older than
	// the unit's placement tells of an earlier stay on the machine, which may be ending.
	Order int64
	// Restarted is the number of the last order to restart the unit that was carried out here; 0: none was. See Registry.Restart.
	Restarted int64
}

// Running reports whether a copy that shall reach target has got there, as a handover needs to know: loaded, or started
// and either active or finished well.
func (o Observation) Running(h unit.Hash, target TargetState) bool {
	if o.Hash != h || o.Load != "loaded" {
		return false
	}
	if target != Launched {
		return true
	}
	if !o.Launched {
		return false
	}
	return o.Active == "active" || o.Active == "inactive" && o.Result == "success"
}

// Key names one unit on one machine.
type Key struct {
	Machine MachineID
	Unit    unit.Name
}

// Snapshot is everything the engine plans on, at one revision of the store. Planners read it and never change it.
type Snapshot struct {
	Rev        int64
	At         time.Time
	Machines   map[MachineID]Machine
	Units      map[unit.Name]Unit
	Placements map[Key]Placement
	Observed   map[Key]Observation
	Holders    map[unit.Name]Holder
	Brake      *Brake // nil: never pulled
	// Gone is since when whoever plans knows that a machine is not registered, by At's clock. No store holds that: a machine that is not
	// in here counts as gone from At on.
	Gone map[MachineID]time.Time
}

// NewSnapshot returns an empty one, ready to be filled.
func NewSnapshot() Snapshot {
	return Snapshot{
		Machines:   map[MachineID]Machine{},
		Units:      map[unit.Name]Unit{},
		Placements: map[Key]Placement{},
		Observed:   map[Key]Observation{},
		Holders:    map[unit.Name]Holder{},
		Gone:       map[MachineID]time.Time{},
	}
}

// DecisionKind is the kind of one change to the placements.
type DecisionKind string

const (
	Place    DecisionKind = "place"    // put a placement where there is none, or turn a handover back into a full one
	Update   DecisionKind = "update"   // same machine, new hash or target
	Handover DecisionKind = "handover" // mark a placement as handover: a new one exists, or is placed in the same plan
	Withdraw DecisionKind = "withdraw" // delete a placement
	Revoke   DecisionKind = "revoke"   // an exclusive unit shall leave its machine, which stops it and lets it go before it is withdrawn
	Free     DecisionKind = "free"     // delete the holder of a unit that needs none any more
	Admit    DecisionKind = "admit"    // this registration of a machine has been planned for: its agent may now clear away
)

// Decision is one change, with all that its write is guarded by. Commit refuses it with ErrConflict when the unit's record,
// the placement's record, or the presence of a machine is not what was planned on.
type Decision struct {
	Kind    DecisionKind
	Unit    unit.Name
	Machine MachineID
	Hash    unit.Hash   // Place, Update, Handover: what the placement holds afterwards
	Target  TargetState // likewise
	UnitRev int64       // record of the unit as planned on; 0 = the unit is gone
	Rev     int64       // record of the placement as planned on; 0 = there was none
	// MachineRev is the registration planned on; 0 = the machine was gone, and must still be when this is written.
	MachineRev int64
	Reason     string // for people: "machine 1f2e3d4c gone", "least loaded (3 units)"

	// Of exclusive units only.
	Hold       time.Duration // Place, Update: Machine becomes, or stays, the holder, with this Wait; 0: the holder is not written
	HolderRev  int64         // with Hold, and for Free: the holder's record as planned on; 0 = there was none
	HolderGone MachineID     // the holder so far, which must not be registered; empty: Machine itself, or nobody
}

// Refusal says why one machine cannot take one unit.
type Refusal struct {
	Machine MachineID `json:"machineID"`
	Reason  string    `json:"reason"`
}

// Explanation says what becomes of a unit: where it is or would be placed, or why no machine takes it.
type Explanation struct {
	Unit     unit.Name `json:"unit"`
	Machine  MachineID `json:"machineID,omitempty"`       // placed there, or would be by the next plan
	Placed   bool      `json:"placed"`                    // the placement is written already
	Reason   string    `json:"reason,omitempty"`          // when it concerns no single machine: "target state is inactive"
	Failover float64   `json:"failoverSeconds,omitempty"` // of an exclusive unit: how long after its machine's lease ended it starts elsewhere
	Refusals []Refusal `json:"refusals,omitempty"`        // one per machine, by machine ID, when none takes it
}
