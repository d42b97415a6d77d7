package main

import (
	"encoding/json"

	"github.com/spf13/pflag"
)

// osOptions are the flags of the commands about the hosts' own system.
type osOptions struct {
	group   string
	why     string
	take    string
	channel string
	pace    string
	canary  string
	percent float64
}

func defineOS(fs *pflag.FlagSet, o *osOptions) {
	fs.StringVar(&o.group, "group", "default", "hosts that share reboot permits")
	fs.StringVar(&o.why, "why", "", "the reason, for the others")
	fs.StringVar(&o.take, "take", "", "take this release, though it failed before, is older, or is not for this host yet")
	fs.StringVar(&o.channel, "channel", "", "the hosts' channel, as update status shows it; none: the only one there is")
	fs.StringVar(&o.pace, "pace", "normal", "how fast: slow, normal, fast or emergency")
	fs.StringVar(&o.canary, "canary", "", "group of hosts that go first")
	fs.Float64Var(&o.percent, "percent", 0, "let this share of the hosts begin at once")
}

// hostSystem are the commands about the hosts' own system.
func hostSystem() []command {
	return []command{
		{name: "reboot", args: "status|lock|unlock|set-max|set-percent|set-domain|set-outage|set-homeless [WORD]",
			summary: "Show and change who may reboot", run: rebootCommand, completes: []string{"machines"}, flags: []string{"group", "why", "json"},
			about: "  status              permits of the group, and who holds one\n" +
				"  lock MACHINE        take a permit for a machine by hand; others wait until it is given back\n" +
				"  unlock MACHINE      take its permit away: it is back, or never will be\n" +
				"  set-max N           so many machines may be away at a time\n" +
				"  set-percent N       so many of a hundred\n" +
				"  set-domain KEY      of the machines with one value of this metadata, one at a time; \"\" ends that\n" +
				"  set-outage yes|no   whether the store may lose its quorum, where there are too few voters to avoid it\n" +
				"  set-homeless yes|no whether units may go down that no other machine takes, and exclusive ones be without a failover",
			example: "fleetctl reboot status"},
		{name: "update", args: "status|history|now|reboot|rollback|cancel|forget|rollout|pause|resume|percent|end [MACHINE|WORD]",
			summary: "Show and steer the releases of the hosts' own system", run: updateCommand, completes: []string{"machines"},
			flags: []string{"why", "take", "channel", "pace", "canary", "percent", "full", "json", "no-legend", "fields"},
			about: "  status              each host: what runs, what is under way, and why not yet; and the rollouts\n" +
				"  history [MACHINE]   what has happened\n" +
				"  now MACHINE|all     look for a release now; with --take take that one\n" +
				"  reboot MACHINE      reboot it as soon as there is a permit and its units have left: into the staged release, or as it is\n" +
				"  rollback MACHINE    boot the older release again, and do not take this one any more\n" +
				"  cancel MACHINE      give up what is under way\n" +
				"  forget MACHINE      let releases that failed there be taken again; with --take only that one\n" +
				"  rollout VERSION     let a release go out in waves, with --pace, --canary and --percent\n" +
				"  pause, resume, end  stop the rollout; go on; let everybody have the release\n" +
				"  percent N           let this share of the hosts begin now",
			example: "fleetctl update rollout 2.1.0 --pace=fast --canary=edge"},
	}
}

// printValue prints one thing as the API has it.
func printValue(a *app, v any) int {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return a.fail("Error writing output: %v", err)
	}
	return exitOK
}
