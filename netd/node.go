package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/internal/run"
	"github.com/fleet-init/fleet/netd/link"
	"github.com/fleet-init/fleet/netd/overlay"
	"github.com/fleet-init/fleet/netd/subnet"
)

// node joins the rooms: what the keeper knows goes through overlay's plan into the kernel, and into the files that others
// read. One goroutine, loop, does all the work.
type node struct {
	c      Config
	log    *slog.Logger
	kernel *link.Real
	linker *link.Linker
	keeper *subnet.Keeper
	files  files
	notify run.Notifier

	// mu guards the rest: loop writes it, the keeper's goroutine and requests read it.
	mu      sync.Mutex
	self    overlay.Self
	view    subnet.View
	backend string
	why     string // of the backend
	mtu     int
	skipped map[string]string // leases without a path
	failed  map[string]string // peers whose path the kernel refused
	problem error             // what keeps the whole host from being in order
	ready   bool              // the kernel was in order once
	resumed bool              // the last known state named a subnet
	fresh   bool              // view is from the store, not from disk
	dirty   bool              // the state on disk is older than view
	turned  time.Time         // end of the last turn
	drops   string            // chains of others that drop forwarded packets
	repairs int               // steps of turns that nothing had asked for
	took    time.Duration
}

// start takes over the last known state, so that the first turn works without the store.
func (n *node) start(v subnet.View) {
	n.skipped, n.failed = map[string]string{}, map[string]string{}
	if v.ConfigText == "" {
		return // a wish for a subnet at most: nothing to program
	}
	n.view, n.resumed = v, true
	n.view.Peers = maps.Clone(v.Peers)
	if n.view.Peers == nil {
		n.view.Peers = map[string]network.Lease{}
	}
}

// describe is the keeper's question what this machine's lease shall say.
func (n *node) describe(c network.Config, others []network.Lease) (network.Lease, error) {
	u, err := n.underlay()
	if err != nil {
		return network.Lease{}, err
	}
	n.mu.Lock()
	n.self.Underlay = u
	self := n.self
	n.mu.Unlock()
	backend, _ := overlay.Agree(c, self, others)
	if err := overlay.Check(c, self, backend); err != nil {
		return network.Lease{}, err
	}
	return overlay.Describe(c, self, others), nil
}

// underlay looks which interface carries the overlay, anew each time: addresses and routes change while netd runs.
func (n *node) underlay() (network.Underlay, error) {
	reach, _ := netip.ParseAddr(n.c.Want.CanReach) // checked with the flags; none is none
	links, err := n.kernel.Links(reach)
	if err != nil {
		return network.Underlay{}, err
	}
	return overlay.Pick(n.c.Want, links)
}

// settle is how long changes of the host's devices and routes are gathered before the kernel is looked through: starting
// workloads make a handful each.
const settle = 300 * time.Millisecond

// loop does a full turn at first, at every tick and after changes of the host by another hand; changed peers alone are
// handed on as they are.
func (n *node) loop(ctx context.Context, hostChanged <-chan struct{}) error {
	tick := time.NewTicker(n.c.Resync)
	defer tick.Stop()
	var settled <-chan time.Time
	asked := true
	for {
		if err := n.full(ctx, asked); err != nil {
			return err
		}
		asked = false
		for more := true; more; {
			select {
			case <-ctx.Done():
				return n.save()
			case <-n.keeper.Wake():
				asked = n.take(ctx, n.keeper.Take())
				more = !asked
			case <-hostChanged:
				if settled == nil {
					settled = time.After(settle)
				}
			case <-settled:
				settled, more = nil, false
			case <-tick.C:
				more = false
			}
		}
	}
}

