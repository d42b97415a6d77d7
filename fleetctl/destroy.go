package main

import (
	"context"
	"errors"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

// destroy deletes units and waits until no machine has them. A unit that someone else destroyed meanwhile is as wished.
func destroy(ctx context.Context, a *app, args []string) int {
	const doing = "Error destroying units"
	w, list, code, end := a.known(ctx, args, doing)
	if end || len(list) == 0 {
		return code
	}
	defer w.close()
	res, err := a.client.Batch(ctx, api.Batch{Delete: names(list)})
	if err != nil {
		return a.refused(doing, err)
	}
	var goals []*goal
	for _, r := range res.Results {
		if r.Err != nil && !errors.Is(r.Err, fleet.ErrNotFound) {
			code = a.refused(doing, r.Err)
			continue
		}
		g := &goal{name: r.Name, verb: "destroy", doing: doing, gone: true, changed: true, global: w.world.Units[r.Name].Global}
		if a.opts.noBlock {
			a.reached(w.world, g, "")
		}
		goals = append(goals, g)
	}
	if a.opts.noBlock || len(goals) == 0 {
		return code
	}
	return max(code, w.wait(ctx, goals))
}
