package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

const (
	here  = fleet.MachineID("1f2e3d4c5b6a79881f2e3d4c5b6a7988")
	there = fleet.MachineID("2f2e3d4c5b6a79881f2e3d4c5b6a7988")
)

func worldOf(u *api.Unit, states ...api.UnitState) *api.World {
	w := api.NewWorld()
	w.Rev = 10
	w.Machines[here] = api.Machine{ID: string(here)}
	w.Machines[there] = api.Machine{ID: string(there)}
	if u != nil {
		w.Units[u.Name] = *u
	}
	for _, s := range states {
		w.Apply(api.Event{State: &s})
	}
	return w
}

func TestJudge(t *testing.T) {
	t0 := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	placed := api.Unit{Name: "a.service", Hash: "new", DesiredState: "launched", MachineID: string(here), Rev: 9}
	state := func(active, result string, since time.Time, change func(*api.UnitState)) api.UnitState {
		s := api.UnitState{Name: "a.service", MachineID: string(here), Hash: "new", SystemdLoadState: "loaded",
			SystemdActiveState: active, SystemdSubState: active, Result: result, Since: since, Launched: true}
		if change != nil {
			change(&s)
		}
		return s
	}
	with := func(u api.Unit, change func(*api.Unit)) *api.Unit { change(&u); return &u }
	idle := func(s *api.UnitState) { s.Launched = false }
	launch := goal{name: "a.service", verb: "start", target: fleet.Launched, hash: "new", changed: true, rev: 9}
	after := func(s api.UnitState) *goal {
		g := launch
		g.base = map[string]api.UnitState{string(here): s}
		return &g
	}
	lower := func(verb string, target fleet.TargetState, base api.UnitState) *goal {
		return &goal{name: "a.service", verb: verb, target: target, changed: true, rev: 9, base: map[string]api.UnitState{string(here): base}}
	}
	loaded := with(placed, func(u *api.Unit) { u.DesiredState = "loaded" })
	global := with(placed, func(u *api.Unit) { u.MachineID, u.Global, u.Machines = "", true, 2 })
	everywhere := launch
	everywhere.global = true
	gone := &goal{name: "a.service", gone: true}
	elsewhere := func(s *api.UnitState) { s.MachineID = string(there) }

	for _, row := range []struct {
		what  string
		g     *goal
		world *api.World
		want  verdict
	}{
		{"not yet seen", &launch, worldOf(with(placed, func(u *api.Unit) { u.DesiredState, u.Rev = "inactive", 5 })), verdict{kind: waiting}},
		{"no machine yet", &launch, worldOf(with(placed, func(u *api.Unit) { u.MachineID = "" })), verdict{kind: unplaced}},
		{"on a machine that is gone", &launch, worldOf(with(placed, func(u *api.Unit) { u.MachineID = "dead" })), verdict{kind: unplaced}},
		{"placed, nothing reported", &launch, worldOf(&placed), verdict{}},
		{"active", &launch, worldOf(&placed, state("active", "success", t0, nil)), verdict{kind: done}},
		{"active with the old text", &launch, worldOf(&placed, state("active", "success", t0, func(s *api.UnitState) { s.Hash = "old" })), verdict{kind: outdated}},
		{"active, but not by us", &launch, worldOf(&placed, state("active", "success", t0, idle)), verdict{}},
		{"slow to start", &launch, worldOf(&placed, state("activating", "success", t0, nil)), verdict{}},
		{"restarted by systemd after a failure", &launch, worldOf(&placed, state("activating", "exit-code", t0, nil)), verdict{}},
		{"failed", &launch, worldOf(&placed, state("failed", "exit-code", t0, nil)),
			verdict{kind: failed, what: "failed", why: "systemd says failed, result exit-code"}},
		{"failed, as it was before the start", after(state("failed", "exit-code", t0, idle)), worldOf(&placed, state("failed", "exit-code", t0.Add(time.Second), nil)),
			verdict{kind: failed, what: "failed", why: "systemd says failed, result exit-code", settle: true}},
		{"failed again", after(state("failed", "exit-code", t0, idle)), worldOf(&placed, state("failed", "exit-code", t0.Add(time.Minute), nil)),
			verdict{kind: failed, what: "failed", why: "systemd says failed, result exit-code"}},
		{"failed with the old text, and the new one has not begun", after(state("failed", "exit-code", t0, func(s *api.UnitState) { s.Hash = "old" })),
			worldOf(&placed, state("failed", "exit-code", t0, nil)), verdict{kind: failed, what: "failed", why: "systemd says failed, result exit-code", settle: true}},
		{"failed with the new text too", after(state("failed", "exit-code", t0, func(s *api.UnitState) { s.Hash = "old" })),
			worldOf(&placed, state("failed", "exit-code", t0.Add(time.Minute), nil)), verdict{kind: failed, what: "failed", why: "systemd says failed, result exit-code"}},
		{"ended well", &launch, worldOf(&placed, state("inactive", "success", t0, nil)), verdict{kind: done}},
		{"ended well, or not begun", &launch, worldOf(&placed, state("inactive", "success", time.Time{}, nil)), verdict{kind: done, settle: true}},
		{"ended badly", &launch, worldOf(&placed, state("inactive", "timeout", t0, nil)),
			verdict{kind: failed, what: "ended", why: "systemd says inactive, result timeout"}},
		{"cannot be loaded", &launch, worldOf(&placed, state("inactive", "success", t0, func(s *api.UnitState) { s.SystemdLoadState = "bad-setting" })),
			verdict{kind: failed, what: "cannot be loaded", why: "systemd says bad-setting"}},
		{"the agent could not", &launch, worldOf(&placed, state("inactive", "success", t0, func(s *api.UnitState) { s.Hash, s.Reason = "", "disk full" })),
			verdict{kind: failed, what: "could not start", why: "disk full"}},
		{"the agent could not before either", after(state("inactive", "success", t0, func(s *api.UnitState) { s.Reason = "disk full" })),
			worldOf(&placed, state("inactive", "success", t0, func(s *api.UnitState) { s.Reason = "disk full" })),
			verdict{kind: failed, what: "could not start", why: "disk full", settle: true}},
		{"destroyed by someone", &launch, worldOf(nil), verdict{kind: failed, what: "was destroyed meanwhile"}},
		{"stopped by someone", &launch, worldOf(with(placed, func(u *api.Unit) { u.DesiredState, u.Rev = "loaded", 12 })),
			verdict{kind: failed, what: "was changed by someone else meanwhile", why: "its target state is loaded"}},

		{"stop: still running", lower("stop", fleet.Loaded, state("active", "success", t0, nil)), worldOf(loaded, state("active", "success", t0, idle)), verdict{}},
		{"stop: ExecStop runs", lower("stop", fleet.Loaded, state("active", "success", t0, nil)), worldOf(loaded, state("deactivating", "success", t0, idle)), verdict{}},
		{"stop: down", lower("stop", fleet.Loaded, state("active", "success", t0, nil)), worldOf(loaded, state("inactive", "success", t0, idle)), verdict{kind: done}},
		{"stop: up again by its socket", lower("stop", fleet.Loaded, state("active", "success", t0, nil)), worldOf(loaded, state("active", "success", t0.Add(time.Minute), idle)), verdict{kind: done}},
		{"stop: was on no machine", lower("stop", fleet.Loaded, api.UnitState{}), worldOf(with(*loaded, func(u *api.Unit) { u.MachineID = "" })), verdict{kind: done}},
		{"unload: still there", lower("unload", fleet.Inactive, api.UnitState{}), worldOf(with(placed, func(u *api.Unit) { u.DesiredState, u.MachineID = "inactive", "" }), state("deactivating", "success", t0, idle)), verdict{}},
		{"unload: gone", lower("unload", fleet.Inactive, api.UnitState{}), worldOf(with(placed, func(u *api.Unit) { u.DesiredState, u.MachineID = "inactive", "" })), verdict{kind: done}},
		{"destroy: a machine still has it", gone, worldOf(nil, state("deactivating", "success", t0, idle)), verdict{}},
		{"destroy: gone", gone, worldOf(nil), verdict{kind: done}},

		{"global: one of two is up", &everywhere, worldOf(global, state("active", "success", t0, nil)), verdict{}},
		{"global: all up", &everywhere, worldOf(global, state("active", "success", t0, nil), state("active", "success", t0, elsewhere)), verdict{kind: done}},
		{"global: one failed", &everywhere, worldOf(global, state("active", "success", t0, nil), state("failed", "signal", t0, elsewhere)),
			verdict{kind: failed, machine: string(there), what: "failed", why: "systemd says failed, result signal"}},
	} {
		t.Run(row.what, func(t *testing.T) {
			got := judge(row.world, row.g)
			if row.want.machine == "" {
				got.machine = "" // told by the unit, tried in the scripts
			}
			if diff := cmp.Diff(row.want, got, cmp.AllowUnexported(verdict{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}
