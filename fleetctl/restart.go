package main

import (
	"context"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
)

// restart takes running units down to loaded, waits for their stop to end, and starts them again where they are. Units that are
// loaded or unknown are started.
func restart(ctx context.Context, a *app, args []string) int {
	if len(args) == 0 {
		a.warn("No units given")
		return exitOK
	}
	list, ok := a.words(args, creating)
	if !ok {
		return exitFailed
	}
	w, err := a.watch(ctx, withTemplates(list))
	if err != nil {
		return a.refused(creating, err)
	}
	defer w.close()
	var down []change
	var up []word
	for _, u := range list {
		stored, known := w.world.Units[string(u.name)]
		if known && stored.DesiredState == string(fleet.Inactive) && !u.name.IsTemplate() {
			a.warn("Unable to restart unit %s in state inactive: to start it: fleetctl start %s", u.name, u.name)
			continue
		}
		up = append(up, u)
		if known && stored.DesiredState == string(fleet.Launched) {
			down = append(down, lowered(w.world, u.name, stopping(), stored))
		}
	}
	v := starting()
	v.doing = "Error restarting units"
	// What would stop the start must stop the restart before it has stopped anything.
	if _, code := a.plan(ctx, w.world, up, v); code != exitOK {
		return code
	}
	if code := a.carryDown(ctx, w, down, stopping()); code != exitOK {
		a.warn("Units that were stopped stay so; to start them: fleetctl start %s", strings.Join(names(up), " "))
		return code
	}
	again, err := a.watch(ctx, withTemplates(up))
	if err != nil {
		return a.refused(v.doing, err)
	}
	defer again.close()
	v.checked = true
	changes, code := a.plan(ctx, again.world, up, v)
	if code != exitOK {
		return code
	}
	return a.carryOut(ctx, again, changes, v)
}
