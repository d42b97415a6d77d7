package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/internal/api"
)

// trustOptions are the flags of the commands about who is who.
type trustOptions struct {
	context  string
	role     string
	name     string
	ttl      time.Duration
	uses     int
	noVote   bool
	memberIP string
	force    bool
	entries  int
}

func defineTrust(fs *pflag.FlagSet, o *trustOptions) {
	fs.StringVar(&o.context, "context", "", "cluster to speak to, of those in fleetctl context list; none: the one in use")
	fs.StringVar(&o.role, "role", "host", "what the token makes of who has it: host, admin, operator or viewer")
	fs.StringVar(&o.name, "name", "", "the person the token is for, as it shall stand in the audit (none: the role); with role host the machine ID it is for alone (none: any new one)")
	fs.DurationVar(&o.ttl, "ttl", 24*time.Hour, "how long the token can be used")
	fs.IntVar(&o.uses, "uses", 1, "how many may join by the token")
	fs.BoolVar(&o.noVote, "no-vote", false, "hosts that join by the token never hold the store")
	fs.StringVar(&o.memberIP, "member-ip", "", "this host's address for the others, or the network it is in; none: that of the default route, or towards the cluster")
	fs.BoolVar(&o.force, "force", false, "ca: finish though some machines have no new certificate yet; certificate: revoke the last admin's too; backup restore: also while the cluster works")
	fs.IntVar(&o.entries, "entries", 50, "how many of the newest entries to print")
}

// trusting are the commands about who is who.
func trusting() []command {
	return []command{
		{name: "audit", summary: "Show who changed what, from where", run: auditCommand, flags: []string{"entries", "json", "no-legend", "fields"},
			about: "Columns: time, who, from, did, unit, code. Kept are the newest few thousand; the journal of each host has its\n" +
				"own for as long as it lasts (journalctl MESSAGE_ID=7b1f3c0a5d2e4f6b9c8d7e6f5a4b3c2d).",
			example: "fleetctl audit --entries=20"},
		{name: "ca", args: "status|rotate", summary: "Show the cluster's certificate authority, or replace it", run: caCommand, completes: []string{"verbs"},
			flags: []string{"force", "json"},
			about: "rotate makes a new authority, waits until every registered machine has a certificate of it, and then stops\n" +
				"believing the old one. Units and connections go on meanwhile. Started again it goes on where it was. Tokens\n" +
				"of before, and contexts that are not used meanwhile, are worth nothing afterwards.",
			example: "fleetctl ca rotate"},
		{name: "certificate", args: "list|revoke [NAME|SERIAL]", summary: "Show who has which certificate, or end some before their time", run: certificateCommand,
			completes: []string{"verbs"}, flags: []string{"force", "json", "no-legend", "fields"},
			about: "  list            what was issued and has not ended, of each key the newest\n" +
				"  revoke NAME     end all that a person or a host (its name or machine ID) has got so far, on all hosts and at once: its\n" +
				"                  connections break, what it asks is refused. Join tokens made for it before are void. A new token lets it in again\n" +
				"  revoke SERIAL   end those of one key, where several people share a name\n" +
				"Columns: name, role, serial, key, token, issued, until, revoked, by.",
			example: "fleetctl certificate revoke ann"},
		{name: "context", args: "list|use|add|remove [NAME] [TOKEN]", summary: "Choose the cluster that fleetctl speaks to", run: contextCommand,
			completes: []string{"verbs", "contexts"}, offline: true, flags: []string{"no-legend"},
			about: "  list             the contexts there are; * is in use\n" +
				"  use NAME         speak to this cluster from now on; local is the fleetd of this host\n" +
				"  add NAME TOKEN   get a certificate by a token (fleetctl join-token create --role operator); - reads it from input\n" +
				"  add NAME --endpoint https://HOST:PORT --ca-file F --cert-file F --key-file F   use one that is there\n" +
				"  remove NAME      forget it\n" +
				"They are kept in ~/.config/fleet. Certificates renew themselves while they are used. --context or\n" +
				"FLEETCTL_CONTEXT choose one for a single command.",
			example: "fleetctl context add work fleet1...@10.0.0.1:2378"},
		{name: "init", summary: "Make this host the first of a cluster", run: initCommand, offline: true, flags: []string{"member-ip", "uses", "ttl"},
			about: "Writes member_ip into /etc/fleet/fleet.conf if it is not there, starts fleetd, and prints the line to type on\n" +
				"the other hosts.",
			example: "fleetctl init"},
		{name: "join", args: "TOKEN", summary: "Make this host one of a cluster", run: joinCommand, completes: []string{"tokens"}, offline: true, flags: []string{"member-ip"},
			about:   "With - for TOKEN it is read from standard input, so that it stands in no list of processes.",
			example: "fleetctl join fleet1...@10.0.0.1:2378"},
		{name: "join-token", args: "create|list|revoke [ID]", summary: "Let hosts and people into the cluster", run: joinTokenCommand,
			completes: []string{"verbs"}, flags: []string{"role", "name", "ttl", "uses", "no-vote", "json", "no-legend", "fields"},
			about: "  create      print a new token; it is shown this once\n" +
				"  list        tokens that can be used\n" +
				"  revoke ID   end one; who has joined by it stays",
			example: "fleetctl join-token create --role=operator --name=ann"},
		{name: "whoami", summary: "Show what the cluster takes you for", run: whoAmICommand, flags: []string{"json"}, example: "fleetctl whoami"},
	}
}

func whoAmICommand(ctx context.Context, a *app, _ []string) int {
	who, err := a.client.WhoAmI(ctx)
	if err != nil {
		return a.refused("Error", err)
	}
	if a.opts.json {
		return printValue(a, who)
	}
	a.printf("%s\n", strings.TrimSpace(string(who.Role)+" "+who.Name))
	return exitOK
}

