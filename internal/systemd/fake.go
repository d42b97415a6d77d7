package systemd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// FakeOptions are a Fake's surroundings. The zero value uses real time and files.
type FakeOptions struct {
	Now      func() time.Time
	ReadFile func(path string) ([]byte, error)
	JobTime  time.Duration // how long a start or stop takes at least; 5 ms if zero
	// Refuse, if set, is asked before each call (States, Load, Unload, Reload, Start, Stop, Restart), with each unit's name or "" for Reload. Its
	// error is the call's.
	Refuse func(call string, name unit.Name) error
	// Guard, if set, is asked when a unit that is bound to the guard starts it: whether it is fed.
	Guard func() bool
}

// Fake is a small systemd: it runs no processes, but has systemd's jobs, states, results, memory and forgetfulness, as far as
// the suite that it shares with the real one looks. Programs it knows: sleep N ends well after N seconds, true ends at once,
// false fails at once, /nonexistent cannot be executed, and all others run until they are stopped.
//
// No goroutine moves it. Whatever is due happens when a method is called; Next tells when that is worth while, and Run does
// it for tests with real goroutines.
type Fake struct {
	opt FakeOptions

	mu    sync.Mutex                       // guards all below but wake
	links map[unit.Name]string             // what Load linked
	wants map[unit.Name]map[unit.Name]bool // WantedBy and RequiredBy on disk: wanting unit → wanted
	mem   map[unit.Name]*fakeUnit          // units in memory
	log   []string                         // "start web@1.service", in order
	moved map[unit.Name]bool               // changed since the last Take
	ends  []fleet.JobEnd
	lost  bool
	most  int // most jobs at once
	own   string
	wake  chan struct{}

	extras map[unit.Name]extra
	guard  fleet.UnitStatus
}

// NewFake returns a systemd without units.
func NewFake(o FakeOptions) *Fake {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ReadFile == nil {
		o.ReadFile = os.ReadFile
	}
	if o.JobTime == 0 {
		o.JobTime = 5 * time.Millisecond
	}
	if o.Refuse == nil {
		o.Refuse = func(string, unit.Name) error { return nil }
	}
	return &Fake{
		opt:   o,
		links: map[unit.Name]string{},
		wants: map[unit.Name]map[unit.Name]bool{},
		mem:   map[unit.Name]*fakeUnit{},
		moved: map[unit.Name]bool{},
		wake:  make(chan struct{}, 1),

		extras: map[unit.Name]extra{},
	}
}

// lock takes the lock and lets happen what is due.
func (f *Fake) lock() (unlock func()) {
	f.mu.Lock()
	f.pass()
	return f.mu.Unlock
}

// pass lets everything happen that is due by now, in order of time, then name.
func (f *Fake) pass() {
	now := f.opt.Now()
	for {
		n, u := f.soonest()
		if u == nil || u.due.After(now) {
			return
		}
		then, at := u.then, u.due
		u.due, u.then = time.Time{}, nil
		then(at)
		f.forget(n)
		f.unneeded()
	}
}

func (f *Fake) soonest() (name unit.Name, first *fakeUnit) {
	for _, n := range slices.Sorted(maps.Keys(f.mem)) {
		if u := f.mem[n]; u.then != nil && (first == nil || u.due.Before(first.due)) {
			name, first = n, u
		}
	}
	return name, first
}

// Next is when something happens by itself; ok=false if nothing will.
func (f *Fake) Next() (at time.Time, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, u := f.soonest(); u != nil {
		return u.due, true
	}
	return time.Time{}, false
}

// Step lets happen what is due.
func (f *Fake) Step() { f.lock()() }

// Run steps whenever something is due, until ctx ends. It looks again at least every JobTime.
func (f *Fake) Run(ctx context.Context) error {
	tick := time.NewTicker(f.opt.JobTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.Step()
		}
	}
}

// Wake and Take are as Systemd's.
func (f *Fake) Wake() <-chan struct{} { return f.wake }

// Take returns what happened since the last Take.
func (f *Fake) Take() fleet.SystemdChanges {
	defer f.lock()()
	c := fleet.SystemdChanges{Units: slices.Sorted(maps.Keys(f.moved)), Jobs: f.ends, Lost: f.lost}
	clear(f.moved)
	f.ends, f.lost = nil, false
	return c
}

func (f *Fake) signalWake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// States reads units; one that is not in memory is read from its file for that, and forgotten again.
func (f *Fake) States(_ context.Context, names []unit.Name) (map[unit.Name]fleet.UnitStatus, error) {
	defer f.lock()()
	found := map[unit.Name]fleet.UnitStatus{}
	for _, n := range names {
		if n.IsTemplate() {
			return nil, fmt.Errorf("list units: %s is a template", n)
		}
		if err := f.opt.Refuse("States", n); err != nil {
			return nil, err
		}
		if n == guardUnit {
			found[n] = f.guard
			continue
		}
		u := f.get(n)
		found[n] = fleet.UnitStatus{Load: u.load, Active: u.active, Sub: u.sub, Result: u.result, Since: u.since, Job: u.job,
			Stale: f.stale(n)}
		f.forget(n)
	}
	return found, nil
}

