// Package subnet decides which subnet a machine has and keeps it: it reads the cluster's network configuration, chooses a
// free subnet, holds it under a lease in the store and tells who else has which. The keys and values are flannel's, so
// that a flanneld on the same store is a peer. It knows nothing of the kernel. netd's run.go calls it.
package subnet

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/network"
)

// rawConfig is the JSON as flannel has it. encoding/json matches the keys whatever their case, as flannel does.
type rawConfig struct {
	Network, IPv6Network         string
	SubnetLen, IPv6SubnetLen     int
	SubnetMin, SubnetMax         string
	IPv6SubnetMin, IPv6SubnetMax string
	EnableIPv4, EnableIPv6       *bool
	EnableNFTables               bool
	Backend                      json.RawMessage
}

// rawBackend is the object Backend, with the options of all types: each reads its own.
type rawBackend struct {
	Type                         string
	VNI, Port, MTU               int
	GBP, Learning, DirectRouting bool
	ListenPort, ListenPortV6     int
	PSK, Mode                    string
	PersistentKeepaliveInterval  int
}

// ParseConfig reads and checks the network configuration. Errors name key and remedy and are fleet.ErrInvalid. The second
// result lists keys that nothing reads, most likely typing errors: flannel accepts them, so they are no error here.
func ParseConfig(text []byte) (network.Config, []string, error) {
	// What is wrong with a value is told before what is not read at all: the first is what keeps the network from working.
	var c network.Config
	var raw rawConfig
	if err := json.Unmarshal(text, &raw); err != nil {
		return c, nil, invalid("network config: "+err.Error(), `write JSON like {"Network": "10.5.0.0/16"}`)
	}
	unknown := unknownKeys("", text, reflect.TypeFor[rawConfig]())
	var err error
	// On unless it is switched off, as with flannel; IPv6 the other way round.
	if raw.EnableIPv4 == nil || *raw.EnableIPv4 {
		c.V4, err = parsePool(poolText{"Network", "SubnetLen", "SubnetMin", "SubnetMax",
			raw.Network, raw.SubnetLen, raw.SubnetMin, raw.SubnetMax, 32, 24, 30})
		if err != nil {
			return c, unknown, err
		}
	}
	if raw.EnableIPv6 != nil && *raw.EnableIPv6 {
		c.V6, err = parsePool(poolText{"IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax",
			raw.IPv6Network, raw.IPv6SubnetLen, raw.IPv6SubnetMin, raw.IPv6SubnetMax, 128, 64, 126})
		if err != nil {
			return c, unknown, err
		}
	}
	if !c.V4.On() && !c.V6.On() {
		return c, unknown, invalid("EnableIPv4 false without EnableIPv6", "switch one of them on")
	}
	c.NFTables = raw.EnableNFTables
	var more []string
	c.Backend, more, err = parseBackend(raw.Backend)
	if err == nil && c.Backend.Type == network.IPIP && c.V6.On() {
		err = invalid("Backend.Type ipip with EnableIPv6", "ipip carries IPv4 only: use vxlan, host-gw or wireguard")
	}
	return c, append(unknown, more...), err
}

// poolText is one family's keys, by name and value, and its limits.
type poolText struct {
	network, len, min, max string // names
	networkVal             string
	lenVal                 int
	minVal, maxVal         string
	bits, defLen, maxLen   int
}

// parsePool reads one family's range and fills in flannel's defaults. The first subnet is left out unless it is asked for: its address is the network's own.
func parsePool(t poolText) (network.Pool, error) {
	var p network.Pool
	if t.networkVal == "" {
		return p, invalid(t.network+" missing", "name the range the hosts' subnets are cut from, as a.b.c.d/len")
	}
	pre, err := netip.ParsePrefix(t.networkVal)
	if err != nil || pre.Addr().BitLen() != t.bits {
		return p, invalid(fmt.Sprintf("%s %q", t.network, t.networkVal), fmt.Sprintf("want an IPv%d prefix like %s", 4+t.bits/128*2,
			map[int]string{32: "10.5.0.0/16", 128: "fd00:5::/48"}[t.bits]))
	}
	// Host bits go, as with flannel: 10.5.7.9/16 is 10.5.0.0/16.
	p.Network = pre.Masked()
	n := p.Network.Bits()
	p.SubnetLen = t.lenVal
	if p.SubnetLen == 0 {
		p.SubnetLen = t.defLen
		if n > t.defLen-2 {
			p.SubnetLen = n + 2
		}
	}
	// Fewer than four subnets, and none remain beside the first, which is left out.
	if p.SubnetLen > t.maxLen || p.SubnetLen < n+2 {
		if n > t.maxLen-2 {
			return p, invalid(fmt.Sprintf("%s %s", t.network, p.Network), fmt.Sprintf("too small to cut: use /%d or larger", t.maxLen-2))
		}
		return p, invalid(fmt.Sprintf("%s %d", t.len, p.SubnetLen),
			fmt.Sprintf("out of range for %s %s: use %d to %d", t.network, p.Network, n+2, t.maxLen))
	}
	p.Min = nth(p.Network, p.SubnetLen, 1)
	p.Max = netip.PrefixFrom(lastAddr(p.Network), p.SubnetLen).Masked().Addr()
	if err := parseBound(t.min, t.minVal, p, &p.Min); err != nil {
		return p, err
	}
	if err := parseBound(t.max, t.maxVal, p, &p.Max); err != nil {
		return p, err
	}
	if p.Max.Less(p.Min) {
		return p, invalid(fmt.Sprintf("%s %s above %s %s", t.min, p.Min, t.max, p.Max), "exchange them")
	}
	return p, nil
}

