package systemd

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// guardUnit is the one unit that a Fake knows without a file: units whose drop-ins bind them to it start it, and stop when it fails.
const guardUnit unit.Name = "fleet-guard.service"

// extra is what drop-ins say of a unit.
type extra struct {
	bound bool          // to the guard
	limit time.Duration // TimeoutStopSec; 0: as in the file
}

func extraOf(dropIns map[string]string) (x extra) {
	for _, text := range dropIns {
		f, err := unit.Parse([]byte(text))
		if err != nil {
			continue
		}
		for _, v := range f.Get("Unit", "BindsTo") {
			x.bound = x.bound || slices.Contains(strings.Fields(v), string(guardUnit))
		}
		for _, v := range f.Get("Service", "TimeoutStopSec") {
			x.limit = span(v, x.limit)
		}
	}
	return x
}

// guarded tells whether u may run now: it is not bound to the guard, or the guard is up, or comes up. If not, its start ends as a dependency
// that failed.
func (f *Fake) guarded(u *fakeUnit, at time.Time) bool {
	if !f.extras[u.name].bound || f.guard.Active == "active" {
		return true
	}
	f.guard = fleet.UnitStatus{Load: "loaded", Active: "active", Sub: "running", Result: "success", Since: at}
	if f.opt.Guard == nil || f.opt.Guard() {
		return true
	}
	f.guard.Active, f.guard.Sub, f.guard.Result = "failed", "failed", "exit-code"
	if u.active == "activating" { // between two runs
		f.to(u, at, "inactive", "dead")
	}
	f.done(u, "dependency")
	return false
}

// GuardUp tells whether the guard runs.
func (f *Fake) GuardUp() bool {
	defer f.lock()()
	return f.guard.Active == "active"
}

// FailGuard ends the guard, and systemd stops what is bound to it. Nobody asked for these stops, so that nobody is told of their end.
func (f *Fake) FailGuard() {
	defer f.lock()()
	if f.guard.Active != "active" {
		return
	}
	f.guard = fleet.UnitStatus{Load: "loaded", Active: "failed", Sub: "failed", Result: "watchdog", Since: f.opt.Now()}
	for _, n := range slices.Sorted(maps.Keys(f.mem)) {
		u := f.mem[n]
		if !f.extras[n].bound || u.job == "stop" || u.active == "inactive" && u.job == "" || u.active == "failed" && u.job == "" {
			continue
		}
		f.done(u, "canceled")
		_ = f.stop(u) // has no error for a unit in memory
		u.told = false
	}
}

// unneeded lets the guard go when nothing is bound to it any more.
func (f *Fake) unneeded() {
	if f.guard.Active != "active" {
		return
	}
	for n, u := range f.mem {
		if f.extras[n].bound && (u.job != "" || u.active != "inactive" && u.active != "failed") {
			return
		}
	}
	f.guard = fleet.UnitStatus{Load: "loaded", Active: "inactive", Sub: "dead", Result: "success", Since: f.opt.Now()}
}

// Alive tells whether processes of a unit run or may run, and the text that they run.
func (f *Fake) Alive(n unit.Name) (*unit.File, bool) {
	defer f.lock()()
	u := f.mem[n]
	if u == nil || u.active == "inactive" || u.active == "failed" || u.sub == "auto-restart" {
		return nil, false
	}
	return u.file, true
}
