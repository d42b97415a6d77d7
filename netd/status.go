package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/netd/link"
)

// Status is this host's part of the network, for people, scripts and metrics.
type Status struct {
	// Ready: workloads may count on the network. Problem is what keeps the host from being in order, ready or not.
	Ready   bool   `json:"ready"`
	Problem string `json:"problem,omitempty"`
	// Machine is the machine-id, Version netd's.
	Machine string `json:"machine"`
	Version string `json:"version"`
	// Backend is the one in use, by name, and Why it is.
	Backend string `json:"backend"`
	Why     string `json:"why"`
	// MTU is what workloads may send, in bytes; Iface the interface that carries it.
	MTU   int    `json:"mtu"`
	Iface string `json:"iface"`
	// Drops names chains of other firewalls that drop forwarded packets.
	Drops string `json:"drops,omitempty"`
	// Turn is how long the last look through everything took, Repairs how many things another hand had changed since the start.
	Turn    time.Duration `json:"turn"`
	Repairs int           `json:"repairs"`
	// Lease is this host's subnet. Held: it is in the store under this machine's name as far as we heard.
	Lease struct {
		Subnet   string       `json:"subnet"`
		V4       netip.Prefix `json:"v4"`
		V6       netip.Prefix `json:"v6"`
		PublicIP string       `json:"publicIP"`
		Held     bool         `json:"held"`
		Renewed  time.Time    `json:"renewed"`
		Until    time.Time    `json:"until"` // zero for a reservation
	} `json:"lease"`
	// Store is how netd stands with the cluster's etcd. Junk are keys that are no leases, Stale peers still reached although theirs vanished,
	// Resyncs whole reads of the tree.
	Store struct {
		Contact  bool   `json:"contact"`
		Err      string `json:"err,omitempty"`
		Revision int64  `json:"revision"`
		Junk     int    `json:"junk"`
		Stale    int    `json:"stale"`
		Resyncs  int    `json:"resyncs"`
	} `json:"store"`
	// Peers are all other leases; Devices the counters of the overlay's own devices, by name.
	Peers   []PeerStatus             `json:"peers"`
	Devices map[string]link.Counters `json:"devices"`
}

// PeerStatus is one other host.
type PeerStatus struct {
	Subnet    string        `json:"subnet"`
	Machine   string        `json:"machine,omitempty"`
	PublicIP  string        `json:"publicIP"`
	Backend   string        `json:"backend"`
	Skipped   string        `json:"skipped,omitempty"` // why there is no path
	Failed    string        `json:"failed,omitempty"`  // what the kernel refused
	Handshake time.Time     `json:"handshake,omitzero"`
	RTT       time.Duration `json:"rtt,omitempty"` // with --probe
	Silent    bool          `json:"silent,omitempty"`
	targets   []netip.Addr
}

// status gathers what loop, keeper and kernel know. It waits for no turn: a turn that hangs is what people ask about.
func (n *node) status() Status {
	var s Status
	s.Ready = n.isReady() == nil
	k := n.keeper.Status()
	s.Store.Contact, s.Store.Err, s.Store.Revision, s.Store.Junk, s.Store.Stale, s.Store.Resyncs = k.Contact, k.Err, k.Rev, k.Junk, k.Stale, k.Resyncs
	s.Lease.Held, s.Lease.Renewed, s.Lease.Until = k.Held, k.Renewed, k.Until
	n.mu.Lock()
	if n.problem != nil {
		s.Problem = n.problem.Error()
	}
	s.Machine, s.Version, s.Backend, s.Why, s.MTU, s.Iface, s.Turn, s.Repairs = n.self.Machine, n.self.Version, n.backend, n.why, n.mtu, n.self.Underlay.Name, n.took, n.repairs
	s.Drops = n.drops
	own := n.view.Own
	s.Lease.Subnet, s.Lease.V4, s.Lease.V6, s.Lease.PublicIP = own.Name(), own.V4, own.V6, publicOf(own)
	for name, l := range n.view.Peers {
		p := PeerStatus{Subnet: name, Machine: l.Machine(), PublicIP: publicOf(l), Backend: l.BackendType, Skipped: n.skipped[name], Failed: n.failed[name]}
		p.targets = n.targets(l)
		s.Peers = append(s.Peers, p)
	}
	keys := map[string]string{}
	if n.backend == network.WireGuard {
		for name, l := range n.view.Peers {
			if l.Extra != nil {
				keys[l.Extra.PublicKey] = name
			}
		}
	}
	n.mu.Unlock()
	// From here on without the lock: the kernel and WireGuard's process may take their time.
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int { return cmp.Compare(a.Subnet, b.Subnet) })
	s.Devices, _ = n.kernel.Counters() // without them the rest is still worth showing
	for dev := range s.Devices {
		if len(keys) == 0 {
			break
		}
		last, err := n.kernel.Handshakes(dev)
		if err != nil {
			continue
		}
		for i := range s.Peers {
			for key, at := range last {
				if keys[key] == s.Peers[i].Subnet && at > 0 {
					s.Peers[i].Handshake = time.Unix(at, 0)
				}
			}
		}
	}
	return s
}

