package main

import (
	"context"
	"strconv"

	"github.com/fleet-init/fleet/internal/api"
)

func listUnitFiles(ctx context.Context, a *app, _ []string) int {
	units, machines, err := a.client.Units(ctx)
	if err != nil {
		return a.refused("Error retrieving list of repository units", err)
	}
	if a.opts.json {
		return printJSON(a, units)
	}
	known := byID(machines)
	target := func(u api.Unit) string {
		switch {
		case u.Global:
			return "global"
		case u.MachineID == "":
			return ""
		}
		return legend(known, u.MachineID, a.opts.full)
	}
	return table(a, []column[api.Unit]{
		{"unit", func(u api.Unit) string { return u.Name }},
		{"hash", func(u api.Unit) string { return shortHash(u.Hash, a.opts.full) }},
		{"dstate", func(u api.Unit) string { return u.DesiredState }},
		{"state", func(u api.Unit) string { return u.CurrentState }},
		{"target", target},
		{"tmachine", target},
		{"global", func(u api.Unit) string { return strconv.FormatBool(u.Global) }},
		{"desc", func(u api.Unit) string { return u.Description }},
	}, "unit,hash,dstate,state,target", units)
}
