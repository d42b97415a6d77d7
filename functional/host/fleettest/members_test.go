package fleettest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/fleet"
)

// members is what fleetctl members says on a host.
func (r *rig) members(h *host.Host) (list fleet.StoreMembers, err error) {
	r.t.Helper()
	out, text, code := r.tryCtl(h, "members", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return list, fmt.Errorf("exit code %d: %s%s", code, out, text)
	}
	return list, nil
}

// seats waits until the members are as many of each role as said ("3 voters, 1 stand-by"), all well, as a host sees it; it returns who has which.
func (r *rig) seats(h *host.Host, voters, standBy int) map[string][]string {
	r.t.Helper()
	var roles map[string][]string
	r.wait(fmt.Sprintf("%d voters and %d that stand by, seen by %s", voters, standBy, h.Name), func() error {
		list, err := r.members(h)
		roles = map[string][]string{}
		bad := ""
		for _, m := range list.Members {
			roles[m.Role] = append(roles[m.Role], m.Name)
			if m.Health != "ok" {
				bad = m.Name + ": " + m.Health
			}
		}
		return orElse(err, need(len(roles["voter"]) == voters && len(roles["stand-by"]) == standBy && len(roles["learner"]) == 0 && bad == "",
			fmt.Sprintf("%v %s %s", roles, bad, list.Waits+list.Lost)))
	})
	return roles
}

func (r *rig) named(name string) *host.Host {
	r.t.Helper()
	at := slices.IndexFunc(r.Hosts(), func(h *host.Host) bool { return h.Name == name })
	if at < 0 {
		r.t.Fatalf("there is no host %q", name)
	}
	return r.Hosts()[at]
}

// What happens to the store of a cluster in its life: seats change hands, most voters are lost, a backup is needed.
func TestStoreOfFourHosts(t *testing.T) {
	t.Parallel()
	r := bootFiles(t, 4, host.FleetFiles(4, usual+"voter_grace = 10s\n"))
	r.machines(r.Hosts()...)
	first := r.Host(1)
	roles := r.seats(first, 3, 1)
	r.write(first, map[string]string{"m@.service": service("")})
	units := instances("m", 4)
	r.ctl(first, append([]string{"start"}, units...)...)
	r.once(units...)
	r.ctl(first, "backup", "save", "/root/early")
	r.must(first.WriteFile(r.ctx, "/root/pass", "a word of its own\n"))
	first.Must(t, "mkdir", "-p", "/root/b")

	r.sub("backup is encrypted and looked into", func(r *rig) {
		out := r.ctl(first, "backup", "save", "--passphrase-file=/root/pass", "/root/b/secret")
		for _, w := range []string{"4 units", "4 machines", "encrypted", "checked"} {
			if !strings.Contains(out, w) {
				r.t.Errorf("backup save does not say %q: %s", w, out)
			}
		}
		r.refused(first, 1, []string{"--passphrase-file"}, "backup", "inspect", "/root/b/secret")
		first.Must(r.t, "sh", "-c", "head -c 10000 /root/early >/root/b/cut")
		r.refused(first, 1, []string{"damaged or cut short"}, "backup", "restore", "/root/b/cut")
		r.refused(first, 1, []string{"--force"}, "backup", "restore", "/root/early")
		r.refused(first, 1, []string{"has a quorum"}, "recover", "--force-new-cluster")
	})

	lost, waiting := r.named(roles["voter"][2]), r.named(roles["stand-by"][0])
	r.sub("a stand-by takes the seat of a lost voter, who then stands by", func(r *rig) {
		r.must(lost.PowerOff(r.ctx))
		now := r.seats(first, 3, 0)
		if !slices.Contains(now["voter"], waiting.Name) {
			r.t.Errorf("voters %v, want %s among them", now["voter"], waiting.Name)
		}
		r.must(lost.Boot(r.ctx))
		if now = r.seats(first, 3, 1); !slices.Contains(now["stand-by"], lost.Name) {
			r.t.Errorf("%v, want %s to stand by", now, lost.Name)
		}
		r.journalSays(lost, "fleetd.service", "moved aside", "standing by")
		r.once(units...)
	})

	r.sub("most voters are lost", func(r *rig) {
		now := r.seats(first, 3, 1)
		dead := []*host.Host{}
		for _, n := range now["voter"] {
			if n != first.Name {
				dead = append(dead, r.named(n))
			}
		}
		before := map[*host.Host]map[string]string{}
		for _, h := range r.others(dead...) {
			before[h] = r.running(h)
		}
		for _, h := range dead {
			r.must(h.PowerOff(r.ctx))
		}
		r.wait("fleetd to say that there is no quorum", func() error {
			_, text, code := r.tryCtl(first, "list-machines")
			return need(code != 0 && strings.Contains(text, "no quorum"), fmt.Sprint(code, text))
		})
		r.refused(first, 1, []string{"lost for good"}, "recover")
		for h, b := range before { // nothing is unscheduled by it
			r.same(h, b)
		}
		r.ctl(first, "recover", "--force-new-cluster")
		r.machines(r.others(dead...)...)
		for h, b := range before {
			r.same(h, b)
		}
		r.once(units...)
		for _, h := range dead {
			r.must(h.Boot(r.ctx))
		}
		r.machines(r.Hosts()...)
		r.seats(first, 3, 1)
		r.once(units...)
		r.settled()
	})

	r.sub("a backup is restored", func(r *rig) {
		r.write(first, map[string]string{"late.service": service("")})
		r.ctl(first, "start", "late.service")
		r.once("late.service")
		before := map[*host.Host]map[string]string{}
		for _, h := range r.Hosts() {
			before[h] = r.running(h)
		}
		r.ctl(first, "backup", "restore", "--force", "/root/early")
		r.seats(first, 3, 1)
		r.machines(r.Hosts()...)
		for _, h := range r.Hosts() {
			r.journalSays(h, "fleetd.service", "the store's plan is not carried out", "fleetctl backup confirm")
			r.same(h, before[h])
		}
		r.ctl(first, "backup", "confirm")
		r.wait("what the backup did not know to be gone", func() error {
			return need(len(r.places()["late.service"]) == 0, "late.service runs")
		})
		r.once(units...)
		r.settled()
	})
}
