package link

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/network"
)

// routes reads the main table's routes: those with our protocol number, or, with dev set, all on that device but those the
// kernel made itself.
func (r *rtnl) routes(fam byte, dev int, names map[int]string, add func(network.Route)) error {
	// A new request for each try: dump writes its length and number into it.
	req := func() msg {
		m := newMsg(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		// The kernel filters by protocol number and device if asked strictly. 0 is any.
		proto := byte(protocol)
		if dev != 0 {
			proto = 0
		}
		m = append(m, fam, 0, 0, 0, unix.RT_TABLE_MAIN, proto, 0, 0, 0, 0, 0, 0)
		m.attr32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
		if dev != 0 {
			m.attr32(unix.RTA_OIF, dev)
		}
		return m
	}
	err := r.dump(req, func(b []byte) {
		if len(b) < unix.SizeofRtMsg {
			return
		}
		// Offsets in struct rtmsg: 0 family, 1 length of the prefix, 4 table, 5 protocol, 7 type, 8 flags.
		proto, typ := b[5], b[7]
		if proto == unix.RTPROT_KERNEL || dev == 0 && proto != protocol || b[0] != fam || typ != unix.RTN_UNICAST && typ != unix.RTN_BLACKHOLE {
			return
		}
		// Without strict checking, an old kernel sends everything: filter again.
		route := network.Route{Blackhole: typ == unix.RTN_BLACKHOLE, OnLink: binary.NativeEndian.Uint32(b[8:])&unix.RTNH_F_ONLINK != 0}
		dst, oif, table := zero(fam), 0, int(b[4])
		for t, v := range attrs(b[unix.SizeofRtMsg:]) {
			switch t {
			case unix.RTA_DST:
				dst, _ = netip.AddrFromSlice(v)
			case unix.RTA_GATEWAY:
				route.Via, _ = netip.AddrFromSlice(v)
			case unix.RTA_PRIORITY:
				if fam == unix.AF_INET { // IPv6 routes always have one, the kernel's
					route.Metric = int(binary.NativeEndian.Uint32(v))
				}
			case unix.RTA_OIF:
				oif = int(binary.NativeEndian.Uint32(v))
			case unix.RTA_TABLE:
				table = int(binary.NativeEndian.Uint32(v))
			}
		}
		if table != unix.RT_TABLE_MAIN || dev != 0 && oif != dev {
			return
		}
		route.Dst = netip.PrefixFrom(dst, int(b[1]))
		if !route.Blackhole {
			route.Dev = names[oif]
		}
		add(route)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	return nil
}

// zero is the address of a default route, which the kernel does not send along.
func zero(fam byte) netip.Addr {
	if fam == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// neighs reads the permanent neighbours of a device, and with bridge its forwarding entries.
func (r *rtnl) neighs(fam byte, dev int, add func(ip netip.Addr, mac network.MAC)) error {
	req := func() msg {
		m := newMsg(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
		// For forwarding entries the kernel takes the device from a header of interface requests, and no other form of the question.
		if fam == unix.AF_BRIDGE {
			m = append(m, fam, 0, 0, 0)
			m = binary.NativeEndian.AppendUint32(m, uint32(dev))
			return append(m, 0, 0, 0, 0)
		}
		m = append(m, fam, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		m.attr32(unix.NDA_IFINDEX, dev)
		return m
	}
	err := r.dump(req, func(b []byte) {
		// Offsets in struct ndmsg: 0 family, 4 device, 8 state.
		if len(b) < unix.SizeofNdMsg || b[0] != fam || int(binary.NativeEndian.Uint32(b[4:])) != dev ||
			binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT == 0 {
			return
		}
		var ip netip.Addr
		var mac network.MAC
		for t, v := range attrs(b[unix.SizeofNdMsg:]) {
			switch t {
			case unix.NDA_DST:
				ip, _ = netip.AddrFromSlice(v)
			case unix.NDA_LLADDR:
				copy(mac[:], v)
			}
		}
		// Entries for all (the zero MAC) and for groups are the kernel's own or of somebody who wants flooding.
		if ip.IsValid() && !ip.IsMulticast() && mac != (network.MAC{}) && mac[0]&1 == 0 {
			add(ip, mac)
		}
	})
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	return nil
}
