package fleettest

import (
	"strings"

	"github.com/fleet-init/fleet/functional/host"
)

// withoutVote is a user on a host whose root is not the cluster's: he may look, is told what to type for more, types that, and it works.
func withoutVote(r *rig, here, voter *host.Host) {
	for _, list := range []string{"list-units", "list-unit-files", "list-machines"} {
		if out := r.ctl(here, list, "--no-legend"); out == "" {
			r.t.Errorf("%s says nothing", list)
		}
	}
	r.write(here, map[string]string{"from-here.service": service(fixed(here))})
	says := []string{"this host has no vote", voter.Name + " (" + voter.IP + ")", "fleetctl join-token create --role operator --name root", "fleetctl context add cluster TOKEN"}
	for _, args := range [][]string{
		{"start", "from-here.service"}, {"submit", "from-here.service"}, {"stop", "s@1.service"}, {"restart", "s@1.service"}, {"destroy", "s@1.service", "s@2.service"},
		{"cat", "secret.service"},
	} {
		r.refused(here, 1, says, args...)
		if _, text, _ := r.tryCtl(here, args...); strings.Count(text, "no vote") != 1 {
			r.t.Errorf("fleetctl %s does not say it once: %s", args, text)
		}
	}
	r.refused(here, 1, []string{"this host has no vote", "--role admin"}, "join-token", "create")

	token := r.ctl(voter, "join-token", "create", "--role", "operator", "--name", "root")
	r.ctl(here, "context", "add", "cluster", token)
	r.ctl(here, "start", "from-here.service")
	if run := r.running(here); run["from-here.service"] == "" {
		r.t.Errorf("it runs %v", run)
	}
	if out := r.ctl(here, "cat", "secret.service"); !strings.Contains(out, "hunter2") {
		r.t.Errorf("cat says %s", out)
	}
	r.ctl(here, "journal", "from-here.service")
	r.ctl(here, "destroy", "from-here.service")
	r.ctl(here, "context", "remove", "cluster")
}