// take lets a change in and gives true when it needs a full turn.
func (n *node) take(ctx context.Context, c subnet.Change) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dirty = true
	if c.Full {
		n.view, n.fresh = c.View, true
		return true
	}
	var forget []netip.Prefix
	var gone []string
	for name := range c.Gone {
		forget = append(forget, n.view.Peers[name].V4, n.view.Peers[name].V6)
		delete(n.view.Peers, name)
		delete(n.skipped, name)
		delete(n.failed, name)
		gone = append(gone, name)
	}
	maps.Copy(n.view.Peers, c.Set)
	if backend := n.agreed(); !n.ready || n.problem != nil || backend != n.backend {
		return true
	}
	p := overlay.NewPlanner(n.view.Config, n.self, n.view.Own, n.backend)
	var set []network.Peer
	for name, l := range c.Set {
		delete(n.skipped, name)
		delete(n.failed, name)
		peer, skip := p.Peer(l)
		if skip != "" {
			n.skip(name, skip)
			gone = append(gone, name)
			continue
		}
		set = append(set, peer)
	}
	network.SortPeers(set)
	slices.Sort(gone)
	rep, err := n.linker.Peers(ctx, set, gone)
	n.report(rep, n.failed)
	if err != nil {
		n.log.Error("cannot program peers", "err", err)
	}
	n.log.Debug("peers changed", "set", len(set), "gone", len(gone), "steps", len(rep.Steps))
	if err := n.kernel.Forget(forget); err != nil {
		n.log.Warn("old connections are remembered", "err", err)
	}
	return false
}

// agreed is the backend as of now. Where the configuration names it, the peers are not even looked at.
func (n *node) agreed() string {
	if t := n.view.Config.Backend.Type; t != "" {
		n.why = "the configuration names it"
		return t
	}
	var backend string
	backend, n.why = overlay.Agree(n.view.Config, n.self, slices.Collect(maps.Values(n.view.Peers)))
	return backend
}

// skip keeps why a lease has no path. It is logged once, not at each look.
func (n *node) skip(name, reason string) {
	if n.skipped[name] != reason {
		n.log.Warn("no path to a peer", "peer", name, "reason", reason)
	}
	n.skipped[name] = reason
}

// report keeps what the kernel refused of peers, and tells what was not said before. What it refused of the host is a turn's error.
func (n *node) report(rep link.Report, said map[string]string) {
	for name, text := range rep.Failed {
		if name == "" {
			continue
		}
		if said[name] != text {
			n.log.Warn("kernel refused", "peer", name, "err", text)
		}
		n.failed[name] = text
	}
}

// full makes everything as it must be. Trouble is kept for status and tried again next time; only a host that never worked
// gives up, so that systemd sees it.
func (n *node) full(ctx context.Context, asked bool) error {
	begun := time.Now()
	err := n.turn(ctx, asked)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.turned, n.took = time.Now(), time.Since(begun)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil && !n.ready && !n.resumed {
		return err
	}
	if err != nil && (n.problem == nil || n.problem.Error() != err.Error()) {
		n.log.Error("the network is not in order", "err", err)
	}
	if err == nil && n.problem != nil {
		n.log.Info("the network is in order again")
	}
	n.problem = err
	return nil
}