// parseBound reads SubnetMin or SubnetMax, if it is given.
func parseBound(name, val string, p network.Pool, out *netip.Addr) error {
	if val == "" {
		return nil
	}
	a, err := netip.ParseAddr(val)
	if err != nil {
		return invalid(fmt.Sprintf("%s %q", name, val), "want an address")
	}
	if !p.Network.Contains(a) {
		return invalid(fmt.Sprintf("%s %s", name, a), fmt.Sprintf("not inside the network %s", p.Network))
	}
	if base := netip.PrefixFrom(a, p.SubnetLen).Masked().Addr(); base != a {
		return invalid(fmt.Sprintf("%s %s", name, a), fmt.Sprintf("not the start of a /%d: use %s", p.SubnetLen, base))
	}
	*out = a
	return nil
}

// parseBackend reads the type, whatever its case, and the options. Types that netd does not have are answered with what does their work here.
func parseBackend(text json.RawMessage) (network.Backend, []string, error) {
	var raw rawBackend
	var b network.Backend
	if len(text) > 0 && string(text) != "null" {
		if err := json.Unmarshal(text, &raw); err != nil {
			return b, nil, invalid("Backend: "+err.Error(), `write it as {"Type": "vxlan"}`)
		}
	}
	unknown := unknownKeys("Backend.", text, reflect.TypeFor[rawBackend]())
	b = network.Backend{Type: strings.ToLower(raw.Type), VNI: raw.VNI, Port: raw.Port, GBP: raw.GBP, Learning: raw.Learning,
		DirectRouting: raw.DirectRouting, MTU: raw.MTU, ListenPort: raw.ListenPort, ListenPortV6: raw.ListenPortV6,
		PSK: network.Secret(raw.PSK), Keepalive: raw.PersistentKeepaliveInterval, Mode: raw.Mode}
	// No type is one too: the machines agree on it.
	switch b.Type {
	case network.VXLAN, network.HostGW, network.WireGuard, network.IPIP, network.Alloc, "":
	case "udp":
		return b, unknown, invalid("Backend.Type udp", "netd does not carry packets in user space: use vxlan")
	case "ipsec":
		return b, unknown, invalid("Backend.Type ipsec", "use wireguard, which encrypts without a key daemon")
	case "extension", "tencent-vpc":
		return b, unknown, invalid("Backend.Type "+b.Type, "netd runs no commands: use alloc and program the routes yourself")
	default:
		return b, unknown, invalid(fmt.Sprintf("Backend.Type %q", raw.Type), "use vxlan, host-gw, wireguard, ipip or alloc")
	}
	return b, unknown, fillBackend(&b)
}

// fillBackend checks the options and puts the defaults in.
func fillBackend(b *network.Backend) error {
	orDefault(&b.VNI, 1)
	orDefault(&b.Port, 8472) // the Linux kernel's, older than the assigned 4789; flannel's too
	orDefault(&b.ListenPort, 51820)
	orDefault(&b.ListenPortV6, 51821)
	if b.Mode == "" {
		b.Mode = "separate"
	}
	for _, o := range []struct {
		name          string
		val, min, max int
	}{
		// A device's name has 15 characters at most, and the VNI stands in it: flannel-v6.NNNN.
		{"VNI", b.VNI, 1, 9999999},
		{"Port", b.Port, 1, 65535},
		{"ListenPort", b.ListenPort, 1, 65535},
		{"ListenPortV6", b.ListenPortV6, 1, 65535},
		{"PersistentKeepaliveInterval", b.Keepalive, 0, 65535},
	} {
		if o.val < o.min || o.val > o.max {
			return invalid(fmt.Sprintf("Backend.%s %d", o.name, o.val), fmt.Sprintf("use %d to %d", o.min, o.max))
		}
	}
	if b.MTU != 0 && (b.MTU < 640 || b.MTU > 65535) {
		return invalid(fmt.Sprintf("Backend.MTU %d", b.MTU), "it is the MTU of the underlay, before the overlay's overhead: use 640 to 65535, or leave it out")
	}
	if !slices.Contains([]string{"separate", "auto", "ipv4", "ipv6"}, b.Mode) {
		return invalid(fmt.Sprintf("Backend.Mode %q", b.Mode), "use separate, auto, ipv4 or ipv6")
	}
	if k, err := base64.StdEncoding.DecodeString(string(b.PSK)); b.PSK != "" && (err != nil || len(k) != 32) {
		return invalid("Backend.PSK", "want 32 bytes in base64, as `wg genpsk` prints them")
	}
	return nil
}

// orDefault fills in what was not given: zero is no value that any of these can have.
func orDefault(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

// unknownKeys lists the keys of a JSON object that the struct does not have.
func unknownKeys(prefix string, text []byte, t reflect.Type) []string {
	var m map[string]json.RawMessage
	if json.Unmarshal(text, &m) != nil {
		return nil
	}
	var out []string
	for k := range m {
		// As encoding/json matches them: whatever their case.
		if _, ok := t.FieldByNameFunc(func(f string) bool { return strings.EqualFold(f, k) }); !ok {
			out = append(out, prefix+k)
		}
	}
	slices.Sort(out)
	return out
}

// invalid names what is wrong and what to write instead.
func invalid(what, hint string) error { return &fleet.InvalidError{What: what, Hint: hint} }
