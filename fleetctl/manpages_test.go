package main

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/internal/man"
	"github.com/fleet-init/fleet/internal/unit"
)

// manPages makes the manual pages of fleetctl, out of the table that help is made of, and that of unit files.
func manPages() map[string]string {
	pages := map[string]string{"fleetctl.1": manRoot().String(), "fleet.unit.5": manUnit().String()}
	for _, c := range commands() {
		if !c.hidden {
			pages["fleetctl-"+c.name+".1"] = manCommand(c).String()
		}
	}
	return pages
}

func manRoot() man.Page {
	var list []man.Item
	for _, c := range commands() {
		if !c.hidden {
			list = append(list, man.Item{Term: strings.TrimSpace(c.name + " " + c.args), Text: c.summary + ". See fleetctl-" + c.name + "(1)."})
		}
	}
	return man.Page{Name: "fleetctl", Section: 1, Summary: "one init system for all hosts of a cluster", Sections: []man.Section{
		{Title: "SYNOPSIS", Call: "fleetctl", Args: []string{"[global options] COMMAND [options] [arguments...]"}},
		{Title: "DESCRIPTION", Text: "fleetctl shows and changes what a fleet cluster runs. It speaks to the fleetd of one host, on that host's socket or over the network.\n" +
			"A command can be cut short as long as only one begins so."},
		{Title: "COMMANDS", Items: list},
		{Title: "GLOBAL OPTIONS", Items: manFlags(globalFlags())},
		{Title: "ENVIRONMENT", Text: "Each global option can come from the environment, in capitals, with FLEETCTL_ before it and _ for each dash: " +
			"FLEETCTL_ENDPOINT for --endpoint. The command line goes before the environment."},
		{Title: "EXIT STATUS", Items: []man.Item{
			{Term: "0", Text: "Done."}, {Term: "1", Text: "Failed; it may work when tried again."}, {Term: "2", Text: "The command line is wrong."},
			{Term: "3", Text: "status: a unit is not active."}, {Term: "130", Text: "Interrupted."},
		}, After: "ssh ends with the exit status of the remote command, 255 if that is not known."},
		{Title: "FILES", Items: []man.Item{
			{Term: "/run/fleet.sock", Text: "The socket of this host's fleetd."},
			{Term: "~/.fleetctl/known_hosts", Text: "Keys of SSH hosts that were accepted."},
		}},
		{Title: "EXAMPLE", Example: "fleetctl start web@{1..3}.service"},
		{Title: "SEE ALSO", See: []man.Item{{Term: "fleet.unit", Text: "5"}, {Term: "fleetd", Text: "8"}, {Term: "systemctl", Text: "1"}, {Term: "journalctl", Text: "1"}}},
	}}
}

func manCommand(c command) man.Page {
	options := ""
	if len(c.flags) > 0 {
		options = "[options]"
	}
	p := man.Page{Name: "fleetctl-" + c.name, Section: 1, Summary: c.summary, Sections: []man.Section{
		{Title: "SYNOPSIS", Call: "fleetctl " + c.name, Args: []string{options, c.args}},
	}}
	if c.about != "" {
		p.Sections = append(p.Sections, man.Section{Title: "DESCRIPTION", Text: c.about})
	}
	if len(c.flags) > 0 {
		p.Sections = append(p.Sections, man.Section{Title: "OPTIONS", Items: manFlags(c.flags)})
	}
	p.Sections = append(p.Sections, man.Section{Title: "EXAMPLE", Example: c.example},
		man.Section{Title: "SEE ALSO", Text: "fleetctl(1) for the global options and the exit status"})
	return p
}

// manUnit tells of the section of unit files that is ours.
func manUnit() man.Page {
	var options []man.Item
	for _, k := range unit.Keywords() {
		text := k.Does
		if len(k.Older) > 0 {
			text += " Older files say " + strings.Join(k.Older, " or ") + "."
		}
		options = append(options, man.Item{Term: k.Name + "=" + k.Value, Text: text})
	}
	return man.Page{Name: "fleet.unit", Section: 5, Summary: "where a unit of a fleet cluster runs", Sections: []man.Section{
		{Title: "DESCRIPTION", Text: "A unit of fleet is a unit file of systemd: see systemd.unit(5). systemd passes over the section [X-Fleet], which says " +
			"on which machines of the cluster the unit may run. Without that section it runs on one machine, the one with the fewest units. " +
			"A unit stays where it is as long as that machine lives and fits."},
		{Title: "OPTIONS", Items: options,
			After: "In values %n, %N, %p and %i are the unit's full name, its name without type, its prefix and its instance. Unknown options are refused. " +
				"MachineID does not go together with MachineOf, Conflicts, Global or Replaces, Global not with MachineOf, Replaces or Exclusive, " +
				"Conflicts not with Replaces."},
		{Title: "INSTALL SECTION", Text: "[Install] holds on the machine that has the unit, as long as it has it: WantedBy=, RequiredBy= and Alias= work as after systemctl enable."},
		{Title: "EXAMPLE", Example: "[Unit]\nDescription=Web server %i\n\n[Service]\nExecStart=/usr/bin/web --port 80%i\n\n" +
			"[X-Fleet]\nConflicts=web@*.service\nMachineMetadata=disk=ssd"},
		{Title: "SEE ALSO", See: []man.Item{{Term: "fleetctl", Text: "1"}, {Term: "systemd.unit", Text: "5"}, {Term: "systemd.service", Text: "5"}}},
	}}
}

func manFlags(names []string) (items []man.Item) {
	var o options
	fs := define(&o)
	names = slices.Clone(names)
	slices.Sort(names)
	for _, name := range names {
		f := fs.Lookup(name)
		if f.Hidden {
			continue
		}
		word := "--" + f.Name
		if f.Shorthand != "" {
			word = "-" + f.Shorthand + ", " + word
		}
		kind, usage := pflag.UnquoteUsage(f)
		items = append(items, man.Item{Term: strings.TrimSpace(word + " " + kind), Text: man.Sentence(usage, f.DefValue)})
	}
	return items
}
