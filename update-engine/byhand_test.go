package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// bootable are the slots of a machine that could boot.
func (m *machine) bootable() (out []slot.Name) {
	m.t.Helper()
	st, err := slot.Slots{Boot: m.slots, Images: m.slots, Running: m.slot}.State()
	must(m.t, err)
	for _, n := range []slot.Name{slot.A, slot.B} {
		if _, ok := st.Entries[n]; ok {
			out = append(out, n)
		}
	}
	return out
}

func TestNobodyGoesBackOnceLateFallbackIsPrevented(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	m := newMachine(t, p)
	m.cfg.PreventLateFallback = true
	// Until it has proven itself the way back stays.
	if _, rebooting := m.session(func(update.State) bool { return false }, update.Fact{Kind: update.CheckNow}); !rebooting {
		t.Fatal("it does not take 2.0.0")
	}
	if got := m.bootable(); !slices.Equal(got, []slot.Name{slot.A, slot.B}) {
		t.Errorf("on trial %v can boot", got)
	}
	m.restart()
	m.live()
	m.runs("2.0.0")
	if got := m.bootable(); !slices.Equal(got, []slot.Name{slot.B}) {
		t.Errorf("once it has proven itself %v can boot", got)
	}
	boots := m.boots
	s := m.live(update.Fact{Kind: update.RollbackNow, Why: "slow"})
	if m.boots != boots || len(s.Failed) != 0 || !strings.Contains(s.Why, "slot a holds nothing that boots") {
		t.Errorf("%d reboots, refused %v, %s", m.boots-boots, s.Failed, s.Why)
	}
	m.runs("2.0.0")
}

// TestAnOlderReleaseIsTakenOnlyWithConsent has a channel go back to what ran before.
func TestAnOlderReleaseIsTakenOnlyWithConsent(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "0.9.0")
	for _, consent := range []string{"", "for one", "always"} {
		m := newMachine(t, p)
		now := update.Fact{Kind: update.CheckNow}
		switch consent {
		case "for one":
			now.Version = "0.9.0"
		case "always":
			m.cfg.Downgrade = true
		}
		s := m.live(now)
		if consent == "" {
			m.runs("1.0.0")
			if s.Why != "up to date" || m.boots != 0 {
				t.Errorf("without consent: %s after %d reboots", s.Why, m.boots)
			}
			continue
		}
		m.runs("0.9.0")
	}
}

// TestNothingIsJumpedOverThatMustNotBe publishes a mandatory stop and a release that can be reached from there only.
func TestNothingIsJumpedOverThatMustNotBe(t *testing.T) {
	p := newPublisher(t)
	p.publishWith(t, "2.0.0", []string{"--stop"}, "1.0.0")
	p.publish(t, "2.5.0")
	p.publishWith(t, "3.0.0", []string{"--min-from=2.0.0"})
	m := newMachine(t, p)
	if s := m.live(update.Fact{Kind: update.CheckNow, Version: "3.0.0"}); m.boots != 0 || !strings.Contains(s.Why, "3.0.0 can be reached from 2.0.0 on, 1.0.0 is running") {
		t.Errorf("asked for by name: %d reboots, %s", m.boots, s.Why)
	}
	for _, next := range []string{"2.0.0", "3.0.0"} {
		m.live(update.Fact{Kind: update.CheckNow})
		m.runs(next)
	}
}

