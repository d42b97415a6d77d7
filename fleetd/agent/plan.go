package agent

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Kind is what a task does.
type Kind string

// The kinds, in the order in which a plan has them. Stops come before the reload, so that ExecStop of the old text runs; all
// files are on disk before anything starts, so that a unit finds those it depends on.
const (
	Stop   Kind = "stop"
	Unload Kind = "unload" // take a stopped unit's file away
	Fetch  Kind = "fetch"  // get a text from the registry
	Load   Kind = "load"   // write the file and make it known to systemd
	Reload Kind = "reload" // systemd's daemon-reload
	Start  Kind = "start"

	Freeze  Kind = "freeze"
	Thaw    Kind = "thaw"
	Restart Kind = "restart" // of what runs, or has run, by the user's order
)

func kinds() []Kind { return []Kind{Stop, Unload, Fetch, Load, Reload, Start, Restart, Freeze, Thaw} }

// Task is one step, with its reason for people.
type Task struct {
	Kind   Kind
	Unit   unit.Name // empty for Reload; for Fetch one of those that need the text
	Hash   unit.Hash // the text that the task is about; empty for Reload
	Reason string
}

func (t Task) String() string {
	words := []string{string(t.Kind)}
	if t.Unit != "" {
		words = append(words, string(t.Unit))
	}
	if t.Hash != "" {
		words = append(words, string(t.Hash[:min(7, len(t.Hash))]))
	}
	return strings.Join(words, " ") + ": " + t.Reason
}

// taskID tells whether a task is the same as one before.
type taskID struct {
	kind Kind
	unit unit.Name
	hash unit.Hash
}

func (t Task) id() taskID {
	if t.Kind == Fetch {
		return taskID{kind: Fetch, hash: t.Hash}
	}
	return taskID{t.Kind, t.Unit, t.Hash}
}

// Observed is what a plan is made on, beside the orders.
type Observed struct {
	At     time.Time
	Disk   map[unit.Name]OnDisk
	States map[unit.Name]fleet.UnitStatus // of every unit in Disk
	Jobs   map[unit.Name]string           // start or stop that was asked for and has not ended
	Texts  map[unit.Hash]bool             // at hand
	Held   map[taskID]time.Time           // tasks that led nowhere: not before then
	Fed    bool                           // this host's lease cannot have ended: bound units may start
	Cut    bool                           // it can have ended
	Frozen map[unit.Name]bool             // by us
	Stale  bool                           // systemd holds an older text than the disk
}

// Plan returns the tasks between what is observed and what is ordered, at most one reload, ordered by kind, then by unit.
// What has to wait for another task's end, such as a file's removal for the unit's stop, is left to the next plan.
func Plan(o Orders, seen Observed) []Task {
	tasks := slices.DeleteFunc(wanted(o, seen), func(t Task) bool { return seen.Held[t.id()].After(seen.At) })
	if seen.Stale && !slices.ContainsFunc(tasks, func(t Task) bool { return t.Kind == Reload }) {
		// the reload failed a moment ago: what starts now could start an old text
		tasks = slices.DeleteFunc(tasks, func(t Task) bool { return t.Kind == Start || t.Kind == Restart })
	}
	loads := map[unit.Name]bool{}
	for _, t := range tasks {
		loads[t.Unit] = loads[t.Unit] || t.Kind == Load
	}
	return slices.DeleteFunc(tasks, func(t Task) bool {
		// the load is held back, so is what would start it
		return t.Kind == Start && seen.Disk[t.Unit].Hash != t.Hash && !loads[t.Unit]
	})
}

// wanted is the plan without regard to what failed before.
func wanted(o Orders, seen Observed) []Task {
	seen.Fed = seen.Fed && o.Admitted // orders that were planned for an earlier registration start nothing that may run elsewhere
	tasks := disconnected(o, seen)
	for _, p := range o.Placements {
		if !p.Handover { // a handover runs on as it is, until it is withdrawn
			tasks = append(tasks, place(p, seen, o.Restarts[p.Unit])...)
		}
	}
	for n := range seen.Disk {
		if _, placed := o.Placements[n]; !placed && o.Admitted {
			tasks = append(tasks, unload(n, seen, "no longer placed here")...)
		}
	}
	if seen.Stale {
		tasks = append(tasks, Task{Kind: Reload, Reason: "systemd holds an older text"})
	}
	order := kinds()
	slices.SortFunc(tasks, func(a, b Task) int { // total, since a unit has one task of a kind: the maps' order is gone
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.Unit, b.Unit))
	})
	fetched := map[unit.Hash]bool{}
	return slices.DeleteFunc(tasks, func(t Task) bool {
		again := t.Kind == Fetch && fetched[t.Hash]
		fetched[t.Hash] = fetched[t.Hash] || t.Kind == Fetch
		return again
	})
}

