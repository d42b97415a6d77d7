// Package agent carries out what is placed on one machine: it observes the orders, the unit files on disk and systemd, plans the
// tasks between them, and does them. It reports what systemd says to the registry. It never decides where a unit runs, and
// without orders it touches nothing. main runs one Agent per machine and gives it systemd, the disk and a registry
// bound to the machine's registration.
package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Orders is all that this machine must know, at one revision of the store.
type Orders struct {
	Rev        int64
	Placements map[unit.Name]fleet.Placement
	Admitted   bool                // an engine has planned for this registration; until then a unit without placement is left alone
	Restarts   map[unit.Name]int64 // the number of the last order to restart each unit, if there was one
}

// Registry is the machine's view of the registry, bound to one registration. Report is one or few transactions; the
// others are as in package registry.
type Registry interface {
	Orders(ctx context.Context) (Orders, error)
	WatchOrders(ctx context.Context, from Orders) <-chan Orders
	Observed(ctx context.Context) (map[unit.Name]fleet.Observation, error)
	Report(ctx context.Context, changed []fleet.Observation, gone []unit.Name) error
	// LetGo says that nothing of these exclusive units, whose placements are revoked, runs here any more.
	LetGo(ctx context.Context, of []fleet.Placement) error
}

// Files gives unit texts by hash; one that is not stored is absent.
type Files interface {
	Files(ctx context.Context, hashes ...unit.Hash) (map[unit.Hash]*unit.File, error)
}

// Systemd reads states and changes them. Start and Stop return when systemd has taken each job; Signals tells its end.
type Systemd interface {
	States(ctx context.Context, names []unit.Name) (map[unit.Name]fleet.UnitStatus, error)
	Load(ctx context.Context, files []fleet.UnitPath) (stale bool, errs map[unit.Name]error)
	Unload(ctx context.Context, names []unit.Name) map[unit.Name]error
	Reload(ctx context.Context) error
	Start(ctx context.Context, names []unit.Name) map[unit.Name]error
	Stop(ctx context.Context, names []unit.Name) map[unit.Name]error
}

// Signals tells what changed in systemd since the last Take; Wake is signalled when that is something.
type Signals interface {
	Wake() <-chan struct{}
	Take() fleet.SystemdChanges
}

// Disk keeps the unit files, and beside them the marks of what was started. Files and marks of templates and of names that no unit may
// have are neither read nor written.
type Disk interface {
	Read() (map[unit.Name]OnDisk, error)
	Write(name unit.Name, f *unit.File) error
	Remove(name unit.Name) error // file, drop-ins and mark; none is no error
	// Mark notes what was started, and the number of the last order to restart by then; "" takes the mark away.
	Mark(name unit.Name, started unit.Hash, restarted int64) error
	Path(name unit.Name) string
	// Token writes a unit's fencing token into the file tokens(name), and beside it as a credential. Remove takes both away.
	Token(name unit.Name, token int64) error
}

// OnDisk is one unit's file and mark.
type OnDisk struct {
	Hash    unit.Hash // of the file with its drop-ins; empty if there is none
	Install bool      // the file has an [Install] section
	Overlay bool      // the file asks for an address of the unit's own
	Beside  string    // its drop-ins, as they are printed behind the file; empty if it has none
	Started unit.Hash // content that was started by the user's wish; empty if none was; stopping

	Restarted int64 // number of the last order to restart when it was started

	Exclusive  bool            // it is bound to the guard, and may be stopped for Stop at most
	Disconnect unit.Disconnect // what becomes of it when this host is cut off
	Stop       unit.Stop
}

// stopping is the mark of a unit that was started and is being stopped.
const stopping unit.Hash = "stopping"

// Config is an agent's surroundings.
type Config struct {
	Machine fleet.MachineID
	Systemd Systemd
	Signals Signals
	Files   Files
	Disk    Disk
	Log     *slog.Logger
	// Addresses are those that a unit on the overlay has now; nil: no unit has any.
	Addresses func(unit.Name) []netip.Addr
	// Restart asks systemd for restart jobs, as Start does for start jobs: a stop and a start would not restart what depends on the unit. nil:
	// orders to restart are not carried out.
	Restart func(ctx context.Context, names []unit.Name) map[unit.Name]error

	Lease   Lease   // nil: there is none that could end
	Freezer Freezer // nil: nothing is frozen

	Window int           // jobs in flight, 16 if zero
	Check  time.Duration // between full checks of disk and systemd, 60 s if zero; lengthened by up to a tenth
}

// slowJob is how long a job takes up a place in the window. One that takes longer waits for its program (Type=notify, a slow ExecStop),
// not for systemd, and must not hold up others.
const slowJob = 250 * time.Millisecond

// Agent holds what was seen last. Its methods belong to one goroutine: that of Run, or of whoever steps it by hand.
type Agent struct {
	Config
	orders Orders

	disk    map[unit.Name]OnDisk
	states  map[unit.Name]fleet.UnitStatus
	addrs   map[unit.Name]addresses // read with the state
	dirty   map[unit.Name]bool      // state to be read again
	checked time.Time               // last full check; zero: do one now
	looked  time.Time               // last read of states
	backlog bool                    // the last plan had more jobs than the window places

	jobs    map[unit.Name]job
	texts   map[unit.Hash]*unit.File
	fetch   []unit.Hash // asked for by the last plan, not fetched yet
	tried   map[taskID]try
	stale   bool
	reasons map[unit.Name]string // why the last task of a unit failed

	frozen  map[unit.Name]bool
	letGone map[unit.Name]int64 // revision of the revoked placement that was let go

	told   map[unit.Name]fleet.Observation // what the registry holds
	unsure map[unit.Name]bool              // sent in a report that failed: the registry may hold it or not
	dumps  chan chan Dump
}

// job is a start or stop that systemd has taken and not ended yet.
type job struct {
	kind string
	at   time.Time
}

// try is when a task was done last, and how often in a row without having led anywhere.
type try struct {
	count int
	until time.Time
}

// New returns an agent that has seen nothing yet.
func New(c Config) *Agent {
	if c.Window == 0 {
		c.Window = 16
	}
	if c.Check == 0 {
		c.Check = time.Minute
	}
	return &Agent{
		Config:  c,
		disk:    map[unit.Name]OnDisk{},
		states:  map[unit.Name]fleet.UnitStatus{},
		addrs:   map[unit.Name]addresses{},
		dirty:   map[unit.Name]bool{},
		jobs:    map[unit.Name]job{},
		texts:   map[unit.Hash]*unit.File{},
		tried:   map[taskID]try{},
		reasons: map[unit.Name]string{},
		frozen:  map[unit.Name]bool{},
		letGone: map[unit.Name]int64{},
		told:    map[unit.Name]fleet.Observation{},
		unsure:  map[unit.Name]bool{},
		dumps:   make(chan chan Dump),
	}
}

// SetOrders takes new orders. What failed under the old ones is forgotten.
func (a *Agent) SetOrders(o Orders) {
	for n := range a.reasons {
		if was, is := a.orders.Placements[n], o.Placements[n]; was.Hash != is.Hash || was.Target != is.Target || a.orders.Restarts[n] != o.Restarts[n] {
			delete(a.reasons, n)
		}
	}
	a.orders = o
}
