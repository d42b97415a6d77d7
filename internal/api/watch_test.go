package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// line is an event in a few words, for tables: what, how it is now.
func line(e Event) string {
	gone := ""
	if e.Deleted {
		gone = " gone"
	}
	switch {
	case e.Sync:
		return "sync"
	case e.Unit != nil:
		return fmt.Sprintf("unit %s %s %s %.1s%s", e.Unit.Name, e.Unit.DesiredState, e.Unit.CurrentState, e.Unit.MachineID, gone)
	case e.State != nil:
		return fmt.Sprintf("state %s %.1s %s%s", e.State.Name, e.State.MachineID, e.State.SystemdActiveState, gone)
	case e.Machine != nil:
		return fmt.Sprintf("machine %.1s %v%s", e.Machine.ID, e.Machine.Metadata, gone)
	}
	return "nothing"
}

func wantLines(t *testing.T, s *Stream, want ...string) {
	t.Helper()
	for _, w := range want {
		e, err := s.Next()
		if err != nil {
			t.Fatalf("waiting for %q: %v", w, err)
		}
		if got := line(e); got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func TestWatchTellsAllAndThenChanges(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.2", nil)
	f.submit(fleet.Inactive, "a.service", "b.service")
	c := f.serve()
	all, err := c.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	only, err := c.Watch(t.Context(), 0, "b.service", "later.service")
	if err != nil {
		t.Fatal(err)
	}
	defer only.Close()
	wantLines(t, all, "machine 1 map[]", "unit a.service inactive inactive ", "unit b.service inactive inactive ", "sync")
	wantLines(t, only, "machine 1 map[]", "unit b.service inactive inactive ", "sync")

	since := f.snapshot().Rev
	f.submit(fleet.Launched, "b.service")
	f.place("b.service", m1)
	f.report("b.service", m1, fleet.Observation{Load: "loaded", Active: "activating", Launched: true})
	f.report("b.service", m1, running())
	x := "7"
	if err := f.reg.SetMachine(t.Context(), m1, fleet.Settings{Metadata: map[string]*string{"rack": &x}}); err != nil {
		t.Fatal(err)
	}
	f.reg.Destroy(t.Context(), "a.service")
	f.submit(fleet.Inactive, "later.service")
	bs := []string{"unit b.service launched inactive ", "unit b.service launched inactive 1",
		"state b.service 1 activating", "unit b.service launched launched 1", "state b.service 1 active", "machine 1 map[rack:7]"}
	wantLines(t, all, append(bs, "unit a.service    gone", "unit later.service inactive inactive ")...)
	wantLines(t, only, append(bs, "unit later.service inactive inactive ")...)

	// From a past revision: the things that changed since, as they are now.
	past, err := c.Watch(t.Context(), since, "b.service")
	if err != nil {
		t.Fatal(err)
	}
	defer past.Close()
	w := NewWorld()
	for len(w.States[m1]) == 0 || w.Machines[m1].Metadata["rack"] != "7" {
		e, err := past.Next()
		if err != nil {
			t.Fatal(err)
		}
		w.Apply(e)
	}
	if u := w.Units["b.service"]; u.CurrentState != "launched" || len(w.Units) != 1 {
		t.Errorf("units: %+v", w.Units)
	}

	// A machine that leaves takes its states with it.
	if err := f.reg.Leave(t.Context(), f.agents[m1]); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Stream{all, only} {
		seen := map[string]bool{}
		for range 3 {
			e, err := s.Next()
			if err != nil {
				t.Fatal(err)
			}
			seen[line(e)] = true
		}
		if !seen["machine 1 map[] gone"] || !seen["state b.service 1  gone"] || !seen["unit b.service launched inactive 1"] {
			t.Errorf("after the machine left: %v", seen)
		}
	}
}

func TestWatchFromARevisionNobodyKnows(t *testing.T) {
	f := newFixture(t)
	f.submit(fleet.Inactive, "a.service", "b.service", "c.service")
	f.mem.Compact(f.mem.Rev())
	c := f.serve()
	if _, err := c.Watch(t.Context(), 1); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("got %v, want %v", err, kv.ErrCompacted)
	}
	for _, since := range []string{"0", "x", "-1", ""} {
		if w := f.do("GET", "/fleet/v1/watch?since="+since, ""); w.Code != 400 {
			t.Errorf("since=%s: %d", since, w.Code)
		}
	}
}

// A list in one page comes from one snapshot, with the machines beside it.
func TestClientLists(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.2", map[string]string{"role": "web"})
	f.submit(fleet.Launched, "a.service", "b.service", "c.service", "d.service")
	f.place("a.service", m1)
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	o := running()
	o.Since, o.Reason = since, "a reason"
	o.IP, o.IP6 = netip.MustParseAddr("10.5.7.2"), netip.MustParseAddr("fd05::2")
	f.report("a.service", m1, o)
	c := f.serve()
	units, machines, err := c.Units(t.Context())
	if err != nil || len(units) != 4 || units[0].Hash == "" || units[0].Options != nil || len(machines) != 1 {
		t.Errorf("units: %+v %+v %v", units, machines, err)
	}
	states, machines, err := c.States(t.Context())
	if err != nil || len(states) != 1 || !states[0].Since.Equal(since) || states[0].Reason != "a reason" || states[0].IP != "10.5.7.2" || states[0].IP6 != "fd05::2" || machines[0].Name != "host-1f2e3d4c" {
		t.Errorf("states: %+v %+v %v", states, machines, err)
	}
	u, err := c.Unit(t.Context(), "a.service")
	if err != nil || len(u.Options) != 1 || u.Hash != units[0].Hash {
		t.Errorf("unit: %+v %v", u, err)
	}
	if _, err := c.Unit(t.Context(), "none.service"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("unknown unit: %v", err)
	}
	xs, err := c.Explain(t.Context(), "b.service")
	if err != nil || len(xs) != 1 || xs[0].Unit != "b.service" {
		t.Errorf("explain: %+v %v", xs, err)
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"revision":3,"unit":{"name":"a.service"}}`))
	f.Add([]byte(`{"revision":3,"deleted":true,"state":{"name":"a.service","machineID":"x","since":"2026-03-01T12:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Event
		if json.Unmarshal(b, &e) == nil {
			NewWorld().Apply(e)
		}
	})
}
