package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// TestCommandsReachTheDaemon drives a daemon over its socket as a person does, up to a staged release.
func TestCommandsReachTheDaemon(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	m := newMachine(t, p)
	m.cfg.Mirrors = nil // all comes from apply --file
	ctx, cancel := context.WithCancel(t.Context())
	log := slog.New(slog.NewTextHandler(testWriter{t}, nil))
	h := &host{cfg: m.cfg, log: log, slots: slot.Slots{Boot: m.slots, Images: m.slots, Running: slot.A}, running: "1.0.0", now: time.Now, client: http.DefaultClient}
	first, err := h.started("b1")
	must(t, err)
	first.Policy.Reboots = false
	d := newDaemon(log, filepath.Join(m.cfg.StateDir, "state.json"), h.do, h.now)
	ctl := newControl(d, h.slots, func(url string) { h.from.Store(&url) })
	idle := make(chan bool, 1)
	tell := d.changed
	d.changed = func(s update.State) {
		tell(s)
		if s.Phase == update.Idle {
			select {
			case idle <- true:
			default:
			}
		}
	}
	// A short path: a socket's may have 108 bytes.
	dir, err := os.MkdirTemp("", "ue")
	must(t, err)
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	end := make(chan error, 2)
	go func() { end <- d.run(ctx, first) }()
	l, err := listen(socket)
	must(t, err)
	go func() { end <- ctl.serve(ctx, l) }()
	<-idle

	if _, err := cmd(t, "apply", "--socket", socket); err == nil || !strings.Contains(err.Error(), "no mirror is configured") {
		t.Errorf("apply without a mirror: %v", err)
	}
	out := ok(t, "apply", "--socket", socket, "--file", p.dir)
	if lines := strings.Split(strings.TrimSpace(out), "\n"); !strings.HasPrefix(lines[len(lines)-1], "staged: 2.0.0 is staged; the reboot strategy is off") {
		t.Errorf("apply says\n%s", out)
	}
	out = ok(t, "status", "--socket", socket)
	if !strings.Contains(out, "running     1.0.0 in slot a, good\nphase       staged: 2.0.0 is staged") || !strings.Contains(out, "slot b      cannot boot") {
		t.Errorf("status says\n%s", out)
	}
	if out := ok(t, "status", "--json", "--socket", socket); !strings.HasPrefix(out, `{"phase":"staged"`) {
		t.Error(out)
	}
	out = ok(t, "metrics", "--socket", socket)
	for _, want := range []string{`fleet_update_phase{phase="staged"} 1`, `fleet_update_running_good{version="1.0.0"} 1`, "fleet_update_last_successful_check_timestamp_seconds 1.", "fleet_update_failed_checks 0"} {
		if !strings.Contains(out, want) {
			t.Errorf("metrics lack %s:\n%s", want, out)
		}
	}
	if _, err := cmd(t, "rollback", "--socket", socket); err == nil {
		t.Error("rolled back to a slot that holds the staged release")
	}
	if out := ok(t, "cancel", "--socket", socket); out != "idle: cancelled\n" {
		t.Error(out)
	}
	ok(t, "forget", "--socket", socket)
	ok(t, "mark-good", "--socket", socket)
	if _, err := send(t.Context(), socket, command{Kind: update.Finalized}); err == nil {
		t.Error("a command that is none was taken")
	}
	if _, err := send(t.Context(), socket, command{Kind: update.CheckNow, From: "ftp://x"}); err == nil {
		t.Error("a directory of a strange kind was taken")
	}
	if unlock, err := lock(filepath.Join(m.cfg.StateDir, "lock")); err != nil {
		t.Error(err)
	} else {
		if _, err := lock(filepath.Join(m.cfg.StateDir, "lock")); err == nil {
			t.Error("two daemons on one state")
		}
		unlock()
	}
	cancel()
	for range 2 {
		if err := <-end; err != nil {
			t.Error(err)
		}
	}
	if _, err := cmd(t, "status", "--socket", socket); err == nil || !strings.Contains(err.Error(), "is update-engine.service running") {
		t.Errorf("no daemon: %v", err)
	}
}

func TestConfig(t *testing.T) {
	none := func(string) ([]byte, error) { return nil, os.ErrNotExist }
	c, _, err := parseConfig([]string{"--strategy=etcd-lock", "--window=Sat 01:00 +2h UTC,Sun 01:00 +2h UTC", "--slot=b"}, []string{"FLEET_UPDATE_CHANNEL=beta"}, none)
	must(t, err)
	if c.Strategy != permit || len(c.Window) != 2 || c.Channel != "beta" || !c.policy().Reboots || c.Interval != 45*time.Minute {
		t.Errorf("%+v", c)
	}
	if ws, err := c.windows(); err != nil || len(ws) != 2 {
		t.Error(ws, err)
	}
	if c, _, err = parseConfig([]string{"--rate-limit=100000"}, nil, none); err != nil {
		t.Fatal(err)
	}
	slow := &host{cfg: c}
	m, err := slow.mirrors()
	must(t, err)
	// One for all that this process loads: each frame that comes by itself must not begin with a burst of its own.
	if m.Limit == nil || m.Limit.Limit() != 100_000 || m.Limit.Burst() > 25_000 || slow.limiter() != m.Limit {
		t.Errorf("loads are held to %v", m.Limit)
	}
	for _, args := range [][]string{{"--strategy=never"}, {"--window=soon"}, {"--mirrors=ftp://x"}, {"--mirrors=https://"}, {"--slot=c"}, {"--tries=0"}} {
		if _, _, err := parseConfig(args, nil, none); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
	for _, tt := range []struct{ slot, release, cmdline, want string }{
		{"", "", "quiet fleet.slot=b fleet.version=2.0.0", "b 2.0.0"},
		{"a", "1.0.0", "fleet.slot=b fleet.version=2.0.0", "a 1.0.0"},
		{"", "", "quiet", "error"},
		{"", "", "fleet.slot=x fleet.version=1.0.0", "error"},
	} {
		n, v, err := runningOf(Config{Slot: tt.slot, Release: tt.release}, tt.cmdline)
		got := string(n) + " " + v
		if err != nil {
			got = "error"
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestUsage(t *testing.T) {
	if out := ok(t, "--help"); !strings.Contains(out, "  publish DIR …") || !strings.Contains(out, "gate_time") && !strings.Contains(out, "gate-time") {
		t.Errorf("help says\n%s", out)
	}
	if out := ok(t, "--version"); !strings.HasPrefix(out, "update-engine version ") {
		t.Error(out)
	}
	for _, args := range [][]string{{"updat"}, {"status", "now"}, {"keys"}, {"keys", "lose"}, {"publish"}, {"boot", "/none"}} {
		if _, err := cmd(t, args...); err == nil {
			t.Errorf("%v went well", args)
		}
	}
}
