package link

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/netd/nettest"
)

func wgHost(peers ...int) network.Host {
	h := network.Host{
		Devices:  []network.Device{{Name: "flannel-wg", Kind: network.WireGuard, MTU: 1420, Addrs: []netip.Prefix{pre("10.5.1.0/32")}, Port: 51820, Key: network.Secret(key(1))}},
		Routes:   []network.Route{{Dst: pre("10.5.0.0/16"), Dev: "flannel-wg"}},
		Networks: []netip.Prefix{pre("10.5.0.0/16")},
	}
	for _, n := range peers {
		sub := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(n), 0}), 24)
		h.Peers = append(h.Peers, network.Peer{Name: network.Lease{V4: sub}.Name(), WG: []network.WGPeer{{Dev: "flannel-wg", PublicKey: key(n),
			Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 0, byte(n)}), 51820), Allowed: sub.String(), PSK: network.Secret(key(99)), Keepalive: 25}}})
	}
	return h
}

// key is 32 bytes in base64, with the bits that a private key has.
func key(n int) string {
	b := make([]byte, 32)
	b[0], b[1], b[31] = 8, byte(n), 64
	return base64.StdEncoding.EncodeToString(b)
}

func ipipHost(peers ...int) network.Host {
	h := network.Host{
		Devices:  []network.Device{{Name: "flannel.ipip", Kind: network.IPIP, MTU: 1480, Addrs: []netip.Prefix{pre("10.5.1.0/32")}, Underlay: "eth0", Local: ip("192.168.0.1")}},
		Networks: []netip.Prefix{pre("10.5.0.0/16")},
	}
	for _, n := range peers {
		p := vxlanPeer(n)
		h.Peers = append(h.Peers, network.Peer{Name: p.Name, Routes: []network.Route{{Dst: p.Routes[0].Dst, Via: p.FDB[0].Dst, Dev: "flannel.ipip", OnLink: true}}})
	}
	return h
}

// What kernels have that this one may not: the steps and what they come to, as text.
func TestKindsOnTheFakeKernel(t *testing.T) {
	for _, row := range []struct {
		name         string
		first, then  network.Host
		steps, state string
	}{
		{"wireguard: one joins, one leaves, one has another key", wgHost(2, 3), wgHost(3, 4), `
			replace wireguard ` + key(4) + ` endpoint 192.168.0.4:51820 allowed 10.5.4.0/24 psk hidden keepalive 25 dev flannel-wg
			delete wireguard ` + key(2) + ` endpoint 192.168.0.2:51820 allowed 10.5.2.0/24 psk hidden keepalive 25 dev flannel-wg`, `
			device flannel-wg wireguard port 51820 key hidden mtu 1420 addr 10.5.1.0/32
			route 10.5.0.0/16 dev flannel-wg
			wireguard ` + key(3) + ` endpoint 192.168.0.3:51820 allowed 10.5.3.0/24 psk hidden keepalive 25 dev flannel-wg
			wireguard ` + key(4) + ` endpoint 192.168.0.4:51820 allowed 10.5.4.0/24 psk hidden keepalive 25 dev flannel-wg`},
		{"ipip: one joins, one leaves", ipipHost(2, 3), ipipHost(3, 4), `
			replace route 10.5.4.0/24 via 192.168.0.4 dev flannel.ipip onlink
			delete route 10.5.2.0/24 via 192.168.0.2 dev flannel.ipip onlink`, `
			device flannel.ipip ipip local 192.168.0.1 on eth0 mtu 1480 addr 10.5.1.0/32
			route 10.5.3.0/24 via 192.168.0.3 dev flannel.ipip onlink
			route 10.5.4.0/24 via 192.168.0.4 dev flannel.ipip onlink`},
		{"from vxlan to wireguard: the new path before the old one goes", vxlanHost(2), wgHost(2), `
			add device flannel-wg wireguard port 51820 key hidden mtu 1420 addr 10.5.1.0/32
			replace wireguard ` + key(2) + ` endpoint 192.168.0.2:51820 allowed 10.5.2.0/24 psk hidden keepalive 25 dev flannel-wg
			replace route 10.5.0.0/16 dev flannel-wg
			replace rules (0)
			delete device flannel.1`, `
			device flannel-wg wireguard port 51820 key hidden mtu 1420 addr 10.5.1.0/32
			route 10.5.0.0/16 dev flannel-wg
			wireguard ` + key(2) + ` endpoint 192.168.0.2:51820 allowed 10.5.2.0/24 psk hidden keepalive 25 dev flannel-wg`},
	} {
		t.Run(row.name, func(t *testing.T) {
			lines := func(s string) string { return strings.ReplaceAll(strings.TrimPrefix(s, "\n"), "\t\t\t", "") }
			fk := newFake()
			b := &bench{t: t, kernel: fk, fake: fk}
			b.set(row.first)
			if d := cmp.Diff(lines(row.steps), b.set(row.then)); d != "" {
				t.Error(d)
			}
			want(t, lines(row.state), b.state("flannel-wg", "flannel.ipip"))
			if again := b.set(row.then); again != "" {
				t.Errorf("a second time: %s", again)
			}
			if _, err := b.l.Clean(context.Background()); err != nil || strings.TrimSpace(fk.s.String()) != "" {
				t.Errorf("cleanup left %s, %v", fk.s, err)
			}
		})
	}
}

