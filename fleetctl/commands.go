package main

import (
	"context"
	"slices"
	"strings"
)

// A command is one row of what fleetctl can do. Its file is named like it.
type command struct {
	name    string
	args    string // as the synopsis shows them
	summary string // one line in the list of commands
	about   string // what else there is to know
	example string
	flags   []string // own flags
	quiet   []string // flags that are taken and mean nothing here: fleet took them
	offline bool     // needs no fleetd
	hidden  bool     // for our own scripts: in no list
	// completes are the kinds of words its arguments may be: units, machines, files, commands, shells.
	completes []string
	run       func(ctx context.Context, a *app, args []string) int
}

// commands are all rows, by name.
func commands() []command {
	return slices.SortedFunc(slices.Values(slices.Concat(telling(), changing(), hostSystem(), trusting(), keeping(), []command{resumeCommand(), setMetadataCommand()})), func(a, b command) int {
		return strings.Compare(strings.TrimLeft(a.name, "_"), strings.TrimLeft(b.name, "_"))
	})
}

// telling are the commands that change nothing in the cluster.
func telling() []command {
	listing := []string{"full", "no-legend", "fields", "json"}
	return []command{
		{name: "cat", args: "UNIT", summary: "Print a unit file as the cluster has it", run: cat, completes: []string{"units"},
			about: "The text is printed as it is stored: without comments, sections put together. Drop-ins follow, each under a\n" +
				"line with its path.",
			example: "fleetctl cat web@1.service"},
		{name: "completion", args: "SHELL", summary: "Print the script that completes fleetctl in bash, fish or zsh", run: completion, completes: []string{"shells"}, offline: true,
			about:   "Names of units and machines come from the cluster while you type.",
			example: "source <(fleetctl completion bash)"},
		{name: "__complete", args: "WORD...", summary: "Print what the last word can become", run: complete, completes: []string{"commands"}, offline: true, hidden: true,
			example: "fleetctl __complete -- start we"},
		{name: "fd-forward", args: "SOCKET", summary: "Join input and output to a unix socket", run: fdForward, offline: true,
			about:   "For the far end of --tunnel, where the SSH server does not forward sockets itself.",
			example: "fleetctl fd-forward /run/fleet.sock"},
		{name: "help", args: "[COMMAND]", summary: "Show all commands, or how to use one", run: help, completes: []string{"commands"}, offline: true,
			example: "fleetctl help start"},
		{name: "journal", args: "UNIT...", summary: "Print the log of units, from the machines that have them", run: journal, completes: []string{"units"},
			flags: []string{"lines", "follow", "output", "since", "priority", "machine"}, quiet: []string{"sudo", "ssh-port"},
			about: "Several units, and units on several machines, are merged by time. With --follow a unit is followed to wherever\n" +
				"it moves. What a machine still has of a unit that has left it: --machine.",
			example: "fleetctl journal --follow web@1.service web@2.service"},
		{name: "list-machines", summary: "List the machines of the cluster", run: listMachines, flags: listing,
			about:   "Columns: machine, ip, metadata.",
			example: "fleetctl list-machines --full"},
		{name: "list-unit-files", summary: "List the units the cluster knows, and where each shall run", run: listUnitFiles, flags: listing,
			about: "Columns: unit, hash, dstate (what is wished), state (what its machine has reached), target (the machine);\n" +
				"with --fields also global and desc.",
			example: "fleetctl list-unit-files --fields=unit,dstate,desc"},
		{name: "list-units", summary: "List what each machine's systemd says of its units", run: listUnits, flags: listing,
			about:   "Columns: unit, machine, active, sub; with --fields also load, hash and ip.",
			example: "fleetctl list-units --fields=unit,active --no-legend"},
		{name: "network", summary: "Show how the machines reach each other through the overlay", run: networkCommand, flags: listing,
			about: "Each machine measures the way to every other, now. Columns: machine, ip, subnet, backend, mtu, reaches, slowest\n" +
				"(round trip), state; with --fields also why (of the backend) and iface. Then the round trip of each pair, and\n" +
				"what keeps a pair apart. Exits with 1 when a machine does not reach another.",
			example: "fleetctl network"},
		{name: "ssh", args: "[MACHINE|UNIT] [COMMAND...]", summary: "Open a shell on a machine, or run a command there", run: sshTo, completes: []string{"machines", "units"},
			flags: []string{"machine", "unit", "forward-agent", "ssh-port"},
			about: "MACHINE is the begin of an ID, an address or a host name; UNIT stands for the machine that has it. Options of\n" +
				"the command itself come after --. Keys are those of the ssh-agent and the identity files; ~/.ssh/config is\n" +
				"read. The exit code is the command's, 255 if its end is not known.",
			example: "fleetctl ssh web@1.service -- df -h /var"},
		{name: "status", args: "[UNIT...]", summary: "Show where units are and how they are, or the cluster", run: status, completes: []string{"units"},
			flags: []string{"lines", "machine", "full"}, quiet: append([]string{"ssh-port"}, blocking()...),
			about: "With each unit come its newest log lines. Exits with 3 when a unit is not active, as systemctl does. Without a\n" +
				"name it shows the cluster as a whole, and which units and hosts want to be looked at.",
			example: "fleetctl status web@1.service"},
		{name: "verify", args: "UNIT", summary: "Say that units are not signed", run: verify, completes: []string{"units"}, offline: true, hidden: true, example: "fleetctl verify web.service"},
		{name: "version", summary: "Print the version", run: version, offline: true, example: "fleetctl version"},
	}
}

