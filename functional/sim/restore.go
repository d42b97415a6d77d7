package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// leap is by how much a restore moves the store's revision on.
const leap = 1_000_000

// restore sets the store back to the last backup. It is another cluster then: what was on its way to the old one is lost.
func (w *world) restore() {
	if w.saved == nil {
		w.note("there is no backup")
		return
	}
	w.tick()
	w.inFlight = nil
	w.cluster++
	w.rev += leap
	w.mem.Restore(w.saved, w.rev)
	w.clearStale()
	w.compacted, w.floor, w.leaderRev = w.rev, w.rev, w.rev
	w.history = nil
	w.note("cluster %d from %d", w.cluster, w.rev)
	w.readAll()
	for _, h := range w.hosts {
		w.ordersRev[h.id] = w.rev
		h.lostAt = time.Time{}
	}
	w.facts.losses = newLosses() // nobody is registered in the new cluster
}

// clearStale is fleetd/member's: what was planned in the lost time must not find its guards as they were.
func (w *world) clearStale() {
	kvs, _, err := w.mem.Range(context.Background(), registry.Leased(prefix)...)
	if err != nil {
		panic(err) // the memory store has no faults
	}
	if w.opt.KeepStale {
		return
	}
	for _, e := range slices.Concat(kvs...) {
		if err := w.mem.Revoke(context.Background(), e.Lease); err != nil {
			panic(err)
		}
	}
	w.rev = w.mem.Rev()
}

// readAll takes in the whole store, and what the rules remember of what is stored: the past is another one now.
func (w *world) readAll() {
	snap, err := registry.New(w.mem, prefix, w.log).Snapshot(context.Background())
	if err != nil {
		panic(err) // the memory store has no faults
	}
	w.snap = snap
	kvs, _, err := w.mem.Range(context.Background(), prefix+"files/", prefix+"leader")
	if err != nil {
		panic(err)
	}
	w.files = map[unit.Hash]bool{}
	for _, e := range kvs[0] {
		w.files[unit.Hash(strings.TrimPrefix(e.Key, prefix+"files/"))] = true
	}
	w.leaderCreate = 0
	for _, e := range kvs[1] {
		w.leaderCreate = e.Create
	}
	f := &w.facts
	f.placed, f.ran = map[fleet.Key]int64{}, map[fleet.Key]fleet.Observation{}
	for k, p := range snap.Placements {
		f.placed[k] = p.Rev
		if o := snap.Observed[k]; o.Running(o.Hash, p.Target) {
			f.ran[k] = o
		}
	}
	for _, h := range w.hosts {
		m := snap.Machines[h.id]
		if was := f.rev[h.id]; was != m.Rev {
			f.lost[registration{h.id, was}] = w.rev
		}
		delete(f.lost, registration{h.id, m.Rev})
		f.rev[h.id], f.offers[h.id], f.offered[h.id] = m.Rev, m, w.now
	}
}

// settle is after what time nothing runs any more under a lease of before: fleetd/continuity.go.
func settleTime() time.Duration {
	return fleet.Failover(machineTTL, unit.Stop{Class: slices.Max(unit.StopClasses())}.Budget())
}

// obeys is fleetd's continuity.check, asked when orders have been read: whether they are to be carried out.
func (p *process) obeys() bool {
	h := p.h
	strange := h.seen != 0 && h.seen != h.w.cluster
	if strange && p.met != h.w.cluster {
		p.met = h.w.cluster
		h.settling, h.settledAt = true, h.w.now.Add(2*settleTime())
		p.settleOn()
	}
	if strange && h.w.confirmed < h.w.cluster && !h.w.opt.Obedient {
		h.w.note("not obeyed")
		return false
	}
	if h.first == 0 {
		h.first = h.w.cluster
	}
	h.seen, h.floor = h.w.cluster, h.w.floor
	return true
}

// settleOn holds exclusive units down, also in a process that was started meanwhile.
func (p *process) settleOn() {
	if p.h.settling && p.h.w.now.Before(p.h.settledAt) && !p.h.w.opt.NoSettle {
		p.feed.Hold(settleTime())
		p.heldTill = p.h.w.now.Add(settleTime())
	}
}

// sameCluster is kv/etcd's: a lease is of the cluster that granted it.
func (p *process) sameCluster(id kv.LeaseID) error {
	of, known := p.leases[id]
	if !known {
		p.leases[id] = p.h.w.cluster
	} else if of != p.h.w.cluster && !p.h.w.opt.NoSettle {
		return fmt.Errorf("simulated: of another cluster: %w", kv.ErrLeaseGone)
	}
	return nil
}

// unconfirmed: a host that knew the cluster of before stops and starts nothing by a restored plan that nobody has confirmed.
func (w *world) unconfirmed(p *process, what string, n unit.Name) {
	knew := p.h.first != 0 && p.h.first < w.cluster
	if w.confirmed < w.cluster && p.orders.Rev >= w.floor && knew && !p.departing {
		w.broken("unconfirmed", "%s %s %s by a restored plan", p.h.name, what, n)
	}
}

// setBack are faults of which seeds get some that have them at all: the store is restored from a backup, and clocks are set.
func setBack() []func(*maker, *host) []step {
	return []func(*maker, *host) []step{
		func(m *maker, _ *host) []step {
			back := 2*time.Second + m.about(15*time.Second)
			m.then(back, "store", "restore")
			m.then(back+m.about(15*time.Second), "store", "confirm")
			return []step{{who: "store", verb: "save"}}
		},
		func(m *maker, h *host) []step {
			d := m.about(15 * time.Second)
			if m.oneIn(2) {
				d = -d
			}
			return []step{{who: h.name, verb: "jump", args: []string{d.String()}}}
		},
	}
}
