package fleet

import (
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

// Holder is the machine that is not yet known to have let an exclusive unit go: it carries the unit, is stopping it, or was lost while it did
// one of the two.
type Holder struct {
	Unit    unit.Name
	Machine MachineID
	// Wait is for how long after the end of its machine's registration the unit may still run there. See Failover.
	Wait time.Duration
	Rev  int64 // mod revision of its record
}

// Failover is how long a leader waits, after the registration of an exclusive unit's machine has ended, before it places the unit anew. The lease
// counts once more, though it has just ended: a store whose leader was paused may end leases early. The rest is for clocks that do not
// run at the same rate, and for systemd to do what it does.
func Failover(lease, stop time.Duration) time.Duration {
	wait := lease + stop
	return wait + wait/50 + time.Second
}

// Brake is the alarm that many machines vanished at once: while it is on, what is placed on missing machines stays placed there.
type Brake struct {
	Since   time.Time   // by the leader's clock
	Missing []MachineID // that were missing when it was pulled, sorted
	Of      int         // machines that there were before
	Resumed bool        // an operator has let it go: these machines do not pull it again
	Rev     int64       // mod revision of its record
}

// On tells whether rescheduling is stopped.
func (b *Brake) On() bool { return b != nil && !b.Resumed }
