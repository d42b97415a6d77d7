package main

import (
	"flag"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/man"
)

// docs/man/netd.8 is what --help says.
func TestManualPage(t *testing.T) {
	var list, flags []man.Item
	for _, c := range commands() {
		term := strings.TrimSpace(c.name + " " + c.args)
		if term == "" {
			term = "(none)"
		}
		list = append(list, man.Item{Term: term, Text: man.Sentence(c.summary, "")})
	}
	f := flag.NewFlagSet("netd", flag.ContinueOnError)
	var s string
	var n int
	bind(f, &Config{}, &s, &s, &s, &s, &n, &n)
	f.VisitAll(func(f *flag.Flag) {
		flags = append(flags, man.Item{Term: "--" + f.Name, Text: man.Sentence(f.Usage, f.DefValue)})
	})
	man.Golden(t, "../docs/man", man.Page{Name: "netd", Section: 8, Summary: "one network over all hosts of a cluster", Sections: []man.Section{
		{Title: "SYNOPSIS", Call: "netd", Args: []string{"[flags] [COMMAND] [arguments...]"}},
		{Title: "DESCRIPTION", Text: "netd takes a subnet for its host from the cluster's store, joins the subnets of all hosts into one network, and gives units that say " +
			"Network=overlay an address in it. Configuration, flags, keys and files are flannel's. docs/network.md explains it."},
		{Title: "COMMANDS", Items: list},
		{Title: "FLAGS", Text: "Each can come from the environment too, as FLANNELD_FLAG in capitals with _ for -. The command line goes before the environment.", Items: flags},
		{Title: "FILES", Items: []man.Item{
			{Term: "/etc/default/netd", Text: "Variables of the shipped unit."},
			{Term: "/run/flannel/subnet.env", Text: "This host's subnet and MTU, for docker and others."},
			{Term: "/etc/cni/net.d", Text: "A configuration for CNI, so that podman and others use the network."},
			{Term: "/run/netd/netd.sock", Text: "Where the commands find the daemon."},
		}},
		{Title: "EXIT STATUS", Items: []man.Item{{Term: "0", Text: "Done."}, {Term: "1", Text: "Failed; it may work when tried again."}, {Term: "78", Text: "The configuration is wrong."}}},
		{Title: "EXAMPLE", Example: "echo '{\"Network\": \"10.5.0.0/16\"}' | netd config -\nnetd status --probe"},
		{Title: "SEE ALSO", See: []man.Item{{Term: "fleetctl-network", Text: "1"}, {Term: "fleet.unit", Text: "5"}, {Term: "fleetd", Text: "8"}}},
	}})
}
