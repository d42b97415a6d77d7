package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Back-off of tasks that led nowhere.
const (
	firstWait = time.Second
	mostWait  = time.Minute
	storeWait = 100 * time.Millisecond // first, after a read that the store did not answer
)

// Do does a plan's tasks. A task's failure is the reason of its unit and no other's; the next plan has it again, after a while. Jobs
// beyond the window are left to the next plan, when others have ended. Texts to fetch are left to whoever runs the agent: see
// Missing.
func (a *Agent) Do(ctx context.Context, now time.Time, tasks []Task) {
	by := map[Kind][]Task{}
	for _, t := range tasks {
		by[t.Kind] = append(by[t.Kind], t)
	}
	places := a.free(now)
	if a.backlog = len(by[Stop])+len(by[Start])+len(by[Restart]) > places; a.backlog && places < a.Window/2 {
		places = 0 // half a window at once: systemd answers each call only after it has run all jobs it has
	}
	stops := by[Stop][:min(places, len(by[Stop]))]
	a.queue(ctx, now, stops, "stop", a.Systemd.Stop)
	a.unload(ctx, now, by[Unload])
	a.fetch = a.fetch[:0]
	for _, t := range by[Fetch] {
		a.fetch = append(a.fetch, t.Hash)
	}
	failed := a.load(ctx, now, by[Load])
	a.presume(by[Load], by[Start], failed)
	if len(by[Reload]) > 0 {
		a.try(now, by[Reload][0])
		if err := a.Systemd.Reload(ctx); err != nil {
			a.Log.Warn("systemd was not reloaded", "err", err)
		} else {
			a.stale = false
			a.reread()
		}
	}
	if a.stale {
		return // by a file of just now: the next plan reloads, then starts
	}
	starts := a.held(slices.DeleteFunc(by[Start], func(t Task) bool { return failed[t.Unit] }))
	starts = starts[:min(places-len(stops), len(starts))]
	for _, t := range starts {
		a.Log.Debug("start", "unit", t.Unit, "reason", t.Reason)
	}
	a.queue(ctx, now, starts, "start", a.Systemd.Start)
	if a.Restart != nil {
		left := places - len(stops) - len(starts)
		a.queue(ctx, now, by[Restart][:min(left, len(by[Restart]))], "restart", a.Restart)
	}
	a.freeze(ctx, now, by[Freeze], by[Thaw])
}

// reread has the states of units read again that systemd could not load before it was reloaded: no signal tells that it can now.
func (a *Agent) reread() {
	for n, st := range a.states {
		if st.Load != "loaded" {
			a.dirty[n] = true
		}
	}
}

// free is how many jobs may be asked for now.
func (a *Agent) free(now time.Time) int {
	n := a.Window
	for _, j := range a.jobs {
		if now.Sub(j.at) < slowJob {
			n--
		}
	}
	return max(n, 0)
}

// try counts a task that led nowhere, or may not have: it is held for a while, longer each time.
func (a *Agent) try(now time.Time, t Task) { a.hold(now, t, firstWait) }

func (a *Agent) hold(now time.Time, t Task, first time.Duration) {
	before := a.tried[t.id()]
	wait := min(first<<min(before.count, 10), mostWait)
	a.tried[t.id()] = try{count: before.count + 1, until: now.Add(wait)}
}

// queue asks systemd for jobs. What it takes counts as started at once: should this process end before the job does, the next must
// not start a unit that ran in between. What is to be stopped counts as stopping before it is: should the process end before the stop
// does, and the unit be wanted here again, the next must start it, and not take it for one that ended by itself.
func (a *Agent) queue(ctx context.Context, now time.Time, tasks []Task, kind string,
	ask func(context.Context, []unit.Name) map[unit.Name]error) {
	if kind != "stop" {
		tasks = slices.DeleteFunc(tasks, func(t Task) bool {
			err := a.token(t.Unit)
			if err != nil {
				a.try(now, t)
				a.fail(t.Unit, err)
			}
			return err != nil
		})
	}
	if len(tasks) == 0 {
		return
	}
	names := make([]unit.Name, len(tasks))
	for i, t := range tasks {
		names[i] = t.Unit
		a.try(now, t)
		if kind == "stop" {
			a.mark(t.Unit, stopping)
		}
	}
	errs := ask(ctx, names)
	for _, t := range tasks {
		if err := errs[t.Unit]; err != nil {
			a.fail(t.Unit, err)
			a.dirty[t.Unit] = true
			continue
		}
		a.jobs[t.Unit] = job{kind: kind, at: now}
		if kind != "stop" {
			a.mark(t.Unit, t.Hash)
		}
	}
}

