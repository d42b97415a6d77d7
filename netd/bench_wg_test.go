package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// wireguardByHand gives two hosts a WireGuard device each, wg0, that knows the other: the kernel's, or where that has none a process's, which is what
// an administrator would take too. Addresses and routes are as with any other device.
func (c *cluster) wireguardByHand(hosts []*host) {
	c.t.Helper()
	keys := make([]*ecdh.PrivateKey, len(hosts))
	for i := range hosts {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			c.t.Fatal(err)
		}
	}
	for i, h := range hosts {
		peer, peerKey := hosts[1-i], keys[1-i].PublicKey().Bytes()
		sub := fmt.Sprintf("10.6.%d.0/24", peer.n)
		endpoint := &net.UDPAddr{IP: net.IPv4(192, 168, 77, byte(peer.n)), Port: 51820}
		h.Must(func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = "wg0", 1420
			err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
			if errors.Is(err, unix.EOPNOTSUPP) {
				return h.wireguardProcess(fmt.Sprintf("set=1\nprivate_key=%x\nlisten_port=51820\npublic_key=%x\nendpoint=%s\nallowed_ip=%s\n\n", keys[i].Bytes(), peerKey, endpoint, sub))
			}
			if err != nil {
				return err
			}
			ctl, err := wgctrl.New()
			if err != nil {
				return err
			}
			defer ctl.Close()
			_, allowed, err := net.ParseCIDR(sub)
			if err != nil {
				return err
			}
			port := 51820
			return ctl.ConfigureDevice("wg0", wgtypes.Config{PrivateKey: (*wgtypes.Key)(keys[i].Bytes()), ListenPort: &port,
				Peers: []wgtypes.PeerConfig{{PublicKey: wgtypes.Key(peerKey), Endpoint: endpoint, AllowedIPs: []net.IPNet{*allowed}}}})
		})
		h.Up("wg0", fmt.Sprintf("10.6.%d.0/32", h.n))
		h.Must(func() error {
			dev, err := netlink.LinkByName("wg0")
			if err != nil {
				return err
			}
			_, dst, err := net.ParseCIDR(sub)
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: dst})
		})
	}
}

// wireguardProcess starts one for wg0 in the host, and tells it what to be, in the words of WireGuard's own interface.
func (h *host) wireguardProcess(set string) error {
	cmd := exec.Command(os.Args[0], "wireguard", "wg0", "1420", h.dir)
	cmd.Env = append(os.Environ(), "NETD_TEST=netd")
	// A session of its own, as any service and as netd's process has: the scheduler shares processors out by session.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if err := cmd.Start(); err != nil { // on the host's thread, which lives as long as the host
		return err
	}
	h.c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var conn net.Conn
	h.c.soon("the socket of WireGuard's process", func() (err error) {
		conn, err = net.Dial("unix", filepath.Join(h.dir, "wg0.sock"))
		return err
	})
	defer conn.Close()
	if _, err := io.WriteString(conn, set); err != nil {
		return err
	}
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	if got := strings.TrimSpace(string(answer[:n])); err != nil || got != "errno=0" {
		return fmt.Errorf("%s, %w", got, err)
	}
	return nil
}
