package main

import (
	"context"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// known opens a watch on the units named and leaves out those the registry does not have, with a line for each. end is
// true when the command is over, with the exit code.
func (a *app) known(ctx context.Context, args []string, doing string) (w *watcher, list []word, code int, end bool) {
	if len(args) == 0 {
		a.warn("No units given")
		return nil, nil, exitOK, true
	}
	all, ok := a.words(args, doing)
	if !ok {
		return nil, nil, exitFailed, true
	}
	w, err := a.watch(ctx, names(all))
	if err != nil {
		return nil, nil, a.refused(doing, err), true
	}
	for _, u := range all {
		if _, there := w.world.Units[string(u.name)]; there {
			list = append(list, u)
		} else {
			a.warn("Unit %s not found in registry", u.name)
		}
	}
	return w, list, exitOK, false
}

// lower gives units a target state below the one they have: stop and unload. past is the word of the closing line.
func (a *app) lower(ctx context.Context, args []string, v verb, past string) int {
	w, list, code, end := a.known(ctx, args, v.doing)
	if end {
		return code
	}
	defer w.close()
	var changes []change
	var shown []string
	for _, u := range list {
		stored := w.world.Units[string(u.name)]
		if v.target == fleet.Loaded && stored.DesiredState == string(fleet.Inactive) {
			if !stored.Global {
				a.warn("Unable to stop unit %s in state inactive", u.name)
				return exitFailed
			}
			continue
		}
		c := lowered(w.world, u.name, v, stored)
		changes = append(changes, c)
		if c.set != nil { // scripts count on the list being what this call has changed
			shown = append(shown, string(u.name))
		}
	}
	if code := a.carryDown(ctx, w, changes, v); code != exitOK {
		return code
	}
	if len(list) > 0 && !a.opts.noBlock {
		a.warn("Successfully %s units [%s].", past, strings.Join(shown, " "))
	}
	return exitOK
}

func lowered(world *api.World, name unit.Name, v verb, stored api.Unit) change {
	c := change{goal: goal{
		name: string(name), verb: v.name, doing: v.doing, target: v.target, global: stored.Global,
		rev: stored.Rev, base: statesOf(world, string(name)),
	}}
	if stored.DesiredState != string(v.target) {
		c.set = &api.Unit{Name: string(name), DesiredState: string(v.target)}
	}
	return c
}

// carryDown sends the changes and waits until the units are down.
func (a *app) carryDown(ctx context.Context, w *watcher, changes []change, v verb) int {
	refused, err := a.send(ctx, changes)
	if err != nil {
		return a.refused(v.doing, err)
	}
	code := exitOK
	var goals []*goal
	for i := range changes {
		c := &changes[i]
		if refused[i] != nil {
			code = a.refused(v.doing, refused[i])
			continue
		}
		c.goal.changed = c.set != nil
		if c.goal.changed {
			a.triggered(c.goal)
		}
		goals = append(goals, &c.goal)
	}
	if a.opts.noBlock || len(goals) == 0 {
		return code
	}
	return max(code, w.wait(ctx, goals))
}
