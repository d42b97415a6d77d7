package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
)

func listMachines(ctx context.Context, a *app, _ []string) int {
	machines, err := a.client.Machines(ctx)
	if err != nil {
		return a.refused("Error retrieving list of active machines", err)
	}
	if a.opts.json {
		return printJSON(a, machines)
	}
	a.alarm(ctx)
	return table(a, []column[api.Machine]{
		{"machine", func(m api.Machine) string { return shortID(m.ID, a.opts.full) }},
		{"ip", func(m api.Machine) string { return m.PrimaryIP }},
		{"metadata", func(m api.Machine) string { return pairs(m.Metadata) }},
	}, "machine,ip,metadata", machines)
}

// pairs prints metadata as k=v,k=v by key.
func pairs(m map[string]string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k+"="+m[k])
	}
	return strings.Join(list, ",")
}
