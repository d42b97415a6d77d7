package subnet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/fleet-init/fleet/internal/network"
)

// rawLease is a lease's value as flannel writes it. PublicIPv6 is always there, null where there is none.
type rawLease struct {
	PublicIP      string
	PublicIPv6    *string
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`
	Fleet         *network.Extra  `json:",omitempty"`
}

// encodeLease writes the value of a lease. The subnets stand in its key.
func encodeLease(l network.Lease) []byte {
	raw := rawLease{PublicIP: "0.0.0.0", BackendType: l.BackendType, BackendData: l.BackendData, BackendV6Data: l.BackendV6Data, Fleet: l.Extra}
	if l.PublicIP.IsValid() {
		raw.PublicIP = l.PublicIP.String()
	}
	if l.PublicIPv6.IsValid() {
		s := l.PublicIPv6.String()
		raw.PublicIPv6 = &s
	}
	b, err := json.Marshal(raw)
	if err != nil {
		panic(err) // raw messages are made by json.Marshal or were read as JSON: cannot be otherwise
	}
	return b
}

// parseLease reads a lease from the last part of its key and its value.
func parseLease(name string, value []byte) (network.Lease, error) {
	l, err := parseName(name)
	if err != nil {
		return l, err
	}
	var raw rawLease
	if err := json.Unmarshal(value, &raw); err != nil {
		return l, fmt.Errorf("parse lease %s: %w", name, err)
	}
	if raw.PublicIP != "" && raw.PublicIP != "0.0.0.0" {
		if l.PublicIP, err = netip.ParseAddr(raw.PublicIP); err != nil || !l.PublicIP.Is4() {
			return l, fmt.Errorf("parse lease %s: PublicIP %q is no IPv4 address", name, raw.PublicIP)
		}
	}
	if raw.PublicIPv6 != nil && *raw.PublicIPv6 != "" {
		if l.PublicIPv6, err = netip.ParseAddr(*raw.PublicIPv6); err != nil || !l.PublicIPv6.Is6() {
			return l, fmt.Errorf("parse lease %s: PublicIPv6 %q is no IPv6 address", name, *raw.PublicIPv6)
		}
	}
	l.BackendType, l.BackendData, l.BackendV6Data, l.Extra = raw.BackendType, raw.BackendData, raw.BackendV6Data, raw.Fleet
	return l, nil
}

// parseName reads a lease's subnets from its name; see network.Lease.Name.
func parseName(name string) (network.Lease, error) {
	var l network.Lease
	bad := func() (network.Lease, error) {
		return l, fmt.Errorf("parse lease name %q: want a.b.c.d-len, with IPv6 a.b.c.d-len&addr-len", name)
	}
	for _, part := range strings.Split(name, "&") {
		addr, length, ok := strings.Cut(part, "-")
		a, err := netip.ParseAddr(addr)
		n, err2 := strconv.Atoi(length)
		if !ok || err != nil || err2 != nil {
			return bad()
		}
		p, err := a.Prefix(n)
		// A /0 would take every address there is; host bits mean that somebody wrote it by hand and meant something else.
		if err != nil || n == 0 || p.Addr() != a {
			return bad()
		}
		switch {
		case a.Is4() && !l.V4.IsValid() && !l.V6.IsValid():
			l.V4 = p
		case a.Is6() && !a.Is4In6() && !l.V6.IsValid():
			l.V6 = p
		default:
			return bad()
		}
	}
	return l, nil
}
