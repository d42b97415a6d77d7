package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// network is what a machine's netd would say: the subnet is made from its address, and of the others those with the metadata deaf=yes do
// not answer. On one with netd=no there is none.
func (c *cluster) network(ctx context.Context, m fleet.Machine, all bool) (fleet.HostNetwork, error) {
	if m.Metadata["netd"] == "no" {
		return fleet.HostNetwork{}, errors.New("its netd does not answer: is it running? (systemctl status netd)")
	}
	s, err := c.reg.Snapshot(ctx)
	if err != nil {
		return fleet.HostNetwork{}, err
	}
	subnet := func(m fleet.Machine) string { return fmt.Sprintf("10.5.%d.0/24", m.IP.As4()[3]) }
	n := fleet.HostNetwork{Ready: true, Subnet: subnet(m), Backend: "vxlan", Why: "the configuration names it", Iface: "eth0", MTU: 1450}
	for _, id := range slices.Sorted(maps.Keys(s.Machines)) {
		other := s.Machines[id]
		if id == m.ID || other.Metadata["netd"] == "no" {
			continue
		}
		p := fleet.NetworkPeer{Subnet: subnet(other), Machine: id, PublicIP: other.IP.String(), RTT: time.Duration(other.IP.As4()[3]) * 21 * time.Microsecond}
		n.Known++
		if other.Metadata["deaf"] == "yes" {
			p.RTT, p.Trouble = 0, "does not answer"
		} else {
			n.Reached++
			n.Slowest = max(n.Slowest, p.RTT)
		}
		if all || p.Trouble != "" {
			n.Peers = append(n.Peers, p)
		}
	}
	return n, nil
}
