package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
	"github.com/google/go-cmp/cmp"
)

// unitsOf is a systemctl that knows these units: "name load active sub file-state [job]".
func unitsOf(t *testing.T, required string, lines ...string) func(context.Context, ...string) (string, error) {
	return func(_ context.Context, args ...string) (string, error) {
		if args[len(args)-1] == "boot-complete.target" {
			return required + "\n", nil
		}
		var out strings.Builder
		for _, l := range lines {
			f := append(strings.Fields(l), "")
			asked := args[len(args)-1] == "*.service"
			for _, a := range args {
				asked = asked || a == f[0]
			}
			if asked {
				fmt.Fprintf(&out, "Id=%s\nLoadState=%s\nActiveState=%s\nSubState=%s\nUnitFileState=%s\nJob=%s\nResult=exit-code\n\n", f[0], f[1], f[2], f[3], f[4], f[5])
			}
		}
		return out.String(), nil
	}
}

func TestUnitsThatKeepABootFromBeingGood(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ran   string
		units []string
		want  string
	}{
		{"all is well", "sshd.service", []string{"fleetd.service loaded active running enabled", "sshd.service loaded active running enabled"}, ""},
		{"fleetd still joins", "", []string{"fleetd.service loaded activating start enabled 7"}, "fleetd.service is still activating"},
		{"fleetd waits for its turn in the boot", "", []string{"fleetd.service loaded inactive dead disabled 7"}, "fleetd.service is still inactive"},
		{"fleetd is not of this host", "", []string{"fleetd.service loaded inactive dead disabled"}, ""},
		{"netd does not come up", "", []string{"netd.service loaded failed failed enabled"}, "netd.service has failed: exit-code"},
		{"what ran before has failed", "sshd.service", []string{"sshd.service loaded failed failed enabled"}, "sshd.service has failed: exit-code"},
		{"what ran before does not run", "sshd.service", []string{"sshd.service loaded inactive dead enabled"}, "sshd.service ran before and does not now"},
		{"what ran before is not part of the release any more", "old.service", []string{"old.service not-found inactive dead -"}, ""},
		{"a unit file that is broken", "sshd.service", []string{"sshd.service bad-setting inactive dead enabled"}, "sshd.service could not be loaded: bad-setting"},
		{"what boot-complete.target requires", "", []string{"check.service loaded failed failed enabled"}, "check.service has failed: exit-code"},
	} {
		h := &host{cfg: Config{GateUnits: []string{"fleetd.service", "netd.service"}}, ctl: unitsOf(t, "check.service "+gateUnit, tt.units...)}
		got := errText(h.unitsHealthy(t.Context(), strings.Fields(tt.ran)))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// oneStep is permits of a cluster of which one method is told what to say.
type oneStep struct {
	permits
	reach  error
	outage bool
	peers  []string
	asked  []string
}

func (o *oneStep) Reach(context.Context) error             { return o.reach }
func (o *oneStep) Peers(context.Context) ([]string, error) { return o.peers, nil }
func (o *oneStep) Outage(_ context.Context, peers []string) bool {
	o.asked = peers
	return o.outage
}

func TestWhatRanIsAskedForAndAnOutageIsTold(t *testing.T) {
	away := errors.New("the store cannot be reached")
	o := &oneStep{peers: []string{"http://10.0.0.2:2379"}}
	h := &host{cfg: Config{StateDir: t.TempDir(), GateUnits: []string{"fleetd.service"}, GateTimeout: time.Nanosecond}, log: slog.New(slog.DiscardHandler), permits: o, now: time.Now,
		ctl: unitsOf(t, "", "fleetd.service loaded active running disabled", "sshd.service loaded active running enabled", "once.service loaded active exited enabled",
			"mine.service loaded active running linked-runtime", "bus.service loaded active running static", "off.service loaded inactive dead enabled")}
	h.remember(t.Context())
	want := before{Units: []string{"fleetd.service", "mine.service", "sshd.service"}, Peers: o.peers}
	if diff := cmp.Diff(want, h.before()); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct {
		reach  error
		outage bool
		want   update.Fact
	}{
		{nil, false, update.Fact{Kind: update.GatePassed}},
		{away, true, update.Fact{Kind: update.GateFailed, Why: away.Error(), Outage: true}},
		{away, false, update.Fact{Kind: update.GateFailed, Why: away.Error()}},
		{errNotJoined, true, update.Fact{Kind: update.GateFailed, Why: errNotJoined.Error()}},
	} {
		o.reach, o.outage = tt.reach, tt.outage
		if diff := cmp.Diff(tt.want, h.gate(t.Context())); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff(o.peers, o.asked); diff != "" {
		t.Error(diff)
	}
}

func TestWhoseFaultAStoreThatIsAwayIs(t *testing.T) {
	for _, tt := range []struct {
		name            string
		peers           []string
		store, anything bool
		want            bool
	}{
		{"the others have no quorum", []string{"u"}, false, true, true},
		{"the others are well", []string{"u"}, true, true, false},
		{"nobody answers: the network of this host, as far as it can tell", []string{"u"}, false, false, false},
		{"it was alone", nil, false, false, false},
	} {
		c := &cluster{answers: func(context.Context, []string) (bool, bool) { return tt.store, tt.anything }}
		if got := c.Outage(t.Context(), tt.peers); got != tt.want {
			t.Errorf("%s: outage %v", tt.name, got)
		}
	}
	// A port of this host itself proves nothing.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	if store, anything := otherStores(t.Context(), []string{"http://" + l.Addr().String(), "::bad"}, Config{PKIDir: t.TempDir()}); store || anything {
		t.Error("it took itself for another")
	}
}

func TestThisHostMustBeRegistered(t *testing.T) {
	store := kv.NewMemory(time.Now)
	log := slog.New(slog.DiscardHandler)
	c := newCluster(store, "/fleet/", "c", "default", "m1", "b1", log, time.Now)
	c.ask = func(context.Context, string, string, reboot.Holder) error { return nil }
	if err := c.Reach(t.Context()); !errors.Is(err, errNotJoined) {
		t.Errorf("not registered: %v", err)
	}
	_, err := registry.New(store, "/fleet/", log).Register(t.Context(), registry.Hello{Machine: fleet.Machine{ID: "m1"}, Instance: "i"}, time.Hour)
	must(t, err)
	must(t, c.Reach(t.Context()))
}

func TestFleetdIsAskedForThePermitAndOnceMoreBeforeTheReboot(t *testing.T) {
	var asked []string
	moving, refused := 2, error(nil)
	c := newCluster(kv.NewMemory(time.Now), "/fleet/", "c", "default", "m1", "b1", slog.New(slog.DiscardHandler), time.Now)
	c.ask = func(_ context.Context, do, group string, h reboot.Holder) error {
		asked = append(asked, do)
		if do == "drained" && moving > 0 {
			moving--
			return fmt.Errorf("units are moving: %w", fleet.ErrConflict)
		}
		if do == "confirm" {
			return refused
		}
		return nil
	}
	must(t, c.Take(t.Context(), "1.0.0", "2.0.0"))
	must(t, c.Drain(t.Context()))
	if diff := cmp.Diff([]string{"take", "drained", "drained", "drained", "confirm"}, asked); diff != "" {
		t.Error(diff)
	}
	refused = errors.New("a voter died")
	if err := c.Drain(t.Context()); !errors.Is(err, refused) {
		t.Errorf("it goes all the same: %v", err)
	}
}

func TestPeopleAreWaitedForUntilADeadline(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	who := []string{"core on tty1"}
	h := &host{cfg: Config{UserDeadline: time.Hour}, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now },
		logins: func(context.Context) ([]string, error) { return who, nil }}
	ask := func() string { return h.askPermit(t.Context(), "2.0.0").Why }
	if got := ask(); got != "waiting for core on tty1, until 2026-11-21T13:00:00Z at most" {
		t.Error(got)
	}
	now = now.Add(59 * time.Minute)
	who = nil
	if got := ask(); got != "" {
		t.Error("nobody is there: " + got)
	}
	who = []string{"backup: copies"}
	if got := ask(); !strings.Contains(got, "until 2026-11-21T13:59:00Z") {
		t.Error("another one has an hour of his own: " + got)
	}
	now = now.Add(time.Hour)
	if got := ask(); got != "" {
		t.Error("after the deadline: " + got)
	}
}

