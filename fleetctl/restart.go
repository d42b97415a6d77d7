package main

import (
	"context"
	"errors"
	"slices"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

// restart has launched units restarted where they are, a global one on every machine that has it or on those of --machine. Target states stay
// as they are: fleetd orders the machines' systemd to restart them, so whatever interrupts it leaves no unit stopped. Units that are
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
	machines, code := a.chosenMachines(ctx)
	if code != exitOK {
		return code
	}
	w, err := a.watch(ctx, withTemplates(list))
	if err != nil {
		return a.refused(creating, err)
	}
	defer w.close()
	list = slices.DeleteFunc(list, func(u word) bool {
		stored, known := w.world.Units[string(u.name)]
		inactive := known && stored.DesiredState == string(fleet.Inactive) && !u.name.IsTemplate()
		if inactive {
			a.warn("Unable to restart unit %s in state inactive: to start it: fleetctl start %s", u.name, u.name)
		}
		return inactive
	})
	v := starting()
	v.doing = "Error restarting units"
	// What would stop the start must stop the restart before it has restarted anything.
	changes, code := a.plan(ctx, w.world, list, v)
	if code != exitOK {
		return code
	}
	var orders []api.RestartOrder
	for i := range changes {
		c := &changes[i]
		switch {
		case c.set == nil:
			c.goal.verb = "restart"
			orders = append(orders, api.RestartOrder{Name: c.goal.name, Machines: machines})
		case len(machines) > 0:
			return a.fail("%s: unit %s is not running anywhere yet, --machine cannot choose: fleetctl start %s", v.doing, c.goal.name, c.goal.name)
		}
	}
	code = a.order(ctx, orders, changes, v)
	return max(code, a.carryOut(ctx, w, changes, v))
}

// order sends the orders to restart and notes their numbers in the goals. A goal that was refused is dropped.
func (a *app) order(ctx context.Context, orders []api.RestartOrder, changes []change, v verb) int {
	if len(orders) == 0 {
		return exitOK
	}
	results, err := a.client.Restart(ctx, orders...)
	if errors.Is(err, fleet.ErrNotFound) {
		err = errors.New("this fleetd cannot restart units: upgrade it")
	}
	if err != nil {
		for i := range changes {
			if changes[i].goal.verb == "restart" {
				changes[i].goal.name = ""
			}
		}
		return a.refused(v.doing, err)
	}
	at := map[string]*goal{}
	for i := range changes {
		at[changes[i].goal.name] = &changes[i].goal
	}
	code := exitOK
	for _, r := range results {
		g := at[r.Name]
		switch {
		case g == nil:
		case r.Err != nil:
			code = a.fail("%s: %v", v.doing, r.Err)
		default:
			if g.orders == nil {
				g.orders = map[string]int64{}
			}
			g.orders[r.MachineID] = r.Rev
		}
	}
	for _, g := range at {
		switch {
		case g.verb != "restart":
		case len(g.orders) == 0:
			g.name = ""
		case g.global || a.opts.noBlock:
			a.triggered(*g)
		}
	}
	return code
}
