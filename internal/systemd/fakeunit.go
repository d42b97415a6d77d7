package systemd

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// fakeUnit is one unit in a Fake's memory.
type fakeUnit struct {
	name   unit.Name
	file   *unit.File // the text in memory; the file's may be another by now
	hash   unit.Hash
	pulls  []unit.Name // what it starts with it
	load   string
	active string
	sub    string
	result string
	since  time.Time

	job  string // start, stop or restart while one is under way
	told bool   // whoever asked for it is still there to be told of its end

	due  time.Time       // when then happens
	then func(time.Time) // nil: nothing will by itself
}

// get returns a unit, read into memory if it was not there.
func (f *Fake) get(n unit.Name) *fakeUnit {
	u, ok := f.mem[n]
	if !ok {
		u = &fakeUnit{name: n, active: "inactive", sub: "dead", result: "success"}
		f.read(u)
		f.mem[n] = u
	} else if u.load == "not-found" && f.links[n] != "" {
		f.read(u) // as systemd does when it sees a new file
	}
	return u
}

// forget drops a unit as systemd's garbage collection does: inactive, not failed, without a job.
func (f *Fake) forget(n unit.Name) {
	if u := f.mem[n]; u != nil && u.active == "inactive" && u.job == "" && u.then == nil {
		delete(f.mem, n)
	}
}

// read takes a unit's text from its file.
func (f *Fake) read(u *fakeUnit) {
	u.load, u.file, u.hash, u.pulls = "not-found", nil, "", nil
	at, ok := f.links[u.name]
	if !ok {
		return
	}
	text, err := f.opt.ReadFile(at)
	if err != nil {
		return
	}
	u.load = "bad-setting"
	if u.file, err = unit.Parse(text); err != nil {
		return
	}
	u.hash = u.file.Hash()
	if u.name.Type() != "service" || u.command("ExecStart") != "" || u.kind() == "oneshot" && u.command("ExecStop") != "" {
		u.load = "loaded"
	}
	for n := range f.wants[u.name] {
		u.pulls = append(u.pulls, n)
	}
	slices.Sort(u.pulls)
}

// stale reports whether the text in memory is not the file's.
func (f *Fake) stale(n unit.Name) bool {
	u := f.mem[n]
	if u == nil || u.file == nil {
		return false
	}
	text, err := f.opt.ReadFile(f.links[n])
	if err != nil {
		return false
	}
	file, err := unit.Parse(text)
	return err == nil && file.Hash() != u.hash
}

func (u *fakeUnit) setting(section, name string) string {
	if u.file == nil {
		return ""
	}
	v := u.file.Get(section, name)
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}

func (u *fakeUnit) command(name string) string { return u.setting("Service", name) }

func (u *fakeUnit) kind() string {
	if t := u.setting("Service", "Type"); t != "" {
		return t
	}
	return "simple"
}

// span reads a time span of a setting: seconds, or with a unit; "infinity" and nothing give otherwise.
func (u *fakeUnit) span(name string, otherwise time.Duration) time.Duration {
	return span(u.setting("Service", name), otherwise)
}

func span(v string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(v); err == nil {
		return d
	}
	if d, err := time.ParseDuration(v + "s"); err == nil {
		return d
	}
	return otherwise
}

// forEver is longer than any test.
const forEver = 100 * 365 * 24 * time.Hour

// lasts says how long a command line runs and how it ends. can is false if it cannot be executed.
func lasts(line string) (d time.Duration, well, can bool) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return 0, true, true
	}
	switch path.Base(words[0]) {
	case "true":
		return 0, true, true
	case "false":
		return 0, false, true
	case "nonexistent":
		return 0, false, false
	case "sleep":
		if len(words) == 2 {
			return span(words[1], forEver), true, true
		}
	}
	return forEver, true, true
}

// to sets a unit's state at a time and tells that it changed.
func (f *Fake) to(u *fakeUnit, at time.Time, active, sub string) {
	if u.active != active {
		u.since = at
	}
	u.active, u.sub = active, sub
	f.changed(u)
}

func (f *Fake) changed(u *fakeUnit) {
	f.moved[u.name] = true
	f.signalWake()
}

// done ends a unit's job.
func (f *Fake) done(u *fakeUnit, result string) {
	if u.job == "" {
		return
	}
	if u.told {
		f.ends = append(f.ends, fleet.JobEnd{Unit: u.name, Kind: u.job, Result: result})
	}
	u.job, u.told = "", false
	f.changed(u)
}

func (u *fakeUnit) after(at time.Time, d time.Duration, then func(time.Time)) {
	u.due, u.then = at.Add(d), then
}

// start queues a start job, and start jobs of what the unit pulls up.
func (f *Fake) start(u *fakeUnit) error {
	switch u.load {
	case "not-found":
		return fmt.Errorf("unit %s: %w", u.name, errNotFound)
	case "bad-setting":
		return fmt.Errorf("unit %s has a bad unit file setting", u.name)
	}
	pulls := slices.Clone(u.pulls)
	for _, v := range u.file.Get("Unit", "Requires") {
		for _, w := range strings.Fields(v) {
			need := f.get(unit.Name(w))
			if need.load == "not-found" {
				f.forget(need.name)
				return fmt.Errorf("unit %s: %w", need.name, errNotFound)
			}
			pulls = append(pulls, need.name)
		}
	}
	f.begin(u, true)
	for _, n := range pulls {
		if other := f.get(n); other.load == "loaded" && other.job == "" && other.active == "inactive" {
			f.begin(other, false)
		}
	}
	return nil
}