// turn looks through everything and puts right what is not as it must be. asked says that something new was asked for, so that what it changes is no
// repair. Without a subnet there is nothing to do.
func (n *node) turn(ctx context.Context, asked bool) error {
	u, err := n.underlay()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.view.ConfigText == "" {
		return nil // no subnet yet; the keeper tells why
	}
	if err != nil {
		return fmt.Errorf("choose the underlay: %w", err)
	}
	if !sameUnderlay(u, n.self.Underlay) {
		if n.self.Underlay.Name != "" {
			n.log.Info("underlay changed", "iface", u.Name, "ip", u.PublicV4, "mtu", u.MTU)
		}
		n.self.Underlay = u
		n.keeper.Redescribe()
	}
	// Once followed, always: connections come and go, and rules that came and went with them would be a change each time.
	if !n.self.Tracked && link.TracksConnections() {
		n.self.Tracked, asked = true, true
	}
	backend := n.agreed()
	if backend != n.backend {
		n.log.Info("backend", "type", backend, "reason", n.why)
		n.backend = backend
	}
	if err := overlay.Check(n.view.Config, n.self, backend); err != nil {
		return err
	}
	host := overlay.NewPlanner(n.view.Config, n.self, n.view.Own, backend).Plan(slices.Collect(maps.Values(n.view.Peers)))
	host.KeepOthers = !n.fresh
	rep, err := n.linker.Set(ctx, host)
	if err != nil && !n.ready && !n.resumed {
		// Half a network is worse than none: take back what was made.
		_, cerr := n.linker.Clean(ctx)
		return errors.Join(err, cerr)
	}
	if !asked && err == nil && len(rep.Steps) > 0 {
		n.repairs += len(rep.Steps)
		n.log.Info("repaired", "steps", len(rep.Steps), "first", rep.Steps[0])
	}
	said := n.failed
	n.failed = map[string]string{}
	n.report(rep, said)
	old := n.skipped
	n.skipped = map[string]string{}
	for _, s := range host.Skipped {
		if old[s.Name] == s.Reason {
			n.skipped[s.Name] = s.Reason
		}
		n.skip(s.Name, s.Reason)
	}
	n.trim()
	n.mtu = host.MTU
	if n.c.ForwardRules {
		drops, derr := n.kernel.DropsForwarded()
		if text := strings.Join(drops, ", "); text != n.drops {
			n.drops = text
			n.log.Warn("another firewall drops forwarded packets: accept the overlay's network there", "chains", text, "err", derr)
		}
	}
	if err != nil {
		return err
	}
	return n.publish()
}

// trim takes the bridge's address of a subnet that was ours and is another machine's now: the kernel would go on looking for that machine's
// workloads on the bridge. As long as nobody else has the subnet, workloads from before go on with it.
func (n *node) trim() {
	gone, err := n.kernel.TrimBridge(cniBridge, func(p netip.Prefix) bool {
		if p.Overlaps(n.view.Own.V4) || p.Overlaps(n.view.Own.V6) {
			return false
		}
		for _, l := range n.view.Peers {
			if p.Overlaps(l.V4) || p.Overlaps(l.V6) {
				return true
			}
		}
		return false
	})
	if len(gone) > 0 || err != nil {
		n.log.Warn("the bridge had an address of a subnet that another machine has now: units with addresses of it are restarted, containers are yours to restart", "gone", gone, "err", err)
	}
}

// publish writes what others read, and tells systemd.
func (n *node) publish() error {
	if err := n.files.subnetEnv(n.view.Config, n.view.Own, n.mtu); err != nil {
		return err
	}
	if err := n.files.conflist(n.view, n.mtu); err != nil {
		return err
	}
	if n.dirty {
		if err := n.files.keep(n.view); err != nil {
			return err
		}
		n.dirty = false
	}
	if !n.ready {
		n.ready = true
		n.log.Info("network is up", "subnet", n.view.Own.Name(), "backend", n.backend, "mtu", n.mtu, "peers", len(n.view.Peers), "iface", n.self.Underlay.Name)
		if err := n.notify.Ready(); err != nil {
			return fmt.Errorf("tell systemd: %w", err)
		}
	}
	return nil
}

// save writes the last known state at the end, for the next start.
func (n *node) save() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.dirty || !n.ready {
		return nil
	}
	n.dirty = false
	return n.files.keep(n.view)
}

// sameUnderlay compares all that a lease or a plan is made from.
func sameUnderlay(a, b network.Underlay) bool {
	on := slices.Equal(a.OnLink, b.OnLink) && slices.Equal(a.Beside, b.Beside)
	a.OnLink, b.OnLink = nil, nil
	return on && a.Name == b.Name && a.Index == b.Index && a.MTU == b.MTU && a.V4 == b.V4 && a.V6 == b.V6 && a.PublicV4 == b.PublicV4 && a.PublicV6 == b.PublicV6
}
