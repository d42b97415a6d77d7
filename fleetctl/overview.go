package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

// shownTroubles is how many units that want looking at an overview names.
const shownTroubles = 10

// overview is the cluster as a whole, as systemctl status without a name shows a host. Like there it is told, not judged: the exit code is 0.
func overview(ctx context.Context, a *app) int {
	w, err := a.client.Look(ctx)
	if err != nil {
		return a.refused("Error retrieving units", err)
	}
	troubles, counts := troublesOf(w, a.opts.full)
	store := ""
	// Where the store is an etcd elsewhere, nobody here knows its members.
	if members, err := a.client.Members(ctx); err == nil {
		line, bad := storeLine(members)
		store, troubles = "    Store: "+line+"\n", append(bad, troubles...)
	}
	mark, state := "●", "running"
	if len(troubles) > 0 {
		mark, state = "×", "degraded"
	}
	a.printf("%s %s\n    State: %s\n%s    Units: %s\n", mark, plural(len(w.Machines), "machine"), state, store, counts)
	head := "  Trouble: "
	for i, t := range troubles {
		if i == shownTroubles {
			a.printf("%sand %d more: fleetctl list-units\n", head, len(troubles)-i)
			break
		}
		a.printf("%s%s\n", head, t)
		head = "           "
	}
	a.alarm(ctx)
	return exitOK
}

// troublesOf names the units that are not as they shall be, and counts all.
func troublesOf(w *api.World, full bool) (troubles []string, counts string) {
	active, failed, placed := 0, 0, map[string]bool{}
	for id, units := range w.States {
		for name, s := range units {
			placed[name] = true
			switch s.SystemdActiveState {
			case "active", "reloading":
				active++
			case "failed":
				failed++
				troubles = append(troubles, name+" failed on "+legend(w.Machines, string(id), full))
			}
		}
	}
	waiting := 0
	for name, u := range w.Units {
		// A template is never on a machine, and a global unit need not fit any.
		if u.DesiredState == string(fleet.Launched) && !u.Global && !placed[name] && u.MachineID == "" {
			waiting++
			troubles = append(troubles, name+" is on no machine: fleetctl status "+name)
		}
	}
	slices.Sort(troubles)
	counts = fmt.Sprintf("%d known, %d active, %d failed, %d waiting for a machine", len(w.Units), active, failed, waiting)
	return troubles, counts
}

// storeLine says who holds the store, and which of them are not well.
func storeLine(list fleet.StoreMembers) (line string, troubles []string) {
	voters, leader := 0, ""
	for _, m := range list.Members {
		if m.Role == "voter" {
			voters++
		}
		if m.Leader {
			leader = ", led by " + m.Name
		}
		if m.Health != "ok" {
			troubles = append(troubles, fmt.Sprintf("%s holds the store and is not well (%s): fleetctl members", m.Name, m.Health))
		}
	}
	if list.Lost != "" {
		troubles = append(troubles, "the store does not answer: "+strings.TrimSpace(list.Lost))
	}
	return plural(voters, "voter") + leader, troubles
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}
