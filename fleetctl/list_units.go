package main

import (
	"context"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
)

func listUnits(ctx context.Context, a *app, _ []string) int {
	states, machines, err := a.client.States(ctx)
	if err != nil {
		return a.refused("Error retrieving list of units", err)
	}
	if a.opts.json {
		return printJSON(a, states)
	}
	known := byID(machines)
	return table(a, []column[api.UnitState]{
		{"unit", func(s api.UnitState) string { return s.Name }},
		{"load", func(s api.UnitState) string { return s.SystemdLoadState }},
		{"active", func(s api.UnitState) string { return s.SystemdActiveState }},
		{"sub", func(s api.UnitState) string { return s.SystemdSubState }},
		{"machine", func(s api.UnitState) string { return legend(known, s.MachineID, a.opts.full) }},
		{"hash", func(s api.UnitState) string { return shortHash(s.Hash, a.opts.full) }},
		{"ip", func(s api.UnitState) string { return strings.Trim(s.IP+","+s.IP6, ",") }},
	}, "unit,machine,active,sub", states)
}
