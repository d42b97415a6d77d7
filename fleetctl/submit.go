package main

import (
	"context"

	"github.com/fleet-init/fleet/internal/fleet"
)

func submit(ctx context.Context, a *app, args []string) int {
	return a.bring(ctx, args, verb{
		name: "submit", target: fleet.Inactive, doing: creating,
		reach: []fleet.TargetState{fleet.Inactive},
	})
}
