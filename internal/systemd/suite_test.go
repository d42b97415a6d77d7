package systemd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// system is what Systemd and Fake have in common.
type system interface {
	States(context.Context, []unit.Name) (map[unit.Name]fleet.UnitStatus, error)
	Load(context.Context, []fleet.UnitPath) (bool, map[unit.Name]error)
	Unload(context.Context, []unit.Name) map[unit.Name]error
	Start(context.Context, []unit.Name) map[unit.Name]error
	Stop(context.Context, []unit.Name) map[unit.Name]error
	Restart(context.Context, []unit.Name) map[unit.Name]error
	Reload(context.Context) error
	OwnJob(context.Context) (string, error)
	Wake() <-chan struct{}
	Take() fleet.SystemdChanges
}

// bench is one systemd under test.
type bench struct {
	*testing.T
	sys  system
	dir  string
	rest func(*bench) // lets a little time pass, or waits for a signal
	lose func()       // breaks the connection
	ends []fleet.JobEnd
	seen map[unit.Name]bool // changed so far
	lost bool
	mine []unit.Name // to be cleared away
}

// write puts a text into the folder of unit files.
func (b *bench) write(name unit.Name, text string) fleet.UnitPath {
	b.Helper()
	f, err := unit.Parse([]byte(text))
	if err != nil {
		b.Fatal(err)
	}
	p := filepath.Join(b.dir, string(name))
	_, err = os.Stat(p)
	replaced := err == nil
	if err := os.WriteFile(p+".new", []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Rename(p+".new", p); err != nil {
		b.Fatal(err)
	}
	b.mine = append(b.mine, name)
	return fleet.UnitPath{Name: name, Path: p, Install: f.HasInstall(), Replaced: replaced}
}

func (b *bench) load(files ...fleet.UnitPath) (stale bool) {
	b.Helper()
	stale, errs := b.sys.Load(b.Context(), files)
	if len(errs) != 0 {
		b.Fatal(errs)
	}
	return stale
}

func (b *bench) start(names ...unit.Name) {
	b.Helper()
	if errs := b.sys.Start(b.Context(), names); len(errs) != 0 {
		b.Fatal(errs)
	}
}

func (b *bench) stop(names ...unit.Name) {
	b.Helper()
	if errs := b.sys.Stop(b.Context(), names); len(errs) != 0 {
		b.Fatal(errs)
	}
}

func (b *bench) take() {
	c := b.sys.Take()
	b.ends = append(b.ends, c.Jobs...)
	b.lost = b.lost || c.Lost
	for _, n := range c.Units {
		b.seen[n] = true
	}
}

// until rests and takes changes until something is so.
func (b *bench) until(what string, so func() bool) {
	b.Helper()
	for limit := time.Now().Add(20 * time.Second); ; {
		b.take()
		if so() {
			return
		}
		if time.Now().After(limit) {
			b.Fatalf("never saw: %s; jobs ended: %v", what, b.ends)
		}
		b.rest(b)
	}
}

// ended waits for the end of a unit's job and returns its result.
func (b *bench) ended(kind string, name unit.Name) (result string) {
	b.Helper()
	b.until(kind+" "+string(name)+" ended", func() bool {
		for i, e := range b.ends {
			if e.Unit == name && e.Kind == kind {
				result = e.Result
				b.ends = slices.Delete(b.ends, i, i+1)
				return true
			}
		}
		return false
	})
	return result
}

func (b *bench) state(name unit.Name) fleet.UnitStatus {
	b.Helper()
	got, err := b.sys.States(b.Context(), []unit.Name{name})
	if err != nil {
		b.Fatal(err)
	}
	return got[name]
}

// becomes waits until a unit's state reads "load active sub result".
func (b *bench) becomes(name unit.Name, want string) {
	b.Helper()
	got := ""
	b.until(string(name)+" "+want, func() bool {
		st := b.state(name)
		was := got
		got = fmt.Sprintf("%s %s %s %s", st.Load, st.Active, st.Sub, st.Result)
		if got != was {
			b.Logf("%s: %s", name, got)
		}
		return got == want
	})
}

func (b *bench) sameEnd(what, got, want string) {
	b.Helper()
	if d := cmp.Diff(want, got); d != "" {
		b.Errorf("%s (-want +got):\n%s", what, d)
	}
}

const sleeper = "[Service]\nExecStart=/bin/sleep infinity\n"

// suite is run against both.
func suite(t *testing.T, open func(*testing.T) *bench) {
	for _, c := range []struct {
		name string
		test func(*bench)
	}{
		{"a fresh file starts without a reload", testFresh},
		{"a replaced file is stale while systemd remembers the unit", testStale},
		{"a file written anew after its unit went is not stale", testAnew},
		{"what systemd does not know can be stopped and unloaded, not started", testUnknown},
		{"a file that is no good is refused", testBad},
		{"a program that is not there fails the job", testNoProgram},
		{"a oneshot ends", testOneshot},
		{"a process that ends by itself is told", testEndsItself},
		{"a slow stop is over when ExecStop is", testSlowStop},
		{"a stop of a stopped unit is done", testStopStopped},
		{"a start of a running unit is done", testStartRunning},
		{"two hundred starts at once all end", testMany},
		{"an installed unit is pulled up", testInstall},
		{"an installed unit of a loaded inactive one is stale", testInstallLoaded},
		{"units of other types", testTypes},
		{"a missing requirement refuses the start", testRequires},
		{"a restart is one job", testRestart},
		{"a template has no state", testTemplate},
		{"a lost connection is made anew", testLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			t.Cleanup(b.clear)
			b.T = t
			c.test(b)
		})
	}
}