// slowPermit is a cluster that takes an hour to give a permit.
type slowPermit struct {
	permits
	now   *time.Time
	given []string
}

func (s *slowPermit) Hold(context.Context, string) (string, error) { return "", nil }
func (s *slowPermit) Take(context.Context, string, string) error {
	*s.now = s.now.Add(time.Hour)
	s.given = append(s.given, "taken")
	return nil
}
func (s *slowPermit) GiveBack(context.Context) error {
	s.given = append(s.given, "given back")
	return nil
}
func (s *slowPermit) Drain(ctx context.Context) error { return s.Take(ctx, "", "") }

func TestTheWindowIsLookedAtAgainWhenThePermitIsThere(t *testing.T) {
	now := time.Date(2026, 11, 21, 22, 30, 0, 0, time.UTC)
	ws, err := Config{Window: []string{"22:00 +1h UTC", "04:00 +90m UTC"}}.windows()
	must(t, err)
	s := &slowPermit{now: &now}
	h := &host{cfg: Config{DrainTimeout: time.Hour}, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now }, windows: ws, permits: s}
	want := update.Fact{Kind: update.Denied, Why: "the reboot window opens Sun 2026-11-22 04:00 UTC", Until: time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)}
	if diff := cmp.Diff(want, h.askPermit(t.Context(), "2.0.0")); diff != "" {
		t.Errorf("it closed while the permit was waited for: %s", diff)
	}
	if diff := cmp.Diff(want, h.askPermit(t.Context(), "2.0.0")); diff != "" {
		t.Errorf("it is closed: %s", diff)
	}
	if diff := cmp.Diff([]string{"taken", "given back"}, s.given); diff != "" {
		t.Error(diff)
	}
	now = want.Until
	if f := h.askPermit(t.Context(), "2.0.0"); f.Kind != update.Granted {
		t.Errorf("an hour of the second window is left: %+v", f)
	}
	if f := h.drain(t.Context()); f.Kind != update.Drained || !f.Shut {
		t.Errorf("it closed while the units left: %+v", f)
	}
}

