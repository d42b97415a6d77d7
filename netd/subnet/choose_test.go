package subnet

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fleet-init/fleet/internal/network"
)

func mustConfig(t testing.TB, s string) network.Config {
	t.Helper()
	c, _, err := ParseConfig([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func prefixList(s string) []netip.Prefix {
	var out []netip.Prefix
	for _, f := range strings.Fields(s) {
		out = append(out, netip.MustParsePrefix(f))
	}
	return out
}

func TestChoose(t *testing.T) {
	small := `{"Network":"10.3.0.0/22"}` // three subnets: .1, .2, .3
	for _, row := range []struct{ name, config, taken, previous, want string }{
		{"the previous subnet comes back", small, "10.3.1.0/24", "10.3.2.0/24", "10.3.2.0/24"},
		{"the previous subnet is taken", small, "10.3.1.0/24 10.3.2.0/24", "10.3.2.0/24", "10.3.3.0/24"},
		{"the previous subnet is half taken by another length", small, "10.3.2.128/25 10.3.1.0/24", "10.3.2.0/24", "10.3.3.0/24"},
		{"the previous subnet is of another network", small, "10.3.3.0/24 10.3.1.0/24", "10.9.2.0/24", "10.3.2.0/24"},
		{"the previous subnet has another length", small, "10.3.3.0/24 10.3.1.0/24", "10.3.2.0/25", "10.3.2.0/24"},
		{"the first subnet of the network is never given", small, "10.3.3.0/24 10.3.1.0/24", "10.3.0.0/24", "10.3.2.0/24"},
		{"a large lease of an old configuration takes two", small, "10.3.2.0/23", "", "10.3.1.0/24"},
		{"a lease wider than the network leaves none", small, "10.0.0.0/8", "", "exhausted"},
		{"all taken", small, "10.3.1.0/24 10.3.2.0/24 10.3.3.0/24", "", "exhausted"},
		{"bounds are kept", `{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.10.0"}`, "10.3.9.0/24", "", "10.3.10.0/24"},
		{"leases outside the bounds do not count", `{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.10.0"}`, "10.3.8.0/24 10.3.11.0/24 10.3.10.0/24", "", "10.3.9.0/24"},
		{"leases of the other family do not count", small, "fc00::/16 10.3.3.0/24 10.3.1.0/24", "", "10.3.2.0/24"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var prev netip.Prefix
			if row.previous != "" {
				prev = netip.MustParsePrefix(row.previous)
			}
			got, err := Choose(mustConfig(t, row.config).V4, prefixList(row.taken), prev, "machine-a")
			text := got.String()
			if errors.Is(err, ErrExhausted) {
				text = "exhausted"
			}
			if d := cmp.Diff(row.want, text); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestExhaustedSaysWhatToDo(t *testing.T) {
	_, err := Choose(mustConfig(t, `{"Network":"10.3.0.0/22"}`).V4, prefixList("10.3.0.0/16"), netip.Prefix{}, "")
	want := "no free subnet: all 3 subnets of /24 between 10.3.1.0 and 10.3.3.0 are leased or reserved: remove leases of machines that are gone, or widen Network"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// Machines choose one after another until none is left: every subnet is given once, whatever the pool.
func TestChooseGivesEverySubnetOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		netLen := rapid.IntRange(8, 24).Draw(t, "network length")
		subLen := rapid.IntRange(netLen+2, min(netLen+7, 30)).Draw(t, "subnet length")
		v6 := rapid.Bool().Draw(t, "v6")
		base := netip.MustParseAddr("10.0.0.0")
		if v6 {
			base, netLen, subLen = netip.MustParseAddr("fd00::"), netLen+40, subLen+40
		}
		p := network.Pool{Network: netip.PrefixFrom(base, netLen), SubnetLen: subLen}
		p.Min, p.Max = nth(p.Network, subLen, 1), nth(p.Network, subLen, 1<<(subLen-netLen)-1)
		var taken []netip.Prefix
		for range 1<<(subLen-netLen) - 1 {
			s, err := Choose(p, taken, netip.Prefix{}, rapid.String().Draw(t, "machine"))
			if err != nil || !p.Fits(s) {
				t.Fatalf("after %d: %s, %v", len(taken), s, err)
			}
			for _, o := range taken {
				if o.Overlaps(s) {
					t.Fatalf("%s given twice", s)
				}
			}
			taken = append(taken, s)
		}
		if _, err := Choose(p, taken, netip.Prefix{}, "x"); !errors.Is(err, ErrExhausted) {
			t.Fatalf("more than all: %v", err)
		}
	})
}

func TestChooseInAVastRange(t *testing.T) {
	p := mustConfig(t, `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/16","IPv6SubnetLen":120}`).V6
	s, err := Choose(p, prefixList("fd00::/64"), netip.Prefix{}, "a")
	if err != nil || !p.Fits(s) {
		t.Errorf("%s, %v", s, err)
	}
}

func BenchmarkChoose5000Taken(b *testing.B) {
	p := mustConfig(b, `{"Network":"10.0.0.0/8"}`).V4
	var taken []netip.Prefix
	for i := range uint64(5000) {
		taken = append(taken, netip.PrefixFrom(nth(p.Network, 24, 1+i), 24))
	}
	for b.Loop() {
		if _, err := Choose(p, taken, netip.Prefix{}, "a"); err != nil {
			b.Fatal(err)
		}
	}
}
