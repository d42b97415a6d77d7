package subnet

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/network"
)

// text prints a configuration in one line.
func text(c network.Config) string {
	pool := func(p network.Pool) string {
		if !p.On() {
			return "off"
		}
		return fmt.Sprintf("%s /%d %s..%s", p.Network, p.SubnetLen, p.Min, p.Max)
	}
	b := c.Backend
	return fmt.Sprintf("v4 %s, v6 %s, %q vni %d port %d wg %d/%d %s mtu %d psk %s", pool(c.V4), pool(c.V6), b.Type, b.VNI, b.Port,
		b.ListenPort, b.ListenPortV6, b.Mode, b.MTU, b.PSK)
}

func TestParseConfig(t *testing.T) {
	const plain = `"" vni 1 port 8472 wg 51820/51821 separate mtu 0 psk none`
	for _, row := range []struct{ name, in, want string }{
		{"a network alone is cut into /24", `{"Network":"10.3.0.0/16"}`,
			"v4 10.3.0.0/16 /24 10.3.1.0..10.3.255.0, v6 off, " + plain},
		{"host bits of the network are dropped", `{"Network":"10.3.7.9/16"}`,
			"v4 10.3.0.0/16 /24 10.3.1.0..10.3.255.0, v6 off, " + plain},
		{"a small network is cut into four", `{"Network":"10.3.0.0/23"}`,
			"v4 10.3.0.0/23 /25 10.3.0.128..10.3.1.128, v6 off, " + plain},
		{"a /22 is just large enough for /24", `{"Network":"10.3.0.0/22"}`,
			"v4 10.3.0.0/22 /24 10.3.1.0..10.3.3.0, v6 off, " + plain},
		{"bounds and keys in another case", `{"network":"10.3.0.0/16","SUBNETLEN":28,"SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.16"}`,
			"v4 10.3.0.0/16 /28 10.3.5.0..10.3.8.16, v6 off, " + plain},
		{"both families", `{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`,
			"v4 10.3.0.0/16 /24 10.3.1.0..10.3.255.0, v6 fc00::/48 /64 fc00:0:0:1::..fc00:0:0:ffff::, " + plain},
		{"IPv6 alone", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/120"}`,
			"v4 off, v6 fc00::/120 /122 fc00::40..fc00::c0, " + plain},
		{"vxlan with its options", `{"Network":"10.3.0.0/16","Backend":{"Type":"VXLAN","VNI":7,"Port":4789,"MTU":9000}}`,
			`v4 10.3.0.0/16 /24 10.3.1.0..10.3.255.0, v6 off, "vxlan" vni 7 port 4789 wg 51820/51821 separate mtu 9000 psk none`},
		{"wireguard with its options", `{"Network":"10.3.0.0/16","Backend":{"Type":"wireguard","ListenPort":1,"ListenPortV6":2,"Mode":"auto","PSK":"` +
			strings.Repeat("A", 43) + `="}}`,
			`v4 10.3.0.0/16 /24 10.3.1.0..10.3.255.0, v6 off, "wireguard" vni 1 port 8472 wg 1/2 auto mtu 0 psk hidden`},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, unknown, err := ParseConfig([]byte(row.in))
			if err != nil || len(unknown) > 0 {
				t.Fatalf("unknown %v, err %v", unknown, err)
			}
			if d := cmp.Diff(row.want, text(c)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseConfigSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	v4 := func(more string) string { return `{"Network":"10.3.0.0/16",` + more + `}` }
	for _, row := range []struct{ in, want string }{
		{`{`, `invalid network config: unexpected end of JSON input: write JSON like {"Network": "10.5.0.0/16"}`},
		{`{}`, "invalid Network missing: name the range the hosts' subnets are cut from, as a.b.c.d/len"},
		{`{"Network":"10.3.0.0"}`, `invalid Network "10.3.0.0": want an IPv4 prefix like 10.5.0.0/16`},
		{`{"Network":"fc00::/48"}`, `invalid Network "fc00::/48": want an IPv4 prefix like 10.5.0.0/16`},
		{`{"Network":"10.3.0.0/29"}`, "invalid Network 10.3.0.0/29: too small to cut: use /28 or larger"},
		{v4(`"SubnetLen":17`), "invalid SubnetLen 17: out of range for Network 10.3.0.0/16: use 18 to 30"},
		{v4(`"SubnetLen":31`), "invalid SubnetLen 31: out of range for Network 10.3.0.0/16: use 18 to 30"},
		{v4(`"SubnetLen":-1`), "invalid SubnetLen -1: out of range for Network 10.3.0.0/16: use 18 to 30"},
		{v4(`"SubnetMin":"10.4.0.0"`), "invalid SubnetMin 10.4.0.0: not inside the network 10.3.0.0/16"},
		{v4(`"SubnetMax":"10.3.9.9"`), "invalid SubnetMax 10.3.9.9: not the start of a /24: use 10.3.9.0"},
		{v4(`"SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"`), "invalid SubnetMin 10.3.9.0 above SubnetMax 10.3.8.0: exchange them"},
		{v4(`"EnableIPv4":false`), "invalid EnableIPv4 false without EnableIPv6: switch one of them on"},
		{v4(`"EnableIPv6":true`), "invalid IPv6Network missing: name the range the hosts' subnets are cut from, as a.b.c.d/len"},
		{v4(`"EnableIPv6":true,"IPv6Network":"10.0.0.0/8"`), `invalid IPv6Network "10.0.0.0/8": want an IPv6 prefix like fd00:5::/48`},
		{v4(`"EnableIPv6":true,"IPv6Network":"fc00::/126"`), "invalid IPv6Network fc00::/126: too small to cut: use /124 or larger"},
		{v4(`"Backend":{"Type":"vxlna"}`), `invalid Backend.Type "vxlna": use vxlan, host-gw, wireguard, ipip or alloc`},
		{v4(`"Backend":{"Type":"udp"}`), "invalid Backend.Type udp: netd does not carry packets in user space: use vxlan"},
		{v4(`"Backend":{"Type":"ipsec"}`), "invalid Backend.Type ipsec: use wireguard, which encrypts without a key daemon"},
		{v4(`"Backend":{"Type":"extension"}`), "invalid Backend.Type extension: netd runs no commands: use alloc and program the routes yourself"},
		{v4(`"Backend":{"VNI":16777216}`), "invalid Backend.VNI 16777216: use 1 to 9999999"},
		{v4(`"Backend":{"Port":70000}`), "invalid Backend.Port 70000: use 1 to 65535"},
		{v4(`"Backend":{"MTU":100}`), "invalid Backend.MTU 100: it is the MTU of the underlay, before the overlay's overhead: use 640 to 65535, or leave it out"},
		{v4(`"Backend":{"Mode":"both"}`), `invalid Backend.Mode "both": use separate, auto, ipv4 or ipv6`},
		{v4(`"Backend":{"PSK":"abc"}`), "invalid Backend.PSK: want 32 bytes in base64, as `wg genpsk` prints them"},
		{v4(`"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"ipip"}`), "invalid Backend.Type ipip with EnableIPv6: ipip carries IPv4 only: use vxlan, host-gw or wireguard"},
	} {
		_, _, err := ParseConfig([]byte(row.in))
		if !errors.Is(err, fleet.ErrInvalid) || err.Error() != row.want {
			t.Errorf("%s\n got %v\nwant %s", row.in, err, row.want)
		}
	}
}

func TestParseConfigReportsKeysNothingReads(t *testing.T) {
	_, unknown, err := ParseConfig([]byte(`{"Network":"10.3.0.0/16","SubnetLenght":25,"Backend":{"type":"vxlan","Prot":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"SubnetLenght", "Backend.Prot"}, unknown); d != "" {
		t.Error(d)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(`{"Network":"10.3.0.0/16","SubnetLen":28,"Backend":{"Type":"vxlan"}}`)
	f.Add(`{"EnableIPv6":true,"EnableIPv4":false,"IPv6Network":"::/0"}`)
	f.Fuzz(func(t *testing.T, in string) {
		c, _, err := ParseConfig([]byte(in))
		if err != nil {
			return
		}
		for _, p := range []network.Pool{c.V4, c.V6} {
			if !p.On() {
				continue
			}
			s, err := Choose(p, nil, p.Network, in)
			if err != nil || !p.Fits(s) {
				t.Fatalf("%s: chose %s, err %v", text(c), s, err)
			}
		}
	})
}