// Load links files and notes their [Install] sections.
func (f *Fake) Load(_ context.Context, files []fleet.UnitPath) (stale bool, errs map[unit.Name]error) {
	defer f.lock()()
	errs = map[unit.Name]error{}
	for _, p := range files {
		if err := f.opt.Refuse("Load", p.Name); err != nil {
			errs[p.Name] = err
			continue
		}
		f.disable(p.Name)
		f.links[p.Name] = p.Path
		if x := extraOf(p.DropIns); x != (extra{}) {
			f.extras[p.Name] = x
		} else {
			delete(f.extras, p.Name)
		}
		stale = f.enable(p) || stale
		stale = f.stale(p.Name) || stale
	}
	return stale, errs
}

// enable notes who wants the unit, and reports whether one of them is in memory, inactive, and so does not know yet.
func (f *Fake) enable(p fleet.UnitPath) (stale bool) {
	text, err := f.opt.ReadFile(p.Path)
	if err != nil || !p.Install {
		return false
	}
	for _, in := range p.DropIns {
		text = append(append(text, '\n'), in...)
	}
	file, err := unit.Parse(text)
	if err != nil {
		return false
	}
	for _, key := range []string{"WantedBy", "RequiredBy"} {
		for _, v := range file.Get("Install", key) {
			for _, w := range strings.Fields(v) {
				by := unit.Name(w)
				if f.wants[by] == nil {
					f.wants[by] = map[unit.Name]bool{}
				}
				f.wants[by][p.Name] = true
				if u := f.mem[by]; u != nil && u.active != "active" {
					stale = true
				}
			}
		}
	}
	return stale
}

func (f *Fake) disable(n unit.Name) {
	for _, wanted := range f.wants {
		delete(wanted, n)
	}
}

// Unload forgets units that have stopped.
func (f *Fake) Unload(_ context.Context, names []unit.Name) map[unit.Name]error {
	defer f.lock()()
	errs := map[unit.Name]error{}
	for _, n := range names {
		if err := f.opt.Refuse("Unload", n); err != nil {
			errs[n] = err
			continue
		}
		f.disable(n)
		delete(f.links, n)
		delete(f.extras, n)
		if u := f.mem[n]; u != nil && u.active == "failed" {
			u.active, u.sub, u.result = "inactive", "dead", "success"
			f.changed(u)
		}
		f.forget(n)
	}
	return errs
}

// Reload reads the texts of all units in memory again.
func (f *Fake) Reload(context.Context) error {
	defer f.lock()()
	if err := f.opt.Refuse("Reload", ""); err != nil {
		return err
	}
	f.log = append(f.log, "reload")
	for _, u := range f.mem {
		f.read(u)
	}
	return nil
}

// Start and Stop queue jobs.
func (f *Fake) Start(_ context.Context, names []unit.Name) map[unit.Name]error {
	return f.queue("start", "Start", names, f.start)
}

// Stop queues stop jobs.
func (f *Fake) Stop(_ context.Context, names []unit.Name) map[unit.Name]error {
	return f.queue("stop", "Stop", names, f.stop)
}

// Restart queues restart jobs.
func (f *Fake) Restart(_ context.Context, names []unit.Name) map[unit.Name]error {
	return f.queue("restart", "Restart", names, f.again)
}

func (f *Fake) queue(kind, call string, names []unit.Name, do func(*fakeUnit) error) map[unit.Name]error {
	defer f.lock()()
	errs := map[unit.Name]error{}
	for _, n := range names {
		err := f.opt.Refuse(call, n)
		if err == nil {
			err = do(f.get(n))
		}
		if err != nil {
			errs[n] = fmt.Errorf("%s %s: %w", kind, n, err)
			f.forget(n)
			continue
		}
		f.log = append(f.log, kind+" "+string(n))
		f.most = max(f.most, f.underWay())
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

func (f *Fake) underWay() (n int) {
	for _, u := range f.mem {
		if u.job != "" {
			n++
		}
	}
	return n
}

// --- for tests ---

// Log returns what was asked of it since the last Log: "start N", "stop N", "reload".
func (f *Fake) Log() []string {
	defer f.lock()()
	log := f.log
	f.log = nil
	return log
}

// MostJobs is the greatest number of jobs that were under way at once.
func (f *Fake) MostJobs() int {
	defer f.lock()()
	return f.most
}

// Linked returns the paths by unit that Load has linked.
func (f *Fake) Linked() map[unit.Name]string {
	defer f.lock()()
	return maps.Clone(f.links)
}

// Text is the text that systemd has of a unit in memory; empty if it has forgotten it.
func (f *Fake) Text(n unit.Name) string {
	defer f.lock()()
	if u := f.mem[n]; u != nil && u.file != nil {
		return u.file.String()
	}
	return ""
}

// Exit ends a unit's process: well, or with a failure.
func (f *Fake) Exit(n unit.Name, well bool) {
	defer f.lock()()
	if u := f.mem[n]; u != nil && (u.active == "active" || u.active == "activating") {
		f.exited(u, well, f.opt.Now())
		f.forget(n)
	}
}

// Lose plays a lost bus connection: the ends of running jobs are never told.
func (f *Fake) Lose() {
	defer f.lock()()
	f.lost, f.ends = true, nil
	for _, u := range f.mem {
		u.told = false
	}
	f.signalWake()
}

// SetOwnJob sets what OwnJob says.
func (f *Fake) SetOwnJob(kind string) {
	defer f.lock()()
	f.own = kind
}

// OwnJob is the job of the calling process's unit.
func (f *Fake) OwnJob(context.Context) (string, error) {
	defer f.lock()()
	return f.own, nil
}

var errNotFound = errors.New("unit not found")
