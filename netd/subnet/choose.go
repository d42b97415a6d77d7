package subnet

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/fleet-init/fleet/internal/network"
)

// ErrExhausted: every subnet of the pool is taken.
var ErrExhausted = errors.New("no free subnet")

// Choose gives a machine a subnet of the pool that overlaps none of taken: previous if it can be had, else the first free
// one from a place that seed decides, so that machines which start together do not all reach for the same.
func Choose(p network.Pool, taken []netip.Prefix, previous netip.Prefix, seed string) (netip.Prefix, error) {
	if p.Fits(previous) && !slices.ContainsFunc(taken, previous.Overlaps) {
		return previous, nil
	}
	n := distance(p.Network, p.SubnetLen, p.Min, p.Max) + 1
	used := usedRanges(p, taken)
	h := fnv.New64a()
	h.Write([]byte(seed)) // a hash never fails to be written to
	start := mix(h.Sum64()) % n
	for _, from := range []uint64{start, 0} {
		i := from
		for _, u := range used {
			if u.lo <= i && i <= u.hi {
				i = u.hi + 1
			}
		}
		if i < n {
			return netip.PrefixFrom(nth(p.Network, p.SubnetLen, i+distance(p.Network, p.SubnetLen, p.Network.Addr(), p.Min)), p.SubnetLen), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w: all %d subnets of /%d between %s and %s are leased or reserved: remove leases of machines that are gone, or widen Network",
		ErrExhausted, n, p.SubnetLen, p.Min, p.Max)
}

type span struct{ lo, hi uint64 } // subnets by number, from Min on, both ends included

// usedRanges turns what is taken into numbers of subnets, sorted and merged. A subnet of another length (the configuration
// changed) takes all those that it overlaps.
func usedRanges(p network.Pool, taken []netip.Prefix) []span {
	var out []span
	for _, t := range taken {
		last := lastAddr(t)
		if t.Addr().BitLen() != p.Min.BitLen() || last.Less(p.Min) || lastAddr(netip.PrefixFrom(p.Max, p.SubnetLen)).Less(t.Addr()) {
			continue
		}
		s := span{hi: distance(p.Network, p.SubnetLen, p.Min, minAddr(last, p.Max))}
		if p.Min.Less(t.Addr()) {
			s.lo = distance(p.Network, p.SubnetLen, p.Min, t.Addr())
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	merged := out[:0]
	for _, s := range out {
		if n := len(merged); n > 0 && s.lo <= merged[n-1].hi+1 {
			merged[n-1].hi = max(merged[n-1].hi, s.hi)
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}

// mix spreads FNV's weak upper bits over the word (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// u128 is an address as a number.
type u128 struct{ hi, lo uint64 }

// number is the address; IPv4 counts in the last 32 bits, since only differences matter.
func number(a netip.Addr) u128 {
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// addr is the number as an address again.
func (u u128) addr(is4 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], u.hi)
	binary.BigEndian.PutUint64(b[8:], u.lo)
	a := netip.AddrFrom16(b)
	if is4 {
		return a.Unmap()
	}
	return a
}

// most is where counting of subnets stops: of an IPv6 range with more, the first 2^62 are enough.
const most = 1 << 62

// nth is the base address of the i-th subnet of the network.
func nth(net netip.Prefix, subnetLen int, i uint64) netip.Addr {
	base, shift := number(net.Addr()), net.Addr().BitLen()-subnetLen
	var add u128
	if shift >= 64 {
		add = u128{hi: i << (shift - 64)}
	} else {
		add = u128{hi: i >> (64 - shift), lo: i << shift}
	}
	lo, carry := bits.Add64(base.lo, add.lo, 0)
	return u128{base.hi + add.hi + carry, lo}.addr(net.Addr().Is4())
}

// distance is how many subnets b lies behind a, most at the most.
func distance(net netip.Prefix, subnetLen int, a, b netip.Addr) uint64 {
	x, y, shift := number(a), number(b), net.Addr().BitLen()-subnetLen
	lo, borrow := bits.Sub64(y.lo, x.lo, 0)
	d := u128{y.hi - x.hi - borrow, lo}
	if shift >= 64 {
		return min(d.hi>>(shift-64), most)
	}
	if d.hi>>shift > 0 {
		return most
	}
	return min(d.hi<<(64-shift)|d.lo>>shift, most)
}

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	u, host := number(p.Addr()), p.Addr().BitLen()-p.Bits()
	if host >= 64 {
		u.lo = ^uint64(0)
		u.hi |= 1<<(host-64) - 1
	} else {
		u.lo |= 1<<host - 1
	}
	return u.addr(p.Addr().Is4())
}

// minAddr is the lower of two.
func minAddr(a, b netip.Addr) netip.Addr {
	if b.Less(a) {
		return b
	}
	return a
}
