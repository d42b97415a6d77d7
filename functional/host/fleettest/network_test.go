package fleettest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/fleet"
)

// echo is a unit with an address of its own that says back what it is told, as little of the host as systemd can give it.
const echo = `[Service]
ExecStart=/bin/busybox nc -ll -p 7000 -e /bin/cat
DynamicUser=yes
CapabilityBoundingSet=
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectHome=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6
[X-Fleet]
Network=overlay
Publish=800%i:7000
Conflicts=echo@*.service
`

// joined boots n hosts with fleetd, and with a netd that has no configuration yet.
func joined(t *testing.T, n int) *rig {
	t.Helper()
	files := host.FleetFiles(n, usual)
	r := bootFiles(t, n, func(i int) map[string]string {
		all := files(i)
		all["/etc/systemd/system/multi-user.target.d/netd.conf"] = "[Unit]\nWants=netd.service\n"
		// A dead host is forgotten within a test's patience.
		all["/etc/default/netd"] = "FLANNELD_SUBNET_LEASE_TTL=8s\nFLANNELD_IPTABLES_RESYNC=1\n"
		return all
	})
	r.machines(r.Hosts()...)
	return r
}

// addresses waits until fleetctl shows an address for each of these units, and returns them.
func (r *rig) addresses(units ...string) map[string]string {
	r.t.Helper()
	found := map[string]string{}
	r.wait(fmt.Sprintf("addresses of %v", units), func() error {
		clear(found)
		for line := range strings.Lines(r.ctl(r.Host(1), "list-units", "--no-legend", "--fields", "unit,active,ip")) {
			if w := strings.Fields(line); len(w) == 3 && w[1] == "active" && w[2] != "-" {
				found[w[0]] = w[2]
			}
		}
		for _, u := range units {
			for _, a := range strings.Split(found[u], ",") {
				if _, err := netip.ParseAddr(a); err != nil {
					return fmt.Errorf("%s: %w", u, err)
				}
			}
		}
		return nil
	})
	return found
}

// inside runs a shell line in a unit's network.
func (r *rig) inside(h *host.Host, unit, line string) (string, error) {
	return h.Sh(r.ctx, "nsenter --net=/run/netns/fleet-"+unit+" sh -c '"+line+"'")
}

// talk has each unit say something to each other unit.
func (r *rig) talk(at map[string]*host.Host, ip map[string]string) {
	r.t.Helper()
	for from := range at {
		for to := range at {
			r.wait(from+" to reach "+to, func() error {
				out, err := r.inside(at[from], from, "echo hello | timeout 2 busybox nc -w 2 "+ip[to]+" 7000")
				if err == nil && strings.TrimSpace(out) != "hello" {
					err = fmt.Errorf("it says %q", out)
				}
				return err
			})
		}
	}
}

// conversation is one connection that stays open.
type conversation struct {
	name string
	in   io.Writer
	out  *bufio.Reader
}

// say sends a line and waits for it to come back.
func (r *rig) say(c conversation, line string) {
	r.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		r.t.Fatalf("%s: %v", c.name, err)
	}
	got, err := c.out.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != line {
		r.t.Fatalf("%s, after %q: %q, %v", c.name, line, got, err)
	}
}

// open begins a conversation between two units.
func (r *rig) open(h *host.Host, unit, ip string) conversation {
	r.t.Helper()
	cmd, err := h.Command(r.ctx, "nsenter", "--net=/run/netns/fleet-"+unit, "busybox", "nc", ip, "7000")
	r.must(err)
	in, err := cmd.StdinPipe()
	r.must(err)
	out, err := cmd.StdoutPipe()
	r.must(err)
	r.must(cmd.Start())
	r.t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		err := cmd.Wait()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			r.t.Error(err)
		}
	})
	return conversation{"from " + unit + " to " + ip, in, bufio.NewReader(out)}
}

// dial begins a conversation from outside with a published port.
func (r *rig) dial(h *host.Host, port int) conversation {
	r.t.Helper()
	var conn net.Conn
	r.wait(fmt.Sprintf("port %d of %s", port, h.Name), func() (err error) {
		conn, err = r.Dial(r.ctx, "tcp", fmt.Sprintf("%s:%d", h.IP, port))
		return err
	})
	r.t.Cleanup(func() { conn.Close() })
	r.must(conn.SetDeadline(time.Now().Add(time.Minute)))
	return conversation{"from outside to " + h.Name, conn, bufio.NewReader(conn)}
}