func TestHistoryAndReportOfAnUpdate(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0")
	m := newMachine(t, p)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	file := m.cfg.StateDir + "/history.json"
	log := slog.New(slog.DiscardHandler)
	var said []rollout.Host
	for _, states := range [][]update.State{
		{{Phase: update.Idle, Running: "1.0.0"}, {Phase: update.Staging, Target: update.Offer{Version: "2.0.0"}}, {Phase: update.Staged, Target: update.Offer{Version: "2.0.0"}},
			{Phase: update.Rebooting, Why: "rebooting into 2.0.0"}},
		{{Phase: update.Trial, Running: "2.0.0"}, {Phase: update.Blessing, Running: "2.0.0"}, {Phase: update.Releasing, Running: "2.0.0"},
			{Phase: update.Idle, Running: "2.0.0", Good: true, Failed: []update.Failure{{Version: "3.0.0", Reason: "came back"}}}},
	} {
		r := newReporter(log, file, slot.Slots{Boot: m.slots, Images: m.slots, Running: slot.A}, rollout.Host{Machine: "m1"}, func() time.Time { return at })
		for _, s := range states {
			r.changed(s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		r.publish = func(_ context.Context, h rollout.Host) error { said = append(said, h); cancel(); return nil }
		must(t, r.run(ctx))
	}
	want := rollout.Host{Machine: "m1", At: at, Running: "2.0.0", Good: true, Phase: "idle", Refused: map[string]string{"3.0.0": "came back"},
		Slots:   map[string]string{"a": "1.0.0, good, boots next", "b": "cannot boot"},
		History: []rollout.Event{{At: at, Text: "2.0.0 staged"}, {At: at, Text: "rebooting into 2.0.0"}, {At: at, Text: "2.0.0 has proven itself"}, {At: at, Text: "3.0.0: came back"}}}
	if diff := cmp.Diff(want, said[len(said)-1]); diff != "" {
		t.Error(diff)
	}
}

func TestGateOfABootThatNeedsNoProof(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	if out := ok(t, "gate", "--root", root, "--state-dir", dir); out != "this host was not booted from a slot\n" {
		t.Errorf("says %q", out)
	}
	must(t, os.MkdirAll(filepath.Join(root, "run"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "run/fleet-boot"), []byte("fleet.slot=a fleet.version=1.0.0"), 0o644))
	state := func(text string) { must(t, os.WriteFile(filepath.Join(dir, "state.json"), []byte(text), 0o644)) }
	if why := unquestioned(root, dir); why != "" {
		t.Errorf("no state: %s", why)
	}
	for text, want := range map[string]bool{`{"running":"1.0.0","good":true}`: true, `{"running":"1.0.0"}`: false, `{"running":"0.9.0","good":true}`: false, "{": false} {
		state(text)
		if why := unquestioned(root, dir); (why != "") != want {
			t.Errorf("%s: %q", text, why)
		}
	}
}

func TestBootWordStaysForOneBoot(t *testing.T) {
	run := t.TempDir()
	one, err := bootWord(filepath.Join(run, "fleet", "boot"))
	must(t, err)
	again, err := bootWord(filepath.Join(run, "fleet", "boot"))
	must(t, err)
	other, err := bootWord(filepath.Join(t.TempDir(), "boot"))
	if must(t, err); one != again || one == other || len(one) < 30 {
		t.Errorf("%q, then %q, and in another boot %q", one, again, other)
	}
}

func TestStateInTheOldInterfacesWords(t *testing.T) {
	target := update.Offer{Version: "2.0.0"}
	for _, tt := range []struct {
		s    update.State
		want string
		id   string
		text string
	}{
		{update.State{Phase: update.Idle, Why: "cancelled"}, "UPDATE_STATUS_IDLE 0.0.0 0", idCancelled, "cancelled"},
		{update.State{Phase: update.Checking}, "UPDATE_STATUS_CHECKING_FOR_UPDATE 0.0.0 0", "", ""},
		{update.State{Phase: update.Staging, Target: target, Frames: 4}, "UPDATE_STATUS_UPDATE_AVAILABLE 2.0.0 0", "", ""},
		{update.State{Phase: update.Staging, Target: target, Frames: 4, Done: 1}, "UPDATE_STATUS_DOWNLOADING 2.0.0 0.25", "", ""},
		{update.State{Phase: update.Staged, Target: target}, "UPDATE_STATUS_UPDATED_NEED_REBOOT 2.0.0 1", idStaged, "2.0.0 staged"},
		{update.State{Phase: update.Finalizing, Target: target}, "UPDATE_STATUS_FINALIZING 2.0.0 1", "", ""},
		{update.State{Phase: update.Rebooting, Target: target}, "UPDATE_STATUS_UPDATED_NEED_REBOOT 2.0.0 1", idRebooting, "rebooting into 2.0.0"},
		{update.State{Phase: update.Trial}, "UPDATE_STATUS_IDLE 0.0.0 0", idFailed, "3.0.0: came back"},
		{update.State{Phase: update.Releasing, Running: "2.0.0"}, "UPDATE_STATUS_IDLE 0.0.0 0", idProven, "2.0.0 has proven itself"},
	} {
		b := busStatus(tt.s, 7)
		if diff := cmp.Diff(tt.want, fmt.Sprint(b.Operation, " ", b.Version, " ", b.Progress)); diff != "" {
			t.Errorf("%s: %s", tt.s.Phase, diff)
		}
		if tt.id != "" && messageID(tt.s, tt.text) != tt.id {
			t.Errorf("%s: another message ID", tt.text)
		}
	}
}
