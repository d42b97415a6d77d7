package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

func TestUnitIsStartedAndReportedAtOnce(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "web@1.service launched")
		r.pass(0)
		r.did("start web@1.service") // no time has passed
		r.pass(50 * time.Millisecond)
		r.expect("web@1.service loaded active running launched")
		if r.reports != 1 || r.puts != 1 {
			t.Errorf("%d reports of %d states for one start", r.reports, r.puts)
		}
	})
}

func TestLoadedUnitIsReportedAndNotStarted(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service loaded")
		r.pass(50 * time.Millisecond)
		r.expect("a.service loaded inactive dead")
		r.order(sleeper, "a.service launched")
		r.pass(50 * time.Millisecond)
		r.expect("a.service loaded active running launched")
		r.order(sleeper, "a.service loaded")
		r.pass(50 * time.Millisecond)
		r.expect("a.service loaded inactive dead")
		r.did("start a.service", "stop a.service")
	})
}

func TestAtRestNothingIsWrittenOrAsked(t *testing.T) {
	world(t, func(r *rig) {
		for i := range 50 {
			r.order(sleeper, fmt.Sprintf("web@%d.service launched", i))
		}
		r.pass(time.Second)
		r.forget()
		r.pass(10 * time.Minute)
		if r.reports != 0 || r.reads != 0 {
			t.Errorf("%d reports and %d reads at rest", r.reports, r.reads)
		}
		// Refuse is called per unit: ten checks at most
		if len(r.calls) != 1 || r.calls["States"] > 10*50 {
			t.Errorf("calls of systemd at rest: %v", r.calls)
		}
	})
}

func TestManyStartsKeepToTheWindowAndFewReports(t *testing.T) {
	world(t, func(r *rig) {
		var lines []string
		for i := range 400 {
			lines = append(lines, fmt.Sprintf("web@%d.service launched", i))
		}
		r.order(sleeper, lines...)
		r.pass(3 * time.Second)
		if len(r.observed) != 400 {
			t.Errorf("%d reported", len(r.observed))
		}
		for n, o := range r.observed {
			if o.Active != "active" || !o.Launched {
				t.Errorf("%s: %+v", n, o)
			}
		}
		if most := r.sys.MostJobs(); most > 16 || most < 10 {
			t.Errorf("%d jobs in flight", most)
		}
		if r.puts != 400 || r.reports > 20 {
			t.Errorf("%d states in %d reports", r.puts, r.reports)
		}
		if r.reads != 1 {
			t.Errorf("one text was read %d times", r.reads)
		}
		if r.calls["Start"] != 400 || r.calls["Load"] != 400 || r.calls["Reload"] != 0 || r.calls["States"] > 3*400 {
			t.Errorf("calls: %v", r.calls)
		}
	})
}

func TestSlowStartsDoNotFillTheWindow(t *testing.T) {
	world(t, func(r *rig) {
		var lines []string
		for i := range 40 {
			lines = append(lines, fmt.Sprintf("wait@%02d.service launched", i))
		}
		r.order(waiter, lines...)
		r.order(sleeper, "zz.service launched")
		r.pass(2 * time.Second)
		if o := r.observed["zz.service"]; o.Active != "active" {
			t.Errorf("behind forty starts that wait for their program: %+v", o)
		}
		if o := r.observed["wait@39.service"]; o.Active != "activating" {
			t.Errorf("a start that takes long is not shown: %+v", o)
		}
	})
}

func TestFailingUnitStopsOnlyItself(t *testing.T) {
	world(t, func(r *rig) {
		r.order(bad, "a.service launched")
		r.order(failing, "b.service launched")
		r.order(sleeper, "c.service launched")
		r.pass(500 * time.Millisecond)
		r.expect("a.service bad-setting inactive dead: start a.service: unit a.service has a bad unit file setting",
			"b.service loaded failed failed launched: start job: failed (journalctl -u b.service says more)",
			"c.service loaded active running launched")
		r.forget()
		r.pass(10 * time.Minute)
		r.did() // b ran and failed: systemd's Restart= is what would start it again
		if n := r.calls["Start"]; n < 5 || n > 20 {
			t.Errorf("a was tried %d times in ten minutes", n)
		}
	})
}

func TestRefusedStartIsTriedAgainUntilItWorks(t *testing.T) {
	world(t, func(r *rig) {
		r.order("[Unit]\nRequires=b.service\n"+sleeper, "a.service launched")
		r.pass(100 * time.Millisecond)
		r.expect("a.service loaded inactive dead: start a.service: unit b.service: unit not found")
		r.order(sleeper, "b.service loaded")
		r.pass(10 * time.Second)
		r.expect("a.service loaded active running launched", "b.service loaded active running")
	})
}

