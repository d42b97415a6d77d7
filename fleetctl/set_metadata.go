package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
)

func setMetadataCommand() command {
	return command{name: "set-metadata", args: "MACHINE KEY=VALUE|KEY-...", summary: "Change what a machine's metadata say, at run time", run: setMetadata,
		completes: []string{"metadata"},
		about: "KEY=VALUE sets a key, KEY- takes it away, also one that the machine's own fleet.conf says. Units whose\n" +
			"MachineMetadata= fits no more move, and those that waited for it start. What is set this way stays until it is\n" +
			"changed, whatever becomes of the machine. MACHINE is the begin of an ID, an address or a host name.",
		example: "fleetctl set-metadata 1f2e3d4c role=db old-role-"}
}

// setMetadata sends all changes in one request, which is refused as a whole if one is wrong, and prints what the machine has then.
func setMetadata(ctx context.Context, a *app, args []string) int {
	if len(args) < 2 {
		return a.usage(errors.New("set-metadata is followed by a machine and what to change: KEY=VALUE, or KEY- to take it away"), "set-metadata")
	}
	all, err := a.client.Machines(ctx)
	if err != nil {
		return a.refused("Error retrieving list of active machines", err)
	}
	m, err := findMachine(all, args[0])
	if err != nil {
		return a.fail("Unable to proceed: %v", err)
	}
	var changes []api.MetadataChange
	for _, word := range args[1:] {
		c, err := metadataChange(m.ID, word)
		if err != nil {
			return a.usage(err, "set-metadata")
		}
		changes = append(changes, c)
	}
	if err := a.client.SetMetadata(ctx, changes...); err != nil {
		return a.refused("Error setting metadata of machine "+shortID(m.ID, a.opts.full), err)
	}
	if all, err = a.client.Machines(ctx); err != nil {
		return a.refused("Error retrieving list of active machines", err)
	}
	if i := slices.IndexFunc(all, func(n api.Machine) bool { return n.ID == m.ID }); i >= 0 {
		m = all[i]
	}
	a.printf("Machine %s has metadata %s\n", shortID(m.ID, a.opts.full), orDash(pairs(m.Metadata)))
	return exitOK
}

func metadataChange(id, word string) (api.MetadataChange, error) {
	key, value, set := strings.Cut(word, "=")
	away, remove := strings.CutSuffix(word, "-")
	switch {
	case set && key != "" && value != "":
		return api.MetadataChange{Op: "replace", Path: "/" + id + "/metadata/" + key, Value: value}, nil
	case set && key != "":
		return api.MetadataChange{}, fmt.Errorf("%q has no value: to take the key away, write %s-", word, key)
	case !set && remove && away != "":
		return api.MetadataChange{Op: "remove", Path: "/" + id + "/metadata/" + away}, nil
	}
	return api.MetadataChange{}, fmt.Errorf("%q is neither KEY=VALUE nor KEY-", word)
}
