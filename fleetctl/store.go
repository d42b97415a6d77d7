package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/internal/backup"
	"github.com/fleet-init/fleet/internal/fleet"
)

// storeOptions are the flags of the commands about the store.
type storeOptions struct {
	passphraseFile string
	forceNew       bool
}

func defineStore(fs *pflag.FlagSet, o *storeOptions) {
	fs.StringVar(&o.passphraseFile, "passphrase-file", "", "file whose first line encrypts the backup, or opens it")
	fs.BoolVar(&o.forceNew, "force-new-cluster", false, "the other voters are lost for good")
}

// keeping are the commands about the store: who holds it, and what is kept of it elsewhere.
func keeping() []command {
	return []command{
		{name: "backup", args: "save|inspect|restore|confirm [FILE]", summary: "Save the whole store to a file, or begin again from one", run: backupCommand,
			completes: []string{"verbs"}, flags: []string{"passphrase-file", "force", "json"},
			about: "  save FILE      everything as of one moment, checked; it holds the cluster's keys: encrypt it with --passphrase-file\n" +
				"  inspect FILE   check a backup and say what is in it\n" +
				"  restore FILE   make a new cluster of this one host out of it; while the cluster works, --force takes the others\n" +
				"                 along. What the host held is moved aside\n" +
				"  confirm        let all hosts do what the restored cluster says: until then they keep their units as they are",
			example: "fleetctl backup save --passphrase-file=/root/passphrase /backup/fleet"},
		{name: "members", args: "[remove|promote NAME]", summary: "Show which hosts hold the store, and change that", run: membersCommand,
			completes: []string{"verbs"}, flags: []string{"full", "no-legend", "fields", "json"},
			about: "  remove NAME    take a host's seat; if it runs it joins anew, as a stand-by if there are others\n" +
				"  promote NAME   make a host that stands by a voter, in the place of another if cluster_size is reached\n" +
				"NAME may be an ID, too. Neither is needed in daily life: fleetd fills seats and replaces dead voters by itself.\n" +
				"Columns: name, role, zone, health, lag, leader; with --fields also id, machine, size, used. Exits with 1 when a\n" +
				"member is not well.",
			example: "fleetctl members"},
		{name: "recover", summary: "Begin again from this host's copy when most voters are lost for good", run: recoverCommand, flags: []string{"force-new-cluster"},
			about: "Makes a new cluster of this one host out of what it holds. What only the lost voters had is lost. Refused while\n" +
				"there is a quorum. Lost hosts that come back after all join the new cluster by themselves. Run it on one host.",
			example: "fleetctl recover --force-new-cluster"},
	}
}

func membersCommand(ctx context.Context, a *app, args []string) int {
	var list fleet.StoreMembers
	var err error
	switch {
	case len(args) == 0:
		list, err = a.client.Members(ctx)
	case len(args) == 2 && args[0] == "remove":
		list, err = a.client.RemoveMember(ctx, args[1])
	case len(args) == 2 && args[0] == "promote":
		list, err = a.client.PromoteMember(ctx, args[1])
	default:
		return a.usage(errors.New("members takes nothing, remove NAME or promote NAME"), "members")
	}
	if err != nil {
		return a.refused("Error", err)
	}
	code := exitOK
	for _, m := range list.Members {
		if m.Health != "ok" {
			code = exitFailed
		}
	}
	if list.Lost != "" {
		code = exitFailed
	}
	if a.opts.json {
		return max(code, printValue(a, list))
	}
	full := a.opts.full
	shown := table(a, []column[fleet.StoreMember]{
		{"name", func(m fleet.StoreMember) string { return orDash(m.Name) }},
		{"role", func(m fleet.StoreMember) string { return m.Role }},
		{"zone", func(m fleet.StoreMember) string { return orDash(m.Zone) }},
		{"health", func(m fleet.StoreMember) string { return m.Health }},
		{"lag", func(m fleet.StoreMember) string {
			if m.Lag < 0 {
				return "-"
			}
			return fmt.Sprint(m.Lag)
		}},
		{"leader", func(m fleet.StoreMember) string {
			if m.Leader {
				return "yes"
			}
			return "-"
		}},
		{"id", func(m fleet.StoreMember) string { return orDash(m.ID) }},
		{"machine", func(m fleet.StoreMember) string { return orDash(shortID(string(m.Machine), full)) }},
		{"size", func(m fleet.StoreMember) string { return fmt.Sprint(m.Size) }},
		{"used", func(m fleet.StoreMember) string { return fmt.Sprint(m.Used) }},
	}, "name,role,zone,health,lag,leader", list.Members)
	if list.Lost != "" {
		a.warn("The store does not answer: %s", list.Lost)
	}
	if list.Waits != "" {
		a.warn("Due: %s", list.Waits)
	}
	return max(code, shown)
}