func TestWhatEndedByItselfIsNotStartedAgain(t *testing.T) {
	world(t, func(r *rig) {
		r.order(oneshot, "job.service launched")
		r.order(sleeper, "a.service launched", "b.service launched")
		r.pass(5 * time.Second)
		r.expect("a.service loaded active running launched", "b.service loaded active running launched",
			"job.service loaded inactive dead launched")
		r.sys.Exit("a.service", false)
		if errs := r.sys.Stop(r.Context(), []unit.Name{"b.service"}); errs != nil { // by an operator's hand
			t.Fatal(errs)
		}
		r.pass(time.Second)
		want := []string{"a.service loaded failed failed launched", "b.service loaded inactive dead launched",
			"job.service loaded inactive dead launched"}
		r.expect(want...)
		if o := r.observed["a.service"]; o.Result != "exit-code" {
			t.Errorf("result %q", o.Result)
		}
		r.sys.Log()
		r.stop()
		r.start() // nor by a restarted agent
		r.pass(5 * time.Minute)
		r.expect(want...)
		r.did()
	})
}

func TestUnloadWaitsForTheStop(t *testing.T) {
	world(t, func(r *rig) {
		r.order(slow, "a.service launched")
		r.order(sleeper, "b.service launched")
		r.pass(time.Second)
		r.order(slow, "a.service", "b.service")
		r.pass(10 * time.Second)
		r.expect("a.service loaded deactivating stop launched") // b is not held up
		if r.sys.Linked()["a.service"] == "" || r.sys.Text("a.service") == "" {
			t.Error("the file went before ExecStop was over")
		}
		r.pass(11 * time.Second)
		r.expect()
		if d, _ := r.disk.Read(); len(d) != 0 {
			t.Errorf("left on disk: %v", d)
		}
		r.did("start a.service", "start b.service", "stop a.service", "stop b.service")
	})
}

func TestReplacingInPlaceRunsTheOldExecStopThenTheNewText(t *testing.T) {
	world(t, func(r *rig) {
		r.order(slow, "a.service launched")
		r.pass(time.Second)
		r.sys.Log()
		r.order(sleeper, "a.service launched")
		r.pass(10 * time.Second)
		r.expect("a.service loaded deactivating stop launched")
		if got := r.sys.Text("a.service"); !strings.Contains(got, "ExecStop") {
			t.Errorf("text while it stops:\n%s", got)
		}
		r.pass(15 * time.Second)
		r.expect("a.service loaded active running launched")
		if got := r.sys.Text("a.service"); strings.Contains(got, "ExecStop") {
			t.Errorf("text at the end:\n%s", got)
		}
		r.did("stop a.service", "start a.service") // systemd had forgotten the stopped unit: no reload
	})
}

func TestReplacedTextOfARememberedUnitIsReloaded(t *testing.T) {
	world(t, func(r *rig) {
		r.order(failing, "a.service launched", "b.service launched") // failed units stay in memory
		r.pass(time.Second)
		r.sys.Log()
		r.order(sleeper, "a.service launched", "b.service launched")
		r.pass(time.Second)
		r.expect("a.service loaded active running launched", "b.service loaded active running launched")
		r.did("reload", "start a.service", "start b.service")
	})
}

func TestFailedReloadIsTriedAgainAndStartsNothingOld(t *testing.T) {
	world(t, func(r *rig) {
		r.order(failing, "a.service launched")
		r.pass(time.Second)
		r.sys.Log()
		r.deny("Reload")
		r.order(sleeper, "a.service launched")
		r.pass(time.Second / 2)
		r.did()
		r.deny("")
		r.pass(time.Minute)
		r.did("reload", "start a.service")
		r.expect("a.service loaded active running launched")
	})
}

func TestCrashedAgentTakesOverWhatRuns(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service launched", "b.service launched", "c.service loaded")
		r.pass(time.Second)
		r.stop()
		r.forget()
		r.order(sleeper, "b.service") // while it was away
		r.sys.Exit("a.service", true)
		r.pass(time.Second)
		<-r.watch
		r.start()
		r.pass(time.Second)
		r.did("stop b.service")
		r.expect("a.service loaded inactive dead launched", "c.service loaded inactive dead")
		if r.puts > 3 {
			t.Errorf("%d states in %d reports for two changes", r.puts, r.reports)
		}
	})
}

func TestNothingIsClearedAwayBeforeAdmission(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service launched", "b.service launched")
		r.pass(time.Second)
		r.stop()
		r.sys.Log()
		r.orders.Admitted = false
		r.orders.Placements = nil
		r.start()
		r.pass(10 * time.Minute)
		r.did()
		r.mu.Lock()
		r.orders.Admitted = true
		r.push()
		r.pass(time.Second)
		r.did("stop a.service", "stop b.service")
		r.expect()
	})
}

func TestStoreAwayTouchesNothing(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service launched", "b.service launched")
		r.pass(time.Second)
		r.sys.Log()
		r.mu.Lock()
		r.away = true
		r.mu.Unlock()
		r.sys.Exit("a.service", true)
		r.pass(10 * time.Minute)
		r.stop()
		r.start() // also a restarted one
		r.pass(10 * time.Minute)
		r.did()
		r.expect("a.service loaded active running launched", "b.service loaded active running launched")
		r.mu.Lock()
		r.away = false
		r.mu.Unlock()
		r.pass(20 * time.Second)
		r.expect("a.service loaded inactive dead launched", "b.service loaded active running launched")
	})
}

