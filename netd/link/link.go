// Package link makes one host's kernel what a network.Host says: devices, addresses, routes, neighbours, forwarding
// entries, WireGuard peers, nftables rules and settings. It is the only room that speaks netlink, nftables and WireGuard.
// It decides nothing about the network and touches only what is netd's: devices with its mark, routes with its protocol
// number, one nftables table. netd's run.go calls it.
package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/fleet-init/fleet/internal/network"
)

// Kernel is what a Linker works on: the real one, or a test's.
type Kernel interface {
	// Observe reads what is there of netd's, and what a asks for beyond.
	Observe(ctx context.Context, a Ask) (State, error)
	// Do carries the steps out in order and gives one error, or nil, for each; one that fails does not stop the rest.
	Do(ctx context.Context, steps []Step) []error
}

// Ask is what to read that need not be netd's.
type Ask struct {
	Devices []string // by name, whoever made them
	Adopt   bool     // also what somebody else put on those
	Sysctls []string // by name
}

// State is what the kernel holds of netd's.
type State struct {
	Devices []Device
	Routes  []network.Route
	Neighs  []network.Neigh
	FDB     []network.FDB
	WG      []network.WGPeer // endpoints are those that peers were last heard from
	Rules   []string
	Sysctls map[string]string
}

// Device is a network device as it is.
type Device struct {
	network.Device
	Ours bool // it has this netd's mark
	Up   bool
}

// Step is one change, as text and as value: exactly one of the pointers is set.
type Step struct {
	Verb   string // add, set, replace or delete
	Device *network.Device
	Route  *network.Route
	Neigh  *network.Neigh
	FDB    *network.FDB
	WG     *network.WGPeer
	Sysctl *network.Sysctl
	Rules  []string // replace all rules
	Peer   string   // the lease it belongs to, if any
}

// String is the step as a line that an administrator can read: the verb, then the thing in ip's words. Tests compare it, and the log shows it.
func (s Step) String() string {
	switch {
	case s.Device != nil && s.Verb == "delete":
		return "delete device " + s.Device.Name
	case s.Device != nil:
		return s.Verb + " device " + s.Device.String()
	case s.Route != nil:
		return s.Verb + " route " + s.Route.String()
	case s.Neigh != nil:
		return s.Verb + " neigh " + s.Neigh.String()
	case s.FDB != nil:
		return s.Verb + " fdb " + s.FDB.String()
	case s.WG != nil:
		return s.Verb + " wireguard " + s.WG.String()
	case s.Sysctl != nil:
		return s.Verb + " sysctl " + s.Sysctl.Name + "=" + s.Sysctl.Value
	}
	return fmt.Sprintf("%s rules (%d)", s.Verb, len(s.Rules))
}

// Report says what a Set did.
type Report struct {
	Steps  []string          // what was changed, one line each
	Failed map[string]string // peers (or "" for the host itself) with the first thing that failed
}

// Linker keeps one host's kernel in order. Its methods may be called by several goroutines; one works at a time.
type Linker struct {
	mu     sync.Mutex // guards the rest
	kernel Kernel
	last   network.Host            // what was asked for last, without its peers
	peers  map[string]network.Peer // and they
	asked  map[wgKey]netip.AddrPort
	first  bool
}

// wgKey is what WireGuard tells its peers apart by.
type wgKey struct{ dev, pub string }

// New returns a Linker that has not looked at the kernel yet.
func New(k Kernel) *Linker {
	return &Linker{kernel: k, peers: map[string]network.Peer{}, asked: map[wgKey]netip.AddrPort{}, first: true}
}

// Set makes the kernel what h says. It reads what is there and does only what differs, so that a second call is no work and
// what somebody else removed comes back. A peer that fails is in the report and does not stop the others; the error is for
// what keeps the host itself from working.
func (l *Linker) Set(ctx context.Context, h network.Host) (Report, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ask := Ask{Adopt: l.first}
	for _, d := range h.Devices {
		ask.Devices = append(ask.Devices, d.Name)
	}
	for _, s := range h.Sysctls {
		ask.Sysctls = append(ask.Sysctls, s.Name)
	}
	have, err := l.kernel.Observe(ctx, ask)
	if err != nil {
		return Report{}, fmt.Errorf("read the kernel's network: %w", err)
	}
	// A WireGuard peer behind NAT is heard from elsewhere than its lease says, and where it was heard from is right: what
	// counts is whether we ask for something else than last time.
	for i, w := range have.WG {
		if to, ok := l.asked[wgKey{w.Dev, w.PublicKey}]; ok {
			have.WG[i].Endpoint = to
		}
	}
	nets := append(slices.Clone(h.Networks), l.last.Networks...)
	steps := diff(have, h, func(r network.Route) bool { return inside(r, nets) })
	rep, err := l.do(ctx, steps)
	l.first = false
	l.last = h
	l.last.Peers = nil
	l.peers = make(map[string]network.Peer, len(h.Peers))
	clear(l.asked)
	l.remember(h.Peers)
	return rep, err
}

