package fleet

import (
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

// UnitStatus is what systemd says of one unit right now.
type UnitStatus struct {
	Load   string    // LoadState: loaded, not-found, bad-setting, masked, error
	Active string    // ActiveState
	Sub    string    // SubState
	Result string    // Result of the unit's type; "success" where there is none or it never ran
	Since  time.Time // when Active last changed, to a few milliseconds; zero if it never did
	Job    string    // kind of the job queued or running for it: start, stop, restart…; empty if none
	Stale  bool      // systemd holds an older text than the disk; only looked up when the unit is seen first
}

// UnitPath is a unit file for systemd to take in.
type UnitPath struct {
	Name     unit.Name
	Path     string // absolute
	Install  bool   // has an [Install] section to enable at run time
	Replaced bool   // another text was there before, so that systemd may hold on to that one
	// DropIns are fleet's own additions to the unit, by file name: fleet-WHAT.conf → text. Others of fleet's are taken away, those of
	// anybody else are left alone.
	DropIns map[string]string
}

// JobEnd says how a start or stop that was asked for ended, in systemd's word: done, failed, timeout, dependency, canceled,
// skipped, assert, unsupported, collected, once.
type JobEnd struct {
	Unit   unit.Name
	Kind   string // start, stop or restart
	Result string
}

// SystemdChanges is what happened in systemd between two looks.
type SystemdChanges struct {
	Units []unit.Name // status changed, perhaps back again; sorted
	Jobs  []JobEnd    // in the order they ended
	Lost  bool        // the connection was made anew: anything may have changed, and ends of jobs were lost
}
