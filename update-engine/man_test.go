package main

import (
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/man"
)

// docs/man/update-engine.8 is what --help says.
func TestManualPage(t *testing.T) {
	c := &Config{}
	p := c.program()
	var settings, list []man.Item
	for _, k := range p.Keys {
		if k.Gone == "" {
			settings = append(settings, man.Item{Term: k.Name + "=", Text: man.Sentence(k.Usage, k.Default())})
		}
	}
	for _, c := range commands() {
		list = append(list, man.Item{Term: strings.TrimSpace(c.name + " " + c.args), Text: man.Sentence(c.summary, "")})
	}
	man.Golden(t, "../docs/man", man.Page{Name: "update-engine", Section: 8, Summary: "releases of a host with two slots", Sections: []man.Section{
		{Title: "SYNOPSIS", Call: "update-engine", Args: []string{"[COMMAND] [options] [arguments...]"}},
		{Title: "DESCRIPTION", Text: "Without a command it is the daemon: it writes a new release into the slot that does not run, boots it on trial when the cluster permits, " +
			"keeps it once host and cluster are well, and goes back to the old one otherwise. The commands speak to that daemon, or make and keep the directory that releases come from. " +
			"docs/update.md leads from making keys to seeing a bad release come back."},
		{Title: "COMMANDS", Items: list},
		{Title: "SETTINGS", Text: "From " + p.File + " (key=value, a line each), the environment (" + p.Env + "KEY in capitals) and flags, the later over the earlier.", Items: settings},
		{Title: "FILES", Items: []man.Item{
			{Term: p.File, Text: "Settings."},
			{Term: "/run/fleet/update-engine.sock", Text: "Where the commands find the daemon."},
			{Term: "/etc/fleet/health.d", Text: "Programs that must succeed before a release counts as good."},
		}},
		{Title: "EXAMPLE", Example: "update-engine status\nupdate-engine apply"},
		{Title: "SEE ALSO", See: []man.Item{{Term: "fleetctl-update", Text: "1"}, {Term: "fleetctl-reboot", Text: "1"}, {Term: "fleetd", Text: "8"}}},
	}})
}
