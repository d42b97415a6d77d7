package link

import (
	"context"
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

// Options of a Real kernel.
type Options struct {
	// Instance tells this netd's devices and rules from those of another on the same host: the store's key prefix.
	Instance string
	Table    string // of nftables
	RunDir   string // where user-space WireGuard devices have their sockets
	// StartWireGuard starts a user-space device and returns when its socket answers; nil where that is not wanted.
	StartWireGuard func(ctx context.Context, dev string, mtu int) error
}

// Real is the kernel of this host, in the network namespace of the thread that opened it.
type Real struct {
	o    Options
	rt   *rtnl
	h    *netlink.Handle
	nft  *nftables.Conn
	wg   wgCtl
	mark string         // alias of our devices
	idx  map[string]int // device index by name, as of the last look
}

// Open connects to the kernel.
func Open(o Options) (*Real, error) {
	k := &Real{o: o, mark: "netd " + o.Instance, wg: wgCtl{dir: o.RunDir}, idx: map[string]int{}}
	var err error
	if k.rt, err = openRTNL(); err != nil {
		return nil, err
	}
	if k.h, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		k.rt.close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if k.nft, err = nftables.New(nftables.AsLasting()); err != nil {
		k.rt.close()
		k.h.Close()
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return k, nil
}

// Close lets go of the kernel; what was made stays.
func (k *Real) Close() {
	k.rt.close()
	k.h.Close()
	_ = k.nft.CloseLasting() // nothing can be done about it
	if k.wg.client != nil {
		k.wg.client.Close()
	}
}

// Observe reads what is there; see Kernel.
func (k *Real) Observe(_ context.Context, ask Ask) (State, error) {
	s := State{Sysctls: map[string]string{}}
	links, err := again(k.h.LinkList)
	if err != nil {
		return s, fmt.Errorf("list devices: %w", err)
	}
	// A device that was made anew has another number.
	clear(k.idx)
	names := map[int]string{}
	for _, l := range links {
		k.idx[l.Attrs().Name], names[l.Attrs().Index] = l.Attrs().Index, l.Attrs().Name
	}
	isWanted := map[string]bool{}
	for _, n := range ask.Devices {
		isWanted[n] = true
	}
	add := func(r network.Route) { s.Routes = append(s.Routes, r) }
	// Routes by their protocol number, on whatever device: with direct routing they are on the underlay, which is not ours.
	for _, fam := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := k.rt.routes(fam, 0, names, add); err != nil {
			return s, err
		}
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Alias != k.mark && !isWanted[a.Name] {
			continue // somebody else's
		}
		if err := k.observeDevice(&s, l, names, ask.Adopt && isWanted[a.Name]); err != nil {
			return s, fmt.Errorf("device %s: %w", a.Name, err)
		}
	}
	if s.Rules, err = readRules(k.nft, k.o.Table); err != nil {
		return s, err
	}
	return s, observeSysctls(&s, ask.Sysctls)
}

// observeDevice adds one device and what is on it to s. Link-local addresses are the kernel's own and no difference. With adopt, routes of whatever
// protocol number count: a flanneld's, which netd takes over.
func (k *Real) observeDevice(s *State, l netlink.Link, names map[int]string, adopt bool) error {
	a := l.Attrs()
	d := Device{Ours: a.Alias == k.mark, Up: a.Flags&net.FlagUp != 0}
	d.Name, d.Kind, d.MTU = a.Name, l.Type(), a.MTU
	addrs, err := k.addrs(l)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, x := range addrs {
		if p, ok := prefixOf(x.IPNet); ok && !p.Addr().IsLinkLocalUnicast() {
			d.Addrs = append(d.Addrs, p)
		}
	}
	switch l := l.(type) {
	case *netlink.Vxlan:
		d.VNI, d.Port, d.GBP, d.Learning, d.Underlay = l.VxlanId, l.Port, l.GBP, l.Learning, names[l.VtepDevIndex]
		copy(d.MAC[:], a.HardwareAddr)
		d.Local = addrOf(l.SrcAddr)
	case *netlink.Iptun:
		d.Local, d.Underlay = addrOf(l.Local), names[a.ParentIndex] // the library reads no IFLA_IPTUN_LINK
	// The kernel shows the device of a process as a TUN device; that it is WireGuard's tells its socket.
	case *netlink.Wireguard, *netlink.Tuntap:
		if d.Kind != network.WireGuard && !k.wg.userspace(a.Name) {
			break
		}
		w, err := k.wg.get(a.Name)
		if err != nil {
			// Its process is gone or broken: as good as no device, so that it is made anew.
			break
		}
		d.Kind, d.Key, d.Port = network.WireGuard, w.key, w.port
		for _, p := range w.peers {
			p.Dev = a.Name
			s.WG = append(s.WG, p)
		}
	}
	s.Devices = append(s.Devices, d)
	// Ours on this device are in the list already.
	known := map[network.Route]bool{}
	if adopt {
		for _, r := range s.Routes {
			known[r] = true
		}
	}
	add := func(r network.Route) {
		if !known[r] {
			s.Routes = append(s.Routes, r)
		}
	}
	for _, fam := range []byte{unix.AF_INET, unix.AF_INET6} {
		if adopt {
			if err := k.rt.routes(fam, a.Index, names, add); err != nil {
				return err
			}
		}
		if d.Kind != network.VXLAN {
			continue
		}
		if err := k.rt.neighs(fam, a.Index, func(ip netip.Addr, mac network.MAC) {
			s.Neighs = append(s.Neighs, network.Neigh{Dev: a.Name, IP: ip, MAC: mac})
		}); err != nil {
			return err
		}
	}
	if d.Kind != network.VXLAN {
		return nil
	}
	return k.rt.neighs(unix.AF_BRIDGE, a.Index, func(ip netip.Addr, mac network.MAC) {
		s.FDB = append(s.FDB, network.FDB{Dev: a.Name, MAC: mac, Dst: ip})
	})
}

// sysctlPath keeps a name inside /proc/sys/net: it holds an interface's name, which may be nearly anything.
func sysctlPath(name string) (string, error) {
	if !strings.HasPrefix(name, "net/") || strings.Contains(name, "..") {
		return "", fmt.Errorf("sysctl %q: not one of netd's", name)
	}
	return "/proc/sys/" + name, nil
}

// observeSysctls reads settings by name. One that is not there is left out; setting it will say why.
func observeSysctls(s *State, names []string) error {
	for _, n := range names {
		path, err := sysctlPath(n)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // the device is not there yet, or the kernel has no IPv6
		}
		if err != nil {
			return fmt.Errorf("read sysctl: %w", err)
		}
		s.Sysctls[n] = strings.TrimSpace(string(b))
	}
	return nil
}

