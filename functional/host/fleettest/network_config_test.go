package fleettest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/fleet-init/fleet/functional/host"
)

// wrong gives the network a configuration that no netd starts with: systemd sees it fail, people read why, the kernel has nothing of it, and
// a good one is taken up by all without a word to anybody.
func (r *rig) wrong() {
	r.t.Helper()
	r.network(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":100}}`)
	for _, h := range r.Hosts() {
		r.wait("netd on "+h.Name+" to end", func() error {
			// Between two starts systemd waits two seconds, and the status is that of the last end.
			out, err := h.Run(r.ctx, "systemctl", "show", "netd.service", "-p", "ExecMainStatus,Result,NRestarts")
			if err == nil && (!strings.Contains(out, "ExecMainStatus=78\n") || !strings.Contains(out, "Result=exit-code\n")) {
				err = errors.New(out)
			}
			return err
		})
		r.journalSays(h, "netd.service", "invalid Backend.MTU 100: it is the MTU of the underlay, before the overlay's overhead: use 640 to 65535, or leave it out")
		if out := h.Must(r.t, "sh", "-c", "ip -o link show type vxlan; ip route show proto 158; nft list tables 2>/dev/null | grep netd || true"); strings.TrimSpace(out) != "" {
			r.t.Errorf("%s has half a network: %s", h.Name, out)
		}
	}
	r.network(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	for _, h := range r.Hosts() {
		r.wait("netd on "+h.Name+" to be ready", func() error {
			_, err := h.Run(r.ctx, "systemctl", "is-active", "netd.service")
			return err
		})
	}
	// Now that it works, a wrong one changes nothing, and status says what is wrong.
	r.network(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlam"}}`)
	for _, h := range r.Hosts() {
		r.wait(h.Name+" to say what is wrong", func() error {
			out, err := h.Run(r.ctx, "netd", "status")
			if err == nil && !strings.Contains(out, `invalid Backend.Type "vxlam": use vxlan, host-gw, wireguard, ipip or alloc`) {
				err = errors.New(out)
			}
			return err
		})
		h.Must(r.t, "systemctl", "is-active", "netd.service")
	}
	r.backend(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, "vxlan")
}

// network writes the network's configuration.
func (r *rig) network(config string) {
	r.t.Helper()
	r.wait("the store to take "+config, func() error {
		c, err := r.store(r.Host(1))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Put(r.ctx, "/coreos.com/network/config", config)
		return err
	})
}

// backend changes the network's kind and waits until all hosts have it, with a path to all others.
func (r *rig) backend(config, kind string) {
	r.t.Helper()
	r.network(config)
	for _, h := range r.Hosts() {
		r.wait(h.Name+" to use "+kind, func() error {
			ips, now, err := r.peers(h)
			if err == nil && (now != kind || len(ips) != len(r.Hosts())-1) {
				err = fmt.Errorf("it uses %s, with paths to %v", now, ips)
			}
			return err
		})
	}
}

// renewed takes IPv6 from the network, and a host's subnet from it: units whose addresses lead nowhere then are restarted for others, and no other
// units.
func (r *rig) renewed(at map[string]*host.Host, units []string) {
	r.t.Helper()
	inside := func(want map[string]string) {
		r.t.Helper()
		r.wait(fmt.Sprintf("addresses in %v", want), func() error {
			for u, ip := range r.addresses(units...) {
				a, err := netip.ParseAddr(ip) // one only
				if p := want[u]; err != nil || p != "" && !netip.MustParsePrefix(p).Contains(a) {
					return fmt.Errorf("%s has %s", u, ip)
				}
			}
			return nil
		})
		r.talk(at, r.addresses(units...))
	}
	r.network(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	inside(map[string]string{})
	one, two := at[units[0]], at[units[1]]
	before := r.running(two)[units[1]]
	// A subnet that is nobody's: machines choose by their IDs, which are of luck.
	n, all := 250, fmt.Sprint(r.addresses(units...))
	for strings.Contains(all, fmt.Sprintf("10.5.%d.", n)) {
		n--
	}
	free := fmt.Sprintf("10.5.%d.0/24", n)
	one.Must(r.t, "netd", "reserve", free, one.IP)
	inside(map[string]string{units[0]: free})
	r.journalSays(one, "fleet-netns-renew.service", units[0]+": its address 10.5.")
	r.same(two, map[string]string{units[1]: before})
	one.Must(r.t, "netd", "unreserve", free)
}

// anew has units get all the addresses that their hosts' subnets have for them now: those that they have are good, so that nothing else would
// give them more.
func (r *rig) anew(units []string, at map[string]*host.Host) {
	r.t.Helper()
	r.ctl(r.Host(1), append([]string{"stop"}, units...)...)
	for _, u := range units {
		r.wait("the namespace of "+u+" to be gone", func() error {
			if out, err := at[u].Run(r.ctx, "ls", "/run/netns"); err != nil || strings.Contains(out, u) {
				return fmt.Errorf("%s, %w", out, err)
			}
			return nil
		})
	}
	r.ctl(r.Host(1), append([]string{"start"}, units...)...)
}
