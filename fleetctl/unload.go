package main

import (
	"context"

	"github.com/fleet-init/fleet/internal/fleet"
)

func unload(ctx context.Context, a *app, args []string) int {
	return a.lower(ctx, args, verb{name: "unload", target: fleet.Inactive, doing: "Error unloading units"}, "unloaded")
}
