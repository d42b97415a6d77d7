package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Observe takes in what systemd signalled, reads the states of units that changed, and now and then of all of them, with the disk.
// An error means that systemd or the disk could not be read: plan nothing then.
func (a *Agent) Observe(ctx context.Context, now time.Time) (Observed, error) {
	c := a.Signals.Take()
	if c.Lost {
		clear(a.jobs) // their ends may have been missed
		a.checked = time.Time{}
	}
	for _, j := range c.Jobs {
		a.jobEnded(j)
	}
	for _, n := range c.Units {
		if _, mine := a.disk[n]; mine {
			a.dirty[n] = true
		}
	}
	if err := a.look(ctx, now); err != nil {
		return Observed{}, err
	}
	seen := a.observed(now)
	a.settle(seen)
	return seen, nil
}

// look reads what is not known to be as it was.
func (a *Agent) look(ctx context.Context, now time.Time) error {
	full := a.checked.IsZero() || now.Sub(a.checked) >= a.Check
	if full {
		// Between two full checks the agent is the only one who writes here; what a person changes by hand is seen then.
		disk, err := a.Disk.Read()
		if err != nil {
			return err
		}
		a.disk = disk
		for n, d := range disk {
			a.dirty[n] = true
			if _, known := a.states[n]; !known && d.Disconnect == unit.Freeze {
				a.frozen[n] = true // by an earlier process, perhaps: thawing what runs does nothing
			}
		}
	}
	if names := a.unread(now); len(names) > 0 {
		states, err := a.Systemd.States(ctx, a.guarded(names))
		if err != nil {
			return err
		}
		a.fenced(states)
		for n, st := range states {
			a.states[n] = st
			a.stale = a.stale || st.Stale
			a.lookUp(n, st)
			delete(a.dirty, n)
		}
		a.looked = now
	}
	if full {
		a.checked = now
		a.prune(now)
	}
	return nil
}

// lookPause is between two reads of states while more jobs wait for a place in the window. systemd runs all queued jobs before it answers a
// call: a read in between would leave it without jobs until the answer is here.
const lookPause = 100 * time.Millisecond

