package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Lease is what the agent knows of its host's lease.
type Lease interface {
	// Fed tells that the lease cannot have ended, and that what is ordered was planned while it lived.
	Fed() bool
	// Left is the time until it can have ended; not positive: it can.
	Left() time.Duration
	// Wake is signalled when Fed becomes true.
	Wake() <-chan struct{}
}

// Freezer is systemd's way to take the processor from a unit, and to give it back. Either may be asked for more than once.
type Freezer interface {
	Freeze(ctx context.Context, n unit.Name) error
	Thaw(ctx context.Context, n unit.Name) error
}

// guardUnit ends when the lease was not renewed in time, and everything bound to it with it.
const guardUnit unit.Name = "fleet-guard.service"

// bound units are stopped by systemd when the guard ends. They start only under a lease.
func (d OnDisk) bound() bool { return d.Exclusive || d.Disconnect == unit.Halt }

// fencing says what of a text concerns the lease.
func (d OnDisk) fencing(n unit.Name, f *unit.File) OnDisk {
	needs, err := f.Needs(n)
	if err != nil {
		return d // such a text is not stored: it has been checked
	}
	d.Exclusive, d.Disconnect = needs.Exclusive, needs.OnDisconnect
	if d.Exclusive {
		d.Stop = f.Stop()
	}
	return d
}

// tokens is where the fencing token of each exclusive unit lies: NAME for its environment, NAME.token as a credential. They are read when
// the unit's processes are started, so that a new token needs no reload.
func tokens(disk Disk, n unit.Name) string {
	return filepath.Join(filepath.Dir(filepath.Dir(disk.Path(n))), "fencing", string(n))
}

// guardDropIn binds a unit to the guard. BindsTo and After: without a guard that is active systemd does not even start it. The target resets the
// host when a stop does not end.
func (d OnDisk) guardDropIn(token string) string {
	if !d.Exclusive {
		return "# Written by fleetd, for OnDisconnect=stop\n[Unit]\nBindsTo=" + string(guardUnit) + "\nAfter=" + string(guardUnit) + "\n"
	}
	on := string(guardUnit) + " fleet-fence-" + strconv.Itoa(d.Stop.Class) + ".target"
	dir := filepath.Dir(token)
	return "# Written by fleetd, for Exclusive=yes\n[Unit]\nBindsTo=" + on + "\nAfter=" + on + "\n\n[Service]\n" +
		"TimeoutStopSec=" + strconv.FormatInt(d.Stop.Each.Milliseconds(), 10) + "ms\n" +
		"SendSIGKILL=yes\nFinalKillSignal=SIGKILL\n" +
		"EnvironmentFile=" + dir + "/%n\nLoadCredential=fleet.fencing-token:" + dir + "/%n.token\n"
}

// fed tells whether bound units may start.
func (a *Agent) fed() bool { return (a.Lease == nil || a.Lease.Fed()) && a.orders.Admitted }

// held takes out of starts and restarts what must wait for the lease.
func (a *Agent) held(tasks []Task) []Task {
	if a.fed() {
		return tasks
	}
	return slices.DeleteFunc(tasks, func(t Task) bool { return a.disk[t.Unit].bound() })
}

// token gives a unit that is about to start the revision of its placement: no machine that had it before has a higher one.
func (a *Agent) token(n unit.Name) error {
	if !a.disk[n].Exclusive {
		return nil
	}
	if err := a.Disk.Token(n, a.orders.Placements[n].Rev); err != nil {
		return fmt.Errorf("start %s: write its fencing token: %w", n, err)
	}
	return nil
}

// guarded has the guard's state read together with that of bound units.
func (a *Agent) guarded(names []unit.Name) []unit.Name {
	if slices.ContainsFunc(names, func(n unit.Name) bool { return a.disk[n].bound() }) {
		return append(names, guardUnit)
	}
	return names
}

// fenced notes which units systemd has stopped because their guard ended: they neither ended by themselves nor did anybody stop them, so they
// are started again under the next lease if they are placed here then.
func (a *Agent) fenced(states map[unit.Name]fleet.UnitStatus) {
	guard, asked := states[guardUnit]
	if !asked {
		return
	}
	delete(states, guardUnit)
	if guard.Active != "failed" {
		return
	}
	for n, st := range states {
		if !a.disk[n].bound() || a.disk[n].Started == "" || st.Active == "active" || st.Active == "activating" {
			continue
		}
		// One that had ended before has nothing to do with it. When it ended systemd may have forgotten: then it is better started twice than
		// not again.
		if !st.Since.IsZero() && st.Since.Before(guard.Since.Add(-sinceSlack)) {
			continue
		}
		a.Log.Info("stopped, for this host's lease was not renewed in time", "unit", n)
		a.mark(n, "")
	}
}

