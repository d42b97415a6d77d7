package fleettest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/rollout"
)

// updating is a cluster whose hosts run release 1.0.0 from slot a, and take what is published without being asked.
type updating struct {
	*rig
	*releases
}

func bootUpdating(t *testing.T) *updating {
	p := newReleases(t)
	slots := filepath.Join(t.TempDir(), "host")
	p.run("install", slots, "--version", "1.0.0", "--usr", p.image("1.0.0", nil), "--uki", p.uki, "--slot-size", "6000000")
	p.publish("1.0.0", "1.0.0", nil) // so that the channel is there: a check that fails is not repeated for a minute
	releases := p.tree(p.dir, mirror)
	fleetFiles := host.FleetFiles(3, usual+"fleetlock_listen = 0.0.0.0:9999\nreboot_alarm = 1s\n")
	r := bootFiles(t, 3, func(i int) map[string]string {
		files := fleetFiles(i)
		for path, content := range p.tree(slots, "/var/lib/update-engine/host") {
			files[path] = content
		}
		for path, content := range releases {
			files[path] = content
		}
		group := "default"
		if i == 1 {
			group = "canary"
		}
		files["/etc/fleet/update.conf"] = `mirrors = http://` + originAddress + `, file://` + mirror + `
root = /etc/fleet/root.json
group = ` + group + `
interval = 2s
retry = 1s
tries = 2
gate_time = 1s
gate_timeout = 15s
`
		files["/etc/fleet/root.json"] = p.run("keys", "root", p.dir)
		files["/etc/systemd/system/boot-complete.target.d/gate.conf"] = "[Unit]\nJobTimeoutSec=20s\n"
		files["/etc/fleet/health.d/10-writes"] = "#!/bin/sh\n# only outside of update-engine's own limits\ntouch /etc/health-was-asked\n"
		return files
	}).formed()
	return &updating{r, p}
}

// offer brings the release directory onto the hosts.
func (u *updating) offer() {
	u.rig.t.Helper()
	files := u.tree(u.dir, mirror)
	for _, h := range u.Hosts() {
		if h.On() {
			u.must(h.WriteFiles(u.ctx, files))
		}
	}
}

// reports are what the hosts say of their updates, by host name.
func (u *updating) reports() (map[string]rollout.Host, error) {
	var answer struct{ Hosts []rollout.Host }
	err := errors.New("no host is on")
	for _, h := range u.Hosts() {
		if !h.On() {
			continue
		}
		path, perr := h.Path("/run/fleet.sock")
		if perr != nil {
			continue
		}
		if err = ask(u.ctx, path, http.MethodGet, "updates", nil, &answer); err == nil {
			break
		}
	}
	out := map[string]rollout.Host{}
	for _, x := range answer.Hosts {
		for _, h := range u.Hosts() {
			if h.MachineID == x.Machine {
				out[h.Name] = x
			}
		}
	}
	return out, err
}