// clear stops and unloads what a test made.
func (b *bench) clear() {
	ctx := context.WithoutCancel(b.Context())
	b.sys.Stop(ctx, b.mine)
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); b.rest(b) {
		states, err := b.sys.States(ctx, b.mine)
		if err != nil {
			b.Error(err)
		}
		busy := slices.ContainsFunc(b.mine, func(n unit.Name) bool {
			return states[n].Active != "inactive" && states[n].Active != "failed"
		})
		if !busy {
			break
		}
	}
	if errs := b.sys.Unload(ctx, b.mine); len(errs) != 0 {
		b.Error(errs)
	}
	for _, n := range b.mine {
		if err := os.Remove(filepath.Join(b.dir, string(n))); err != nil && !os.IsNotExist(err) {
			b.Error(err)
		}
	}
}

func testRestart(b *bench) {
	b.load(b.write("ft-a.service", "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 0.2\n"), b.write("ft-b.service", "[Service]\nExecStart=/bin/false\nType=oneshot\n"))
	b.start("ft-a.service")
	b.sameEnd("start", b.ended("start", "ft-a.service"), "done")
	b.becomes("ft-a.service", "loaded active running success")
	before := b.state("ft-a.service")
	restart := func(names ...unit.Name) {
		b.Helper()
		if errs := b.sys.Restart(b.Context(), names); len(errs) != 0 {
			b.Fatal(errs)
		}
	}
	restart("ft-a.service", "ft-b.service")
	b.sameEnd("restart", b.ended("restart", "ft-a.service"), "done")
	b.becomes("ft-a.service", "loaded active running success")
	if after := b.state("ft-a.service"); !after.Since.After(before.Since) {
		b.Errorf("active since %v, before the restart since %v", after.Since, before.Since)
	}
	b.sameEnd("restart of what does not run", b.ended("restart", "ft-b.service"), "failed")
	if errs := b.sys.Restart(b.Context(), []unit.Name{"ft-none.service"}); errs["ft-none.service"] == nil {
		b.Error("a unit that is not there is restarted")
	}
}

func testFresh(b *bench) {
	before := time.Now()
	if b.load(b.write("ft-a@1.service", sleeper)) {
		b.Error("a fresh file needs no reload")
	}
	b.start("ft-a@1.service")
	b.sameEnd("start", b.ended("start", "ft-a@1.service"), "done")
	b.becomes("ft-a@1.service", "loaded active running success")
	if !b.seen["ft-a@1.service"] {
		b.Error("the start was not told as a change")
	}
	st := b.state("ft-a@1.service")
	if st.Since.Before(before.Add(-time.Second)) || st.Since.After(time.Now().Add(time.Minute)) {
		b.Errorf("active since %v", st.Since)
	}
	if again := b.state("ft-a@1.service"); !again.Since.Equal(st.Since) {
		b.Errorf("since moved from %v to %v without a change", st.Since, again.Since)
	}
	b.stop("ft-a@1.service")
	b.sameEnd("stop", b.ended("stop", "ft-a@1.service"), "done")
	b.becomes("ft-a@1.service", "loaded inactive dead success")
}

