package main

import (
	"context"

	"github.com/fleet-init/fleet/internal/fleet"
)

func load(ctx context.Context, a *app, args []string) int {
	return a.bring(ctx, args, verb{
		name: "load", target: fleet.Loaded, doing: "Error loading units",
		reach: []fleet.TargetState{fleet.Inactive, fleet.Loaded},
	})
}
