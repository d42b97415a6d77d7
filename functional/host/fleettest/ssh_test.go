package fleettest

import (
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// From a machine that is no part of the cluster, with nothing but SSH to one of its hosts: everything works through --tunnel, against
// real sshds, and a host's key is asked for once.
func TestFleetctlThroughATunnel(t *testing.T) {
	t.Parallel()
	conf := host.FleetFiles(2, usual)
	r := bootFiles(t, 2, func(i int) map[string]string {
		if i > 2 {
			return nil
		}
		return conf(i)
	}).formed()
	h1, h2 := r.Host(1), r.Host(2)
	laptop := r.newHost(nil)
	key := laptop.Must(t, "sh", "-c", "mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 <>/dev/null && cat /root/.ssh/id_ed25519.pub")
	for _, h := range []*host.Host{h1, h2} {
		h.Must(t, "sh", "-c", "mkdir -p /root/.ssh && echo '"+key+"' >/root/.ssh/authorized_keys && chmod -R go= /root/.ssh")
	}
	r.write(laptop, map[string]string{"far.service": "[Service]\nExecStart=/bin/sh -c 'echo far away; exec sleep infinity'\n" + fixed(h2)})
	tunnel := []string{"env", "FLEETCTL_TUNNEL=" + h1.IP, "FLEETCTL_SSH_USERNAME=root", "fleetctl"}
	from := func(r *rig, code int, says string, args ...string) {
		r.t.Helper()
		all := append(tunnel[1:len(tunnel):len(tunnel)], args...)
		out, text, got := r.try(laptop, tunnel[0], all...)
		if got != code || !strings.Contains(out+text, says) {
			r.t.Errorf("fleetctl %v: exit code %d, want %d and %q: %s%s", args, got, code, says, out, text)
		}
	}
	r.sub("host that nobody knows is asked about, once", func(r *rig) {
		from(r, 1, "", "list-machines") // nobody answers
		line := "echo yes | " + strings.Join(tunnel, " ") + " list-machines --no-legend 2>&1"
		if out := laptop.Must(r.t, "sh", "-c", line); !strings.Contains(out, h2.IP) {
			r.t.Errorf("it says %s", out)
		}
		from(r, 0, h2.IP, "list-machines")
		if out := laptop.Must(r.t, "cat", "/root/.fleetctl/known_hosts"); !strings.Contains(out, h1.IP) {
			r.t.Errorf("known hosts are %q", out)
		}
	})
	r.sub("units from here, run there", func(r *rig) {
		from(r, 0, "Unit far.service launched on ", "start", "far.service")
		from(r, 0, "active (running)", "status", "far")
		from(r, 0, "far away", "journal", "far")
		from(r, 0, "ExecStart", "cat", "far")
	})
	r.sub("machines behind it, and their exit codes", func(r *rig) {
		from(r, 0, "h2", "--strict-host-key-checking=false", "ssh", "far", "hostname")
		from(r, 7, "", "--strict-host-key-checking=false", "ssh", short(h2), "--", "sh", "-c", "'exit 7'")
		from(r, 1, "neither a machine nor a unit", "ssh", "nowhere")
	})
	r.sub("where sshd forwards no sockets", func(r *rig) {
		r.must(h1.WriteFile(r.ctx, "/etc/ssh/sshd_config.d/a.conf", "AllowStreamLocalForwarding no\n"))
		from(r, 0, "far.service", "list-units")
		h1.Must(r.t, "rm", "/etc/ssh/sshd_config.d/a.conf")
	})
	r.sub("by what ~/.ssh/config says of a name", func(r *rig) {
		r.must(laptop.WriteFile(r.ctx, "/root/.ssh/config", "Match exec \"false\"\n  Port 1\nHost inner\n  HostName "+h2.IP+"\n  User root\n"+
			"  ProxyCommand ssh -o StrictHostKeyChecking=no -W %h:%p root@"+h1.IP+"\n"))
		args := []string{"--strict-host-key-checking=false", "--tunnel=inner", "list-units", "--no-legend"}
		out, text, code := r.try(laptop, "fleetctl", args...)
		if code != 0 || !strings.Contains(out, "far.service") || !strings.Contains(text, "/root/.ssh/config:1:") {
			r.t.Errorf("through a ProxyCommand: %d %s%s", code, out, text)
		}
		laptop.Must(r.t, "rm", "/root/.ssh/config")
	})
	r.sub("another host under the same address is refused", func(r *rig) {
		h1.Must(r.t, "sh", "-c", "rm /etc/ssh/ssh_host_* && ssh-keygen -A >/dev/null")
		from(r, 1, "key", "list-machines")
		from(r, 0, "far.service", "--strict-host-key-checking=false", "list-units")
	})
}