func (f *Fake) begin(u *fakeUnit, told bool) {
	f.done(u, "canceled")
	u.job, u.told = "start", told
	f.changed(u)
	if u.active == "active" {
		u.keep(f, f.opt.Now())
		return
	}
	if u.active == "deactivating" {
		return // starts when the stop is over
	}
	u.after(f.opt.Now(), f.opt.JobTime, func(at time.Time) { f.run(u, at) })
}

// keep ends the start job of a unit that runs already, without touching what will happen to its process.
func (u *fakeUnit) keep(f *Fake, at time.Time) {
	due, then := u.due, u.then
	u.after(at, f.opt.JobTime, func(now time.Time) {
		f.done(u, "done")
		u.due, u.then = due, then
	})
}

// run executes a unit.
func (f *Fake) run(u *fakeUnit, at time.Time) {
	if !f.guarded(u, at) {
		return
	}
	u.result = "success"
	if sub, ok := activeSub(u.name.Type()); ok {
		f.to(u, at, "active", sub)
		f.done(u, "done")
		return
	}
	d, well, can := lasts(u.command("ExecStart"))
	switch {
	case !can && u.kind() != "simple":
		f.exited(u, false, at)
	case u.kind() == "oneshot":
		f.to(u, at, "activating", "start")
		u.after(at, d, func(at time.Time) { f.exited(u, well, at) })
	case u.kind() == "notify":
		f.to(u, at, "activating", "start")
		u.after(at, u.span("TimeoutStartSec", 90*time.Second), func(at time.Time) { f.fail(u, "timeout", at) })
	default:
		f.to(u, at, "active", "running")
		f.done(u, "done")
		if d < forEver {
			u.after(at, d, func(at time.Time) { f.exited(u, well, at) })
		}
	}
}

// activeSub is the SubState of an active unit that has no process of its own.
func activeSub(kind string) (string, bool) {
	sub, ok := map[string]string{"socket": "listening", "timer": "waiting", "path": "waiting", "mount": "mounted",
		"automount": "waiting", "swap": "active", "target": "active", "slice": "active"}[kind]
	return sub, ok
}

// exited is the end of a unit's process.
func (f *Fake) exited(u *fakeUnit, well bool, at time.Time) {
	u.then = nil
	if !well {
		f.fail(u, "exit-code", at)
		return
	}
	if u.kind() == "oneshot" && u.setting("Service", "RemainAfterExit") == "yes" {
		f.to(u, at, "active", "exited")
		f.done(u, "done")
		return
	}
	if u.setting("Service", "Restart") == "always" {
		f.restart(u, at)
		return
	}
	f.to(u, at, "inactive", "dead")
	f.done(u, "done")
}

func (f *Fake) fail(u *fakeUnit, result string, at time.Time) {
	u.result = result
	f.done(u, "failed")
	if r := u.setting("Service", "Restart"); r == "always" || r == "on-failure" {
		f.restart(u, at)
		return
	}
	f.to(u, at, "failed", "failed")
}

func (f *Fake) restart(u *fakeUnit, at time.Time) {
	f.to(u, at, "activating", "auto-restart")
	u.after(at, u.span("RestartSec", 100*time.Millisecond), func(at time.Time) { f.run(u, at) })
}

// stop queues a stop job.
func (f *Fake) stop(u *fakeUnit) error {
	now := f.opt.Now()
	switch {
	case u.job == "stop":
		return nil
	case u.active == "deactivating": // its start, queued behind, is not wanted any more
		f.done(u, "canceled")
		u.job, u.told = "stop", true
		return nil
	}
	f.done(u, "canceled")
	u.job, u.told = "stop", true
	f.changed(u)
	if u.active == "inactive" || u.active == "failed" {
		u.after(now, f.opt.JobTime, func(time.Time) { f.done(u, "done") })
		return nil
	}
	takes, _, _ := lasts(u.command("ExecStop"))
	limit, result := u.span("TimeoutStopSec", 90*time.Second), "success"
	if x := f.extras[u.name]; x.limit > 0 {
		limit = x.limit
	}
	if takes > limit {
		takes, result = limit, "timeout"
	}
	f.to(u, now, "deactivating", "stop")
	u.after(now, max(takes, f.opt.JobTime), func(at time.Time) { f.stopped(u, result, at) })
	return nil
}

// again queues a restart job: one job, whose end is that of the start.
func (f *Fake) again(u *fakeUnit) error {
	ask := f.stop
	if u.load != "loaded" || u.active == "inactive" || u.active == "failed" {
		ask = f.start
	}
	if err := ask(u); err != nil {
		return err
	}
	u.job = "restart"
	return nil
}

func (f *Fake) stopped(u *fakeUnit, result string, at time.Time) {
	u.result = result
	if result == "success" {
		f.to(u, at, "inactive", "dead")
	} else {
		f.to(u, at, "failed", "failed")
	}
	if u.job == "start" || u.job == "restart" {
		u.after(at, f.opt.JobTime, func(at time.Time) { f.run(u, at) })
		return
	}
	f.done(u, "done")
}
