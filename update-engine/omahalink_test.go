package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/update-engine/omaha"
	"github.com/fleet-init/fleet/update-engine/update"
)

// nebraska offers one version to whoever has another, and notes what it is told.
type nebraska struct {
	mu      sync.Mutex // guards log
	log     []string
	version string
}

func (n *nebraska) note(format string, a ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, fmt.Sprintf(format, a...))
}

func (n *nebraska) Decide(_ context.Context, c omaha.Client) (omaha.Verdict, error) {
	n.note("%s asks", c.Version)
	if c.Version == n.version {
		return omaha.Verdict{}, nil
	}
	return omaha.Verdict{Release: &omaha.Release{Version: n.version, CodeBases: []string{"https://elsewhere.invalid"}, File: "x.gz", Size: 5,
		SHA256: strings.Repeat("A", 43) + "="}}, nil
}

func (n *nebraska) Happened(_ context.Context, c omaha.Client, e omaha.Event) error {
	n.note("%s: %d/%d %d %s", c.Version, e.Type, e.Result, e.Code, e.Previous)
	return nil
}

func TestOmahaServerDecidesAndHearsHowItWent(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	p.publish(t, "3.0.0")
	n := &nebraska{version: "2.0.0"}
	s := httptest.NewServer(omaha.Handler(n))
	defer s.Close()
	m := newMachine(t, p)
	m.cfg.Omaha, m.cfg.OmahaApp = s.URL, "app"
	m.live(update.Fact{Kind: update.CheckNow})
	m.runs("2.0.0") // though 3.0.0 is in the channel
	n.version, m.sick = "3.0.0", "3.0.0"
	m.live(update.Fact{Kind: update.CheckNow})
	m.runs("2.0.0")
	want := []string{"1.0.0 asks", "1.0.0: 13/1 0 ", "1.0.0: 14/1 0 ", "1.0.0: 3/1 0 ", "2.0.0: 3/2 0 1.0.0",
		"2.0.0 asks", "2.0.0: 13/1 0 ", "2.0.0: 14/1 0 ", "2.0.0: 3/1 0 ", "2.0.0: 3/0 44 "}
	if diff := cmp.Diff(want, n.log); diff != "" {
		t.Error(diff)
	}
}

func TestOmahaHoldIsNoFailure(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0")
	answer := `<response protocol="3.0"><app status="error-updatesDisabled"><updatecheck status="error-internal"/></app></response>`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
	defer s.Close()
	m := newMachine(t, p)
	m.cfg.Omaha = s.URL
	if got := m.live(update.Fact{Kind: update.CheckNow}); got.Checks != 0 || got.Why != "2.0.0 is not for this host yet: updates of this group are switched off at the server" {
		t.Errorf("%d failed checks, %s", got.Checks, got.Why)
	}
	answer = ""
	if got := m.live(update.Fact{Kind: update.CheckNow}); got.Checks != 1 {
		t.Errorf("an empty answer is no failure: %s", got.Why)
	}
}

// TestNebraskaThatThinksWeAreBusyLeavesWhatIsStaged has a host wait with a staged release for people, while the server says of it that it is updating.
func TestNebraskaThatThinksWeAreBusyLeavesWhatIsStaged(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	n := &nebraska{version: "2.0.0"}
	granting := omaha.Handler(n)
	busy := atomic.Bool{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if busy.Load() {
			fmt.Fprint(w, `<response protocol="3.0"><app status="error-updateInProgressOnInstance"><updatecheck status="error-internal"/></app></response>`)
			return
		}
		granting.ServeHTTP(w, r)
	}))
	defer s.Close()
	m := newMachine(t, p)
	m.cfg.Omaha, m.cfg.OmahaApp, m.cfg.Strategy = s.URL, "app", off
	staged := func(s update.State) bool { return s.Phase == update.Staged }
	m.session(staged, update.Fact{Kind: update.CheckNow})
	busy.Store(true)
	checked := time.Now()
	again := func(s update.State) bool { return s.LastGood.After(checked) || s.Phase == update.Idle }
	if got, _ := m.session(again, update.Fact{Kind: update.CheckNow}); got.Phase != update.Staged || got.Target.Version != "2.0.0" {
		t.Errorf("it is %s: %s", got.Phase, got.Why)
	}
}