// leaseWake is nil without a lease.
func (a *Agent) leaseWake() <-chan struct{} {
	if a.Lease == nil {
		return nil
	}
	return a.Lease.Wake()
}

// LeaseIsBack lets bound units start at once when the lease is back.
func (a *Agent) LeaseIsBack() {
	for id := range a.tried {
		if id.kind == Start && a.disk[id.unit].bound() {
			delete(a.tried, id)
		}
	}
	for n, d := range a.disk {
		if d.bound() {
			a.dirty[n] = true
		}
	}
}

// disconnected plans what a cut makes of units with OnDisconnect=freeze.
func disconnected(o Orders, seen Observed) []Task {
	var tasks []Task
	for n, d := range seen.Disk {
		_, placed := o.Placements[n]
		switch {
		case d.Disconnect != unit.Freeze:
		case seen.Cut && !seen.Frozen[n] && seen.States[n].Active == "active":
			tasks = append(tasks, Task{Freeze, n, d.Hash, "this host is cut off"})
		case !seen.Cut && seen.Fed && seen.Frozen[n] && placed:
			tasks = append(tasks, Task{Thaw, n, d.Hash, "this host is back"})
		}
	}
	return tasks
}

// freeze does what disconnected planned.
func (a *Agent) freeze(ctx context.Context, now time.Time, freezes, thaws []Task) {
	if a.Freezer == nil {
		return
	}
	each := func(tasks []Task, do func(context.Context, unit.Name) error, frozen bool) {
		for _, t := range tasks {
			a.try(now, t)
			if err := do(ctx, t.Unit); err != nil {
				a.fail(t.Unit, err)
				continue
			}
			a.Log.Info(string(t.Kind), "unit", t.Unit, "reason", t.Reason)
			a.frozen[t.Unit] = frozen
		}
	}
	each(freezes, a.Freezer.Freeze, true)
	each(thaws, a.Freezer.Thaw, false)
}

// Leaving are the revoked placements of which nothing is left here: they can be let go.
func (a *Agent) Leaving() []fleet.Placement {
	var gone []fleet.Placement
	for n, p := range a.orders.Placements {
		_, onDisk := a.disk[n]
		_, job := a.jobs[n]
		rev, done := a.letGone[n]
		if p.Target == fleet.Inactive && !onDisk && !job && !(done && rev == p.Rev) {
			gone = append(gone, p)
		}
	}
	slices.SortFunc(gone, func(x, y fleet.Placement) int { return compare(x.Unit, y.Unit) })
	return gone
}

// Down returns those of the placements of whose units nothing runs, whoever started it. What is not on the agent's disk systemd may still know.
func (a *Agent) Down(ctx context.Context, of []fleet.Placement) ([]fleet.Placement, error) {
	names := make([]unit.Name, len(of))
	for i, p := range of {
		names[i] = p.Unit
	}
	states, err := a.Systemd.States(ctx, names)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(of, func(p fleet.Placement) bool {
		st := states[p.Unit]
		return st.Job != "" || st.Active != "" && st.Active != "inactive" && st.Active != "failed"
	}), nil
}

// LetGone notes what was let go.
func (a *Agent) LetGone(of []fleet.Placement) {
	for _, p := range of {
		a.letGone[p.Unit] = p.Rev
	}
	for n := range a.letGone {
		if _, placed := a.orders.Placements[n]; !placed {
			delete(a.letGone, n)
		}
	}
}

type letGone struct {
	of  []fleet.Placement
	err error
}

// startLetGo tells the registry what has left this machine, one telling at a time, and returns when to look again.
func (r *runner) startLetGo(ctx context.Context, now time.Time) time.Duration {
	of := r.Leaving()
	if r.letting || len(of) == 0 {
		return r.Check
	}
	if d := r.letNot.Sub(now); d > 0 {
		return d
	}
	r.letting = true
	go func() {
		ctx, cancel := context.WithTimeout(ctx, fetchLimit)
		defer cancel()
		of, err := r.Down(ctx, of)
		if err == nil {
			err = r.reg.LetGo(ctx, of)
		}
		r.let <- letGone{of, err}
	}()
	return r.Check
}

func (r *runner) hasLetGo(now time.Time, end letGone) {
	r.letting = false
	if end.err == nil {
		r.LetGone(end.of)
	}
	r.letFail++
	if end.err == nil && len(end.of) > 0 {
		r.letFail = 0
	} else {
		r.Log.Debug("units were not let go", "err", end.err)
	}
	r.letNot = now.Add(backoff(r.letFail))
}
