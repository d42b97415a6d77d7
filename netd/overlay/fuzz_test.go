package overlay

import (
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/network"
)

// FuzzPeer plans the way to a machine whose lease says anything: what is planned leads that machine's own subnet to it and nothing else, or there is
// a reason in words; twice the same.
func FuzzPeer(f *testing.F) {
	f.Add(uint8(0), "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`, `{}`, `{}`, true)
	f.Add(uint8(1), "wireguard", `{"PublicKey":"KEYB","Port":4000}`, `{"PublicKey":"KEYB","Port":-70000}`, ``, true)
	f.Add(uint8(2), "host-gw", ``, `null`, `{"VtepMAC":"x","PublicKey":"y"}`, false)
	f.Add(uint8(3), "ipip", `[]`, `"x"`, `{"Machine":"b"}`, true)
	f.Add(uint8(5), "", `{"VNI":4294967296}`, `{"VtepMAC":5}`, `{"VtepMAC":"02:00:00:00:00:02","PublicKey":"k"}`, true)
	backends := []string{network.VXLAN, network.WireGuard, network.HostGW, network.IPIP}
	f.Fuzz(func(t *testing.T, backend uint8, theirs, data, data6, extra string, v6 bool) {
		c := config(backends[int(backend)%len(backends)])
		c.Backend.DirectRouting = backend&8 != 0
		l := network.Lease{V4: pre("10.5.2.0/24"), PublicIP: ip("192.168.0.2"), BackendType: theirs, BackendData: json.RawMessage(data), BackendV6Data: json.RawMessage(data6)}
		if v6 {
			c = dual(c.Backend.Type)
			l.V6, l.PublicIPv6 = pre("fd05:0:0:2::/64"), ip("fd99::2")
		}
		if extra != "" {
			l.Extra = &network.Extra{}
			if json.Unmarshal([]byte(extra), l.Extra) != nil {
				return
			}
		}
		p := NewPlanner(c, self(), own(c), c.Backend.Type)
		peer, skip := p.Peer(l)
		again, skip2 := p.Peer(l)
		if diff := cmp.Diff(peer, again, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" || skip != skip2 {
			t.Errorf("another plan the second time: %s", diff)
		}
		if skip != "" {
			return
		}
		for _, r := range peer.Routes {
			if r.Dst != l.V4 && r.Dst != l.V6 {
				t.Errorf("a route to %v", r.Dst)
			}
		}
		for _, n := range peer.Neighs {
			if n.MAC == (network.MAC{}) || !l.V4.Contains(n.IP) && !l.V6.Contains(n.IP) {
				t.Errorf("a neighbour %v at %v", n.IP, n.MAC)
			}
		}
		for _, w := range peer.WG {
			for a := range strings.SplitSeq(w.Allowed, ",") {
				if n, err := netip.ParsePrefix(a); err != nil || n != l.V4 && n != l.V6 {
					t.Errorf("WireGuard takes %q from it: %v", a, err)
				}
			}
			if _, err := base64.StdEncoding.DecodeString(w.PublicKey); err == nil && w.PublicKey == "" {
				t.Error("a peer without a key")
			}
		}
	})
}
