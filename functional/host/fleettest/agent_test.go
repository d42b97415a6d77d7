package fleettest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// What becomes of fleetd, and of what it speaks to, is no event for units.
func TestUnitsRunOnWhateverBecomesOfFleetd(t *testing.T) {
	t.Parallel()
	r := boot(t, 1, usual)
	h := r.Host(1)
	r.write(h, map[string]string{
		"u-runs.service":    service(""),
		"u-ended.service":   "[Service]\nExecStart=/bin/sh -c 'echo >>/run/u-ended'\n",
		"u-once.service":    "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo >>/run/u-once'\n",
		"u-byhand.service":  service(""),
		"u-fails.service":   "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo >>/run/u-fails; false'\n",
		"u-install.service": service("[Install]\nWantedBy=multi-user.target\n"),
		"u-next.service":    service(""),
	})
	r.ctl(h, "start", "u-runs.service", "u-ended.service", "u-once.service", "u-byhand.service", "u-install.service")
	r.refused(h, 1, []string{"u-fails.service", "failed", "journalctl -u u-fails.service"}, "start", "u-fails.service")
	h.Must(t, "systemctl", "stop", "u-byhand.service")
	// once tells that nothing has been started a second time, now or before.
	once := func(r *rig, before map[string]string) {
		r.t.Helper()
		r.settled()
		r.same(h, before)
		for _, name := range []string{"u-ended", "u-once", "u-fails"} {
			if out := h.Must(r.t, "sh", "-c", "wc -l </run/"+name); out != "1" {
				r.t.Errorf("%s ran %s times", name, out)
			}
		}
		if r.running(h)["u-byhand.service"] != "" {
			r.t.Error("the unit that was stopped by hand runs")
		}
	}
	before := r.running(h)
	if len(before) != 2 {
		t.Fatalf("there run %v", before)
	}
	once(r, before)
	// works tells that the agent is awake after what was done to it, and has forgotten nothing.
	works := func(r *rig) {
		r.t.Helper()
		r.machines(h)
		r.ctl(h, "start", "u-next.service")
		once(r, before)
		r.ctl(h, "destroy", "u-next.service")
	}

	r.sub("SIGKILL", func(r *rig) {
		r.must(h.Signal(r.ctx, "fleetd.service", "KILL"))
		r.wait("a new fleetd", func() error {
			return need(r.property(h, "fleetd.service", "NRestarts") == "1" && r.property(h, "fleetd.service", "ActiveState") == "active", "not yet")
		})
		works(r)
	})
	r.sub("SIGKILL, and a unit ends while nobody looks", func(r *rig) {
		r.ctl(h, "start", "u-next.service")
		h.Must(r.t, "sh", "-c", "systemctl kill --kill-whom=main -s KILL fleetd.service; systemctl kill -s KILL u-next.service; systemctl reset-failed u-next.service")
		r.wait("it to be told", func() error {
			states, err := r.stateOf(h, "u-next.service")
			return orElse(err, need(states == "inactive", "it is told to be "+states))
		})
		r.ctl(h, "destroy", "u-next.service")
		works(r)
	})
	r.sub("restart", func(r *rig) { h.Must(r.t, "systemctl", "restart", "fleetd.service"); works(r) })
	r.sub("reload", func(r *rig) { h.Must(r.t, "systemctl", "reload", "fleetd.service"); works(r) })
	r.sub("pause", func(r *rig) {
		r.must(h.Signal(r.ctx, "fleetd.service", "STOP"))
		r.must(h.Signal(r.ctx, "fleetd.service", "CONT"))
		works(r)
	})
	r.sub("restart of the bus", func(r *rig) { h.Must(r.t, "systemctl", "restart", "dbus.service"); works(r) })
	r.sub("systemd executes itself anew", func(r *rig) { h.Must(r.t, "systemctl", "daemon-reexec"); works(r) })
	r.sub("systemd reloads", func(r *rig) { h.Must(r.t, "systemctl", "daemon-reload"); works(r) })
	r.sub("failure of a unit is seen", func(r *rig) {
		h.Must(r.t, "systemctl", "kill", "-s", "KILL", "u-install.service")
		r.wait("it to be told", func() error {
			state, err := r.stateOf(h, "u-install.service")
			return orElse(err, need(state == "failed", "it is told to be "+state))
		})
		delete(before, "u-install.service")
		works(r)
	})
	r.sub("stop and destroy of all", func(r *rig) {
		r.ctl(h, "destroy", "u-runs.service", "u-ended.service", "u-once.service", "u-byhand.service", "u-fails.service", "u-install.service")
		// systemd keeps what it once read from the folders of wanted units until it reloads.
		h.Must(r.t, "systemctl", "daemon-reload")
		r.leavesNothing(h)
	})
}

