package api

import (
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Unit is a unit as users see it. The fields after MachineID are left out of fleet v1's answers: they come with
// ?view=whole and in a watch, where the options in turn stay away (a list of 10,000 units has no use for their texts). ?view=text gives all.
type Unit struct {
	CurrentState string        `json:"currentState,omitempty"` // inactive, loaded, launched; empty for global units
	DesiredState string        `json:"desiredState,omitempty"` // the target state
	MachineID    string        `json:"machineID,omitempty"`    // where it is placed; empty for global units
	Name         string        `json:"name,omitempty"`
	Options      []unit.Option `json:"options,omitempty"`

	Hash        string `json:"hash,omitempty"` // of the printed text, 40 hex digits
	Description string `json:"description,omitempty"`
	Global      bool   `json:"global,omitempty"`
	Machines    int    `json:"machines,omitempty"` // global: on how many registered machines it is placed
	Rev         int64  `json:"revision,omitempty"` // of its record: grows with every change of text or target state

	Main string `json:"mainHash,omitempty"` // of the text without its drop-ins, if it has any
	// DropIns are options by folder (the unit's name or its template's) and file name. In what is sent, a folder that is named is told
	// whole; of one that is not, the stored drop-ins stay.
	DropIns map[unit.Name]map[string][]unit.Option `json:"dropIns,omitempty"`
	Was     string                                 `json:"was,omitempty"` // sent: the hash that it must have now, else 409
}

// UnitState is what one machine's systemd says of one unit. The fields after SystemdSubState are additive, as in Unit.
type UnitState struct {
	Hash               string `json:"hash,omitempty"` // of the text that is loaded there
	MachineID          string `json:"machineID,omitempty"`
	Name               string `json:"name,omitempty"`
	SystemdActiveState string `json:"systemdActiveState,omitempty"`
	SystemdLoadState   string `json:"systemdLoadState,omitempty"`
	SystemdSubState    string `json:"systemdSubState,omitempty"`

	Result   string    `json:"result,omitempty"`   // systemd's Result: success, exit-code, signal, timeout …
	Since    time.Time `json:"since,omitzero"`     // when the active state last changed, by that machine's clock
	Launched bool      `json:"launched,omitempty"` // the agent has started it since it was loaded
	Reason   string    `json:"reason,omitempty"`   // why the agent could not do what was asked
	IP       string    `json:"ip,omitempty"`       // its own address on the overlay while it runs; IP6 likewise
	IP6      string    `json:"ip6,omitempty"`

	Restarted int64 `json:"restarted,omitempty"` // number of the last order to restart it that was carried out there
}

// Machine is one registered host. The fields after PrimaryIP are additive, as in Unit.
type Machine struct {
	ID        string            `json:"id,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	PrimaryIP string            `json:"primaryIP,omitempty"`

	Name    string `json:"name,omitempty"`    // host name
	Version string `json:"version,omitempty"` // of its fleetd
	Leaving bool   `json:"leaving,omitempty"`
	Cordon  bool   `json:"cordon,omitempty"`
}

// page is the answer to every list. fleet v1 fills one of the three; an empty list has no key at all. With ?view=whole
// the machines stand beside units or states, from the same snapshot.
type page struct {
	Machines      []Machine   `json:"machines,omitempty"`
	NextPageToken string      `json:"nextPageToken,omitempty"`
	States        []UnitState `json:"states,omitempty"`
	Units         []Unit      `json:"units,omitempty"`
}

// Batch is the body of POST batch: units to create, replace or set a target state for (as PUT does for one), and names
// to destroy.
type Batch struct {
	Set    []Unit   `json:"set,omitempty"`
	Delete []string `json:"delete,omitempty"`
}

// BatchResult has one result per unit of the Batch, those of Set first, in order.
type BatchResult struct {
	Results []UnitResult `json:"results"`
	Rev     int64        `json:"revision,omitempty"` // the newest revision the batch wrote
}

// UnitResult says what became of one unit of a Batch. Err is nil when it was done.
type UnitResult struct {
	Name    string `json:"name"`
	Created bool   `json:"created,omitempty"`  // new, or replaced with a different text
	Rev     int64  `json:"revision,omitempty"` // of its record, when it was set
	Hash    string `json:"hash,omitempty"`     // that it has now
	Err     *Error `json:"error,omitempty"`
}

// Event is one line of a watch. One of the pointers is set, or Sync: all that is there has been told, changes follow.
// Deleted: the thing is gone, and only its name (id; name and machineID of a state) is filled in. Err ends a watch.
type Event struct {
	Rev     int64      `json:"revision,omitempty"`
	Deleted bool       `json:"deleted,omitempty"`
	Sync    bool       `json:"sync,omitempty"`
	Unit    *Unit      `json:"unit,omitempty"`
	State   *UnitState `json:"state,omitempty"`
	Machine *Machine   `json:"machine,omitempty"`
	Err     *Error     `json:"error,omitempty"`
}

type explanations struct {
	Explanations []fleet.Explanation `json:"explanations"`
}

// Versions is the answer to GET version.
type Versions struct {
	Fleetd string `json:"fleetd"`
}