// TestARebootWithoutAReleaseHasAPermit asks for a reboot of a host that has nothing staged: it waits for its permit like any other, and gives it
// back when it is well again.
func TestARebootWithoutAReleaseHasAPermit(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "1.0.0")
	m := newMachine(t, p)
	sems := reboot.Permits{Store: m.store, Prefix: "/fleet/"}
	set := func(change func(reboot.Semaphore) (reboot.Semaphore, error)) reboot.Semaphore {
		t.Helper()
		s, err := sems.Change(t.Context(), "default", reboot.Pure(change))
		must(t, err)
		return s
	}
	set(func(s reboot.Semaphore) (reboot.Semaphore, error) {
		return s.Lock(reboot.Holder{ID: "m2"}, time.Now()), nil
	})
	denied := func(s update.State) bool { return strings.Contains(s.Why, "no reboot permit") }
	s, rebooting := m.session(denied, update.Fact{Kind: update.RebootNow})
	if rebooting || s.Why != "a reboot is asked for by hand; no reboot permit: 1 of 1 permits are taken, by m2" {
		t.Errorf("rebooting %v: %s", rebooting, s.Why)
	}
	set(func(s reboot.Semaphore) (reboot.Semaphore, error) { return s.Unlock("m2") })
	// The daemon is started anew, and has not forgotten.
	if s, rebooting := m.session(func(update.State) bool { return false }); !rebooting || s.Phase != update.Rebooting {
		t.Fatalf("it does not go: %s", s.Why)
	}
	if got := set(func(s reboot.Semaphore) (reboot.Semaphore, error) { return s, nil }).Holders; len(got) != 1 || got[0].ID != "m1" || got[0].Reason != "reboot asked for by hand" {
		t.Errorf("the permit is held by %v", got)
	}
	m.restart()
	m.live()
	m.runs("1.0.0")
	if got := set(func(s reboot.Semaphore) (reboot.Semaphore, error) { return s, nil }).Holders; len(got) != 0 {
		t.Errorf("the permit is left with %v", got)
	}
}

// TestWhoIsCalledOffMakesRoomInTheRollout cancels a staged release: the host is no longer counted among those that are under way.
func TestWhoIsCalledOffMakesRoomInTheRollout(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	m := newMachine(t, p)
	rolls := rollout.Rollouts{Store: m.store, Prefix: "/fleet/"}
	now := func() rollout.Rollout {
		r, _, err := rolls.Get(t.Context(), rolloutOf(m.cfg))
		must(t, err)
		return r
	}
	_, err := rolls.Change(t.Context(), rolloutOf(m.cfg), func(rollout.Rollout) (rollout.Rollout, error) {
		r, err := rollout.New("2.0.0", rollout.Normal, 3, time.Now().Add(-time.Hour))
		r.AtLeast = 100
		return r, err
	})
	must(t, err)
	sems := reboot.Permits{Store: m.store, Prefix: "/fleet/"}
	_, err = sems.Change(t.Context(), "default", reboot.Pure(func(s reboot.Semaphore) (reboot.Semaphore, error) {
		return s.Lock(reboot.Holder{ID: "m2"}, time.Now()), nil
	}))
	must(t, err)
	m.session(func(s update.State) bool { return strings.Contains(s.Why, "no reboot permit") }, update.Fact{Kind: update.CheckNow})
	if r := now(); r.Took != 1 {
		t.Errorf("%+v: the host has begun", r)
	}
	calledOff := func(s update.State) bool {
		if s.Why != "cancelled" {
			return false
		}
		for range m.store.Watch(t.Context(), 1, "/fleet/rollouts/") { // as long as it takes to tell it
			if now().Took == 0 {
				break
			}
		}
		return true
	}
	m.session(calledOff, update.Fact{Kind: update.Cancel})
	if r := now(); r.Took != 0 || r.CameBack != 0 {
		t.Errorf("%+v: the host was called off", r)
	}
}

// TestWhoLooksOftenPutsNothingOff asks for the state ten times a second while the host waits for a permit.
func TestWhoLooksOftenPutsNothingOff(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		do := func(_ context.Context, a update.Action, _ func(update.Fact)) update.Fact {
			if a.Do == update.AskPermit {
				asked++
				return update.Fact{Kind: update.Denied, Why: "m2 has it"}
			}
			return update.Fact{}
		}
		d := newDaemon(slog.New(slog.DiscardHandler), filepath.Join(dir, "state.json"), do, time.Now)
		d.state = update.State{Phase: update.Asking, Boot: "b1", Running: "1.0.0", Good: true}
		must(t, d.save())
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error)
		go func() {
			end <- d.run(ctx, update.Fact{Kind: update.Started, Boot: "b1", Version: "1.0.0", Good: true, Policy: update.Policy{Retry: 5 * time.Second}})
		}()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			_, err := d.ask(ctx, update.Fact{Kind: look})
			must(t, err)
		}
		cancel()
		must(t, <-end)
		if asked < 5 {
			t.Errorf("in a minute it asked %d times", asked)
		}
	})
}