// blocking are the flags of commands that wait.
func blocking() []string { return []string{"no-block", "block-attempts"} }

// changing are the commands that change units.
func changing() []command {
	return []command{
		{name: "destroy", args: "UNIT...", summary: "Stop units and forget them", run: destroy, completes: []string{"units"}, flags: blocking(),
			about:   "Waits until no machine's systemd has the units any more. Their ExecStop runs.",
			example: "fleetctl destroy web@{1..3}.service"},
		{name: "edit", args: "UNIT", summary: "Change a unit's drop-in, or its text, in an editor", run: edit, completes: []string{"units"},
			flags: append([]string{"full", "drop-in"}, blocking()...),
			about: "Opens $VISUAL or $EDITOR. What was written goes to the machines that have the unit, as with --replace; of a template,\n" +
				"to its instances, one after another. A drop-in without any line is taken away. Comments are not kept.",
			example: "fleetctl edit --drop-in=limits web@.service"},
		{name: "load", args: "UNIT...", summary: "Place units on machines without starting them", run: load, completes: []string{"units", "files"},
			flags: append([]string{"replace"}, blocking()...), quiet: []string{"sign"},
			about:   submitsToo,
			example: "fleetctl load backup.service backup.timer"},
		{name: "restart", args: "UNIT...", summary: "Stop units and start them again on the machines they are on", run: restart, completes: []string{"units", "files"},
			flags: append([]string{"machine"}, blocking()...),
			about: "A global unit is restarted on every machine that has it, or on those of --machine (several with commas). Units that\n" +
				"do not run are started, but for inactive ones.\n" + submitsToo,
			example: "fleetctl restart --machine=1f2e3d4c logs.service"},
		{name: "start", args: "UNIT...", summary: "Start units somewhere in the cluster", run: start, completes: []string{"units", "files"},
			flags: append([]string{"replace"}, blocking()...), quiet: []string{"sign"},
			about: submitsToo + "\nWaits until systemd calls each unit active, or says that it failed. With --replace a changed text goes\n" +
				"to the machine that has the unit, which restarts it there.",
			example: "fleetctl start web@{1..3}.service"},
		{name: "stop", args: "UNIT...", summary: "Stop units; they stay on their machines", run: stop, completes: []string{"units"}, flags: blocking(),
			example: "fleetctl stop web@1.service"},
		{name: "submit", args: "UNIT...", summary: "Give unit files to the cluster without placing them", run: submit, completes: []string{"files", "units"},
			flags: []string{"replace"}, quiet: append([]string{"sign"}, blocking()...),
			about: "A template (web@.service) is submitted once; starting web@1.service then needs no file. With --replace\n" +
				"a template's instances are replaced too, one after another, stopping at the first that fails.",
			example: "fleetctl submit web@.service"},
		{name: "unload", args: "UNIT...", summary: "Stop units and take them off their machines", run: unload, completes: []string{"units"}, flags: blocking(),
			about:   "The cluster still knows them: start brings them back.",
			example: "fleetctl unload web@1.service"},
	}
}

const submitsToo = "A unit the cluster does not know yet is taken from the file of that name, an instance (web@1.service)\n" +
	"from its template, in the cluster or beside the path. A name without a type is a service. Drop-ins beside the\n" +
	"file (web@.service.d/*.conf, web@1.service.d/*.conf) go with it."
