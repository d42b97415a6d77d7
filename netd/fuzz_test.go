package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"github.com/google/go-cmp/cmp"
)

// FuzzConfig reads words of a command line and variables: an error says which word is wrong, and what is taken is taken the same way twice.
func FuzzConfig(f *testing.F) {
	f.Add("--iface eth1 --public-ip 1.2.3.4 status --json", "FLANNELD_IFACE=eth0")
	f.Add("--subnet-lease-ttl=-1s --iptables-resync=9999999999", "FLANNELD_IP_MASQ=x")
	f.Add("-healthz-port=70000 --public-ipv6 ::1%eth0", "WIREGUARD_KEY_FILE=")
	f.Fuzz(func(t *testing.T, args, env string) {
		c, rest, err := parseConfig(strings.Fields(args), strings.Split(env, "\n"))
		again, rest2, err2 := parseConfig(strings.Fields(args), strings.Split(env, "\n"))
		if (err == nil) != (err2 == nil) || err == nil && cmp.Diff(rest, rest2) != "" {
			t.Fatalf("%v, then %v", err, err2)
		}
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without words")
			}
			return
		}
		if c.SubnetFile != again.SubnetFile || c.LeaseTTL != again.LeaseTTL || c.Resync <= 0 || c.LeaseTTL <= 0 || c.RenewMargin <= 0 {
			t.Errorf("%+v", c)
		}
	})
}

// FuzzLastKnown reads what a netd before has left: a state, or an error that names the file. A subnet that a flanneld has left is a wish.
func FuzzLastKnown(f *testing.F) {
	f.Add([]byte(`{"ConfigText":"{\"Network\":\"10.5.0.0/16\"}","Own":{"V4":"10.5.1.0/24"}}`), []byte("FLANNEL_SUBNET=10.5.1.1/24\n"))
	f.Add([]byte(nil), []byte("FLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_IPV6_SUBNET=x\n=\n"))
	f.Add([]byte(`{"Peers":null,"ConfigText":"{"}`), []byte("FLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_SUBNET=::/0"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, state, env []byte) {
		x := files{Config{StateDir: dir, SubnetFile: filepath.Join(dir, "subnet.env")}}
		if err := os.WriteFile(x.c.SubnetFile, env, 0o600); err != nil {
			t.Fatal(err)
		}
		if l := x.subnetOfFile(); l.V4.IsValid() && !l.V4.Addr().Is4() || l.V6.IsValid() && !l.V6.Addr().Is6() {
			t.Errorf("%q wishes for %v and %v", env, l.V4, l.V6)
		}
		if err := os.WriteFile(x.statePath(), state, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := x.lastKnown(); err != nil && !strings.Contains(err.Error(), x.statePath()) {
			t.Errorf("%v does not name the file", err)
		}
	})
}

// FuzzPong reads what anybody on the network may send: only what answers one of our own requests counts.
func FuzzPong(f *testing.F) {
	p := pinger{proto: 1, reply: ipv4.ICMPTypeEchoReply, cookie: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}
	good, err := (&icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &icmp.Echo{ID: 1, Seq: 7, Data: append(p.cookie[:], 0, 0, 0, 0, 0, 0, 0, 9)}}).Marshal(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, 7)
	f.Add(good[:9], 7)
	f.Add([]byte{0}, 0)
	f.Fuzz(func(t *testing.T, b []byte, seq int) {
		_, at, ok := p.read(b, &net.IPAddr{IP: net.IPv4(10, 0, 0, 1)}, seq)
		if ok && (!bytes.Contains(b, p.cookie[:]) || b[0] != 0) {
			t.Errorf("%x counts as an answer, sent at %v", b, at)
		}
		if _, _, ok := p.read(b, &net.UDPAddr{}, seq); ok {
			t.Error("an answer from no address counts")
		}
	})
}