// unread are the units whose state is to be read now, sorted. One with a young job is read when that has ended or taken its time: the
// states on the way are gone before anyone could see them.
func (a *Agent) unread(now time.Time) []unit.Name {
	if a.backlog && now.Sub(a.looked) < lookPause {
		return nil
	}
	var names []unit.Name
	for n := range a.dirty {
		if j, ok := a.jobs[n]; !ok || now.Sub(j.at) >= slowJob {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// prune drops what belongs to no unit any more, and jobs that systemd does not know: their end was missed somehow.
func (a *Agent) prune(now time.Time) {
	maps.DeleteFunc(a.states, func(n unit.Name, _ fleet.UnitStatus) bool { _, ok := a.disk[n]; return !ok })
	maps.DeleteFunc(a.addrs, func(n unit.Name, _ addresses) bool { _, ok := a.disk[n]; return !ok })
	maps.DeleteFunc(a.jobs, func(n unit.Name, j job) bool { return a.states[n].Job == "" && now.Sub(j.at) >= a.Check/2 })
}

// observed is what the agent knows now, as values of its own.
func (a *Agent) observed(now time.Time) Observed {
	seen := Observed{At: now, Disk: a.disk, States: a.states, Jobs: make(map[unit.Name]string, len(a.jobs)),
		Texts: make(map[unit.Hash]bool, len(a.texts)), Held: make(map[taskID]time.Time, len(a.tried)), Stale: a.stale,
		Fed: a.Lease == nil || a.Lease.Fed(), Cut: a.Lease != nil && a.Lease.Left() <= 0, Frozen: a.frozen}
	for n, j := range a.jobs {
		seen.Jobs[n] = j.kind
	}
	for h := range a.texts {
		seen.Texts[h] = true
	}
	for id, t := range a.tried {
		seen.Held[id] = t.until
	}
	return seen
}

// settle forgets tries of tasks that are not wanted any more: they worked, or the orders changed. While a job is under way it is not
// known yet whether the task worked.
func (a *Agent) settle(seen Observed) {
	if len(a.tried) == 0 && len(a.reasons) == 0 && len(a.texts) == 0 {
		return
	}
	still := map[taskID]bool{}
	for _, t := range wanted(a.orders, seen) {
		still[t.id()] = true
	}
	needed := map[unit.Hash]bool{}
	for n, p := range a.orders.Placements {
		needed[p.Hash] = needed[p.Hash] || a.disk[n].Hash != p.Hash
	}
	maps.DeleteFunc(a.tried, func(id taskID, _ try) bool { return !still[id] && (id.unit == "" || seen.job(id.unit) == "") })
	maps.DeleteFunc(a.texts, func(h unit.Hash, _ *unit.File) bool { return !needed[h] })
	maps.DeleteFunc(a.reasons, func(n unit.Name, _ string) bool {
		p, placed := a.orders.Placements[n]
		d, onDisk := a.disk[n]
		up := a.states[n].Active == "active" && seen.job(n) == "" && d.Hash == p.Hash && !still[taskID{Stop, n, d.Hash}]
		return !placed && !onDisk || up
	})
}

// jobEnded takes the end of a start or stop that was asked for.
func (a *Agent) jobEnded(j fleet.JobEnd) {
	if _, mine := a.disk[j.Unit]; mine {
		a.dirty[j.Unit] = true
	}
	if a.jobs[j.Unit].kind != j.Kind {
		return // another was asked for since, which cancelled it
	}
	delete(a.jobs, j.Unit)
	switch {
	case j.Kind == "stop" && j.Result == "done":
		a.mark(j.Unit, "")
	case j.Result == "done" || j.Result == "skipped": // skipped: a condition was not met, which is as the unit wants it
		delete(a.reasons, j.Unit)
	case j.Kind != "stop" && (j.Result == "failed" || j.Result == "timeout" || j.Result == "canceled"):
		// it has run or was cancelled by someone: started, from our side
		a.reasons[j.Unit] = fmt.Sprintf("%s job: %s (journalctl -u %s says more)", j.Kind, j.Result, j.Unit)
	case j.Kind != "stop":
		a.mark(j.Unit, "") // never ran: a dependency failed, say. It is tried again
		a.reasons[j.Unit] = j.Kind + " job: " + j.Result
		if j.Result == "unsupported" {
			a.reasons[j.Unit] += fmt.Sprintf(" (this machine's systemd cannot start %s units; a container's starts no automount, swap or device)", j.Unit.Type())
		}
		if j.Result == "dependency" && a.disk[j.Unit].Overlay {
			a.reasons[j.Unit] += fmt.Sprintf(" (should it be the address: journalctl -u fleet-netns@%s)", j.Unit)
		}
	default:
		a.reasons[j.Unit] = "stop job: " + j.Result
	}
}

// mark notes what was started, on disk and here.
func (a *Agent) mark(n unit.Name, started unit.Hash) {
	d, ok := a.disk[n]
	restarted := a.orders.Restarts[n] // any start is of after the orders that are known
	if started == "" {
		restarted = 0
	}
	if !ok || d.Started == started && d.Restarted == restarted {
		return
	}
	if err := a.Disk.Mark(n, started, restarted); err != nil {
		a.fail(n, err)
		return
	}
	if d.Started, d.Restarted = started, restarted; d == (OnDisk{}) {
		delete(a.disk, n)
		return
	}
	a.disk[n] = d
}

// fail notes why a unit is not as it was asked for.
func (a *Agent) fail(n unit.Name, err error) {
	if a.reasons[n] != err.Error() {
		a.Log.Warn("a unit's task failed", "unit", n, "err", err)
	}
	a.reasons[n] = err.Error()
}