func backupCommand(ctx context.Context, a *app, args []string) int {
	verbs := map[string]func(context.Context, *app, string, string) int{"save": saveBackup, "inspect": inspectBackup, "restore": restoreBackup}
	switch {
	case len(args) == 1 && args[0] == "confirm":
		o, err := a.client.Confirm(ctx)
		if err != nil {
			return a.refused("Error", err)
		}
		a.printf("Cluster %s is obeyed from now on.\n", o.Cluster)
		return exitOK
	case len(args) == 2 && verbs[args[0]] != nil:
		pass, err := a.passphrase()
		if err != nil {
			return a.fail("Error reading the passphrase: %v", err)
		}
		return verbs[args[0]](ctx, a, args[1], pass)
	}
	return a.usage(errors.New("backup takes save FILE, inspect FILE, restore FILE or confirm"), "backup")
}

// passphrase is the first line of its file, "" without one.
func (a *app) passphrase() (string, error) {
	if a.opts.store.passphraseFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(a.opts.store.passphraseFile)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("%s: its first line is empty", a.opts.store.passphraseFile)
	}
	return line, nil
}

func saveBackup(ctx context.Context, a *app, path, pass string) int {
	r, err := a.client.Backup(ctx)
	if err != nil {
		return a.refused("Error", err)
	}
	defer r.Close()
	if err := backup.Save(path, r, pass); err != nil {
		return a.fail("Error: %v", err)
	}
	if pass == "" {
		a.warn("%s is not encrypted, and holds the cluster's keys: guard it, or use --passphrase-file", path)
	}
	return inspectBackup(ctx, a, path, pass)
}

func inspectBackup(_ context.Context, a *app, path, pass string) int {
	i, err := backup.Inspect(path, pass, "/fleet/")
	if err != nil {
		return a.fail("Error: %v", err)
	}
	if a.opts.json {
		return printValue(a, i)
	}
	a.printf("%s: cluster %s", path, orDash(i.Cluster))
	if !i.Since.IsZero() {
		a.printf(" of %s", i.Since.UTC().Format(time.RFC3339))
	}
	a.printf(", revision %d, %d units, %d machines, %d keys, %d bytes", i.Revision, i.Units, i.Machines, i.Keys, i.Size)
	if i.Encrypted {
		a.printf(", encrypted")
	}
	a.printf("\nsha256 %s, checked\n", i.SHA256)
	return exitOK
}

func restoreBackup(ctx context.Context, a *app, path, pass string) int {
	r, err := backup.Open(path, pass)
	if err != nil {
		return a.fail("Error: %v", err)
	}
	defer r.Close()
	if err := a.client.Restore(ctx, r, a.opts.trust.force); err != nil {
		return a.refused("Error", err)
	}
	a.printf("This host is a new cluster now, with what the backup held. Hosts that knew the old one keep their units as they are\n" +
		"until you have looked at it (fleetctl list-unit-files) and say: fleetctl backup confirm\n")
	return exitOK
}

func recoverCommand(ctx context.Context, a *app, args []string) int {
	if len(args) > 0 {
		return a.usage(errors.New("recover takes no arguments"), "recover")
	}
	if !a.opts.store.forceNew {
		return a.fail("This makes a new cluster of this host's copy of the store; what only the lost voters had is gone. If they are lost for good:\n" +
			"fleetctl recover --force-new-cluster")
	}
	if err := a.client.Recover(ctx); err != nil {
		return a.refused("Error", err)
	}
	a.printf("This host is a new cluster now. Others join it by themselves when they come back.\n")
	return exitOK
}
