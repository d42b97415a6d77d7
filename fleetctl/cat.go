package main

import (
	"context"
	"errors"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

func cat(ctx context.Context, a *app, args []string) int {
	if len(args) != 1 {
		return a.fail("One unit file must be provided: fleetctl cat web.service")
	}
	name, err := unit.Mangle(args[0])
	if err != nil {
		return a.fail("Error: %v", err)
	}
	u, err := a.client.Unit(ctx, string(name))
	if errors.Is(err, fleet.ErrNotFound) {
		return a.fail("Unit %s not found: fleetctl list-unit-files shows what there is", name)
	}
	if err != nil {
		return a.refused("Error retrieving unit "+string(name), err)
	}
	a.printf("%s", (&unit.File{Options: u.Options}).String())
	return exitOK
}
