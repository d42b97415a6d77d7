package fleet

import "github.com/fleet-init/fleet/internal/unit"

// Submission is one unit that a user creates, replaces or whose target state he sets.
type Submission struct {
	Name   unit.Name
	File   *unit.File   // nil: the unit must exist, only its target state is set
	Target *TargetState // nil: inactive for a new or replaced unit
	// SpeaksFor are the units whose folders of drop-ins File is the whole of; see unit.Folders. Of the others, what is stored stays: the
	// unit's own, or for a new instance its template's. So a client that knows nothing of drop-ins loses none.
	SpeaksFor []unit.Name
	Was       unit.Hash // the hash that the unit must have now, else ErrConflict; empty: whatever it has
}

// SubmitResult says what one Submission did.
type SubmitResult struct {
	Created bool // new, or replaced with a different text
	Rev     int64
	Hash    unit.Hash // that the unit has now, with the drop-ins that stayed
	Err     error     // ErrNotFound (no File and no such unit), ErrInvalid, ErrConflict, or the store's
}

// Settings is a change to what is set at run time for a machine: nil fields and absent keys stay as they are.
type Settings struct {
	Metadata map[string]*string // nil value: the key is hidden, also when the host itself says it
	Cordon   *bool
	Leaving  *bool
}

// Change is one typed change from a watch. Exactly one of the pointers is set; Deleted says the record is gone, and then
// only the identifying fields (ID, Name, Key) of the pointed-to value hold something. Machines come whole: own record,
// settings and admission joined.
type Change struct {
	Deleted     bool
	Machine     *Machine
	Unit        *Unit
	Placement   *Placement
	Observation *Observation
	Holder      *Holder
	Brake       *Brake
}

// Changes is what a watch delivers: all typed changes of whole revisions up to Rev. Err ends the watch (kv.ErrCompacted: take
// a Snapshot and watch again from its Rev+1).
type Changes struct {
	Changes []Change
	Rev     int64
	Err     error
}

// Term is one engine's time as leader. All it commits is guarded by it.
type Term struct {
	Machine MachineID
	Lease   int64 // the store's lease that the leader key hangs on
	Rev     int64 // create revision of the leader key
}
