package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// status prints each unit with its state on each machine that has it. The exit code is the first that is not 0: 3 for a unit
// that is not active. Without a unit it is the cluster as a whole.
func status(ctx context.Context, a *app, args []string) int {
	if len(args) == 0 {
		return overview(ctx, a)
	}
	list, ok := a.words(args, "Error")
	if !ok {
		return exitFailed
	}
	w, err := a.client.Look(ctx, names(list)...)
	if err != nil {
		return a.refused("Error retrieving units", err)
	}
	only, code := a.chosenMachines(ctx)
	if code != exitOK {
		return code
	}
	for i, u := range list {
		if i > 0 {
			a.printf("\n")
		}
		if c := a.statusOf(ctx, w, string(u.name), only); code == exitOK {
			code = c
		}
	}
	return code
}

func (a *app) statusOf(ctx context.Context, w *api.World, name string, only []string) int {
	u, ok := w.Units[name]
	if !ok {
		return a.fail("Unit %s does not exist.", name)
	}
	states := statesOf(w, name)
	if len(only) > 0 {
		maps.DeleteFunc(states, func(id string, _ api.UnitState) bool { return !slices.Contains(only, id) })
	}
	if len(states) == 0 {
		a.header(u, "○")
		a.dropIns(ctx, u)
		a.printf("     Target: %s\n       Hash: %s\n", u.DesiredState, shortHash(u.Hash, a.opts.full))
		a.failover(ctx, name, u.Options)
		return a.notLoaded(ctx, w, u)
	}
	code := exitOK
	for i, id := range slices.Sorted(maps.Keys(states)) {
		s := states[id]
		if i > 0 {
			a.printf("\n")
		}
		a.header(u, dot(s))
		a.printf("     Loaded: %s\n", s.SystemdLoadState)
		a.dropIns(ctx, u)
		a.printf("     Active: %s (%s)", s.SystemdActiveState, s.SystemdSubState)
		if !s.Since.IsZero() {
			a.printf(" since %s", s.Since.UTC().Format("Mon 2006-01-02 15:04:05 MST"))
		}
		a.printf("\n    Machine: %s\n", legend(w.Machines, id, a.opts.full))
		if s.Result != "" && s.Result != "success" {
			a.printf("     Result: %s\n", s.Result)
		}
		a.printf("     Target: %s\n       Hash: %s", u.DesiredState, shortHash(s.Hash, a.opts.full))
		if s.Hash != u.Hash {
			a.printf(" (to be replaced by %s)", shortHash(u.Hash, a.opts.full))
		}
		a.printf("\n")
		a.failover(ctx, name, u.Options)
		if s.Reason != "" {
			a.printf("     Reason: %s\n", s.Reason)
		}
		a.processes(ctx, name, id)
		blank := "\n"
		a.lastLines(ctx, name, id, a.opts.lines, func(line []byte) {
			a.printf("%s%s", blank, line)
			blank = ""
		})
		if s.SystemdActiveState != "active" && s.SystemdActiveState != "reloading" && code == exitOK {
			code = exitNotActive
		}
	}
	return code
}

// notLoaded says why a unit is on no machine.
func (a *app) notLoaded(ctx context.Context, w *api.World, u api.Unit) int {
	if u.DesiredState == string(fleet.Inactive) {
		return a.fail("Unit %s does not appear to be loaded: to start it: fleetctl start %s", u.Name, u.Name)
	}
	if u.MachineID != "" {
		return a.fail("Unit %s does not appear to be loaded: machine %s has not reported it yet", u.Name, legend(w.Machines, u.MachineID, a.opts.full))
	}
	xs, err := a.client.Explain(ctx, u.Name)
	if err != nil {
		return a.refused("Error asking why "+u.Name+" is not loaded", err)
	}
	for _, x := range xs {
		if x.Machine == "" && (len(x.Refusals) > 0 || x.Reason != "") {
			return a.fail("Unit %s does not appear to be loaded, no machine takes it:%s", u.Name, explained(w.Machines, x, a.opts.full))
		}
	}
	return a.fail("Unit %s does not appear to be loaded: it waits to be placed", u.Name)
}

func (a *app) header(u api.Unit, mark string) {
	a.printf("%s %s", mark, u.Name)
	if u.Description != "" {
		a.printf(" - %s", unit.Expand(unit.Name(u.Name), u.Description))
	}
	a.printf("\n")
}

// dropIns lists the drop-ins of a unit by folder, as systemctl does. They are part of its text, which is read only if there are any; a host
// without a vote may not read it, and has nothing to list.
func (a *app) dropIns(ctx context.Context, u api.Unit) {
	if u.Main == "" {
		return
	}
	texts, err := a.client.Texts(ctx, u.Name)
	if err != nil || len(texts) != 1 {
		return
	}
	head := "    Drop-In: "
	for _, of := range unit.Folders(unit.Name(u.Name)) {
		names := slices.Sorted(maps.Keys(texts[0].DropIns[of]))
		if len(names) > 0 {
			a.printf("%s%s\n             └─%s\n", head, unit.Folder(of), strings.Join(names, ", "))
			head = "             "
		}
	}
}

// dot is systemctl's mark of a state.
func dot(s api.UnitState) string {
	switch s.SystemdActiveState {
	case "active", "reloading":
		return "●"
	case "failed":
		return "×"
	}
	return "○"
}
