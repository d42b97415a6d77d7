package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/ssh"
	"github.com/fleet-init/fleet/internal/unit"
)

// sshTo opens a shell on a machine, or runs a command there and ends with its exit code. On a global unit a command runs on every
// machine that has it, one after another.
func sshTo(ctx context.Context, a *app, args []string) int {
	names, rest, err := a.sshTargets(ctx, args)
	if err != nil {
		var conn *api.ConnectError
		if errors.As(err, &conn) {
			return a.refused("Error retrieving list of active machines", err)
		}
		return a.fail("Unable to proceed: %v", err)
	}
	command := strings.Join(rest, " ")
	if command == "" && len(names) > 1 {
		return a.fail("Unable to proceed: the unit is on %d machines: name one with --unit %s --machine ID, or give a command to run on each", len(names), cmp.Or(a.opts.unit, strings.Join(args, " ")))
	}
	d := a.dialer()
	defer d.Close()
	code := exitOK
	for _, m := range names {
		if len(names) > 1 {
			a.warn("-- %s --", legendOf(m))
		}
		if c := a.runOn(ctx, d, m, command); code == exitOK {
			code = c
		}
	}
	return code
}

func legendOf(m api.Machine) string {
	return legend(map[fleet.MachineID]api.Machine{fleet.MachineID(m.ID): m}, m.ID, false)
}

// sshTargets finds the machines meant, and the command. The first word is a machine or a unit unless a flag says which it is.
func (a *app) sshTargets(ctx context.Context, args []string) ([]api.Machine, []string, error) {
	units, machines, err := a.client.Units(ctx)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case a.opts.machine != "" && a.opts.unit != "":
		m, err := a.oneOf(ctx, units, machines)
		return []api.Machine{m}, args, err
	case a.opts.machine != "":
		m, err := findMachine(machines, a.opts.machine)
		return []api.Machine{m}, args, err
	case a.opts.unit != "":
		found, err := a.machinesOf(ctx, units, a.opts.unit)
		return found, args, err
	case len(args) == 0:
		return nil, nil, errors.New("name a machine or a unit: fleetctl ssh web@1.service")
	}
	m, notMachine := findMachine(machines, args[0])
	found, notUnit := a.machinesOf(ctx, units, args[0])
	switch {
	case notMachine == nil && notUnit == nil:
		return nil, nil, fmt.Errorf("%q is a machine and a unit: say which with --machine or --unit", args[0])
	case notMachine == nil:
		return []api.Machine{m}, args[1:], nil
	case notUnit == nil:
		return found, args[1:], nil
	case slices.ContainsFunc(units, func(u api.Unit) bool { return isNamed(u, args[0]) }):
		return nil, nil, notUnit
	}
	return nil, nil, fmt.Errorf("%q is neither a machine nor a unit: fleetctl list-machines and list-units show what there is", args[0])
}

// oneOf finds the machine that --machine chooses of those that have the global unit --unit.
func (a *app) oneOf(ctx context.Context, units []api.Unit, machines []api.Machine) (api.Machine, error) {
	i := slices.IndexFunc(units, func(u api.Unit) bool { return isNamed(u, a.opts.unit) })
	if i >= 0 && !units[i].Global {
		return api.Machine{}, errors.New("--machine and --unit name a machine each: give one of them")
	}
	found, err := a.machinesOf(ctx, units, a.opts.unit)
	if err != nil {
		return api.Machine{}, err
	}
	m, err := findMachine(machines, a.opts.machine)
	if err == nil && !slices.ContainsFunc(found, func(f api.Machine) bool { return f.ID == m.ID }) {
		err = fmt.Errorf("unit %s is not on machine %s", units[i].Name, legendOf(m))
	}
	return m, err
}

func isNamed(u api.Unit, word string) bool {
	name, err := unit.Mangle(word)
	return err == nil && u.Name == string(name)
}

// machinesOf finds the registered machines that have a unit.
func (a *app) machinesOf(ctx context.Context, units []api.Unit, word string) ([]api.Machine, error) {
	i := slices.IndexFunc(units, func(u api.Unit) bool { return isNamed(u, word) })
	if i < 0 {
		return nil, fmt.Errorf("unit %q does not exist", word)
	}
	states, machines, err := a.client.States(ctx)
	if err != nil {
		return nil, err
	}
	all := byID(machines)
	on := map[string]bool{units[i].MachineID: !units[i].Global}
	for _, s := range states {
		if units[i].Global && s.Name == units[i].Name {
			on[s.MachineID] = true
		}
	}
	var list []api.Machine
	for _, id := range slices.Sorted(maps.Keys(on)) {
		if m, here := all[fleet.MachineID(id)]; here && on[id] {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("unit %s is on no machine: fleetctl status %s says why", units[i].Name, units[i].Name)
	}
	return list, nil
}

// runOn connects to a machine, through the tunnel if there is one, and runs the command.
func (a *app) runOn(ctx context.Context, d *ssh.Dialer, m api.Machine, command string) int {
	if m.PrimaryIP == "" {
		return a.fail("Unable to proceed: machine %s publishes no address", legendOf(m))
	}
	target := m.PrimaryIP
	if a.opts.sshPort != 0 {
		target = net.JoinHostPort(target, strconv.Itoa(a.opts.sshPort))
	}
	c, err := a.connectTo(ctx, d, target)
	if err != nil {
		return a.sshFailed(ctx, err)
	}
	defer c.Close()
	_ = a.out.Flush() // its error is kept and found at the end
	code, err := c.Run(ctx, command, ssh.Streams{In: a.stdin, Out: a.stdout, Err: a.err})
	if err != nil {
		a.sshFailed(ctx, err)
	}
	return code
}

func (a *app) connectTo(ctx context.Context, d *ssh.Dialer, target string) (*ssh.Client, error) {
	if a.tunnel == nil {
		return d.Dial(ctx, target)
	}
	bastion, err := a.tunnel.bastion(ctx)
	if err != nil {
		return nil, err
	}
	return d.DialVia(ctx, bastion, target)
}

func (a *app) sshFailed(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		return exitInterrupted
	}
	return a.fail("Error: %v", err)
}
