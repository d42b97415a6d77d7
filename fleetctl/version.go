package main

import (
	"context"

	fleetrun "github.com/fleet-init/fleet/internal/run"
)

func version(_ context.Context, a *app, _ []string) int {
	a.printf("fleetctl version %s\n", ourVersion())
	return exitOK
}

func ourVersion() string { return fleetrun.Version() }