func testStale(b *bench) {
	b.load(b.write("ft-s.service", sleeper))
	b.start("ft-s.service")
	b.ended("start", "ft-s.service")
	if !b.load(b.write("ft-s.service", "[Service]\nExecStart=/bin/sleep 1000\n")) {
		b.Error("the text of a running unit was replaced, and systemd should hold the old one")
	}
	if err := b.sys.Reload(b.Context()); err != nil {
		b.Fatal(err)
	}
	if b.load(b.write("ft-s.service", "[Service]\nExecStart=/bin/sleep 1000\n")) && b.state("ft-s.service").Active != "active" {
		b.Error("the reload stopped the unit")
	}
}

func testAnew(b *bench) {
	b.load(b.write("ft-n.service", sleeper))
	b.start("ft-n.service")
	b.ended("start", "ft-n.service")
	b.stop("ft-n.service")
	b.ended("stop", "ft-n.service")
	b.becomes("ft-n.service", "loaded inactive dead success")
	if b.load(b.write("ft-n.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")) {
		b.Error("systemd has forgotten the stopped unit: its new text needs no reload")
	}
	b.start("ft-n.service")
	b.sameEnd("start", b.ended("start", "ft-n.service"), "done")
	b.becomes("ft-n.service", "loaded inactive dead success") // it was the oneshot
}

func testUnknown(b *bench) {
	names := []unit.Name{"ft-unknown.service"}
	if errs := b.sys.Start(b.Context(), names); errs[names[0]] == nil {
		b.Error("start of a unit without file is no error")
	}
	b.stop(names...)
	b.sameEnd("stop", b.ended("stop", names[0]), "done")
	if errs := b.sys.Unload(b.Context(), names); len(errs) != 0 {
		b.Error(errs)
	}
	b.becomes(names[0], "not-found inactive dead success")
}

func testBad(b *bench) {
	b.load(b.write("ft-bad.service", "[Service]\nType=simple\n"))
	if errs := b.sys.Start(b.Context(), []unit.Name{"ft-bad.service"}); errs["ft-bad.service"] == nil {
		b.Error("no error")
	}
	b.becomes("ft-bad.service", "bad-setting inactive dead success")
}

func testNoProgram(b *bench) {
	b.load(b.write("ft-nop.service", "[Service]\nType=oneshot\nExecStart=/nonexistent\n"))
	b.start("ft-nop.service")
	b.sameEnd("start", b.ended("start", "ft-nop.service"), "failed")
	b.becomes("ft-nop.service", "loaded failed failed exit-code")
	if errs := b.sys.Unload(b.Context(), []unit.Name{"ft-nop.service"}); len(errs) != 0 {
		b.Error(errs)
	}
	b.becomes("ft-nop.service", "not-found inactive dead success")
}

func testOneshot(b *bench) {
	b.load(b.write("ft-one.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 0.3\n"),
		b.write("ft-stay.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"))
	b.start("ft-one.service", "ft-stay.service")
	b.becomes("ft-one.service", "loaded activating start success")
	b.sameEnd("start", b.ended("start", "ft-one.service"), "done")
	b.becomes("ft-one.service", "loaded inactive dead success")
	b.becomes("ft-stay.service", "loaded active exited success")
}

func testEndsItself(b *bench) {
	b.load(b.write("ft-self.service", "[Service]\nExecStart=/bin/sleep 0.3\n"),
		b.write("ft-again.service", "[Service]\nRestart=always\nRestartSec=300ms\nExecStart=/bin/sleep 0.2\n"))
	b.start("ft-self.service", "ft-again.service")
	b.ended("start", "ft-self.service")
	b.becomes("ft-again.service", "loaded activating auto-restart success")
	b.becomes("ft-again.service", "loaded active running success")
	b.becomes("ft-self.service", "loaded inactive dead success")
}

func testSlowStop(b *bench) {
	b.load(b.write("ft-slow.service", sleeper+"ExecStop=/bin/sleep 0.5\n"))
	b.start("ft-slow.service")
	b.ended("start", "ft-slow.service")
	b.stop("ft-slow.service")
	b.becomes("ft-slow.service", "loaded deactivating stop success")
	if st := b.state("ft-slow.service"); st.Job != "stop" {
		b.Errorf("job %q while stopping", st.Job)
	}
	b.sameEnd("stop", b.ended("stop", "ft-slow.service"), "done")
	b.becomes("ft-slow.service", "loaded inactive dead success")
}

