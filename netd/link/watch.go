package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/network"
)

// Links reads this host's interfaces and where its routes go: by default, and, if it is valid, to reach.
func (k *Real) Links(reach netip.Addr) (network.Links, error) {
	var out network.Links
	links, err := again(k.h.LinkList)
	if err != nil {
		return out, fmt.Errorf("list devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		i := network.Iface{Name: a.Name, Kind: l.Type(), Index: a.Index, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0, Loopback: a.Flags&net.FlagLoopback != 0}
		addrs, err := k.addrs(l)
		if err != nil {
			return out, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, x := range addrs {
			p, ok := prefixOf(x.IPNet)
			if !ok {
				continue
			}
			i.Addrs = append(i.Addrs, network.Addr{Prefix: p, Temporary: p.Addr().Is6() && x.Flags&unix.IFA_F_TEMPORARY != 0,
				Deprecated: x.Flags&unix.IFA_F_DEPRECATED != 0, Tentative: x.Flags&unix.IFA_F_TENTATIVE != 0, Dynamic: x.Flags&unix.IFA_F_PERMANENT == 0})
		}
		out.Ifaces = append(out.Ifaces, i)
	}
	if out.Default4, err = k.defaultDev(netlink.FAMILY_V4, names); err != nil {
		return out, err
	}
	if out.Default6, err = k.defaultDev(netlink.FAMILY_V6, names); err != nil {
		return out, err
	}
	if reach.IsValid() {
		routes, err := k.h.RouteGet(reach.AsSlice())
		if err != nil {
			return out, fmt.Errorf("find the route to %s: %w", reach, err)
		}
		for _, r := range routes {
			out.Reach, out.ReachSrc = names[r.LinkIndex], addrOf(r.Src)
		}
	}
	return out, nil
}

// defaultDev gives the device of the default route with the least metric.
func (k *Real) defaultDev(family int, names map[int]string) (string, error) {
	routes, err := again(func() ([]netlink.Route, error) {
		return k.h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: nil}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return "", fmt.Errorf("list default routes: %w", err)
	}
	best, name := 0, ""
	for _, r := range routes {
		dev := names[r.LinkIndex]
		if dev == "" && len(r.MultiPath) > 0 {
			dev = names[r.MultiPath[0].LinkIndex]
		}
		if dev != "" && (name == "" || r.Priority < best) {
			best, name = r.Priority, dev
		}
	}
	return name, nil
}

// Watch calls changed whenever devices, addresses or routes of the host change by another hand, until ctx ends. Changes that
// come faster than they are read are one.
func (k *Real) Watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer unix.Close(fd)
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	// The end of ctx comes as a byte in a pipe, so that one poll waits for both.
	var end [2]int
	if err := unix.Pipe2(end[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer unix.Close(end[0])
	defer unix.Close(end[1])
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { unix.Write(end[1], []byte{0}); close(told) })
	defer func() {
		if !stop() {
			<-told // the pipe must not be closed under its hands
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(end[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for netlink: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		others := false
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			// ENOBUFS: some were lost, which is one more reason to look.
			if err != nil && err != unix.ENOBUFS && err != unix.EINTR {
				return fmt.Errorf("read netlink: %w", err)
			}
			// Routes that we put ourselves are no news: without this every changed peer would have all of them read again.
			others = others || err != nil || n < unix.SizeofNlMsghdr || binary.NativeEndian.Uint32(buf[12:]) != k.rt.id
		}
		if others {
			changed()
		}
	}
}

// Forget drops what connection tracking remembers of flows to and from subnets that are gone: another machine that gets the
// subnet must not inherit their translations.
func (k *Real) Forget(subnets []netip.Prefix) error {
	for _, fam := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		var filters []netlink.CustomConntrackFilter
		for _, s := range subnets {
			if s.IsValid() && s.Addr().Is4() == (fam == unix.AF_INET) {
				filters = append(filters, flowsOf(s))
			}
		}
		if len(filters) == 0 {
			continue
		}
		if _, err := k.h.ConntrackDeleteFilters(netlink.ConntrackTable, fam, filters...); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget connections: %w", err)
		}
	}
	return nil
}

// flowsOf matches flows that have an address of the subnet at either end, before or after translation.
type flowsOf netip.Prefix

// MatchConntrackFlow tells whether to forget a flow.
func (s flowsOf) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	for _, ip := range []net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP} {
		if netip.Prefix(s).Contains(addrOf(ip)) {
			return true
		}
	}
	return false
}

// Counters are those of one overlay device.
type Counters struct {
	RxBytes, TxBytes, RxDropped, TxDropped, TxErrors uint64
}

// Counters reads those of this netd's devices, by name.
func (k *Real) Counters() (map[string]Counters, error) {
	links, err := again(k.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	out := map[string]Counters{}
	for _, l := range links {
		if a := l.Attrs(); a.Alias == k.mark && a.Statistics != nil {
			s := a.Statistics
			out[a.Name] = Counters{s.RxBytes, s.TxBytes, s.RxDropped, s.TxDropped, s.TxErrors}
		}
	}
	return out, nil
}

// again asks once more for a table that changed while it was read, or when a signal (the Go scheduler's own, too) came between.
func again[T any](read func() (T, error)) (v T, err error) {
	for range 5 {
		v, err = read()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return v, err
}

// addrs lists a device's addresses of both families.
func (k *Real) addrs(l netlink.Link) ([]netlink.Addr, error) {
	return again(func() ([]netlink.Addr, error) { return k.h.AddrList(l, netlink.FAMILY_ALL) })
}

// TracksConnections tells whether the kernel follows connections: somebody's rules ask for it, mostly a translation of addresses. The file is not
// there where the kernel's module is not.
func TracksConnections() bool {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

// DropsForwarded names the nftables chains of others that drop forwarded packets unless a rule of theirs accepts them: an
// accept in netd's table does not overrule them, so that only their owner can let the overlay through.
func (k *Real) DropsForwarded() ([]string, error) {
	chains, err := again(k.nft.ListChains)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var out []string
	for _, c := range chains {
		if c.Table.Name != k.o.Table && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			out = append(out, c.Table.Name+" "+c.Name)
		}
	}
	return out, nil
}
