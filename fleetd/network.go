package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pki"
)

// netdSocket is where this host's netd answers, to root and to whoever shares its group.
const netdSocket = "/run/netd/netd.sock"

// network asks any machine how it reaches the others: this one's netd directly, another's through its fleetd.
func (h *hosts) network(ctx context.Context, m fleet.Machine, all bool) (fleet.HostNetwork, error) {
	// A host that hangs must not keep back what the others say.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch {
	case m.ID == h.id.machine:
		return h.ownNetwork(ctx, all)
	case !m.HostAddr.IsValid():
		return fleet.HostNetwork{}, errors.New("its fleetd does not listen for other hosts: set member_ip in its fleet.conf, or look there: netd status --probe")
	}
	return h.client.Network(api.WithHostName(ctx, pki.HostName(string(m.ID))), m.HostAddr, all)
}

func (h *hosts) ownNetwork(ctx context.Context, all bool) (fleet.HostNetwork, error) {
	return askNetd(ctx, netdSocket, all)
}

// netdStatus is what is read of netd's own account of itself.
type netdStatus struct {
	Ready   bool
	Problem string
	Backend string
	Why     string
	MTU     int
	Iface   string
	Drops   string
	Lease   struct{ Subnet string }
	Store   struct {
		Contact bool
		Err     string
	}
	Peers []struct {
		Subnet, Machine, PublicIP string
		Skipped, Failed           string
		Silent                    bool
		RTT                       time.Duration
	}
}

// askNetd has the netd behind a socket measure the way to each of its peers, once.
func askNetd(ctx context.Context, socket string, all bool) (fleet.HostNetwork, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://netd/status?probe=1", nil)
	if err != nil {
		return fleet.HostNetwork{}, fmt.Errorf("ask netd: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fleet.HostNetwork{}, fmt.Errorf("its netd does not answer: is it running? (systemctl status netd): %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	var s netdStatus
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return fleet.HostNetwork{}, fmt.Errorf("its netd's answer is not understood: %w", err)
	}
	return s.summary(all), nil
}

// summary is what the cluster wants to know of it.
func (s netdStatus) summary(all bool) fleet.HostNetwork {
	n := fleet.HostNetwork{Ready: s.Ready, Subnet: prefixes(s.Lease.Subnet), Backend: s.Backend, Why: s.Why, Iface: s.Iface, MTU: s.MTU, Known: len(s.Peers)}
	switch {
	case s.Problem != "":
		n.Trouble = s.Problem
	case s.Store.Err != "":
		n.Trouble = s.Store.Err
	case !s.Ready:
		n.Trouble = "not ready"
	case s.Drops != "":
		n.Trouble = "another firewall drops forwarded packets: " + s.Drops
	}
	for _, p := range s.Peers {
		out := fleet.NetworkPeer{Subnet: prefixes(p.Subnet), Machine: fleet.MachineID(p.Machine), PublicIP: p.PublicIP, RTT: p.RTT}
		switch {
		case p.Skipped != "":
			out.Trouble = "no path: " + p.Skipped
		case p.Failed != "":
			out.Trouble = "the kernel refused: " + p.Failed
		case p.Silent || p.RTT == 0:
			out.Trouble = "does not answer"
		}
		if out.Trouble == "" {
			n.Reached++
			n.Slowest = max(n.Slowest, p.RTT)
		} else {
			out.RTT = 0
		}
		if all || out.Trouble != "" {
			n.Peers = append(n.Peers, out)
		}
	}
	return n
}

// prefixes turns a lease's name into what people read: 10.5.1.0-24&fd05::-64 into 10.5.1.0/24,fd05::/64.
func prefixes(lease string) string {
	return strings.NewReplacer("-", "/", "&", ",").Replace(lease)
}
