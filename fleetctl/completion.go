package main

import (
	"context"
	"embed"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/unit"
)

// The scripts only hand the words on the line to "fleetctl __complete" and show what it prints.
//
//go:embed completion
var completions embed.FS

// completion prints the script that a shell completes fleetctl with.
func completion(_ context.Context, a *app, args []string) int {
	if len(args) != 1 || !slices.Contains(shells(), args[0]) {
		return a.usage(fmt.Errorf("completion is for one of %s", strings.Join(shells(), ", ")), "completion")
	}
	script, err := completions.ReadFile("completion/fleetctl." + args[0])
	if err != nil {
		return a.fail("Error: %v", err)
	}
	a.printf("%s", script)
	return exitOK
}

func shells() []string { return []string{"bash", "fish", "zsh"} }

// completeWithin is how long a key press may wait for fleetd.
const completeWithin = time.Second

// complete prints what the last of the words can become, one a line. It never fails and never says anything else: a shell shows its
// output while the user types.
func complete(ctx context.Context, a *app, args []string) int {
	if len(args) == 0 {
		return exitOK
	}
	before, last := args[:len(args)-1], args[len(args)-1]
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	c := &completer{ctx: ctx, env: a.env, before: before}
	told := map[string]bool{}
	for _, word := range c.candidates(last) {
		if strings.HasPrefix(word, last) && !told[word] {
			told[word] = true
			a.printf("%s\n", word)
		}
	}
	return exitOK
}

type completer struct {
	ctx    context.Context
	env    []string
	before []string
}

func (c *completer) candidates(last string) []string {
	cmd, value := c.place()
	if name, given, ok := strings.Cut(last, "="); ok && strings.HasPrefix(name, "--") {
		var list []string
		for _, v := range c.values(strings.TrimPrefix(name, "--"), given) {
			list = append(list, name+"="+v)
		}
		return list
	}
	switch {
	case value != "":
		return c.values(value, last)
	case strings.HasPrefix(last, "-") && !slices.Contains(c.before, "--"):
		return flagWords(cmd)
	case cmd == nil:
		return commandNames()
	}
	var list []string
	for _, kind := range cmd.completes {
		list = append(list, c.values(kind, last)...)
	}
	return list
}

// place finds the command before the last word, and the flag whose value the last word is.
func (c *completer) place() (cmd *command, flag string) {
	var o options
	fs := define(&o)
	for i := 0; i < len(c.before); i++ {
		word := c.before[i]
		if !strings.HasPrefix(word, "-") {
			if found, err := find(commands(), word); err == nil && cmd == nil {
				cmd = &found
			}
			continue
		}
		name := strings.TrimLeft(word, "-")
		f := fs.Lookup(name)
		if len(name) == 1 && !strings.HasPrefix(word, "--") {
			f = fs.ShorthandLookup(name)
		}
		if f == nil || f.NoOptDefVal != "" || strings.Contains(word, "=") {
			continue
		}
		if i++; i == len(c.before) {
			return cmd, f.Name
		}
	}
	return cmd, ""
}

// values are what can stand for a kind of word: that of a flag, or one of those a command takes.
func (c *completer) values(kind, last string) []string {
	switch kind {
	case "units", "unit":
		return c.live(func(client *api.Client) []string {
			var names []string
			units, _, err := client.Units(c.ctx)
			for _, u := range units {
				names = append(names, u.Name)
			}
			return quietly(names, err)
		})
	case "machines", "machine":
		return c.live(func(client *api.Client) []string {
			var names []string
			machines, err := client.Machines(c.ctx)
			for _, m := range machines {
				names = append(names, m.ID)
				if m.Name != "" {
					names = append(names, m.Name)
				}
			}
			return quietly(names, err)
		})
	case "metadata":
		return c.metadata(last)
	case "files":
		return unitFiles(last)
	case "commands":
		return commandNames()
	case "shells":
		return shells()
	case "contexts":
		return c.contexts()
	case "verbs":
		return c.verbs()
	case "output":
		return api.LogModes()
	case "priority":
		return []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
	case "since":
		return []string{"today", "yesterday"}
	}
	return nil
}

// verbs are what the command's first word can be: "list|use" in its synopsis.
func (c *completer) verbs() []string {
	cmd, _ := c.place()
	if cmd == nil || len(c.before) > 1 {
		return nil
	}
	first, _, _ := strings.Cut(cmd.args, " ")
	return strings.Split(first, "|")
}

// metadata are a machine, and after it what its metadata say, to be changed or taken away.
func (c *completer) metadata(last string) []string {
	var given []string
	for _, word := range c.before {
		if !strings.HasPrefix(word, "-") {
			given = append(given, word)
		}
	}
	if len(given) < 2 {
		return c.values("machines", last)
	}
	return c.live(func(client *api.Client) []string {
		machines, err := client.Machines(c.ctx)
		if err != nil {
			return nil
		}
		m, err := findMachine(machines, given[1])
		if err != nil {
			return nil
		}
		var list []string
		for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
			list = append(list, k+"="+m.Metadata[k], k+"-")
		}
		return list
	})
}

func (c *completer) contexts() []string {
	all, err := openContexts(c.env)
	if err != nil {
		return nil
	}
	return append(slices.Sorted(maps.Keys(all.Known)), local)
}

func quietly(names []string, err error) []string {
	if err != nil {
		return nil
	}
	return names
}

// live asks the fleetd that the flags on the line mean. Nobody can be asked for a password or about a key now: no tunnel.
func (c *completer) live(ask func(*api.Client) []string) []string {
	a := newApp(strings.NewReader(""), discard{}, discard{})
	before := c.before
	if _, flag := c.place(); flag != "" {
		before = before[:len(before)-1] // its value is not there yet
	}
	if _, err := a.parse(before, c.env); err != nil || a.opts.tunnel != "" {
		return nil
	}
	client, err := a.dial()
	if err != nil {
		return nil
	}
	defer client.Close()
	return ask(client)
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func commandNames() []string {
	var names []string
	for _, c := range commands() {
		if !c.hidden {
			names = append(names, c.name)
		}
	}
	return names
}

func flagWords(cmd *command) []string {
	names := map[string]bool{}
	for _, name := range globalFlags() {
		names["--"+name] = true
	}
	if cmd != nil {
		for _, name := range cmd.flags {
			names["--"+name] = true
		}
	}
	var o options
	fs := define(&o)
	maps.DeleteFunc(names, func(word string, _ bool) bool { return fs.Lookup(word[2:]).Hidden })
	return slices.Sorted(maps.Keys(names))
}

// unitFiles are the unit files, and the folders they may be in, that begin like a word.
func unitFiles(word string) []string {
	found, err := filepath.Glob(strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(word) + "*")
	if err != nil {
		return nil
	}
	var list []string
	for _, path := range found {
		info, err := os.Stat(path)
		switch {
		case err != nil:
		case info.IsDir():
			list = append(list, path+"/")
		default:
			if _, err := unit.ParseName(filepath.Base(path)); err == nil {
				list = append(list, path)
			}
		}
	}
	return list
}