// ask makes a request on a fleetd's socket.
func ask(ctx context.Context, socket, method, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c := http.Client{Transport: &http.Transport{DialContext: unixDialer(socket), DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, method, "http://fleet/fleet/v1/"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// proven waits until these hosts run a release that has proven itself, and are at rest.
func (u *updating) proven(version string, hosts ...*host.Host) {
	u.rig.t.Helper()
	u.wait(fmt.Sprintf("%v to run %s", hostNames(hosts), version), func() error {
		all, err := u.reports()
		for _, h := range hosts {
			if x := all[h.Name]; err == nil && (x.Running != version || !x.Good || x.Phase != "idle" && x.Phase != "checking") {
				err = fmt.Errorf("%s runs %s, is %s: %s", h.Name, x.Running, x.Phase, x.Why)
			}
		}
		return err
	})
	for _, h := range hosts {
		if got := h.Must(u.rig.t, "cat", "/usr/share/fleet-os/version"); got != version {
			u.rig.t.Errorf("%s has the files of %s", h.Name, got)
		}
	}
}

// holders are the machines with a permit, of all groups.
func (u *updating) holders() (ids []string, err error) {
	err = u.anyRegistry(func(ctx context.Context, _ *registry.Registry, c *clientv3.Client) error {
		ids = nil
		resp, err := c.Get(ctx, "/fleet/reboot/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, e := range resp.Kvs {
			if strings.HasSuffix(string(e.Key), "/_turn") {
				continue
			}
			var s reboot.Semaphore
			if err := json.Unmarshal(e.Value, &s); err != nil {
				return err
			}
			for _, h := range s.Holders {
				ids = append(ids, h.ID)
			}
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
		return nil
	})
	return ids, err
}

// leaving waits until a host has a permit, and returns it.
func (u *updating) leaving() *host.Host {
	u.rig.t.Helper()
	var found *host.Host
	u.wait("a host to get a permit", func() error {
		ids, err := u.holders()
		if err != nil {
			return err
		}
		for _, h := range u.Hosts() {
			if slices.Contains(ids, h.MachineID) {
				found = h
				return nil
			}
		}
		return errors.New("nobody has one")
	})
	return found
}

// load writes to the store all the time, and looks who is away. end says how many writes it took, and how many hosts had a permit or were off at
// once at most.
func (u *updating) load() (end func() (writes, away int)) {
	ctx, cancel := context.WithCancel(u.ctx)
	var wg sync.WaitGroup
	writes, most := 0, 0
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			err := u.anyRegistry(func(ctx context.Context, _ *registry.Registry, c *clientv3.Client) error {
				_, err := c.Put(ctx, "/load", fmt.Sprint(i))
				return err
			})
			if err == nil {
				writes++
			}
			if ids, err := u.holders(); err == nil {
				most = max(most, len(ids))
			}
			off := 0
			for _, h := range u.Hosts() {
				if !h.On() {
					off++
				}
			}
			most = max(most, off)
		}
	})
	return func() (int, int) {
		cancel()
		wg.Wait()
		return writes, most
	}
}

// neverGone checks by what systemd wrote on all hosts that a unit that has come up has had a running copy ever since.
func (u *updating) neverGone(units ...string) {
	u.rig.t.Helper()
	for _, name := range units {
		up := map[string]bool{}
		began := false
		for _, e := range u.history(name) {
			switch e.what {
			case "started":
				up[e.host], began = true, true
			case "stopping", "stopped":
				delete(up, e.host)
			}
			if began && len(up) == 0 {
				u.rig.t.Errorf("%s ran nowhere after it went down on %s: %v", name, e.host, u.history(name))
				break
			}
		}
		if !began {
			u.rig.t.Errorf("%s never came up", name)
		}
	}
}

// TestThreeHostsUpdateAndABadReleaseComesBack is the life of releases on real hosts: good ones, one after the other host; a bad one; and
// what may befall a host on its way.
func TestThreeHostsUpdateAndABadReleaseComesBack(t *testing.T) {
	t.Parallel()
	u := bootUpdating(t)
	h1 := u.Host(1)
	u.proven("1.0.0", u.Hosts()...)
	u.ctl(h1, "submit", examples+"web@.service")
	webs := []string{web(1), web(2), web(3)}
	u.ctl(h1, append([]string{"start"}, webs...)...)
	u.once(webs...)

	u.part("one host at a time, no unit lost, never below quorum; the hosts get it from each other", func(u *updating) {
		end := u.load()
		o := serveOrigin(u.rig.t, u.Cluster, u.dir)
		u.sharesFrames(o, "2.0.0", "1.0.0", map[string]string{"usr/share/fleet-os/new": noise(3<<20, 8)})
		u.offer()
		o.close() // from here on the other mirror, a folder, has to do
		u.proven("2.0.0", u.Hosts()...)
		if writes, away := end(); away != 1 || writes == 0 {
			u.rig.t.Errorf("%d hosts were on their way at once, the store took %d writes", away, writes)
		}
		u.once(webs...)
		u.neverGone(webs...)
		u.settled()
		u.looksGood(h1)
	})
	u.part("a bad release returns on the canary and goes no further", func(u *updating) {
		u.publish("3.0.0", "2.0.0", map[string]string{"usr/lib/systemd/system/fleetd.service.d/bad.conf": "[Service]\nEnvironment=FLEET_CLUSTER_SIZE=2\n"})
		u.rollout(map[string]any{"do": "start", "version": "3.0.0", "pace": "emergency", "percent": 100, "canary": "canary", "canary_good": 1})
		u.offer()
		u.comesBack("3.0.0", "2.0.0")
		u.wait("the others to say why not", func() error {
			all, err := u.reports()
			for _, h := range []string{"h2", "h3"} {
				if err == nil && !strings.Contains(all[h].Why, "the rollout of 3.0.0 has stopped") {
					err = fmt.Errorf("%s says %q", h, all[h].Why)
				}
			}
			return err
		})
		for _, h := range u.others(h1) {
			if text, err := h.Journal(u.ctx, "update-engine.service"); err != nil || strings.Contains(text, "staging 3.0.0") {
				u.rig.t.Errorf("%s took the bad release: %v", h.Name, err)
			}
		}
		u.neverGone(webs...)
	})
	u.part("a release whose update-engine does not start comes back too", func(u *updating) {
		u.publish("3.1.0", "2.0.0", map[string]string{"usr/lib/systemd/system/update-engine.service.d/bad.conf": "[Service]\nExecStart=\nExecStart=/bin/false\n"})
		u.rollout(map[string]any{"do": "start", "version": "3.1.0", "pace": "emergency", "percent": 100, "canary": "canary", "canary_good": 1})
		u.offer()
		u.comesBack("3.1.0", "2.0.0")
	})
	u.part("the permit's holder is killed", func(u *updating) {
		u.publish("4.0.0", "2.0.0", nil)
		u.offer()
		dead := u.leaving()
		u.must(dead.PowerOff(u.ctx))
		rest := u.others(dead)
		u.wait("the alarm of a permit whose holder is gone", func() error {
			out, text, code := u.tryCtl(rest[0], "reboot", "status")
			return need(code == 0 && strings.Contains(out, dead.MachineID+" got its permit at"), out+text)
		})
		u.wait("the others to wait for it", func() error {
			all, err := u.reports()
			for _, h := range rest {
				if err == nil && !strings.Contains(all[h.Name].Why, "no reboot permit") {
					err = fmt.Errorf("%s is %s: %s", h.Name, all[h.Name].Phase, all[h.Name].Why)
				}
			}
			return err
		})
		u.once(webs...)
		u.must(dead.Boot(u.ctx))
		u.offer()
		u.proven("4.0.0", u.Hosts()...)
		u.once(webs...)
	})
	u.part("people and programs that ask for it are waited for, to a deadline", func(u *updating) {
		u.peopleAreWaitedFor("4.1.0", "4.0.0", h1)
	})
	u.part("the store is cut off mid-way", func(u *updating) {
		u.publish("5.0.0", "4.0.0", nil)
		u.offer()
		u.leaving()
		for _, h := range u.Hosts() {
			u.must(h.Cut(u.ctx))
		}
		u.wait("no host to reach the store", func() error {
			if _, err := u.snapshot(); err == nil {
				return errors.New("it answers")
			}
			return nil
		})
		for _, h := range u.Hosts() {
			u.must(h.Heal(u.ctx))
		}
		u.proven("5.0.0", u.Hosts()...)
		u.once(webs...)
		u.settled()
		all, err := u.reports()
		u.must(err)
		for name, x := range all {
			if x.Refused["5.0.0"] != "" || x.Refused["4.0.0"] != "" {
				u.rig.t.Errorf("%s holds an outage against a release: %v", name, x.Refused)
			}
		}
		if ids, err := u.holders(); err != nil || len(ids) > 0 {
			u.rig.t.Errorf("permits are left: %v, %v", ids, err)
		}
	})
}

// comesBack waits until the canary has refused a release and all run another one, well.
func (u *updating) comesBack(bad, good string) {
	u.rig.t.Helper()
	u.wait("the canary to refuse "+bad, func() error {
		all, err := u.reports()
		if x := all["h1"]; err == nil && x.Refused[bad] == "" {
			err = fmt.Errorf("h1 runs %s, is %s: %s", x.Running, x.Phase, x.Why)
		}
		return err
	})
	u.proven(good, u.Hosts()...)
	u.Host(1).Must(u.rig.t, "journalctl", "--sync")
	if out := u.Host(1).Must(u.rig.t, "journalctl", "--no-pager", "MESSAGE_ID=3a2b1c0d9e8f47a6b5c4d3e2f1a0b944"); !strings.Contains(out, bad+": came back") {
		u.rig.t.Errorf("the journal says %s", out)
	}
}

// looksGood checks what a host that has just proven a release says of itself, in each of the ways that it can be asked.
func (u *updating) looksGood(h *host.Host) {
	u.rig.t.Helper()
	u.wait("the boot of "+h.Name+" to be complete", func() error {
		out, err := h.Run(u.ctx, "systemctl", "is-active", "boot-complete.target", "update-engine-gate.service")
		return orElse(err, need(out == "active\nactive\n", out))
	})
	// Between two checks: it may be at one just now.
	u.wait("the old interface's word for idle", func() error {
		out, err := h.Run(u.ctx, "busctl", "call", "com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager", "GetStatus")
		return orElse(err, need(strings.Contains(out, `"UPDATE_STATUS_IDLE" "0.0.0" 0`), out))
	})
	h.Must(u.rig.t, "journalctl", "--sync")
	for want, argv := range map[string][]string{
		`s "2.0.0"`:               {"busctl", "get-property", "com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager", "Running"},
		"2.0.0 staged":            {"journalctl", "--no-pager", "MESSAGE_ID=5c1b7f3f2a6c4d0e9f0b6f6f3f0a7d11"},
		": rebooting into 2.0.0":  {"journalctl", "--no-pager", "MESSAGE_ID=0f5a0c9e7b5e4b6e8d3c1a2b4c5d6e22"},
		"2.0.0 has proven itself": {"journalctl", "--no-pager", "MESSAGE_ID=9d8e7c6b5a494f3e8d2c1b0a9f8e7d33"},
		"fleet_update_last_successful_check_timestamp_seconds 1.": {"update-engine", "metrics"},
		"rebooting into 2.0.0":           {"update-engine", "history"},
		"slot b 2.0.0, good, boots next": {"update-engine", "status"},
	} {
		if out := strings.Join(strings.Fields(h.Must(u.rig.t, argv[0], argv[1:]...)), " "); !strings.Contains(out, want) {
			u.rig.t.Errorf("%v says %s, want %s", argv, out, want)
		}
	}
	// It checks every two seconds, and says so each time.
	h.Must(u.rig.t, "systemd-run", "--quiet", "--unit=ear", "--property=StandardOutput=file:/run/ear",
		"busctl", "monitor", "--match=type='signal',interface='com.coreos.update1.Manager',member='StatusUpdate'")
	u.wait("a signal on the bus", func() error {
		out, err := h.Run(u.ctx, "cat", "/run/ear")
		return orElse(err, need(strings.Contains(out, "UPDATE_STATUS_CHECKING_FOR_UPDATE"), out))
	})
	h.Must(u.rig.t, "systemctl", "stop", "ear.service")
	for name, want := range map[string]string{"CPUWeight": "20", "IOWeight": "20"} {
		if got := u.property(h, "update-engine.service", name); got != want {
			u.rig.t.Errorf("%s of update-engine is %s", name, got)
		}
	}
	h.Must(u.rig.t, "test", "-e", "/etc/health-was-asked")
	if out := u.ctl(h, "reboot", "status", "--group=canary"); out != "Available: 1\nMax: 1" {
		u.rig.t.Errorf("fleetctl reboot status says %s", out)
	}
	lock := func(verb string) string {
		h.Must(u.rig.t, "curl", "-sSf", "-H", "fleet-lock-protocol: true", "-d", `{"client_params":{"id":"zincati","group":"workers"}}`, "http://h2:9999/v1/"+verb)
		return strings.Join(strings.Fields(u.ctl(h, "reboot", "status", "--group=workers")), " ")
	}
	if out := lock("pre-reboot"); !strings.HasPrefix(out, "Available: 0 Max: 1 MACHINE ID zincati") {
		u.rig.t.Errorf("a FleetLock client took a permit: %s", out)
	}
	if out := lock("steady-state"); out != "Available: 1 Max: 1" {
		u.rig.t.Errorf("a FleetLock client gave it back: %s", out)
	}
	if out := u.ctl(h, "update", "status", "--fields=running,slot", "--no-legend"); strings.Count(out, "2.0.0") != 3 || strings.Count(out, "b") != 3 {
		u.rig.t.Errorf("fleetctl update status says %s", out)
	}
}

// part is a subtest on the same cluster.
func (u *updating) part(name string, f func(u *updating)) {
	u.rig.t.Helper()
	u.sub(name, func(r *rig) {
		p := *u.releases
		p.t = r.t
		f(&updating{r, &p})
	})
}

// rollout changes the rollout of the hosts' channel.
func (u *updating) rollout(do map[string]any) {
	u.rig.t.Helper()
	path, err := u.Host(2).Path("/run/fleet.sock")
	u.must(err)
	var out rollout.Rollout
	u.must(ask(u.ctx, path, http.MethodPost, "rollouts/fleet.amd64.stable", do, &out))
}

func unixDialer(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}
