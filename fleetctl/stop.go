package main

import (
	"context"

	"github.com/fleet-init/fleet/internal/fleet"
)

func stop(ctx context.Context, a *app, args []string) int {
	return a.lower(ctx, args, stopping(), "stopped")
}

func stopping() verb { return verb{name: "stop", target: fleet.Loaded, doing: "Error stopping units"} }
