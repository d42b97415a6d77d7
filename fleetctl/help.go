package main

import (
	"context"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

func help(_ context.Context, a *app, args []string) int {
	if len(args) == 0 {
		return a.rootHelp()
	}
	cmd, err := find(commands(), args[0])
	if err != nil {
		return a.usage(err, "")
	}
	return a.commandHelp(cmd)
}

func (a *app) rootHelp() int {
	a.printf("NAME:\n\tfleetctl - one init system for all hosts of a cluster\n\n")
	a.printf("USAGE:\n\tfleetctl [global options] COMMAND [options] [arguments...]\n\n")
	a.printf("VERSION:\n\t%s\n\n", ourVersion())
	a.printf("COMMANDS:\n")
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		_, _ = w.Write([]byte("\t" + c.name + "\t" + c.summary + "\n")) // a.out keeps its error
	}
	_ = w.Flush()
	a.printf("\nEXAMPLE:\n\tfleetctl start web@{1..3}.service\n\n")
	a.printf("GLOBAL OPTIONS:\n%s", flagHelp(globalFlags()))
	a.printf("\nEach global option can come from the environment: FLEETCTL_ENDPOINT for --endpoint.\n")
	a.printf("How to use one command: fleetctl help COMMAND\n")
	return exitOK
}

func (a *app) commandHelp(c command) int {
	a.printf("NAME:\n\tfleetctl %s - %s\n\n", c.name, c.summary)
	usage := "fleetctl " + c.name
	if len(c.flags) > 0 {
		usage += " [options]"
	}
	if c.args != "" {
		usage += " " + c.args
	}
	a.printf("USAGE:\n\t%s\n\n", usage)
	if c.about != "" {
		a.printf("DESCRIPTION:\n\t%s\n\n", strings.ReplaceAll(c.about, "\n", "\n\t"))
	}
	a.printf("EXAMPLE:\n\t%s\n", c.example)
	if len(c.flags) > 0 {
		a.printf("\nOPTIONS:\n%s", flagHelp(c.flags))
	}
	a.printf("\nGLOBAL OPTIONS:\n%s", flagHelp(globalFlags()))
	return exitOK
}

// flagHelp describes the named flags, without those that are only taken.
func flagHelp(names []string) string {
	var o options
	all := define(&o)
	some := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, name := range names {
		some.AddFlag(all.Lookup(name))
	}
	return some.FlagUsages()
}