// A backend that this kernel cannot have takes nothing away of the one that works.
func TestWhatCannotBeHadTakesNothingAway(t *testing.T) {
	fk := newFake()
	b := &bench{t: t, kernel: fk, fake: fk}
	b.set(vxlanHost(2, 3))
	before := fk.s.String()
	add := Step{Verb: "add", Device: &ipipHost(2).Devices[0]}
	fk.fails[add.String()] = errors.New("this kernel has no ipip")
	rep, err := b.l.Set(context.Background(), ipipHost(2, 3))
	if err == nil || !strings.Contains(err.Error(), "this kernel has no ipip") || len(rep.Steps) != 1 {
		t.Errorf("%v, %v", rep.Steps, err)
	}
	want(t, before, fk.s.String())
	if steps := b.set(vxlanHost(2, 3)); steps != "" {
		t.Errorf("back again: %s", steps)
	}
}

// The code for the kernel's WireGuard speaks through a library that also finds devices in user space, by sockets in a place of theirs:
// with one of those it does all it would do with the kernel's.
func TestKernelWireGuardsCode(t *testing.T) {
	const theirs = "/var/run/wireguard" // the library's, not netd's
	name := "nettestwg" + string(rune('a'+os.Getpid()%26))
	if err := os.MkdirAll(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	h := nettest.New(t, "host")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go h.Do(func() { ended <- ServeWireGuard(ctx, theirs, name, 1420, slog.New(slog.DiscardHandler)) }) // the device is the namespace's
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = os.Remove(theirs) // unless somebody uses it
	}()
	w := wgCtl{dir: t.TempDir()} // none of netd's own sockets is there: the kernel's code
	defer func() {
		if w.client != nil {
			w.client.Close()
		}
	}()
	peers := wgHost(2, 3).Peers
	one, two := peers[0].WG[0], peers[1].WG[0]
	one.Dev, two.Dev = "", ""
	two.Allowed, two.PSK, two.Keepalive = "10.5.3.0/24,fd05:0:0:3::/64", "", 0
	change := wgChange{key: network.Secret(key(1)), port: 51899, peers: []network.WGPeer{one, two}}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := w.set(name, change)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	got, err := w.get(name)
	if err != nil {
		t.Fatal(err)
	}
	if got.key != network.Secret(key(1)) || got.port != 51899 || len(got.last) != 2 || got.last[key(2)] != 0 {
		t.Errorf("%+v", got)
	}
	byKey := map[string]network.WGPeer{}
	for _, p := range got.peers {
		byKey[p.PublicKey] = p
	}
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if d := cmp.Diff(map[string]network.WGPeer{one.PublicKey: one, two.PublicKey: two}, byKey, same); d != "" {
		t.Error(d)
	}
	if err := w.set(name, wgChange{gone: []string{key(2)}}); err != nil {
		t.Error(err)
	}
	if got, err = w.get(name); err != nil || len(got.peers) != 1 || got.peers[0].PublicKey != key(3) {
		t.Errorf("%+v, %v", got, err)
	}
	bad := two
	bad.PublicKey = "zz"
	for what, c := range map[string]wgChange{
		"public key of a peer": {peers: []network.WGPeer{bad}},
		"private key":          {key: "zz"},
		"PSK":                  {peers: []network.WGPeer{{PublicKey: key(4), PSK: "zz", Allowed: "10.5.4.0/24"}}},
		"subnet of a peer":     {peers: []network.WGPeer{{PublicKey: key(4), Allowed: "10.5.4"}}},
	} {
		if err := w.set(name, c); err == nil || !strings.HasPrefix(err.Error(), what+": ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := w.get("nosuchwg"); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such device: %v", err)
	}
	if _, err := os.Stat(filepath.Join(theirs, name+".sock")); err != nil {
		t.Error(err)
	}
}

// A kernel without says so, and what to do.
func TestKindsThatThisKernelLacks(t *testing.T) {
	h, far := nettest.New(t, "host"), nettest.New(t, "far")
	nettest.Cable(h, "eth0", far, "eth0", 1500, []string{"192.168.0.1/24"}, []string{"192.168.0.2/24"})
	h.Do(func() {
		k, err := Open(Options{Instance: "/test", Table: "netd", RunDir: t.TempDir()}) // no StartWireGuard: none in user space either
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		for kind, host := range map[string]network.Host{"ipip": ipipHost(2), "wireguard": wgHost(2)} {
			l := New(k)
			rep, err := l.Set(context.Background(), host)
			if err == nil {
				t.Logf("this kernel has %s: %v", kind, rep.Steps)
				if again, err := l.Set(context.Background(), host); err != nil || len(again.Steps) > 0 {
					t.Errorf("%s a second time: %v, %v", kind, again.Steps, err)
				}
			} else if want := "this kernel has no " + kind + " (module missing): load it, or choose another Backend.Type"; !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v\nwant %s", err, want)
			}
			if _, err := l.Clean(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
}