// orderUnread places units with a text that the store does not have.
func (r *rig) orderUnread(names ...unit.Name) {
	r.mu.Lock()
	for _, n := range names {
		r.orders.Placements[n] = fleet.Placement{Unit: n, Machine: "m", Hash: letter("f"), Target: fleet.Launched}
	}
	r.push()
}

func TestTextThatIsNotStoredStopsNothing(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service launched")
		r.pass(time.Second)
		r.forget()
		r.orderUnread("a.service", "new.service")
		r.pass(10 * time.Minute)
		r.did()
		why := ": read text ffffffffffffffffffffffffffffffffffffffff from the store: not found"
		r.expect("a.service loaded active running launched"+why, "new.service not-found inactive dead"+why)
		if n := r.reads; n < 5 || n > 20 {
			t.Errorf("read %d times in ten minutes", n)
		}
	})
}

// A store that changes its leader just then is no fault of the unit: nobody waiting for it is told of one.
func TestTextThatIsNotAnsweredAtOnceIsNoReason(t *testing.T) {
	world(t, func(r *rig) {
		r.mu.Lock()
		r.unread = 3
		r.mu.Unlock()
		r.order(sleeper, "a.service launched")
		r.pass(300 * time.Millisecond) // two of them
		r.mu.Lock()
		early := maps.Clone(r.observed)
		r.mu.Unlock()
		for n, o := range early {
			if o.Reason != "" {
				t.Errorf("%s has the reason %q", n, o.Reason)
			}
		}
		r.pass(time.Second)
		r.expect("a.service loaded active running launched")
	})
}

func TestTemplateIsRefusedWithItsReason(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a@.service launched", "b.service launched")
		r.pass(time.Second)
		r.expect("a@.service not-found inactive dead: load a@.service: a@.service is a template: only its instances can run",
			"b.service loaded active running launched")
	})
}

func TestHandoverRunsOnUntilWithdrawn(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service launched")
		r.pass(time.Second)
		r.sys.Log()
		r.order(sleeper, "a.service launched handover", "b.service launched handover")
		r.pass(time.Minute)
		r.did()
		r.expect("a.service loaded active running launched")
		r.order(sleeper, "a.service", "b.service")
		r.pass(time.Second)
		r.did("stop a.service")
		r.expect()
	})
}

func TestInstalledUnitIsPulledUp(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper+"[Install]\nWantedBy=a.service\n", "b.service loaded")
		r.order(sleeper, "a.service launched")
		r.pass(time.Second)
		r.expect("a.service loaded active running launched", "b.service loaded active running")
	})
}

func TestLostBusConnectionLosesNoState(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service launched")
		r.order(waiter, "w.service launched")
		r.pass(time.Second)
		r.sys.Lose()
		r.sys.Exit("a.service", false)
		r.deny("States")
		r.pass(10 * time.Second)
		r.deny("")
		r.pass(20 * time.Second)
		r.expect("a.service loaded failed failed launched", "w.service loaded activating start launched")
		r.order(waiter, "w.service")
		r.pass(time.Second)
		r.expect("a.service loaded failed failed launched")
	})
}

func TestWithdrawnWhileItStarts(t *testing.T) {
	world(t, func(r *rig) {
		r.order(waiter, "w.service launched")
		r.pass(time.Second)
		r.order(waiter, "w.service")
		r.pass(time.Second)
		r.did("start w.service", "stop w.service")
		r.expect()
	})
}

func TestReleaseStopsAndUnloadsEverything(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service launched", "b.service loaded")
		r.order(slow, "s.service launched")
		r.pass(time.Second)
		r.stop()
		ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
		defer cancel()
		if err := r.agent.Release(ctx); err != nil {
			t.Error(err)
		}
		if d, _ := r.disk.Read(); len(d) != 0 || len(r.sys.Linked()) != 0 {
			t.Errorf("left: %v %v", d, r.sys.Linked())
		}
	})
}

func TestReleaseNamesWhatItCouldNotStopInTime(t *testing.T) {
	world(t, func(r *rig) {
		r.order(slow, "s.service launched")
		r.pass(time.Second)
		r.stop()
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		err := r.agent.Release(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "s.service") {
			t.Errorf("error %v", err)
		}
	})
}

func TestDumpIsJSON(t *testing.T) {
	world(t, func(r *rig) {
		r.order(sleeper, "a.service launched")
		r.pass(time.Second)
		d, err := r.agent.Dump(r.Context())
		if err != nil {
			t.Fatal(err)
		}
		out, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"unit":"a.service"`, `"active":"active"`, `"unreported":0`} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %s in %s", want, out)
			}
		}
	})
}
