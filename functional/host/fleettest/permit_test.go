package fleettest

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"

	"github.com/fleet-init/fleet/functional/host"
)

// rebootsWithoutVote asks on a voter for the reboot of a host that has no vote: there is no new release, and yet its update-engine waits for a permit,
// has the units moved away, reboots, and gives the permit back. All that it writes passes the door that the store has for such hosts.
func rebootsWithoutVote(r *rig, here, voter *host.Host) {
	p := newReleases(r.t)
	slots := filepath.Join(r.t.TempDir(), "host")
	p.run("install", slots, "--version", "1.0.0", "--usr", p.image("1.0.0", nil), "--uki", p.uki)
	files := p.tree(slots, "/var/lib/update-engine/host")
	files["/etc/fleet/update.conf"] = "interval = 0s\nretry = 1s\ngate_time = 1s\ngroup = edge\n"
	r.must(here.WriteFiles(r.ctx, files))
	here.Must(r.t, "systemctl", "enable", "update-engine.service")
	here.Must(r.t, "systemctl", "--no-block", "reboot") // from here on it runs from slot a
	// says waits until the host has said something of its updates, as everybody may read it.
	says := func(words ...string) {
		r.t.Helper()
		r.wait(here.Name+" to say "+strings.Join(words, ", "), func() error {
			out, text, code := r.tryCtl(voter, "update", "status", "--full", "--no-legend", "--fields=machine,running,phase,why")
			for line := range strings.Lines(out) {
				missing := ""
				for _, w := range words {
					if !strings.Contains(line, w) {
						missing = w
					}
				}
				if strings.Contains(line, here.MachineID) && code == 0 {
					return need(missing == "", line)
				}
			}
			return errors.New("nothing is said of it: " + out + text)
		})
	}
	boot := func() string {
		var s struct{ Boot string }
		r.must(json.Unmarshal([]byte(here.Must(r.t, "update-engine", "status", "--json")), &s))
		return s.Boot
	}
	says("1.0.0", "idle")
	before := boot()
	r.ctl(voter, "reboot", "lock", voter.MachineID, "--group=edge", "--why=first")
	r.ctl(voter, "update", "reboot", here.MachineID)
	says("asking", "no reboot permit", "1 of 1 permits are taken, by "+voter.MachineID)
	r.ctl(voter, "reboot", "unlock", voter.MachineID, "--group=edge")
	r.wait(here.Name+" to be back with another boot", func() error {
		out, err := here.Run(r.ctx, "update-engine", "status", "--json")
		return orElse(err, need(strings.Contains(out, `"phase":"idle"`) && !strings.Contains(out, before), out))
	})
	says("1.0.0", "idle")
	if out := r.ctl(voter, "reboot", "status", "--group=edge"); out != "Available: 1\nMax: 1" {
		r.t.Errorf("permits are left: %s", out)
	}
	r.journalSays(here, "update-engine.service", "permit held; moving units elsewhere")
	if run := r.running(here); run == nil {
		r.t.Errorf("%s has no agent", here.Name)
	}
}
