package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// manPages makes the manual pages of section 1 by file name, out of the table that help is made of.
func manPages() map[string]string {
	pages := map[string]string{"fleetctl.1": manRoot()}
	for _, c := range commands() {
		if !c.hidden {
			pages["fleetctl-"+c.name+".1"] = manCommand(c)
		}
	}
	return pages
}

func manRoot() string {
	var b strings.Builder
	manHead(&b, "fleetctl", "one init system for all hosts of a cluster")
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B fleetctl\n[global options] COMMAND [options] [arguments...]\n")
	b.WriteString(".SH DESCRIPTION\nfleetctl shows and changes what a fleet cluster runs. It speaks to the fleetd of one host, on that host's socket or over the network.\n" +
		"A command can be cut short as long as only one begins so.\n")
	b.WriteString(".SH COMMANDS\n")
	for _, c := range commands() {
		if !c.hidden {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s. See\n.BR fleetctl\\-%s (1).\n", roff(strings.TrimSpace(c.name+" "+c.args)), roff(c.summary), roff(c.name))
		}
	}
	b.WriteString(".SH GLOBAL OPTIONS\n")
	manFlags(&b, globalFlags())
	b.WriteString(".SH ENVIRONMENT\nEach global option can come from the environment, in capitals, with FLEETCTL_ before it and _ for each dash:\n" +
		".B FLEETCTL_ENDPOINT\nfor\n.BR \\-\\-endpoint .\nThe command line goes before the environment.\n")
	b.WriteString(".SH EXIT STATUS\n")
	for _, row := range [][2]string{
		{"0", "Done."}, {"1", "Failed; it may work when tried again."}, {"2", "The command line is wrong."},
		{"3", "status: a unit is not active."}, {"130", "Interrupted."},
	} {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", row[0], row[1])
	}
	b.WriteString("ssh ends with the exit status of the remote command, 255 if that is not known.\n")
	b.WriteString(".SH FILES\n.TP\n.I /run/fleet.sock\nThe socket of this host's fleetd.\n.TP\n.I ~/.fleetctl/known_hosts\nKeys of SSH hosts that were accepted.\n" +
		".SH EXAMPLE\n.nf\nfleetctl start web@{1..3}.service\n.fi\n.SH SEE ALSO\n.BR systemctl (1),\n.BR journalctl (1)\n")
	return b.String()
}

func manCommand(c command) string {
	var b strings.Builder
	manHead(&b, "fleetctl-"+c.name, c.summary)
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B fleetctl %s\n", roff(c.name))
	if len(c.flags) > 0 {
		b.WriteString("[options]\n")
	}
	if c.args != "" {
		b.WriteString(roff(c.args) + "\n")
	}
	if c.about != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(c.about))
	}
	if len(c.flags) > 0 {
		b.WriteString(".SH OPTIONS\n")
		manFlags(&b, c.flags)
	}
	fmt.Fprintf(&b, ".SH EXAMPLE\n.nf\n%s\n.fi\n.SH SEE ALSO\n.BR fleetctl (1)\nfor the global options and the exit status\n", roff(c.example))
	return b.String()
}

func manHead(b *strings.Builder, name, summary string) {
	fmt.Fprintf(b, ".TH %s 1 \"\" fleet \"fleet\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(name)), roff(name), roff(summary))
}

func manFlags(b *strings.Builder, names []string) {
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
		fmt.Fprintf(b, ".TP\n.B %s\n", strings.TrimSpace(roff(word)+" "+roff(kind)))
		b.WriteString(roff(strings.ToUpper(usage[:1]) + usage[1:]))
		if d := f.DefValue; d != "" && d != "false" && d != "0" {
			b.WriteString(" (default: " + roff(d) + ")")
		}
		b.WriteString(".\n")
	}
}

// roff makes text of what roff would take for its own: dashes, backslashes, and dots and quotes that begin a line.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	return regexp.MustCompile(`(?m)^([.'])`).ReplaceAllString(s, `\&$1`)
}
