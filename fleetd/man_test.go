package main

import (
	"testing"

	"github.com/fleet-init/fleet/internal/man"
)

// docs/man/fleetd.8 is what --help says, and what a unit's author cannot know from it.
func TestManualPage(t *testing.T) {
	c := &Config{}
	p := c.program()
	var settings []man.Item
	for _, k := range p.Keys {
		if k.Gone == "" {
			settings = append(settings, man.Item{Term: k.Name + "=", Text: man.Sentence(k.Usage, k.Default())})
		}
	}
	man.Golden(t, "../docs/man", man.Page{Name: "fleetd", Section: 8, Summary: "daemon of every host of a fleet cluster", Sections: []man.Section{
		{Title: "SYNOPSIS", Call: "fleetd", Args: []string{"[--config FILE] [--version] [--KEY VALUE]..."}},
		{Title: "DESCRIPTION", Text: "fleetd makes a host one of a cluster. It holds the cluster's store, or stands by to do so; one of all fleetds decides which unit runs where; " +
			"each hands the units of its host to systemd and reports what becomes of them. Without any setting it is a cluster of one. " +
			"It is started by fleetd.service; fleetctl(1) speaks to it."},
		{Title: "SETTINGS", Text: "From " + p.File + " (key=value, a line each), the environment (" + p.Env + "KEY in capitals) and flags (--key with - for _), the later over the earlier. " +
			"fleet.conf of the first fleet is accepted; what has no effect any more is named in a warning.", Items: settings},
		{Title: "SIGNALS", Items: []man.Item{
			{Term: "SIGHUP", Text: "Read the settings again and take over what can change in a running daemon; a wrong file changes nothing."},
			{Term: "SIGUSR1", Text: "Write the state as JSON to standard output."},
			{Term: "SIGTERM", Text: "Move this host's units elsewhere, stop what is left, and leave. systemctl restart leaves units running."},
			{Term: "SIGKILL", Text: "Units live on; the next start takes them over as they are."},
		}},
		{Title: "FILES", Items: []man.Item{
			{Term: p.File, Text: "Settings."},
			{Term: "/var/lib/fleet", Text: "The store's data, certificates and backups. It must survive reboots."},
			{Term: "/run/fleet.sock", Text: "The API, for root and the group fleet."},
			{Term: "/run/fleet/etcd.sock", Text: "The store, for etcd clients of this host."},
			{Term: "/run/fleet/units", Text: "Unit files of this host."},
		}},
		{Title: "EXAMPLE", Example: "printf 'member_ip=10.0.0.0/24\\njoin=TOKEN\\n' >/etc/fleet/fleet.conf\nsystemctl enable --now fleetd"},
		{Title: "SEE ALSO", See: []man.Item{{Term: "fleetctl", Text: "1"}, {Term: "fleet.unit", Text: "5"}, {Term: "netd", Text: "8"}, {Term: "update-engine", Text: "8"}, {Term: "cloud-config", Text: "8"}}},
	}})
}