func orElse(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// stateOf is a unit's active state as the cluster tells it.
func (r *rig) stateOf(h *host.Host, unit string) (string, error) {
	states, _, err := r.api(h).States(r.ctx)
	for _, s := range states {
		if s.Name == unit {
			return s.SystemdActiveState, err
		}
	}
	return "not told", err
}

// A user who edits what fleet wrote gets it back; what runs meanwhile is left alone where that is possible.
func TestFilesChangedByHandAreRepaired(t *testing.T) {
	t.Parallel()
	r := boot(t, 1, usual)
	h := r.Host(1)
	r.write(h, map[string]string{"u-gone.service": service(""), "u-linkless.service": service(""), "u-edited.service": service("")})
	r.ctl(h, "start", "u-gone.service", "u-linkless.service", "u-edited.service")
	before := r.running(h)
	text := h.Must(t, "cat", "/run/fleet/units/u-edited.service")
	h.Must(t, "sh", "-c", `rm /run/fleet/units/u-gone.service /run/systemd/system/u-linkless.service
		echo '[Service]' >/run/fleet/units/u-edited.service; systemctl daemon-reload`)
	// The rare check finds it; a restarted fleetd begins with that check.
	h.Must(t, "systemctl", "restart", "fleetd.service")
	r.wait("the files as they were", func() error {
		out, err := h.Sh(r.ctx, "ls /run/fleet/units; cat /run/fleet/units/u-edited.service; systemctl show --value -p LoadState -p NeedDaemonReload u-gone.service u-linkless.service u-edited.service")
		ok := strings.Contains(out, "u-gone.service") && strings.Contains(out, text) && !strings.Contains(out, "not-found") && !strings.Contains(out, "yes")
		return orElse(err, need(ok, out))
	})
	r.settled()
	delete(before, "u-edited.service") // it may have been restarted with its own text
	r.same(h, before)
	if r.running(h)["u-edited.service"] == "" {
		t.Error("the edited unit does not run")
	}
}

// The text that a unit was started with is the one whose ExecStop runs.
func TestReplacedUnitIsStoppedByItsOldText(t *testing.T) {
	t.Parallel()
	r := boot(t, 1, usual)
	h := r.Host(1)
	version := func(v string) map[string]string {
		return map[string]string{"u-app.service": fmt.Sprintf("[Service]\nType=exec\nExecStart=/bin/sh -c 'echo start %[1]s >>/run/u-log; exec sleep infinity'\n"+
			"ExecStop=/bin/sh -c 'sleep 0.3; echo stop %[1]s >>/run/u-log'\n", v)}
	}
	r.write(h, version("one"))
	r.ctl(h, "start", "u-app.service")
	r.write(h, version("two"))
	r.ctl(h, "start", "--replace", "u-app.service")
	r.wait("the log of both", func() error {
		out, err := h.Run(r.ctx, "cat", "/run/u-log")
		return orElse(err, need(out == "start one\nstop one\nstart two\n", out))
	})
	if out := h.Must(t, "systemctl", "show", "--value", "-pNeedDaemonReload", "u-app.service"); out != "no" {
		t.Errorf("systemd holds an older text: %s", out)
	}
	// Also when it goes for good, and the file with it.
	r.ctl(h, "destroy", "u-app.service")
	if out := h.Must(t, "tail", "-n1", "/run/u-log"); out != "stop two" {
		t.Errorf("destroy returned when the last line was %q", out)
	}
	r.leavesNothing(h)
}

// A host that leaves in good order leaves no gap: the new copy is up before the old one goes.
func TestLeavingHostHandsItsUnitsOver(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	h1 := r.Host(1)
	r.ctl(h1, "submit", examples+"web@.service")
	r.write(h1, map[string]string{"u-tied.service": service(fixed(r.Host(3))), "u-all.service": service("[X-Fleet]\nGlobal=true\n")})
	r.ctl(h1, "start", web(1), web(2), web(3), "u-tied.service", "u-all.service")

	r.sub("systemctl stop fleetd", func(r *rig) {
		from := r.others(r.leader())[0] // so that the leader has web servers to hand over afterwards
		var moved string
		for i := 1; moved == ""; i++ {
			if r.once(web(i))[web(i)] == from {
				moved = web(i)
			}
		}
		run := r.running(from)[moved]
		from.Must(r.t, "systemctl", "stop", "fleetd.service")
		r.leavesNothing(from)
		r.noGap(moved, from, run)
		r.machines(r.others(from)...)
		from.Must(r.t, "systemctl", "start", "fleetd.service")
		r.machines(r.Hosts()...)
		r.settled()
	})
	r.sub("shutdown of the host", func(r *rig) {
		// The leader, so that its part is handed over too.
		from := r.leader()
		var moved []string
		runs := r.running(from)
		for u := range runs {
			if strings.HasPrefix(u, "web@") {
				moved = append(moved, u)
			}
		}
		if len(moved) == 0 {
			r.t.Fatalf("%s leads and has no web server", from.Name)
		}
		r.must(from.Shutdown(r.ctx))
		r.once(moved...)
		r.machines(r.others(from)...)
		r.must(from.Boot(r.ctx))
		r.machines(r.Hosts()...)
		for _, u := range moved {
			r.noGap(u, from, runs[u])
		}
		r.settled()
	})
}

// noGap checks by what systemd wrote that a unit was up elsewhere before its run on a host was told to stop.
func (r *rig) noGap(u string, from *host.Host, run string) {
	r.t.Helper()
	to := r.once(u)[u]
	if to.Name == from.Name {
		r.t.Fatalf("%s has not moved from %s", u, to.Name)
	}
	all := r.history(u)
	started, stopping := -1, -1
	for i, e := range all {
		if e.host == to.Name && e.what == "started" {
			started = i
		}
		if e.host == from.Name && e.run == run && (e.what == "stopping" || e.what == "stopped") && stopping < 0 {
			stopping = i
		}
	}
	if started < 0 || stopping < 0 || started > stopping {
		r.t.Errorf("%s moved from %s to %s with a gap: %v", u, from.Name, to.Name, all)
	}
}

// A host that is cut off keeps its units: it cannot know whether they are needed. Once back, the copy that was moved goes, but never
// before the other is up.
func TestCutOffHostKeepsItsUnitsUntilOthersHaveThem(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	h1 := r.Host(1)
	slow := "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'sleep 1; systemd-notify --ready; exec sleep infinity'\n"
	r.write(h1, map[string]string{"u-@.service": slow, "u-tied.service": service(fixed(r.Host(2)))})
	r.ctl(h1, "start", "u-@1.service", "u-@2.service", "u-@3.service", "u-tied.service")
	at := r.once("u-@1.service", "u-@2.service", "u-@3.service", "u-tied.service")
	cut := r.Host(2)
	var moving string
	for u, h := range at {
		if h.Name == cut.Name && u != "u-tied.service" {
			moving = u
		}
	}
	if moving == "" {
		t.Fatalf("%s has nothing to lose: %v", cut.Name, at)
	}
	before := map[*host.Host]map[string]string{}
	for _, h := range r.Hosts() {
		before[h] = r.running(h)
	}
	r.must(cut.Cut(r.ctx))
	r.machines(r.others(cut)...)
	r.wait("the copy beside", func() error {
		return need(len(r.places()[moving]) == 2, fmt.Sprintf("it is on %v", hostNames(r.places()[moving])))
	})
	r.same(cut, before[cut])
	r.must(cut.Heal(r.ctx))
	r.machines(r.Hosts()...)
	r.once(moving)
	r.settled()
	r.noGap(moving, cut, before[cut][moving])
	delete(before[cut], moving)
	for h, units := range before {
		r.same(h, units)
	}
}