// targets are the addresses that a peer answers on if its path is as it must be, one for each family. Where there is a device, a peer has
// its subnet's first address on it; else its own address must do.
func (n *node) targets(l network.Lease) (out []netip.Addr) {
	all := []netip.Addr{l.V4.Addr(), l.V6.Addr()}
	if n.backend == network.HostGW || n.backend == network.Alloc {
		all = []netip.Addr{l.PublicIP, l.PublicIPv6}
	}
	for i, own := range []netip.Prefix{n.view.Own.V4, n.view.Own.V6} {
		if all[i].IsValid() && own.IsValid() {
			out = append(out, all[i])
		}
	}
	return out
}

// publicOf is the address to show for a lease.
func publicOf(l network.Lease) string {
	if l.PublicIP.IsValid() {
		return l.PublicIP.String()
	}
	if l.PublicIPv6.IsValid() {
		return l.PublicIPv6.String()
	}
	return "-"
}

// status is the command.
func status(ctx context.Context, c Config, args []string, out io.Writer) error {
	url := "http://netd/status"
	if slices.Contains(args, "--probe") {
		url += "?probe=1"
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.socket())
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("ask netd on %s: %w: run this as root", c.socket(), errors.Unwrap(err))
	}
	if err != nil {
		return fmt.Errorf("ask netd on %s: %w: is it running? (systemctl status netd)", c.socket(), errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if slices.Contains(args, "--json") {
		_, err := io.Copy(out, resp.Body)
		return err
	}
	var s Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return fmt.Errorf("read netd's answer: %w", err)
	}
	return show(out, s, time.Now())
}

// show prints a status for people: what is wrong first, then the lease, then a line for each peer. now is the time to count from.
func show(out io.Writer, s Status, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	state := "ready"
	if !s.Ready {
		state = "not ready"
	}
	if s.Problem != "" {
		state += ": " + s.Problem
	}
	fmt.Fprintf(w, "state\t%s\n", state)
	until := "a reservation, does not end"
	if !s.Lease.Until.IsZero() {
		until = "ends in " + s.Lease.Until.Sub(now).Round(time.Second).String() + " if not renewed"
	}
	fmt.Fprintf(w, "subnet\t%s (%s)\n", s.Lease.Subnet, until)
	fmt.Fprintf(w, "underlay\t%s %s\n", s.Iface, s.Lease.PublicIP)
	fmt.Fprintf(w, "backend\t%s (%s)\n", s.Backend, s.Why)
	fmt.Fprintf(w, "mtu\t%d\n", s.MTU)
	store := "reached"
	if !s.Store.Contact {
		store = "not reached: " + s.Store.Err
	} else if s.Store.Err != "" {
		store = s.Store.Err
	}
	fmt.Fprintf(w, "store\t%s\n", store)
	if s.Drops != "" {
		fmt.Fprintf(w, "firewall\tdrops forwarded packets: accept the overlay's network in %s\n", s.Drops)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Devices)) {
		d := s.Devices[name]
		fmt.Fprintf(w, "%s\t%d bytes in, %d out, %d dropped, %d errors\n", name, d.RxBytes, d.TxBytes, d.RxDropped+d.TxDropped, d.TxErrors)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	fmt.Fprintln(w, "PEER\tMACHINE\tADDRESS\tBACKEND\tSTATE")
	for _, p := range s.Peers {
		state := "ok"
		switch {
		case p.Skipped != "":
			state = "no path: " + p.Skipped
		case p.Failed != "":
			state = "refused: " + p.Failed
		case p.Silent:
			state = "does not answer"
		case p.RTT > 0:
			state = "answers in " + p.RTT.Round(time.Microsecond).String()
		case !p.Handshake.IsZero():
			state = "handshake " + now.Sub(p.Handshake).Round(time.Second).String() + " ago"
		case s.Backend == network.WireGuard:
			state = "no handshake yet: nothing was sent"
		}
		machine := p.Machine
		if len(machine) > 8 {
			machine = machine[:8]
		}
		if machine == "" {
			machine = "flannel"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Subnet, machine, p.PublicIP, p.Backend, state)
	}
	return w.Flush()
}