// Do carries the steps out; see Kernel. Runs of routes and neighbours go to the kernel hundreds at a time.
func (k *Real) Do(ctx context.Context, steps []Step) []error {
	errs := make([]error, len(steps))
	// The order of the steps is kept: a run ends where a step of another kind stands.
	for i := 0; i < len(steps); {
		switch s := steps[i]; {
		case s.Route != nil || s.Neigh != nil || s.FDB != nil:
			n := i
			for n < len(steps) && (steps[n].Route != nil || steps[n].Neigh != nil || steps[n].FDB != nil) {
				n++
			}
			k.doMany(steps[i:n], errs[i:n])
			i = n
		case s.WG != nil:
			n := i
			for n < len(steps) && steps[n].WG != nil && steps[n].WG.Dev == s.WG.Dev {
				n++
			}
			k.doWireGuard(steps[i:n], errs[i:n])
			i = n
		default:
			errs[i] = k.doOne(ctx, s)
			i++
		}
	}
	return errs
}

// doMany sends steps in few large batches. errs has one place for each step.
func (k *Real) doMany(steps []Step, errs []error) {
	msgs := make([]msg, 0, len(steps))
	at := make([]int, 0, len(steps))
	for i, s := range steps {
		m, err := k.message(s)
		if err != nil {
			errs[i] = err
			continue
		}
		msgs, at = append(msgs, m), append(at, i)
	}
	results, err := k.rt.send(msgs)
	for j, r := range results {
		if r == nil {
			r = err // the send broke off: what it came to is not known, the next Observe will tell
		}
		// What shall go and is gone already is as it should be.
		if steps[at[j]].Verb == "delete" && (errors.Is(r, unix.ESRCH) || errors.Is(r, unix.ENOENT) || errors.Is(r, unix.ENODEV)) {
			r = nil
		}
		errs[at[j]] = r
	}
}

