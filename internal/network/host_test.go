package network

import (
	"net/netip"
	"testing"
)

// Whatever the length of the subnets, a few thousand neighbours get nearly as many metrics.
func TestSpreadSpreads(t *testing.T) {
	for _, first := range []string{"10.5.0.0/24", "10.5.0.0/28", "10.0.0.0/16", "100.64.0.0/22"} {
		seen := map[int]int{}
		p := netip.MustParsePrefix(first)
		a := p.Addr().As4()
		base := uint32(a[0])<<24 | uint32(a[1])<<16
		n := min(5000, 1<<(p.Bits()-8))
		for i := range n {
			x := base + uint32(i)<<(32-p.Bits())
			sub := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}), p.Bits())
			m := Spread(sub)
			if m < 1000 || m > 1000+8191 || m != Spread(sub) {
				t.Fatalf("%s: %d", sub, m)
			}
			seen[m]++
		}
		most := 0
		for _, k := range seen {
			most = max(most, k)
		}
		if most > 8 {
			t.Errorf("%s: %d of %d subnets share a metric", first, most, n)
		}
	}
	if m := Spread(netip.MustParsePrefix("fd05::/64")); m != 0 {
		t.Errorf("IPv6: %d", m)
	}
}