func auditCommand(ctx context.Context, a *app, _ []string) int {
	deeds, err := a.client.Audit(ctx, a.opts.trust.entries)
	if err != nil {
		return a.refused("Error reading the audit", err)
	}
	if a.opts.json {
		return printValue(a, deeds)
	}
	return table(a, []column[api.Deed]{
		{"time", func(d api.Deed) string { return d.At.Local().Format(time.DateTime) }},
		{"who", func(d api.Deed) string { return orDash(d.Who) }},
		{"from", func(d api.Deed) string { return d.From + " at " + d.Host }},
		{"did", func(d api.Deed) string { return d.Did }},
		{"unit", func(d api.Deed) string { return orDash(strings.Join(d.Units, ", ")) }},
		{"code", func(d api.Deed) string { return fmt.Sprint(d.Code) }},
	}, "time,who,from,did,unit,code", deeds)
}

func joinTokenCommand(ctx context.Context, a *app, args []string) int {
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	switch {
	case verb == "create" && len(args) == 1:
		return createToken(ctx, a)
	case verb == "list" && len(args) == 1:
		return listTokens(ctx, a)
	case verb == "revoke" && len(args) == 2:
		if err := a.client.RevokeToken(ctx, args[1]); err != nil {
			return a.refused("Error revoking token "+args[1], err)
		}
		a.printf("Token %s is worth nothing any more\n", args[1])
		return exitOK
	}
	return a.usage(errors.New("join-token is followed by create, list, or revoke and an ID"), "join-token")
}

func createToken(ctx context.Context, a *app) int {
	o := a.opts.trust
	t, err := a.client.CreateToken(ctx, api.TokenRequest{Role: api.Role(o.role), Name: o.name, TTL: o.ttl.String(), Uses: o.uses, NoVote: o.noVote})
	if err != nil {
		return a.refused("Error creating a token", err)
	}
	if a.opts.json {
		return printValue(a, t)
	}
	// On standard output stands the token alone, for scripts.
	a.printf("%s\n", t.Printed)
	what := "on the host that shall join: fleetctl join TOKEN"
	if t.Role != api.AsHost {
		what = "for " + t.Name + ", where fleetctl is: fleetctl context add NAME TOKEN"
	}
	a.warn("Good for %d, until %s. Use it %s", t.Uses, t.Expires.Local().Format(time.DateTime), what)
	return exitOK
}

func listTokens(ctx context.Context, a *app) int {
	list, err := a.client.ListTokens(ctx)
	if err != nil {
		return a.refused("Error listing tokens", err)
	}
	if a.opts.json {
		return printValue(a, list)
	}
	return table(a, []column[api.Token]{
		{"id", func(t api.Token) string { return t.ID }},
		{"role", func(t api.Token) string {
			if t.NoVote {
				return "host, no vote"
			}
			return string(t.Role)
		}},
		{"name", func(t api.Token) string { return orDash(t.Name) }},
		{"used", func(t api.Token) string { return fmt.Sprintf("%d of %d", t.Used, t.Uses) }},
		{"until", func(t api.Token) string { return t.Expires.Local().Format(time.DateTime) }},
		{"by", func(t api.Token) string { return orDash(t.By) }},
	}, "id,role,name,used,until,by", list)
}

func caCommand(ctx context.Context, a *app, args []string) int {
	switch strings.Join(args, " ") {
	case "status":
		ca, err := a.client.CA(ctx, "", "")
		if err != nil {
			return a.refused("Error", err)
		}
		if a.opts.json {
			return printValue(a, ca)
		}
		a.printf("Generation %d\n", ca.Generation)
		if !ca.Rotating.IsZero() {
			a.printf("The one before is believed, too: rotating since %s\n", ca.Rotating.Local().Format(time.DateTime))
			a.late(ca)
		}
		return exitOK
	case "rotate":
		return a.rotate(ctx)
	}
	return a.usage(errors.New("ca is followed by status or rotate"), "ca")
}

// rotate begins, waits for the machines, and finishes. What is interrupted goes on when it is called again.
func (a *app) rotate(ctx context.Context) int {
	ca, err := a.client.ChangeCA(ctx, api.CAChange{})
	if err != nil {
		return a.refused("Error rotating the CA", err)
	}
	a.printf("New CA, generation %d: certificates are being replaced\n", ca.Generation)
	if err := a.renewContext(ctx, true); err != nil {
		return a.fail("Error: the certificate of this context is not renewed, the rotation has not been finished: %v", err)
	}
	last := -1
	for len(ca.Late) > 0 && !a.opts.trust.force {
		if len(ca.Late) != last {
			last = len(ca.Late)
			a.printf("%d machines have certificates of the old one\n", last)
			_ = a.out.Flush() // kept and found at the end
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
			a.warn("Interrupted. Both CAs are believed. To go on: fleetctl ca rotate")
			a.late(ca)
			return exitInterrupted
		case <-timer.C:
		}
		if ca, err = a.client.CA(ctx, "", ""); err != nil {
			return a.refused("Error rotating the CA", err)
		}
	}
	people := ca.People
	if ca, err = a.client.ChangeCA(ctx, api.CAChange{Finish: true, Force: a.opts.trust.force}); err != nil {
		return a.refused("Error rotating the CA", err)
	}
	a.printf("The old CA is not believed any more; on the voters' own port as of the next restart of fleetd there\n")
	if len(people) > 0 {
		a.printf("They need new tokens: %s\n", strings.Join(people, ", "))
	}
	return exitOK
}

func (a *app) late(ca api.CA) {
	for _, who := range append(ca.Late, ca.People...) {
		a.printf("%s has a certificate of the one before\n", who)
	}
}
