package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/network"
)

// setDevice makes a device, or brings one that may stay to what it must be: mark, MTU, addresses, up.
func (k *Real) setDevice(ctx context.Context, d network.Device, add bool) error {
	if add {
		if err := k.addDevice(ctx, d); err != nil {
			return err
		}
	}
	// Looked at again, whoever made it: its number, and what it is already.
	l, err := k.h.LinkByName(d.Name)
	if err != nil {
		return err
	}
	k.idx[d.Name] = l.Attrs().Index
	if err := k.finishDevice(l, d); err != nil {
		if add {
			// Half a device would look like a whole one to the next Observe's eyes only in part; start over then.
			return errors.Join(err, k.h.LinkDel(l))
		}
		return err
	}
	return nil
}

// finishDevice brings a device that is there to what it must be, in the order in which nothing goes out that should not: the mark first, so that a netd
// that dies half-way finds it again; up last.
func (k *Real) finishDevice(l netlink.Link, d network.Device) error {
	if l.Attrs().Alias != k.mark {
		if err := k.h.LinkSetAlias(l, k.mark); err != nil {
			return fmt.Errorf("mark: %w", err)
		}
	}
	if d.Kind == network.WireGuard {
		// Key before up: a device without one would take packets it cannot send.
		if err := k.wg.set(d.Name, wgChange{key: d.Key, port: d.Port}); err != nil {
			if errors.Is(err, unix.EADDRINUSE) {
				return fmt.Errorf("UDP port %d is taken: set Backend.ListenPort to a free one: %w", d.Port, err)
			}
			return err
		}
	}
	if l.Attrs().MTU != d.MTU {
		if err := k.h.LinkSetMTU(l, d.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", d.MTU, err)
		}
	}
	if err := k.setAddrs(l, d.Addrs); err != nil {
		return err
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := k.h.LinkSetUp(l); err != nil {
			if errors.Is(err, unix.EADDRINUSE) {
				return fmt.Errorf("UDP port %d is taken by another program: set Backend.Port or ListenPort to a free one: %w", d.Port, err)
			}
			return fmt.Errorf("set up: %w", err)
		}
	}
	return nil
}

// setAddrs adds what is missing before it removes what is too much.
func (k *Real) setAddrs(l netlink.Link, want []netip.Prefix) error {
	have, err := k.addrs(l)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var there []netip.Prefix
	for _, a := range have {
		if p, ok := prefixOf(a.IPNet); ok {
			there = append(there, p)
		}
	}
	for _, p := range want {
		if slices.Contains(there, p) {
			continue
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			// Nobody else can have it: the lease says so. Looking for duplicates would keep it unusable for a second.
			a.Flags = unix.IFA_F_NODAD
		} else {
			a.Scope = unix.RT_SCOPE_UNIVERSE
		}
		if err := k.h.AddrAdd(l, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	// Link-local ones are the kernel's: without them IPv6 does not work on the device.
	for i, p := range there {
		if !slices.Contains(want, p) && !p.Addr().IsLinkLocalUnicast() {
			if err := k.h.AddrDel(l, &have[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("remove address %s: %w", p, err)
			}
		}
	}
	return nil
}

// addDevice makes a device that is not there. Its errors say what is in the way: a kernel without the kind, a name or a VNI that is taken.
func (k *Real) addDevice(ctx context.Context, d network.Device) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = d.Name, d.MTU
	var l netlink.Link
	switch d.Kind {
	case network.VXLAN:
		under, err := k.index(d.Underlay)
		if err != nil {
			return err
		}
		// An address given at creation is the administrator's; udev leaves it alone, as it would not one set later.
		attrs.HardwareAddr = d.MAC[:]
		l = &netlink.Vxlan{LinkAttrs: attrs, VxlanId: d.VNI, VtepDevIndex: under, SrcAddr: d.Local.AsSlice(), Port: d.Port, GBP: d.GBP, Learning: d.Learning}
	case network.IPIP:
		under, err := k.index(d.Underlay)
		if err != nil {
			return err
		}
		l = &netlink.Iptun{LinkAttrs: attrs, Local: d.Local.AsSlice(), Link: uint32(under)}
	case network.WireGuard:
		l = &netlink.Wireguard{LinkAttrs: attrs}
		os.Remove(k.wg.socket(d.Name)) // of a process that is gone: there is no device with the name
	default:
		return fmt.Errorf("unknown kind of device %q", d.Kind)
	}
	// The kernel loads a module for a kind it does not know yet; what it then still does not support, it does not have.
	err := k.h.LinkAdd(l)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		if _, taken := k.idx[d.Name]; errors.Is(err, unix.EEXIST) && taken {
			return fmt.Errorf("a device of that name and another kind is there: remove it with ip link delete %s: %w", d.Name, err)
		}
		if errors.Is(err, unix.EEXIST) && d.Kind == network.IPIP {
			return fmt.Errorf("another ipip device carries packets from %s on %s: find it with ip -d link show type ipip, and remove it: %w", d.Local, d.Underlay, err)
		}
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("another device has VNI %d and port %d: set Backend.VNI or Port to free ones: %w", d.VNI, d.Port, err)
		}
		return err
	}
	if d.Kind == network.WireGuard && k.o.StartWireGuard != nil {
		return k.o.StartWireGuard(ctx, d.Name, d.MTU)
	}
	return fmt.Errorf("this kernel has no %s (module missing): load it, or choose another Backend.Type: %w", d.Kind, err)
}

// HasWireGuard reports whether this kernel has WireGuard, by making a device and taking it away again: a module is loaded by
// that, as it would be later.
func (k *Real) HasWireGuard() bool {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "netd-probe"
	l := &netlink.Wireguard{LinkAttrs: attrs}
	err := k.h.LinkAdd(l)
	if err == nil || errors.Is(err, unix.EEXIST) {
		_ = k.h.LinkDel(l) // the next probe would find and remove it
		return true
	}
	return false
}

// Handshakes tells when each WireGuard peer of a device was last heard from.
func (k *Real) Handshakes(dev string) (map[string]int64, error) {
	w := wgCtl{dir: k.o.RunDir} // its own, so that it need not wait for a Set
	s, err := w.get(dev)
	if w.client != nil {
		w.client.Close()
	}
	return s.last, err
}

// RemoveBridge removes a bridge that has no ports any more, and tells whether it did. The plugins that make it never take it away, and its
// address would keep this host from whoever has the subnet next. One with ports is somebody's network still.
func (k *Real) RemoveBridge(name string) (bool, error) {
	links, err := again(k.h.LinkList)
	if err != nil {
		return false, fmt.Errorf("list devices: %w", err)
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == name && l.Type() == "bridge" })
	if i < 0 || slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().MasterIndex == links[i].Attrs().Index }) {
		return false, nil
	}
	if err := k.h.LinkDel(links[i]); err != nil {
		return false, fmt.Errorf("remove bridge %s: %w", name, err)
	}
	return true, nil
}

// TrimBridge takes the addresses off a bridge that other machines own now, and gives those it took. A bridge that is not there has none.
func (k *Real) TrimBridge(name string, theirs func(netip.Prefix) bool) (gone []netip.Prefix, err error) {
	l, err := k.h.LinkByName(name)
	if err != nil {
		return nil, ignore(err, unix.ENODEV)
	}
	have, err := k.addrs(l)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for i, a := range have {
		p, ok := prefixOf(a.IPNet)
		if !ok || !theirs(p) {
			continue
		}
		if err := k.h.AddrDel(l, &have[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return gone, fmt.Errorf("remove address %s from %s: %w", p, name, err)
		}
		gone = append(gone, p)
	}
	return gone, nil
}
