package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/term"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/near"
	"github.com/fleet-init/fleet/internal/pki"
)

// Exit codes. Scripts tell by them what to do next: a failure may pass when tried again, a usage error never will.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotActive   = 3   // status: systemctl's code for a unit that is not active
	exitInterrupted = 130 // as a shell reports SIGINT
)

// app is one invocation: where it writes, what it was told, and its connection.
type app struct {
	stdin  io.Reader
	out    *bufio.Writer // flushed before fleetctl waits and when it ends
	stdout io.Writer     // what out writes to, for what must not wait
	err    io.Writer
	tty    bool // err is a terminal: progress may be shown
	opts   options
	given  []string // names of the flags on the command line
	client *api.Client
	env    []string
	tunnel *tunnel     // nil: none
	holder *pki.Holder // certificate of the context that is spoken to; nil: none of ours
	host   thisHost    // what init and join change; zero: this one
}

// run is fleetctl. env is os.Environ's form.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := newApp(stdin, stdout, stderr)
	code := a.run(ctx, args, env)
	if err := a.out.Flush(); err != nil && code == exitOK {
		return a.fail("Error writing output: %v", err)
	}
	return code
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	a := &app{stdin: stdin, out: bufio.NewWriter(stdout), stdout: stdout, err: stderr}
	if f, ok := stderr.(*os.File); ok {
		a.tty = term.IsTerminal(int(f.Fd()))
	}
	return a
}

func (a *app) run(ctx context.Context, args, env []string) int {
	words, err := a.parse(args, env)
	if err != nil {
		for _, arg := range args {
			if cmd, ferr := find(commands(), arg); ferr == nil {
				return a.usage(err, cmd.name)
			}
		}
		return a.usage(err, "")
	}
	switch {
	case a.opts.version:
		words = []string{"version"}
	case len(words) == 0:
		return a.rootHelp()
	}
	cmd, err := find(commands(), words[0])
	if err != nil {
		return a.usage(err, "")
	}
	if a.opts.help {
		return a.commandHelp(cmd)
	}
	for _, flag := range a.given {
		if !cmd.takes(flag) {
			return a.usage(fmt.Errorf("%s has no flag --%s", cmd.name, flag), cmd.name)
		}
	}
	if !cmd.offline {
		if a.client, err = a.dial(); err != nil {
			return a.usage(err, cmd.name)
		}
		defer a.hangUp()
		if a.tunnel != nil {
			// Now, so that a question about the host's key does not run into the time limit of a request.
			if _, err := a.tunnel.bastion(ctx); err != nil {
				return a.sshFailed(ctx, err)
			}
		}
		if err := a.renewContext(ctx, false); err != nil {
			a.warn("WARNING: the certificate of this context is not renewed: %v", err)
		}
	}
	return cmd.run(ctx, a, words[1:])
}

// fail prints one error line and returns the exit code of a failure.
func (a *app) fail(format string, args ...any) int {
	a.warn(format, args...)
	return exitFailed
}

// warn prints one line on stderr, after what was printed on stdout before it.
func (a *app) warn(format string, args ...any) {
	_ = a.out.Flush() // its error is kept and found at the end
	fmt.Fprintln(a.err, harmless(fmt.Sprintf(format, args...)))
}

// printf prints on stdout. What a server, or a text in the cluster, brought along cannot steer the terminal.
func (a *app) printf(format string, args ...any) {
	_, _ = io.WriteString(a.out, harmless(fmt.Sprintf(format, args...))) // a.out keeps its error
}

// harmless is a text of several lines without what a terminal would obey.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, s)
}

// usage says what is wrong with the command line and what to type.
func (a *app) usage(err error, command string) int {
	hint := "fleetctl help"
	if command != "" {
		hint = "fleetctl help " + command
	}
	a.warn("fleetctl: %v\nTry: %s", err, hint)
	return exitUsage
}

// find returns the command of that name, or the only one that begins so.
func find(table []command, word string) (command, error) {
	var begin []command
	var names, all []string
	for _, c := range table {
		all = append(all, c.name)
		if c.name == word {
			return c, nil
		}
		if word != "" && strings.HasPrefix(c.name, word) {
			begin = append(begin, c)
			names = append(names, c.name)
		}
	}
	switch len(begin) {
	case 1:
		return begin[0], nil
	case 0:
		hint := ""
		if meant := near.Word(word, all, 1); meant != "" {
			hint = fmt.Sprintf(": did you mean %q?", meant)
		}
		return command{}, fmt.Errorf("unknown command %q%s", word, hint)
	}
	return command{}, fmt.Errorf("command %q could be %s", word, strings.Join(names, ", "))
}

// takes reports whether a flag is one of the command's own or a global one.
func (c command) takes(flag string) bool {
	return slices.Contains(c.flags, flag) || slices.Contains(c.quiet, flag) || slices.Contains(globalFlags(), flag)
}
