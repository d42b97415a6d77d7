package main

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
)

func TestAskNetd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "netd.sock")
	if _, err := askNetd(t.Context(), socket, true); err == nil || !strings.HasPrefix(err.Error(), "its netd does not answer: is it running? (systemctl status netd)") {
		t.Error(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answer := `{"ready":true,"backend":"vxlan","why":"asked for","mtu":1450,"iface":"eth0","lease":{"subnet":"10.5.1.0-24&fd05:0:0:1::-64"},"store":{"contact":true},"peers":[
		{"subnet":"10.5.2.0-24","machine":"aa","publicIP":"10.0.0.2","rtt":5000},
		{"subnet":"10.5.3.0-24","machine":"bb","publicIP":"10.0.0.3","silent":true},
		{"subnet":"10.5.4.0-24","publicIP":"10.0.0.4","skipped":"its backend is \"udp\"","silent":true},
		{"subnet":"10.5.5.0-24","machine":"cc","publicIP":"10.0.0.5","failed":"no buffer space","rtt":7}]}`
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/status?probe=1" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Write([]byte(answer))
	})}
	go srv.Serve(l)
	defer srv.Close()
	want := fleet.HostNetwork{Ready: true, Backend: "vxlan", Why: "asked for", MTU: 1450, Iface: "eth0", Subnet: "10.5.1.0/24,fd05:0:0:1::/64",
		Known: 4, Reached: 1, Slowest: 5 * time.Microsecond, Peers: []fleet.NetworkPeer{
			{Subnet: "10.5.2.0/24", Machine: "aa", PublicIP: "10.0.0.2", RTT: 5 * time.Microsecond},
			{Subnet: "10.5.3.0/24", Machine: "bb", PublicIP: "10.0.0.3", Trouble: "does not answer"},
			{Subnet: "10.5.4.0/24", PublicIP: "10.0.0.4", Trouble: `no path: its backend is "udp"`},
			{Subnet: "10.5.5.0/24", Machine: "cc", PublicIP: "10.0.0.5", Trouble: "the kernel refused: no buffer space"}}}
	for _, all := range []bool{true, false} {
		got, err := askNetd(t.Context(), socket, all)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Error(diff, err)
		}
		want.Peers = want.Peers[1:] // those in trouble
	}
	for text, trouble := range map[string]string{
		`{"ready":false,"problem":"no underlay","store":{"err":"away"}}`: "no underlay",
		`{"ready":true,"store":{"err":"store away"}}`:                    "store away",
		`{"ready":false}`:                      "not ready",
		`{"ready":true,"drops":"ip filter"}`:   "another firewall drops forwarded packets: ip filter",
		`{"ready":true,"store":{"contact":1}}`: "",
	} {
		answer = text
		got, err := askNetd(t.Context(), socket, true)
		if trouble == "" {
			if err == nil || !strings.HasPrefix(err.Error(), "its netd's answer is not understood: ") {
				t.Error(err)
			}
		} else if got.Trouble != trouble || err != nil {
			t.Errorf("%s: %q, %v", text, got.Trouble, err)
		}
	}
}
