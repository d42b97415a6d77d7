package main

import (
	"context"
	"errors"
	"io"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

func cat(ctx context.Context, a *app, args []string) int {
	if len(args) != 1 {
		return a.fail("One unit file must be provided: fleetctl cat web.service")
	}
	name, f, code := a.stored(ctx, args[0])
	if code != exitOK {
		return code
	}
	_, _ = io.WriteString(a.out, catalogued(name, f)) // the text as it is: it may become a file again
	return exitOK
}

// stored gets the text of a unit that somebody named; what is wrong has been said when the code is not exitOK.
func (a *app) stored(ctx context.Context, arg string) (unit.Name, *unit.File, int) {
	name, err := unit.Mangle(arg)
	if err != nil {
		return "", nil, a.fail("Error: %v", err)
	}
	u, err := a.client.Unit(ctx, string(name))
	if errors.Is(err, fleet.ErrNotFound) {
		return "", nil, a.fail("Unit %s not found: fleetctl list-unit-files shows what there is", name)
	}
	if err != nil {
		return "", nil, a.refused("Error retrieving unit "+string(name), err)
	}
	f, _, err := u.File()
	if err != nil {
		return "", nil, a.fail("Error: %v", unit.InFile(string(name), err))
	}
	return name, f, exitOK
}

// catalogued prints a text as systemctl cat does, the drop-ins that count in their order. One without drop-ins is printed as fleet did,
// without a line of its name: scripts keep it in files.
func catalogued(name unit.Name, f *unit.File) string {
	ins := f.Effective()
	if len(ins) == 0 {
		return f.Main().String()
	}
	text := "# " + string(name) + "\n" + f.Main().String()
	for _, d := range ins {
		text += "\n# " + d.Path() + "\n" + d.File().String()
	}
	return text
}