func testStopStopped(b *bench) {
	b.load(b.write("ft-ss.service", sleeper))
	b.stop("ft-ss.service")
	b.sameEnd("stop", b.ended("stop", "ft-ss.service"), "done")
}

func testStartRunning(b *bench) {
	b.load(b.write("ft-sr.service", sleeper))
	for range 2 {
		b.start("ft-sr.service")
		b.sameEnd("start", b.ended("start", "ft-sr.service"), "done")
	}
}

func testMany(b *bench) {
	var files []fleet.UnitPath
	var names []unit.Name
	for i := range 200 {
		n := unit.Name(fmt.Sprintf("ft-many@%d.service", i))
		names = append(names, n)
		files = append(files, b.write(n, "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"))
	}
	if b.load(files...) {
		b.Error("fresh files need no reload")
	}
	b.start(names...)
	b.until("200 ends", func() bool { return len(b.ends) == 200 })
	got, err := b.sys.States(b.Context(), names)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range names {
		if got[n].Active != "active" {
			b.Errorf("%s is %s", n, got[n].Active)
		}
	}
}

func testInstall(b *bench) {
	b.load(b.write("ft-pulled.service", sleeper+"[Install]\nWantedBy=ft-puller.service\n"), b.write("ft-puller.service", sleeper))
	b.start("ft-puller.service")
	b.becomes("ft-pulled.service", "loaded active running success")
}

func testInstallLoaded(b *bench) {
	// a failed unit stays in systemd's memory
	b.load(b.write("ft-puller.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n"))
	b.start("ft-puller.service")
	b.sameEnd("start", b.ended("start", "ft-puller.service"), "failed")
	if !b.load(b.write("ft-pulled.service", sleeper+"[Install]\nWantedBy=ft-puller.service\n")) {
		b.Error("the puller in memory does not know its new dependency, and no reload is asked for")
	}
}

func testTypes(b *bench) {
	for _, c := range []struct {
		name       unit.Name
		text, want string
	}{
		{"ft-t.socket", "[Socket]\nListenStream=/run/ft-t.sock\n", "loaded active listening success"},
		{"ft-t.timer", "[Timer]\nOnBootSec=100d\n", "loaded active waiting success"},
		{"ft-t.path", "[Path]\nPathExists=/run/ft-t.nowhere\n", "loaded active waiting success"},
		{"ft-t.target", "[Unit]\nDescription=x\n", "loaded active active success"},
		{"ft-t.slice", "[Slice]\nTasksMax=100\n", "loaded active active success"},
		{`run-ft\x2dt.mount`, "[Mount]\nWhat=tmpfs\nType=tmpfs\nWhere=/run/ft-t\n", "loaded active mounted success"},
		// no automount, which a container's systemd refuses, and no swap, which would be the host's
	} {
		b.Run(string(c.name), func(t *testing.T) {
			inner := *b
			inner.T = t
			files := []fleet.UnitPath{inner.write(c.name, c.text)}
			switch c.name.Type() {
			case "socket", "timer", "path": // they start a service of their name
				files = append(files, inner.write("ft-t.service", sleeper))
			}
			inner.load(files...)
			inner.start(c.name)
			inner.sameEnd("start", inner.ended("start", c.name), "done")
			inner.becomes(c.name, c.want)
			inner.stop(c.name)
			inner.sameEnd("stop", inner.ended("stop", c.name), "done")
			inner.clear()
		})
	}
}

func testRequires(b *bench) {
	b.load(b.write("ft-req.service", "[Unit]\nRequires=ft-gone.service\n"+sleeper))
	if errs := b.sys.Start(b.Context(), []unit.Name{"ft-req.service"}); errs["ft-req.service"] == nil {
		b.Error("no error")
	}
	b.load(b.write("ft-gone.service", sleeper))
	b.start("ft-req.service")
	b.sameEnd("start", b.ended("start", "ft-req.service"), "done")
}

func testTemplate(b *bench) {
	if _, err := b.sys.States(b.Context(), []unit.Name{"ft@.service"}); err == nil {
		b.Error("no error")
	}
}

func testLost(b *bench) {
	b.load(b.write("ft-l.service", sleeper))
	b.start("ft-l.service")
	b.ended("start", "ft-l.service")
	b.lose()
	b.until("lost", func() bool { return b.lost })
	b.becomes("ft-l.service", "loaded active running success")
	b.stop("ft-l.service")
	b.sameEnd("stop", b.ended("stop", "ft-l.service"), "done")
}