// job is the kind of job that is under way for a unit, by us or by somebody else.
func (o Observed) job(n unit.Name) string {
	if j := o.Jobs[n]; j != "" {
		return j
	}
	return o.States[n].Job
}

// down reports whether nothing of a unit runs or is about to. A unit with an unknown state is not on disk.
func (o Observed) down(n unit.Name) bool {
	if o.job(n) != "" {
		return false
	}
	switch o.States[n].Active {
	case "", "inactive", "failed":
		return true
	}
	return false
}

// unload stops a unit, then takes it away.
func unload(n unit.Name, seen Observed, reason string) []Task {
	d := seen.Disk[n]
	if seen.down(n) {
		return []Task{{Unload, n, d.Hash, reason}}
	}
	return halt(n, seen, reason)
}

// halt stops a unit, unless that is under way.
func halt(n unit.Name, seen Observed, reason string) []Task {
	if seen.job(n) == "stop" {
		return nil
	}
	return []Task{{Stop, n, seen.Disk[n].Hash, reason}}
}

// place brings a unit to its placement; restart is the number of the last order to restart it.
func place(p fleet.Placement, seen Observed, restart int64) []Task {
	n := p.Unit
	d, onDisk := seen.Disk[n]
	switch {
	case p.Target != fleet.Loaded && p.Target != fleet.Launched:
		if !onDisk {
			return nil
		}
		return unload(n, seen, "its target state is "+string(p.Target))
	case d.Hash == "" && d.Started == p.Hash && onDisk:
		// the file was taken away by hand; the unit may run on
		return load(p, seen, "its file is gone")
	case d.Hash == "":
		return load(p, seen, "placed here")
	case d.Hash != p.Hash && !seen.down(n) && seen.Texts[p.Hash]:
		// The old text's ExecStop must have run before the new text is written. The new one is at hand first: the store may not be there
		// to ask while the unit is down.
		return halt(n, seen, "its text changed")
	case d.Hash != p.Hash:
		return load(p, seen, "its text changed")
	case seen.States[n].Load == "not-found":
		return load(p, seen, "systemd does not know it")
	case p.Target == fleet.Launched && d.Started == p.Hash && d.Restarted < restart && seen.job(n) == "" && (seen.Fed || !d.bound()):
		return []Task{{Restart, n, p.Hash, "somebody wants it restarted"}}
	case p.Target == fleet.Launched:
		return launch(p, seen)
	case d.Started != "":
		return halt(n, seen, "its target state is loaded")
	}
	return nil
}

// load fetches or writes a text, and starts the unit if that is its target.
func load(p fleet.Placement, seen Observed, reason string) []Task {
	if seen.Disk[p.Unit].Hash != p.Hash && !seen.Texts[p.Hash] {
		return []Task{{Fetch, p.Unit, p.Hash, "to be loaded"}}
	}
	tasks := []Task{{Load, p.Unit, p.Hash, reason}}
	if p.Target == fleet.Launched {
		tasks = append(tasks, launch(p, seen)...)
	}
	return tasks
}

// launch starts a unit that was not started with this content before. One that ended since, by itself or by an operator's
// hand, is left as it is.
func launch(p fleet.Placement, seen Observed) []Task {
	if seen.Disk[p.Unit].bound() && !seen.Fed {
		return nil // systemd would refuse
	}
	if seen.Disk[p.Unit].Started == p.Hash || seen.Jobs[p.Unit] != "" || seen.job(p.Unit) == "stop" {
		return nil
	}
	return []Task{{Start, p.Unit, p.Hash, "its target state is launched"}}
}
