// Package nettest gives tests hosts of their own on the real kernel: network namespaces, joined by cables, that are gone when
// the test ends. Only tests call it; it needs root.
package nettest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Host is a network namespace with a thread in it.
type Host struct {
	t    testing.TB
	Name string
	work chan func()
	gone chan struct{} // the thread has ended
	fd   netns.NsHandle
}

// New makes a host whose loopback is up.
func New(t testing.TB, name string) *Host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	h := &Host{t: t, Name: name, work: make(chan func()), gone: make(chan struct{})}
	ready := make(chan error)
	go func() {
		defer close(h.gone)
		// Never unlocked: the runtime ends the thread with the goroutine, and with it the namespace.
		runtime.LockOSThread()
		fd, err := netns.New()
		h.fd = fd
		ready <- err
		if err != nil {
			return
		}
		for f := range h.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		close(h.work)
		<-h.gone
		h.fd.Close()
	})
	h.Must(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		// Looking for duplicates would keep each new device's addresses unusable for seconds.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644); err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return h
}

// Do runs f in the host, on its thread: sockets, devices and processes that f makes are the host's. It must not call Do itself.
func (h *Host) Do(f func()) {
	done := make(chan struct{})
	select {
	case h.work <- func() {
		defer close(done)
		f()
	}:
		<-done
	case <-h.gone:
		h.t.FailNow() // a Fatal inside Do took the thread along and has said why
	}
}

// Must runs f in the host and fails the test if it fails.
func (h *Host) Must(f func() error) {
	h.t.Helper()
	var err error
	h.Do(func() { err = f() })
	if err != nil {
		h.t.Fatalf("on %s: %v", h.Name, err)
	}
}

// Cable joins two hosts by a veth pair, each end named and addressed, and up.
func Cable(a *Host, nameA string, b *Host, nameB string, mtu int, addrsA, addrsB []string) {
	a.t.Helper()
	a.Must(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = nameA, mtu
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(b.fd)})
	})
	a.Up(nameA, addrsA...)
	b.Up(nameB, addrsB...)
}

// Bridge makes a bridge with the given ports on the host.
func (h *Host) Bridge(name string, ports ...string) {
	h.t.Helper()
	h.Must(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		br := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		for _, p := range ports {
			l, err := netlink.LinkByName(p)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(l, br); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(br)
	})
}

// Up gives a device addresses and sets it up. IPv6 addresses are usable at once.
func (h *Host) Up(dev string, addrs ...string) {
	h.t.Helper()
	h.Must(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		for _, s := range addrs {
			a, err := netlink.ParseAddr(s)
			if err != nil {
				return err
			}
			if a.IP.To4() == nil {
				a.Flags = syscall.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return fmt.Errorf("add %s to %s: %w", s, dev, err)
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// Route adds a route through a gateway.
func (h *Host) Route(dst, via string) {
	h.t.Helper()
	h.Must(func() error {
		_, n, err := net.ParseCIDR(dst)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(via)})
	})
}

// Pod makes a host behind a host, like a workload: addr/len on eth0, gw/len on the other end, default route through it.
func (h *Host) Pod(name, dev, addr, gw string, mtu int) *Host {
	h.t.Helper()
	p := New(h.t, name)
	Cable(h, dev, p, "eth0", mtu, []string{gw}, []string{addr})
	dst := "0.0.0.0/0"
	g := netip.MustParsePrefix(gw).Addr()
	if g.Is6() {
		dst = "::/0"
	}
	p.Route(dst, g.String())
	return p
}

// NFT gives the host firewall rules, in nft's words.
func (h *Host) NFT(rules string) {
	h.t.Helper()
	h.Must(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("nft: %w: %s", err, out)
		}
		return err
	})
}

// Echo answers on TCP and UDP port 7 until the test ends.
func (h *Host) Echo() {
	h.t.Helper()
	var l net.Listener
	var u net.PacketConn
	h.Must(func() (err error) {
		if l, err = net.Listen("tcp", ":7"); err == nil {
			u, err = net.ListenPacket("udp", ":7")
		}
		return err
	})
	h.t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo(buf[:n], from)
		}
	}()
}

// Dial opens a TCP connection from the host to somebody's Echo.
func (h *Host) Dial(to string) (net.Conn, error) {
	var c net.Conn
	var err error
	h.Do(func() { c, err = net.DialTimeout("tcp", net.JoinHostPort(to, "7"), 20*time.Second) })
	return c, err
}

// Call sends size bytes to somebody's Echo over TCP and reads them back.
func (h *Host) Call(to string, size int) error {
	c, err := h.Dial(to)
	if err != nil {
		return err
	}
	defer c.Close()
	return Exchange(c, size)
}

// Exchange sends size bytes and reads them back.
func Exchange(c net.Conn, size int) error {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, size))
		sent <- err
	}()
	_, err := io.ReadFull(c, make([]byte, size))
	return errors.Join(err, <-sent)
}

// Packet sends one unfragmentable UDP packet of the given IP size to somebody's Echo and waits for it to come back.
func (h *Host) Packet(to string, ipSize int) error {
	var c net.Conn
	var err error
	h.Do(func() {
		if c, err = net.Dial("udp", net.JoinHostPort(to, "7")); err == nil {
			err = dontFragment(c.(*net.UDPConn), netip.MustParseAddr(to).Is6())
		}
	})
	if err != nil {
		return err
	}
	defer c.Close()
	head := 28
	if netip.MustParseAddr(to).Is6() {
		head = 48
	}
	buf := make([]byte, 65536)
	for range 30 { // the first may wait for an ARP answer longer than it is kept; nobody hurries a busy machine
		if _, err = c.Write(buf[:ipSize-head]); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		var n int
		if n, err = c.Read(buf); err == nil && n == ipSize-head {
			return nil
		}
	}
	return fmt.Errorf("packet of %d bytes to %s did not come back: %w", ipSize, to, err)
}

func dontFragment(c *net.UDPConn, v6 bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		if v6 {
			serr = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_MTU_DISCOVER, syscall.IPV6_PMTUDISC_DO)
			return
		}
		serr = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_DO)
	})
	return errors.Join(err, serr)
}

// Enslave makes a device a port of a bridge.
func (h *Host) Enslave(bridge, port string) {
	h.t.Helper()
	h.Must(func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		l, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(l, br)
	})
}

// Open gives a host that is a network namespace which somebody else made and will remove.
func Open(t testing.TB, name, path string) *Host {
	t.Helper()
	h := &Host{t: t, Name: name, work: make(chan func()), gone: make(chan struct{})}
	ready := make(chan error)
	go func() {
		defer close(h.gone)
		runtime.LockOSThread() // as in New
		fd, err := netns.GetFromPath(path)
		if err == nil {
			h.fd = fd
			err = netns.Set(fd)
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range h.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("enter network namespace %s: %v", path, err)
	}
	t.Cleanup(func() {
		close(h.work)
		<-h.gone
		h.fd.Close()
	})
	return h
}
