package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// Workloads that think of their network as larger than it is, and never hear that it is not, still get their streams through the tunnel:
// what a host forwards begins with segments that fit.
func TestStreamsFitTheTunnelWhateverTheirEndsThink(t *testing.T) {
	t.Parallel()
	const both = `"EnableIPv6":true,"IPv6Network":"fd05::/48",`
	for _, backend := range []string{"vxlan", "wireguard"} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, `{"Network":"10.5.0.0/16",`+both+`"Backend":{"Type":"`+backend+`"}}`)
			var pods []*host
			for n := 1; n <= 2; n++ {
				h := c.host(n)
				h.addPodOf(1500)
				// Nobody is told that a packet is too big.
				h.pod.NFT("table inet deaf { chain in { type filter hook input priority 0; icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }")
				pods = append(pods, h)
			}
			for _, to := range []string{pods[1].addr(), pods[1].addr6()} {
				c.soon("a small stream to "+to, func() error { return pods[0].pod.Call(to, 100) })
				if err := pods[0].pod.Call(to, 1<<20); err != nil {
					t.Errorf("a large stream to %s: %v", to, err)
				}
			}
		})
	}
}

// The rules that keep the tunnel's own packets out of connection tracking cost every packet, so they are there once somebody's rules make the
// kernel track, and not before.
func TestNothingIsExemptedFromATrackingThatIsNotThere(t *testing.T) {
	t.Parallel()
	c := newCluster(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	h := c.host(1)
	rules := func() (text []byte) {
		h.Must(func() (err error) { text, err = exec.Command("nft", "list", "ruleset").CombinedOutput(); return err })
		return text
	}
	if got := string(rules()); strings.Contains(got, "notrack") || !strings.Contains(got, "maxseg") {
		t.Errorf("rules at first:\n%s", got)
	}
	h.NFT("table ip container { chain post { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 masquerade; }; }")
	h.Echo()
	c.soon("the tunnel is exempt", func() error {
		if err := h.Call("127.0.0.1", 1); err != nil { // a connection to track
			return err
		}
		if n := strings.Count(string(rules()), "notrack"); n != 4 { // two rules, and their texts as comments
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	if n := h.status().Repairs; n != 0 {
		t.Errorf("%d repairs, want none", n)
	}
}
