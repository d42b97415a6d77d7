package main

import (
	"context"

	"github.com/fleet-init/fleet/internal/fleet"
)

func start(ctx context.Context, a *app, args []string) int { return a.bring(ctx, args, starting()) }

func starting() verb {
	return verb{
		name: "start", target: fleet.Launched, doing: "Error starting units",
		reach: []fleet.TargetState{fleet.Inactive, fleet.Loaded, fleet.Launched},
	}
}