// message writes a step in netlink's words. It fails only if the device it names is not there.
func (k *Real) message(s Step) (msg, error) {
	del := s.Verb == "delete"
	switch {
	case s.Route != nil && s.Route.Blackhole:
		return routeMsg(*s.Route, 0, del), nil
	case s.Route != nil:
		idx, err := k.index(s.Route.Dev)
		return routeMsg(*s.Route, idx, del), err
	case s.Neigh != nil:
		idx, err := k.index(s.Neigh.Dev)
		return neighMsg(*s.Neigh, idx, del), err
	default:
		idx, err := k.index(s.FDB.Dev)
		return fdbMsg(*s.FDB, idx, del), err
	}
}

// index is a device's number. It is remembered from the last look, since thousands of steps ask for the same few.
func (k *Real) index(dev string) (int, error) {
	if i, ok := k.idx[dev]; ok {
		return i, nil
	}
	l, err := k.h.LinkByName(dev)
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", dev, err)
	}
	k.idx[dev] = l.Attrs().Index
	return k.idx[dev], nil
}

// doWireGuard changes peers of one device, all steps' in one request.
func (k *Real) doWireGuard(steps []Step, errs []error) {
	var c wgChange
	for _, s := range steps {
		if s.Verb == "delete" {
			c.gone = append(c.gone, s.WG.PublicKey)
		} else {
			c.peers = append(c.peers, *s.WG)
		}
	}
	err := k.wg.set(steps[0].WG.Dev, c)
	if err == nil || len(steps) == 1 {
		errs[0] = err
		return
	}
	// One bad key among them must not keep the others out.
	for i, s := range steps {
		one := wgChange{peers: []network.WGPeer{*s.WG}}
		if s.Verb == "delete" {
			one = wgChange{gone: []string{s.WG.PublicKey}}
		}
		errs[i] = k.wg.set(s.WG.Dev, one)
	}
}

// doOne takes a step that is too rare to be worth a batch: devices, settings, rules.
func (k *Real) doOne(ctx context.Context, s Step) error {
	switch {
	case s.Sysctl != nil:
		path, err := sysctlPath(s.Sysctl.Name)
		if err == nil {
			err = os.WriteFile(path, []byte(s.Sysctl.Value), 0o644)
		}
		if errors.Is(err, os.ErrNotExist) && strings.Contains(path, "/ipv6/") {
			return errors.New("the kernel has no IPv6: switch EnableIPv6 off or boot without ipv6.disable=1")
		}
		return err
	case s.Device != nil && s.Verb == "delete":
		delete(k.idx, s.Device.Name)
		l, err := k.h.LinkByName(s.Device.Name)
		if err != nil {
			return ignore(err, unix.ENODEV)
		}
		return ignore(k.h.LinkDel(l), unix.ENODEV)
	case s.Device != nil:
		return k.setDevice(ctx, *s.Device, s.Verb == "add")
	}
	return writeRules(k.nft, k.o.Table, s.Rules)
}

// ignore makes one expected error none, as when what shall go is gone already.
func ignore(err, what error) error {
	var gone netlink.LinkNotFoundError
	if errors.Is(err, what) || errors.As(err, &gone) {
		return nil
	}
	return err
}

// prefixOf translates the library's form of a prefix.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones), true
}

// addrOf translates the library's form of an address. IPv4 is always four bytes in ours, whatever it was in.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