// remember notes what was asked for, for the next change of these peers and for endpoints that move by themselves.
func (l *Linker) remember(peers []network.Peer) {
	for _, p := range peers {
		l.peers[p.Name] = p
		for _, w := range p.WG {
			l.asked[wgKey{w.Dev, w.PublicKey}] = w.Endpoint
		}
	}
}

// Peers changes single peers, without reading anything: it costs the same among ten peers and among thousands. What it gets
// wrong, because somebody else changed the kernel meanwhile, the next Set repairs.
func (l *Linker) Peers(ctx context.Context, set []network.Peer, gone []string) (Report, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var before, after []network.Peer
	for _, p := range set {
		if old, ok := l.peers[p.Name]; ok {
			before = append(before, old)
		}
		after = append(after, p)
	}
	for _, n := range gone {
		if old, ok := l.peers[n]; ok {
			before = append(before, old)
		}
	}
	steps := diff(pathState(before), network.Host{Peers: after}, func(network.Route) bool { return true })
	rep, err := l.do(ctx, steps)
	for _, n := range gone {
		delete(l.peers, n)
	}
	l.remember(set)
	return rep, err
}

// pathState is the kernel as it is if these peers and nothing else are in it.
func pathState(peers []network.Peer) State {
	var s State
	for _, p := range peers {
		s.Routes = append(s.Routes, p.Routes...)
		s.Neighs = append(s.Neighs, p.Neighs...)
		s.FDB = append(s.FDB, p.FDB...)
		s.WG = append(s.WG, p.WG...)
	}
	return s
}

// Clean removes everything that is netd's from the kernel. Settings under /proc/sys stay: others may rely on them by now.
func (l *Linker) Clean(ctx context.Context) (Report, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, err := l.kernel.Observe(ctx, Ask{})
	if err != nil {
		return Report{}, fmt.Errorf("read the kernel's network: %w", err)
	}
	steps := diff(have, network.Host{}, func(network.Route) bool { return true })
	l.peers, l.first, l.last = map[string]network.Peer{}, true, network.Host{}
	return l.do(ctx, steps)
}

// WireGuard reads the WireGuard peers of a device as they are, for status: among them when each was last heard from.
type WireGuard interface {
	Handshakes(dev string) (map[string]int64, error) // public key → unix time, 0 = never
}

// do takes the steps and sorts their errors: what concerns one peer is in the report, by the peer's name; what concerns the host is the error too, unless it is
// about something that was to go.
func (l *Linker) do(ctx context.Context, steps []Step) (Report, error) {
	rep := Report{Failed: map[string]string{}}
	if len(steps) == 0 {
		return rep, nil
	}
	// Devices come first. Where one cannot be had, the rest would only take away what still works.
	devices := slices.IndexFunc(steps, func(s Step) bool { return s.Device == nil })
	if devices < 0 {
		devices = len(steps)
	}
	errs := l.kernel.Do(ctx, steps[:devices])
	if errors.Join(errs...) == nil {
		errs = append(errs, l.kernel.Do(ctx, steps[devices:])...)
	}
	var fatal []error
	for i, s := range steps[:len(errs)] {
		rep.Steps = append(rep.Steps, s.String())
		if errs[i] == nil {
			continue
		}
		err := fmt.Errorf("%s: %w", s, errs[i])
		if s.Peer == "" && s.Verb != "delete" {
			fatal = append(fatal, err)
		}
		if _, ok := rep.Failed[s.Peer]; !ok {
			rep.Failed[s.Peer] = err.Error()
		}
	}
	return rep, errors.Join(fatal...)
}

// inside tells whether a route leads into one of these networks.
func inside(r network.Route, nets []netip.Prefix) bool {
	return slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Bits() <= r.Dst.Bits() && n.Contains(r.Dst.Addr()) })
}

// String prints the state in a fixed order, one line per thing.
func (s State) String() string {
	var lines []string
	for _, d := range s.Devices {
		line := "device " + d.Device.String()
		if !d.Up {
			line += " down"
		}
		if !d.Ours {
			line += " foreign"
		}
		lines = append(lines, line)
	}
	var rest []string
	for _, r := range s.Routes {
		rest = append(rest, "route "+r.String())
	}
	for _, n := range s.Neighs {
		rest = append(rest, "neigh "+n.String())
	}
	for _, f := range s.FDB {
		rest = append(rest, "fdb "+f.String())
	}
	for _, w := range s.WG {
		rest = append(rest, "wireguard "+w.String())
	}
	slices.Sort(rest)
	slices.Sort(lines)
	lines = append(lines, rest...)
	for _, r := range s.Rules {
		lines = append(lines, "rule "+r)
	}
	return strings.Join(lines, "\n") + "\n"
}

// byChain puts rules in the order in which the kernel gives them back: chain by chain, each in its own order.
func byChain(rules []string) []string {
	out := slices.Clone(rules)
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(chainOf(a), chainOf(b)) })
	return out
}

// chainOf is a rule's first word, and at a device's egress the device too.
func chainOf(rule string) string {
	c, rest, _ := strings.Cut(rule, " ")
	if c == egress {
		dev, _, _ := strings.Cut(rest, " ")
		c += " " + dev
	}
	return c
}
