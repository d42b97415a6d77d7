package main

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fleet-init/fleet/internal/network"
)

func TestStartFailsClearly(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	c.put("subnets/10.99.9.0-24", `{"PublicIP":"192.168.77.14","PublicIPv6":null,"Fleet":{"Machine":"other"}}`)
	c.put("subnets/10.99.10.0-24", `{"PublicIP":"192.168.77.200","PublicIPv6":null}`)
	type row struct {
		name, config string
		flags        []string
		code         int
		want         string
	}
	rows := []row{
		{"bad JSON", `{"Network":"10.5.0.0/16"`, nil, 78, `invalid network config: unexpected end of JSON input: write JSON like {"Network": "10.5.0.0/16"}`},
		{"subnet length out of range", `{"Network":"10.5.0.0/16","SubnetLen":31}`, nil, 78, "invalid SubnetLen 31: out of range for Network 10.5.0.0/16: use 18 to 30"},
		{"MTU too small", `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":100}}`, nil, 78, "invalid Backend.MTU 100: it is the MTU of the underlay, before the overlay's overhead: use 640 to 65535, or leave it out"},
		{"MTU too small for IPv6", `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan","MTU":1300}}`, nil, 78, "invalid MTU 1300 of eth0: 1230 remain for workloads with vxlan, too few: 1280 are needed: raise it by 50"},
		{"two hosts with one address", `{"Network":"10.99.0.0/16"}`, nil, 1, "address published by another machine: other has 192.168.77.14 in lease 10.99.9.0-24: give this host another address (--public-ip, --iface), or delete key /coreos.com/network/subnets/10.99.9.0-24 if that machine is gone"},
		{"no subnet left", `{"Network":"10.99.0.0/16","SubnetMin":"10.99.10.0","SubnetMax":"10.99.10.0"}`, nil, 1, "no free subnet: all 1 subnets of /24 between 10.99.10.0 and 10.99.10.0 are leased or reserved: remove leases of machines that are gone, or widen Network"},
		{"wireguard's port taken", `{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard","ListenPort":7}}`, nil, 1, "UDP port 7 is taken: set Backend.ListenPort to a free one"},
		{"bad configuration", `{"Network":"10.5.0.0/29"}`, nil, 78, "key /coreos.com/network/config: invalid Network 10.5.0.0/29: too small to cut: use /28 or larger"},
		{"network over the host's own", `{"Network":"192.168.0.0/16"}`, nil, 78, "invalid Network 192.168.0.0/16: it contains this host's own address 192.168.77."},
		{"unknown backend", `{"Network":"10.5.0.0/16","Backend":{"Type":"x"}}`, nil, 78, `invalid Backend.Type "x": use vxlan, host-gw, wireguard, ipip or alloc`},
		{"another backend of flannel's", `{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}`, nil, 78, "invalid Backend.Type udp: netd does not carry packets in user space: use vxlan"},
		{"one network for both families", `{"Network":"fd05::/48","EnableIPv6":true,"IPv6Network":"fd05::/48"}`, nil, 78, "invalid Network "},
		{"vxlan's port taken", `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":7}}`, nil, 1, "UDP port 7 is taken by another program: set Backend.Port or ListenPort to a free one"},
		{"no such interface", `{"Network":"10.5.0.0/16"}`, []string{"--iface-regex", "wlan.*"}, 78, ""},
		{"unknown flag", `{"Network":"10.5.0.0/16"}`, []string{"--ifcae", "x"}, 78, "invalid command line: flag provided but not defined: -ifcae: netd --help lists all flags"},
		{"health port taken", `{"Network":"10.5.0.0/16"}`, []string{"--healthz-ip", "127.0.0.1", "--healthz-port", "7"}, 1, "choose a free port"},
	}
	if !kernelHas(t, network.IPIP) {
		rows = append(rows, row{"module missing", `{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}`, nil, 1, "this kernel has no ipip (module missing): load it, or choose another Backend.Type"})
	}
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c.put("config", row.config)
			h := c.cable(10 + i)
			if row.want == "" {
				row.want = "invalid interface: none is what --iface, --iface-regex or --iface-can-reach ask for: this host has "
				h.Must(func() error {
					l, err := netlink.LinkByName("eth0")
					if err != nil {
						return err
					}
					return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "lan0"), netlink.LinkSetUp(l))
				})
			}
			if strings.HasSuffix(row.name, "port taken") {
				h.Echo() // takes port 7
			}
			h.flags = row.flags
			<-h.launch()
			err := <-h.ended
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != row.code || !strings.Contains(h.log(), row.want) {
				t.Errorf("%v, want code %d and %q:\n%s", err, row.code, row.want, h.log())
			}
			if left := strings.ReplaceAll(h.leftovers(), "device lan0\n", ""); left != "" {
				t.Errorf("half-programmed:\n%s", left)
			}
		})
	}
}