// peers are the public addresses of hosts that a host's netd has a path to, by what netd says.
func (r *rig) peers(h *host.Host) (ips []string, backend string, err error) {
	out, err := h.Run(r.ctx, "netd", "status", "--json")
	if err != nil {
		return nil, "", err
	}
	var s struct {
		Backend string
		Problem string
		Peers   []struct{ PublicIP, Skipped, Failed string }
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return nil, "", err
	}
	for _, p := range s.Peers {
		if p.Skipped == "" && p.Failed == "" {
			ips = append(ips, p.PublicIP)
		}
	}
	slices.Sort(ips)
	if s.Problem != "" {
		err = errors.New(s.Problem)
	}
	return ips, s.Backend, err
}

// taken are the addresses in the books of a host's address plugin.
func (r *rig) taken(h *host.Host) []string {
	r.t.Helper()
	out, err := h.Sh(r.ctx, "cd /run/fleet-netns/addresses/netd 2>/dev/null && ls | grep '^[0-9]' || true")
	r.must(err)
	return strings.Fields(out)
}

func TestUnitsOnTheOverlay(t *testing.T) {
	t.Parallel()
	r := joined(t, 3)
	r.sub("only once the configuration is right", func(r *rig) { r.wrong() })
	units := []string{"echo@1.service", "echo@2.service", "echo@3.service"}
	r.write(r.Host(1), map[string]string{"echo@.service": echo})
	r.ctl(r.Host(1), append([]string{"start"}, units...)...)
	at, ip := r.once(units...), r.addresses(units...)
	r.sub("reach each other", func(r *rig) { r.talk(at, ip) })
	r.sub("are reached by published ports", func(r *rig) { r.published(at[units[0]], at[units[1]], ip[units[1]]) })
	r.sub("refuse a port that another has", func(r *rig) { r.clash(at[units[0]]); r.talk(at, ip) })
	r.sub("on machines of their own when they publish one port", func(r *rig) { r.onePort() })
	r.sub("over ways that fleetctl measures", func(r *rig) { r.matrix() })
	r.sub("whose sockets are in the table", func(r *rig) { r.onVXLAN(r.Host(1)) })
	r.sub("and have nothing of the host's network", func(r *rig) {
		out, err := r.inside(at[units[0]], units[0], "ip -o -4 addr show scope global")
		r.must(err)
		if !strings.Contains(out, ip[units[0]]+"/") || strings.Contains(out, at[units[0]].IP) {
			r.t.Errorf("the unit's addresses: %s", out)
		}
		link, err := at[units[0]].Sh(r.ctx, "readlink /proc/$(systemctl show --value -p MainPID "+units[0]+")/ns/net /proc/1/ns/net")
		r.must(err)
		if ns := strings.Fields(link); len(ns) != 2 || ns[0] == ns[1] {
			r.t.Errorf("the unit's process is in the host's network: %s", link)
		}
	})
	r.sub("by a netd of little power", func(r *rig) {
		for _, h := range r.Hosts() {
			r.littlePower(h)
		}
	})
	r.sub("over netd's end and new start", func(r *rig) {
		talks := []conversation{r.open(at[units[0]], units[0], ip[units[1]]), r.dial(at[units[1]], 8002)}
		steps := [][]string{{"before"}, {"systemctl", "restart", "netd.service"}, {"systemctl", "stop", "netd.service"},
			{"systemctl", "start", "netd.service"}, {"systemctl", "kill", "--signal=KILL", "netd.service"}}
		for _, step := range steps {
			if len(step) > 1 {
				for _, u := range units[:2] {
					at[u].Must(r.t, step[0], step[1:]...)
				}
			}
			for _, c := range talks {
				r.say(c, strings.Join(step, " "))
			}
		}
		for _, u := range units {
			r.same(at[u], map[string]string{u: r.running(at[u])[u]})
		}
	})
	r.sub("with the same address after a restart, and none after a stop", func(r *rig) { r.comeAndGo(at[units[0]], units[0], ip[units[0]]) })
	ip = r.addresses(units...)
	r.sub("over both families", func(r *rig) {
		for i, h := range r.Hosts() {
			h.Must(r.t, "ip", "-6", "addr", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", "host0", "nodad")
		}
		r.backend(`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan"}}`, "vxlan")
		r.talk(at, ip) // those that run keep what they have
		r.anew(units, at)
		v4, v6 := map[string]string{}, map[string]string{}
		for u, both := range r.addresses(units...) {
			four, six, two := strings.Cut(both, ",")
			if !two {
				r.t.Fatalf("%s has %s only", u, both)
			}
			v4[u], v6[u] = four, six
		}
		r.talk(at, v4)
		r.talk(at, v6)
		r.matrix()
	})
	r.sub("with addresses of the subnet that their host has now", func(r *rig) { r.renewed(at, units) })
	ip = r.addresses(units...)
	r.sub("over host-gw", func(r *rig) {
		r.backend(`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`, "host-gw")
		r.talk(at, ip)
	})
	r.sub("over WireGuard", func(r *rig) {
		for _, h := range r.Hosts() {
			// The nodes of a container's /dev are not all there; udev lets everybody open this one.
			h.Must(r.t, "sh", "-c", "mkdir -p /dev/net && { [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200; } && chmod 666 /dev/net/tun")
		}
		r.backend(`{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}`, "wireguard")
		r.talk(at, ip)
		r.onWireGuard(r.Host(1))
		c := r.open(at[units[0]], units[0], ip[units[1]])
		r.say(c, "before")
		at[units[0]].Must(r.t, "systemctl", "restart", "netd.service")
		at[units[1]].Must(r.t, "systemctl", "stop", "netd.service")
		r.say(c, "without netd")
		at[units[1]].Must(r.t, "systemctl", "start", "netd.service")
		r.say(c, "with netd")
	})
	r.sub("encrypted where every kernel can, and told so", func(r *rig) {
		r.network(`{"Network":"10.5.0.0/16"}`)
		for _, h := range r.Hosts() {
			r.wait(h.Name+" to say how and why", func() error {
				out, err := h.Run(r.ctx, "netd", "status")
				for _, why := range []string{"wireguard (encrypted: every host's kernel has WireGuard)", "vxlan (not encrypted: this host's kernel has no WireGuard)"} {
					if strings.Contains(out, why) {
						return nil
					}
				}
				return errors.Join(err, errors.New(out))
			})
		}
		r.talk(at, ip)
	})
	r.sub("without a host that died", func(r *rig) {
		for u, h := range at {
			if h != r.Host(1) {
				r.dieAndComeBack(h, u)
				break
			}
		}
		r.talk(r.once(units...), r.addresses(units...))
	})
}

// onePort starts as many units that publish one port as there are hosts, and one more.
func (r *rig) onePort() {
	r.t.Helper()
	r.write(r.Host(1), map[string]string{"pub@.service": service("[X-Fleet]\nNetwork=overlay\nPublish=9000:7000\n")})
	var units []string
	for i := range r.Hosts() {
		units = append(units, fmt.Sprintf("pub@%d.service", i+1))
	}
	r.ctl(r.Host(1), append([]string{"start"}, units...)...)
	on := map[*host.Host]bool{}
	for _, h := range r.once(units...) {
		on[h] = true
	}
	if len(on) != len(units) {
		r.t.Errorf("%d units are on %d hosts", len(units), len(on))
	}
	r.refused(r.Host(1), 1, []string{"port 9000/tcp is published there by pub@1.service", "port 9000/tcp is published there by pub@2.service"}, "start", "pub@4.service")
	r.ctl(r.Host(1), append([]string{"destroy", "pub@4.service"}, units...)...)
}

// matrix has fleetctl measure every way, from each host.
func (r *rig) matrix() {
	r.t.Helper()
	for _, h := range r.Hosts() {
		r.wait("every host to reach every other, by fleetctl network on "+h.Name, func() error {
			out, text, code := r.tryCtl(h, "network", "--json")
			var hosts []fleet.HostNetwork
			if err := json.Unmarshal([]byte(out), &hosts); err != nil {
				return fmt.Errorf("%w: %s%s", err, out, text)
			}
			n := len(r.Hosts())
			for _, m := range hosts {
				if len(hosts) != n || !m.Ready || m.Reached != n-1 || len(m.Peers) != n-1 || m.Slowest <= 0 || code != 0 {
					return fmt.Errorf("exit code %d: %s", code, out)
				}
			}
			return nil
		})
	}
}

// littlePower looks at what netd may do, and tries what it may not: with its user, its capabilities and its view of the files, as far as
// a shell can have them.
func (r *rig) littlePower(h *host.Host) {
	r.t.Helper()
	// CAP_NET_ADMIN and CAP_NET_RAW are bits 12 and 13.
	out := h.Must(r.t, "sh", "-c", "grep -E '^(CapBnd|CapEff|NoNewPrivs|Seccomp):' /proc/$(systemctl show --value -p MainPID netd.service)/status; ps -o user= -p $(systemctl show --value -p MainPID netd.service)")
	if got := strings.Join(strings.Fields(out), " "); got != "CapEff: 0000000000003000 CapBnd: 0000000000003000 NoNewPrivs: 1 Seccomp: 2 netd" {
		r.t.Errorf("%s: %s", h.Name, got)
	}
	for what, line := range map[string]string{
		"the passwords":          "cat /etc/shadow",
		"fleetd's state":         "ls /var/lib/fleet/",
		"a file of the host's":   "touch /etc/hello",
		"the units of the host":  "touch /run/systemd/system/hello.service",
		"the API, as the user":   "fleetctl list-units",
		"another user's process": "kill -0 1",
	} {
		// In the mounts and with the powers of netd's own process.
		enter := "nsenter --mount --target $(systemctl show --value -p MainPID netd.service) setpriv --reuid netd --regid fleet-store --clear-groups " +
			"--inh-caps=-all,+net_admin,+net_raw --ambient-caps=-all,+net_admin,+net_raw --bounding-set=-all,+net_admin,+net_raw --no-new-privs "
		if out, err := h.Sh(r.ctx, enter+line); err == nil {
			r.t.Errorf("netd on %s reaches %s: %s", h.Name, what, out)
		}
		if _, err := h.Sh(r.ctx, enter+"cat /var/lib/netd/state.json"); err != nil {
			r.t.Errorf("netd on %s does not reach its own file: %v", h.Name, err)
		}
	}
}

// published reaches echo@1 on host one and echo@2 with address ip on host two by their ports.
func (r *rig) published(one, two *host.Host, ip string) {
	r.t.Helper()
	r.say(r.dial(one, 8001), "from outside")
	for what, line := range map[string]string{
		"a unit to another's port":   "nsenter --net=/run/netns/fleet-echo@1.service busybox nc -w 2 " + two.IP + " 8002",
		"a unit to its own port":     "nsenter --net=/run/netns/fleet-echo@1.service busybox nc -w 2 " + one.IP + " 8001",
		"a host to its own port":     "busybox nc -w 2 " + one.IP + " 8001",
		"a host by its loopback":     "busybox nc -w 2 127.0.0.1 8001",
		"a host to another's port":   "busybox nc -w 2 " + two.IP + " 8002",
		"a host to a unit's address": "busybox nc -w 2 " + ip + " 7000",
	} {
		r.wait(what, func() error {
			out, err := one.Sh(r.ctx, "echo hello | timeout 2 "+line)
			if err == nil && strings.TrimSpace(out) != "hello" {
				err = fmt.Errorf("it says %q", out)
			}
			return err
		})
	}
}

// clash asks for the port of echo@1 on its host, which the engine refuses, and for one that a program of the host has, which only the
// host can know: fleetd's own port for other hosts.
func (r *rig) clash(h *host.Host) {
	r.t.Helper()
	r.write(r.Host(1), map[string]string{"clash.service": service(fixed(h) + "Network=overlay\nPublish=8001:7000\n")})
	r.refused(r.Host(1), 1, []string{"port 8001/tcp is published there by echo@1.service"}, "start", "clash.service")
	r.ctl(r.Host(1), "destroy", "clash.service")
	r.write(r.Host(1), map[string]string{"clash.service": service(fixed(h) + "Network=overlay\nPublish=2378:7000\n")})
	r.refused(r.Host(1), 1, []string{"journalctl -u fleet-netns@clash.service"}, "start", "clash.service")
	r.journalSays(h, "fleet-netns@clash.service.service", "port 2378/tcp of this host is taken by a program that listens on it")
	r.ctl(r.Host(1), "destroy", "clash.service")
}

// comeAndGo restarts a unit by hand, then stops, starts and replaces it, and looks at what its host keeps for it.
func (r *rig) comeAndGo(h *host.Host, unit, ip string) {
	r.t.Helper()
	keeps := func(want ...string) {
		r.t.Helper()
		r.wait(fmt.Sprintf("%s to keep %v", h.Name, want), func() error {
			if got := r.taken(h); !slices.Equal(got, want) {
				return fmt.Errorf("it keeps %v", got)
			}
			return nil
		})
	}
	keeps(ip)
	h.Must(r.t, "systemctl", "restart", unit)
	if now := r.addresses(unit)[unit]; now != ip {
		r.t.Errorf("its address was %s, is now %s", ip, now)
	}
	keeps(ip)
	r.ctl(r.Host(1), "stop", unit)
	keeps()
	r.wait("its namespace to be gone", func() error {
		out, err := h.Run(r.ctx, "ls", "/run/netns", "/run/fleet-netns/units")
		if err == nil && strings.Contains(out, unit) {
			err = errors.New(out)
		}
		return err
	})
	if out := r.ctl(r.Host(1), "list-units", "--no-legend", "--fields", "unit,ip"); !strings.Contains(out, unit+"\t-") {
		r.t.Errorf("a stopped unit has an address: %s", out)
	}
	r.ctl(r.Host(1), "unload", unit)
	r.wait("nothing of "+unit+" to be left", func() error {
		out, err := h.Sh(r.ctx, "ls -d /run/systemd/system/"+unit+"* 2>/dev/null || true")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
	r.ctl(r.Host(1), "start", unit)
	r.once(unit)
	keeps(r.addresses(unit)[unit])
	// Another text of a unit that systemd knows: in the host's network, then on the overlay.
	for i, more := range []string{"Network=overlay\n", "", "Network=overlay\n"} {
		r.write(r.Host(1), map[string]string{"turn.service": service(fixed(h) + more)})
		r.ctl(r.Host(1), "start", "--replace", "turn.service")
		r.once("turn.service")
		r.wait(fmt.Sprintf("text %d to be in force", i), func() error {
			out, err := h.Sh(r.ctx, "readlink /proc/$(systemctl show --value -p MainPID turn.service)/ns/net /proc/1/ns/net | uniq | wc -l")
			if own := strings.TrimSpace(out) == "2"; err == nil && own != (more != "") {
				err = fmt.Errorf("a network of its own: %t", own)
			}
			return err
		})
	}
	r.ctl(r.Host(1), "destroy", "turn.service")
	keeps(r.addresses(unit)[unit])
}

// dieAndComeBack pulls a host's plug and switches it on again. The others forget it meanwhile, and it keeps no address that is nobody's.
func (r *rig) dieAndComeBack(dead *host.Host, unit string) {
	r.t.Helper()
	r.must(dead.PowerOff(r.ctx))
	for _, h := range r.others(dead) {
		r.wait(h.Name+" to forget "+dead.Name, func() error {
			ips, _, err := r.peers(h)
			if err == nil && slices.Contains(ips, dead.IP) {
				err = fmt.Errorf("it has paths to %v", ips)
			}
			return err
		})
	}
	r.must(dead.Boot(r.ctx))
	for _, h := range r.others(dead) {
		r.wait(h.Name+" to know "+dead.Name+" again", func() error {
			ips, _, err := r.peers(h)
			if err == nil && !slices.Contains(ips, dead.IP) {
				err = fmt.Errorf("it has paths to %v", ips)
			}
			return err
		})
	}
	r.once(unit)
	want := []string{r.addresses(unit)[unit]}
	if got := r.taken(dead); !slices.Equal(got, want) {
		r.t.Errorf("%s keeps %v, its unit has %v", dead.Name, got, want)
	}
}