func (a *Agent) unload(ctx context.Context, now time.Time, tasks []Task) {
	if len(tasks) == 0 {
		return
	}
	names := make([]unit.Name, len(tasks))
	for i, t := range tasks {
		names[i] = t.Unit
		a.try(now, t)
	}
	// systemd forgets the unit first: a file that went before would leave its links dangling after a crash
	errs := a.Systemd.Unload(ctx, names)
	for _, t := range tasks {
		err := errs[t.Unit]
		if err == nil {
			err = a.Disk.Remove(t.Unit)
		}
		if err != nil {
			a.fail(t.Unit, fmt.Errorf("unload %s: %w", t.Unit, err))
			continue
		}
		delete(a.disk, t.Unit)
		delete(a.states, t.Unit)
		delete(a.addrs, t.Unit)
		delete(a.frozen, t.Unit)
		delete(a.reasons, t.Unit)
		delete(a.dirty, t.Unit)
	}
}

// load writes files and makes them known to systemd, all at once. It returns the units for which that failed.
func (a *Agent) load(ctx context.Context, now time.Time, tasks []Task) (failed map[unit.Name]bool) {
	failed = map[unit.Name]bool{}
	if len(tasks) == 0 {
		return failed
	}
	var files []fleet.UnitPath
	for _, t := range tasks {
		a.try(now, t)
		f, err := a.write(t)
		if err != nil {
			failed[t.Unit] = true
			a.fail(t.Unit, fmt.Errorf("load %s: %w", t.Unit, err))
			continue
		}
		files = append(files, f)
	}
	// All files are written by now. systemd looks at the folder again after each change of it, so one change is cheaper than many, and units
	// that need each other find each other.
	stale, errs := a.Systemd.Load(ctx, files)
	a.stale = a.stale || stale
	for _, f := range files {
		if err := errs[f.Name]; err != nil {
			failed[f.Name] = true
			a.fail(f.Name, fmt.Errorf("load %s: %w", f.Name, err))
		}
		a.dirty[f.Name] = true
	}
	return failed
}

// presume takes fresh units that are about to be started for loaded, without asking: systemd would read their files for the
// answer, forget them, and read them again for the start. It took a quarter of the time to start three hundred. A start that is refused has
// the state read.
func (a *Agent) presume(loads, starts []Task, failed map[unit.Name]bool) {
	fresh := map[unit.Name]bool{}
	for _, t := range loads {
		_, known := a.states[t.Unit]
		fresh[t.Unit] = !known && !failed[t.Unit]
	}
	for _, t := range starts {
		if fresh[t.Unit] {
			a.states[t.Unit] = fleet.UnitStatus{Load: "loaded", Active: "inactive", Sub: "dead", Result: "success"}
			delete(a.dirty, t.Unit)
		}
	}
}

// write puts a text on disk, unless it is there.
func (a *Agent) write(t Task) (fleet.UnitPath, error) {
	d, was := a.disk[t.Unit]
	p := fleet.UnitPath{Name: t.Unit, Path: a.Disk.Path(t.Unit), Install: d.Install, Replaced: was, DropIns: d.dropIns(tokens(a.Disk, t.Unit))}
	if d.Hash == t.Hash {
		return p, nil
	}
	f := a.texts[t.Hash]
	if f == nil {
		return p, fmt.Errorf("text %s: %w", t.Hash, fleet.ErrNotFound)
	}
	if _, err := f.Network(t.Unit); err != nil {
		return p, err // it must not run in the host's network instead
	}
	if err := a.Disk.Write(t.Unit, f); err != nil {
		return p, err
	}
	now := onDisk(t.Unit, f)
	now.Hash, now.Started = t.Hash, d.Started
	a.disk[t.Unit] = now
	p.Install, p.DropIns = now.Install, now.dropIns(tokens(a.Disk, t.Unit))
	return p, nil
}

// Missing are the texts that the last plan asked for.
func (a *Agent) Missing() []unit.Hash { return a.fetch }

// Fetched takes texts that were asked for, or why there are none.
func (a *Agent) Fetched(now time.Time, asked []unit.Hash, texts map[unit.Hash]*unit.File, err error) {
	for _, h := range asked {
		f, why := texts[h], err
		switch {
		case errors.Is(why, fleet.ErrNoStore):
			// A store that changes its leader, or this host its part in it: nothing is wrong with the unit, and it will not take long.
			a.Log.Debug("a text is not read yet", "hash", h, "err", why)
			a.hold(now, Task{Kind: Fetch, Hash: h}, storeWait)
			continue
		case why != nil:
		case f == nil:
			why = fleet.ErrNotFound
		case f.Hash() != h:
			// written to disk it would never be the text that is ordered, and be replaced for ever
			why = fmt.Errorf("its content has the hash %s", f.Hash())
		default:
			a.texts[h] = f
			continue
		}
		for n, p := range a.orders.Placements {
			if p.Hash == h && a.disk[n].Hash != h && !p.Handover {
				a.fail(n, fmt.Errorf("read text %s from the store: %w", h, why))
			}
		}
		a.try(now, Task{Kind: Fetch, Hash: h})
	}
	a.fetch = nil
}
