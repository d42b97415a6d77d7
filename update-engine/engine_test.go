package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cmd runs a command line as a user would.
func cmd(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, nil, &out, io.Discard)
	return out.String(), err
}

func ok(t *testing.T, args ...string) string {
	t.Helper()
	out, err := cmd(t, args...)
	if err != nil {
		t.Fatalf("update-engine %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func sumOf(b []byte) string { return payload.Sum(b).String() }

const imageSize = 1<<20 + 212345

// image is what a release's /usr is in these tests: mostly the same from release to release.
func image(version string) []byte {
	r := rand.New(rand.NewPCG(1, 1))
	var b []byte
	for len(b) < imageSize {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64()&0x0f0f0f0f0f0f0f0f)
	}
	b = b[:imageSize]
	copy(b[1<<20:], "this is release "+version)
	return b
}

// publisher is a release directory with its keys.
type publisher struct{ dir, keys, root string }

func newPublisher(t *testing.T) publisher {
	p := publisher{dir: t.TempDir(), keys: t.TempDir()}
	for _, k := range []string{"root", "targets", "online"} {
		ok(t, "keys", "new", filepath.Join(p.keys, k))
	}
	ok(t, "keys", "init", p.dir, "--root", p.key("root"), "--targets", p.key("targets"), "--online", p.key("online"))
	p.root = filepath.Join(p.keys, "root.json")
	must(t, os.WriteFile(p.root, []byte(ok(t, "keys", "root", p.dir)), 0o644))
	return p
}

func (p publisher) key(name string) string { return filepath.Join(p.keys, name) }

func (p publisher) signers() string { return p.key("targets") + "," + p.key("online") }

// publish puts a release with deltas against others into the directory.
func (p publisher) publish(t *testing.T, version string, bases ...string) string {
	t.Helper()
	return p.publishWith(t, version, nil, bases...)
}

// publishWith is publish with more words.
func (p publisher) publishWith(t *testing.T, version string, words []string, bases ...string) string {
	t.Helper()
	files := map[string][]byte{"uki": bytes.Repeat([]byte("kernel "+version), 1000)}
	for _, v := range append([]string{version}, bases...) {
		files["usr-"+v] = image(v)
	}
	for name, b := range files {
		must(t, os.WriteFile(filepath.Join(p.keys, name), b, 0o644))
	}
	args := []string{"publish", p.dir, "--keys", p.signers(), "--version", version, "--usr", p.key("usr-" + version), "--uki", p.key("uki")}
	for _, v := range bases {
		args = append(args, "--base", p.key("usr-"+v))
	}
	return ok(t, append(args, words...)...)
}

// machine is a host whose reboots are played.
type machine struct {
	t     *testing.T
	cfg   Config
	slots slot.Dir
	store kv.Store
	id    string
	boots int
	sick  string // version that is not healthy
	slot  slot.Name
	rel   string
}

func newMachine(t *testing.T, p publisher, mirrors ...string) *machine {
	dir := t.TempDir()
	m := &machine{t: t, slots: slot.Dir{Root: filepath.Join(dir, "host")}, store: kv.NewMemory(time.Now), id: "m1", slot: slot.A, rel: "1.0.0"}
	must(t, m.slots.Init(imageSize+1000))
	if mirrors == nil {
		mirrors = []string{"file://" + p.dir}
	}
	m.cfg = Config{StateDir: dir, Product: "fleet", Arch: "amd64", Channel: "stable", Mirrors: mirrors, Root: p.root, MaxAttempts: 2, Tries: 2,
		HealthDir: filepath.Join(dir, "health.d"), GateTimeout: 10 * time.Millisecond, DrainTimeout: time.Minute, Strategy: permit}
	must(t, os.Mkdir(m.cfg.HealthDir, 0o755))
	// 1.0.0 was written by the installer.
	s := slot.Slots{Boot: m.slots, Images: m.slots, Running: slot.A}
	f, err := m.slots.Image(slot.A)
	must(t, err)
	_, err = f.WriteAt(image("1.0.0"), 0)
	must(t, errors.Join(err, f.Close()))
	must(t, s.MarkGood(slot.Release{Version: "1.0.0", Image: sumOf(image("1.0.0"))}))
	return m
}

// session runs the daemon from one start to the next reboot, or until the state is one that is asked for. facts are sent when the
// daemon has come to rest after its start.
func (m *machine) session(until func(update.State) bool, facts ...update.Fact) (update.State, bool) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	code := "0"
	if m.rel == m.sick {
		code = "1"
	}
	must(m.t, os.WriteFile(filepath.Join(m.cfg.HealthDir, "10-web"), []byte("#!/bin/sh\necho web@1 is not up\nexit "+code+"\n"), 0o755))
	log := slog.New(slog.NewTextHandler(testWriter{m.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	rebooted := make(chan bool, 1)
	boot := fmt.Sprint("boot-", m.boots)
	h := &host{cfg: m.cfg, log: log, slots: slot.Slots{Boot: m.slots, Images: m.slots, Running: m.slot}, running: m.rel, now: time.Now,
		client: http.DefaultClient, reboot: func(context.Context, bool) error { rebooted <- true; return nil },
		permits: newCluster(m.store, "/fleet/", rolloutOf(m.cfg), "default", fleet.MachineID(m.id), boot, log, time.Now)}
	if m.cfg.Strategy != permit {
		h.permits = onlooker{h.permits.(*cluster)}
	}
	if m.cfg.Omaha != "" {
		h.omaha = newOmahaLink(m.cfg, h, m.id, boot)
	}
	first, err := h.started(boot)
	must(m.t, err)
	d := newDaemon(log, filepath.Join(m.cfg.StateDir, "state.json"), h.do, h.now)
	states := make(chan update.State, 1000)
	d.changed = func(s update.State) { states <- s }
	end := make(chan error)
	go func() { end <- d.run(ctx, first) }()
	var last update.State
	send := facts
	for {
		select {
		case last = <-states:
			if (last.Phase == update.Idle || last.Phase == update.Staged) && len(send) > 0 {
				go func(f update.Fact) { _, _ = d.ask(ctx, f) }(send[0])
				send = send[1:]
			} else if len(send) == 0 && until(last) {
				cancel()
				must(m.t, <-end)
				return last, false
			}
		case <-rebooted:
			cancel()
			must(m.t, <-end)
			return last, true
		}
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) { w.t.Logf("%s", b); return len(b), nil }

// restart is the machine's boot loader.
func (m *machine) restart() {
	m.t.Helper()
	m.boots++
	out := strings.Fields(ok(m.t, "boot", m.slots.Root))
	m.slot = slot.Name(strings.TrimPrefix(out[0], "fleet.slot="))
	m.rel = strings.TrimPrefix(out[1], "fleet.version=")
}

// live goes through reboots until the host is idle and has nothing to say, at most ten.
func (m *machine) live(facts ...update.Fact) update.State {
	m.t.Helper()
	for range 10 {
		s, again := m.session(func(s update.State) bool { return s.Phase == update.Idle }, facts...)
		if !again {
			return s
		}
		facts = nil
		m.restart()
	}
	m.t.Fatal("the machine reboots all the time")
	return update.State{}
}

// runs checks what runs and that its image is whole.
func (m *machine) runs(version string) {
	m.t.Helper()
	f, err := m.slots.Image(m.slot)
	must(m.t, err)
	defer f.Close()
	b := make([]byte, imageSize)
	if _, err := f.ReadAt(b, 0); err != nil || m.rel != version || !bytes.Equal(b, image(version)) {
		m.t.Errorf("%s runs from slot %s (%v), want %s and its image", m.rel, m.slot, err, version)
	}
}

func TestFromMakingKeysToABadReleaseThatComesBack(t *testing.T) {
	p := newPublisher(t)
	if out := p.publish(t, "2.0.0", "1.0.0"); !strings.Contains(out, "same 1 full 0 delta 1") {
		t.Errorf("a delta of one changed frame of two:\n%s", out)
	}
	m := newMachine(t, p)
	s := m.live(update.Fact{Kind: update.CheckNow})
	m.runs("2.0.0")
	if !s.Good || s.Why != "2.0.0 has proven itself" || len(s.Failed) != 0 {
		t.Errorf("%s, good %v, failed %v", s.Why, s.Good, s.Failed)
	}

	p.publish(t, "3.0.0", "2.0.0")
	m.sick = "3.0.0"
	s = m.live(update.Fact{Kind: update.CheckNow})
	m.runs("2.0.0")
	want := "came back after its tries were spent: health check 10-web: exit status 1: web@1 is not up"
	if len(s.Failed) != 1 || s.Failed[0].Version != "3.0.0" || s.Failed[0].Reason != want {
		t.Errorf("remembered %v", s.Failed)
	}
	boots := m.boots
	s = m.live(update.Fact{Kind: update.CheckNow})
	if m.boots != boots || !strings.HasPrefix(s.Why, "3.0.0 has failed here before") {
		t.Errorf("%d reboots, %s: it was taken again", m.boots-boots, s.Why)
	}

	must(t, os.Remove(filepath.Join(m.cfg.StateDir, "state.json")))
	s = m.live(update.Fact{Kind: update.CheckNow})
	if m.boots != boots || len(s.Failed) != 1 || s.Failed[0].Reason != "came back after its tries were spent, as its boot entry says" {
		t.Errorf("%d reboots after what was remembered was lost, %v", m.boots-boots, s.Failed)
	}

	p.publish(t, "3.0.1") // without a delta
	m.live(update.Fact{Kind: update.CheckNow})
	m.runs("3.0.1")
	m.live(update.Fact{Kind: update.RollbackNow, Why: "slow"})
	m.runs("2.0.0")

	sem, err := newCluster(m.store, "/fleet/", rolloutOf(m.cfg), "default", "m1", "", slog.Default(), time.Now).permits.Get(t.Context(), "default")
	if err != nil || len(sem.Holders) != 0 {
		t.Errorf("permits are left: %v, %v", sem.Holders, err)
	}
}

func TestHostWithAnotherImageThanItsEntrySaysTakesTheFullPayload(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	m := newMachine(t, p)
	f, err := m.slots.Image(slot.A)
	must(t, err)
	_, err = f.WriteAt(make([]byte, 1<<20), 0)
	must(t, errors.Join(err, f.Close()))
	m.live(update.Fact{Kind: update.CheckNow})
	m.runs("2.0.0")
}

func TestNothingIsWrittenThatIsNotSigned(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0")
	for name, change := range map[string]func(m *machine){
		"no root metadata":       func(m *machine) { m.cfg.Root = filepath.Join(t.TempDir(), "none") },
		"keys of somebody else":  func(m *machine) { m.cfg.Root = newPublisher(t).root },
		"another channel":        func(m *machine) { m.cfg.Channel = "beta" },
		"another product":        func(m *machine) { m.cfg.Product = "other" },
		"no mirror":              func(m *machine) { m.cfg.Mirrors = nil },
		"a mirror that is empty": func(m *machine) { m.cfg.Mirrors = []string{"file://" + t.TempDir()} },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, p)
			change(m)
			s := m.live(update.Fact{Kind: update.CheckNow})
			if s.Checks != 1 || !strings.HasPrefix(s.Why, "check failed: ") || m.boots != 0 {
				t.Errorf("%d failed checks, %d boots, %s", s.Checks, m.boots, s.Why)
			}
			st, err := slot.Slots{Boot: m.slots, Images: m.slots, Running: slot.A}.State()
			if err != nil || len(st.Entries) != 1 {
				t.Errorf("%v, %v", st, err)
			}
		})
	}
}

func TestStagingThatFailsIsGivenUpAndTheHostStaysAsItIs(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0")
	must(t, os.RemoveAll(filepath.Join(p.dir, "payloads")))
	m := newMachine(t, p)
	s := m.live(update.Fact{Kind: update.CheckNow}, update.Fact{Kind: update.CheckNow})
	if m.boots != 0 || len(s.Failed) != 1 || !strings.HasPrefix(s.Failed[0].Reason, "could not be staged: image uki of 2.0.0: fetch index") {
		t.Errorf("%d boots, %v", m.boots, s.Failed)
	}
	m.runs("1.0.0")
}

func TestMirrorOverHTTPAndFile(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	web := httptest.NewServer(http.FileServerFS(os.DirFS(p.dir)))
	defer web.Close()
	copyDir := t.TempDir()
	for range 2 { // again changes nothing
		if out := ok(t, "mirror", web.URL, copyDir, "--root", p.root); out != "fleet 2.0.0 for amd64\n" {
			t.Errorf("mirror says %q", out)
		}
	}
	for _, from := range []string{web.URL, "file://" + copyDir} {
		m := newMachine(t, p, from)
		m.live(update.Fact{Kind: update.CheckNow})
		m.runs("2.0.0")
	}
	u, err := url.Parse(web.URL)
	must(t, err)
	u.Host = "127.0.0.1:1"
	m := newMachine(t, p, u.String(), web.URL)
	m.live(update.Fact{Kind: update.CheckNow})
	m.runs("2.0.0")
}

func TestWithdrawnReleaseIsNotTaken(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0")
	ok(t, "refresh", p.dir, "--keys", p.key("online"))
	ok(t, "withdraw", p.dir, "2.0.0", "--keys", p.signers())
	if _, err := cmd(t, "withdraw", p.dir, "2.0.0", "--keys", p.signers()); err == nil {
		t.Error("withdrawn twice")
	}
	m := newMachine(t, p)
	if s := m.live(update.Fact{Kind: update.CheckNow}); s.Why != "up to date" || m.boots != 0 {
		t.Error(s.Why)
	}
}

func TestStateThatIsDamagedIsBegunAnew(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0")
	m := newMachine(t, p)
	must(t, os.WriteFile(filepath.Join(m.cfg.StateDir, "state.json"), []byte("{"), 0o600))
	m.live(update.Fact{Kind: update.CheckNow})
	m.runs("2.0.0")
}

// TestWhatFailedIsRememberedOnAFullDisk fills the disk before a release comes back: what takes room beside the state is given up for it.
func TestWhatFailedIsRememberedOnAFullDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	d := newDaemon(slog.New(slog.NewTextHandler(testWriter{t}, nil)), file, nil, time.Now)
	d.state = update.State{Phase: update.Trial, Boot: "b1", Running: "2.0.0", From: "1.0.0", Target: update.Offer{Version: "2.0.0"}, GateWhy: "web is down"}
	must(t, d.save())
	d.write = func(p string, b []byte) error {
		if _, err := os.Stat(file + ".reserve"); err == nil {
			return fmt.Errorf("write %s: %w", p, syscall.ENOSPC)
		}
		return replace(p, b)
	}
	d.step(update.Fact{Kind: update.Started, Boot: "b2", Version: "1.0.0", Good: true})
	again := newDaemon(d.log, file, nil, time.Now)
	must(t, again.load())
	if f := again.state.Failed; len(f) != 1 || f[0].Version != "2.0.0" || !strings.Contains(f[0].Reason, "web is down") {
		t.Errorf("what failed is %v", f)
	}
}

func TestStatusText(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	printStatus(&out, Status{update.State{Phase: update.Staging, Running: "1.0.0", Good: true, Target: update.Offer{Version: "2.1.0"}, Done: 30, Frames: 120,
		LastGood: at, CheckAt: at.Add(time.Hour), Failed: []update.Failure{{Version: "2.0.0", Reason: "came back", At: at}}},
		slot.State{Running: slot.A, Next: slot.A, Entries: map[slot.Name]slot.Entry{slot.A: {Slot: slot.A, Left: slot.Good, Release: slot.Release{Version: "1.0.0"}}}}})
	want := `running     1.0.0 in slot a, good
phase       staging 2.1.0 25 %
slot a      1.0.0, good, boots next
slot b      cannot boot
checked     2026-11-21T12:00:00Z
next check  2026-11-21T13:00:00Z
not again   2.0.0: came back (2026-11-21T12:00:00Z)
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestRolloutHoldsHostsBackAndStopsForAll(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	m := newMachine(t, p)
	m.sick = "2.0.0"
	rolls := rollout.Rollouts{Store: m.store, Prefix: "/fleet/"}
	set := func(change func(r *rollout.Rollout)) rollout.Rollout {
		r, err := rolls.Change(t.Context(), rolloutOf(m.cfg), func(r rollout.Rollout) (rollout.Rollout, error) { change(&r); return r, nil })
		must(t, err)
		return r
	}
	set(func(r *rollout.Rollout) {
		var err error
		*r, err = rollout.New("2.0.0", rollout.Normal, 3, time.Now().Add(time.Hour))
		must(t, err)
	})
	if s := m.live(update.Fact{Kind: update.CheckNow}); m.boots != 0 || !strings.Contains(s.Why, "2.0.0 is not for this host yet: the rollout of 2.0.0 begins") {
		t.Errorf("%d boots, %s", m.boots, s.Why)
	}
	m.cfg.Strategy = immediate
	if s := m.live(update.Fact{Kind: update.CheckNow}); m.boots != 0 || !strings.Contains(s.Why, "2.0.0 is not for this host yet") {
		t.Errorf("strategy immediate: %d boots, %s", m.boots, s.Why)
	}
	m.cfg.Strategy = permit
	set(func(r *rollout.Rollout) { r.Start, r.AtLeast = time.Now().Add(-time.Hour), 100 })
	m.live(update.Fact{Kind: update.CheckNow})
	m.runs("1.0.0")
	r := set(func(*rollout.Rollout) {})
	if r.Took != 1 || r.CameBack != 1 || r.Stopped == "" {
		t.Errorf("%+v: the host that came back was not counted", r)
	}
	other := newMachine(t, p)
	other.store, other.cfg.Strategy = m.store, immediate // it asks for no permit, and stops for the same
	other.sick = "2.0.0"
	if s := other.live(update.Fact{Kind: update.CheckNow}); other.boots != 0 || !strings.Contains(s.Why, "has stopped: 1 of 1 hosts that are through came back") {
		t.Errorf("%d boots, %s: the next host took it", other.boots, s.Why)
	}
}

func TestHostsRebootOneAtATimeAndAHolderThatDiesKeepsItsPermit(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	one, two := newMachine(t, p), newMachine(t, p)
	two.id, two.store = "m2", one.store
	denied := func(s update.State) bool {
		return s.Phase == update.Staged && strings.Contains(s.Why, "no reboot permit")
	}

	if _, rebooting := one.session(func(update.State) bool { return false }, update.Fact{Kind: update.CheckNow}); !rebooting {
		t.Fatal("the first host does not reboot")
	}
	// m1 is on its way and may have died there: nobody else goes, however often they ask.
	s, rebooting := two.session(denied, update.Fact{Kind: update.CheckNow}, update.Fact{Kind: update.RebootNow})
	if rebooting || !strings.HasSuffix(s.Why, "no reboot permit: 1 of 1 permits are taken, by m1") {
		t.Fatalf("rebooting %v, %s", rebooting, s.Why)
	}
	one.restart()
	one.live()
	one.runs("2.0.0")
	// The same boot of m2, its daemon started anew: what it staged is still there.
	if _, rebooting := two.session(func(update.State) bool { return false }, update.Fact{Kind: update.RebootNow}); !rebooting {
		t.Fatal("m1 is back and m2 does not go")
	}
	two.restart()
	two.live()
	two.runs("2.0.0")
}
