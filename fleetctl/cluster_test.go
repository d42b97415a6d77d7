package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// cluster is a fleetd on a socket without the daemon: the API over the real registry on a memory store, a planner of
// thirty lines, and machines whose systemd does at once what the unit's ExecStart says.
type cluster struct {
	reg    *registry.Registry
	socket string
	cancel context.CancelFunc
	ctx    context.Context
	tasks  sync.WaitGroup

	journal  *fakeJournal
	requests counter

	server     *http.Server
	stopServer context.CancelFunc
	presences  map[fleet.MachineID]registry.Presence
}

func newCluster(tb testing.TB, socket string) *cluster {
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	c := &cluster{ctx: ctx, cancel: cancel, socket: socket, journal: newFakeJournal(), presences: map[fleet.MachineID]registry.Presence{}}
	c.reg = registry.New(kv.NewMemory(time.Now), "/fleet/", log)
	c.serve(tb)
	term, ok, err := c.reg.Campaign(ctx, "engine", "1.2.3", time.Hour)
	if err != nil || !ok {
		tb.Fatal("campaign:", err)
	}
	c.task(func() { c.plan(tb, term) })
	return c
}

func (c *cluster) serve(tb testing.TB) {
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(c.ctx)
	handler := api.NewHandler(api.Config{Registry: c.reg, Explain: explain, Restart: c.reg.Restart, Version: "1.2.3", Journal: c.journal.read, Network: c.network})
	server := api.NewServer(ctx, c.requests.count(handler), log)
	l, err := net.Listen("unix", c.socket)
	if err != nil {
		tb.Fatal(err)
	}
	c.task(func() { _ = server.Serve(l) }) // ends with ErrServerClosed
	c.server, c.stopServer = server, cancel
}

// restartServer is fleetd's API ending as it should and coming back.
func (c *cluster) restartServer(tb testing.TB) {
	c.stopServer()
	if err := c.server.Shutdown(c.ctx); err != nil {
		tb.Fatal(err)
	}
	c.serve(tb)
}

func (c *cluster) task(f func()) { c.tasks.Go(f) }

func (c *cluster) stop() {
	c.cancel()
	_ = c.server.Close() // nothing is left to lose
	c.tasks.Wait()
}

// each calls turn with a new snapshot now and after every change.
func (c *cluster) each(turn func(s fleet.Snapshot)) {
	s, err := c.reg.Snapshot(c.ctx)
	if err != nil {
		return
	}
	turn(s)
	for range c.reg.Watch(c.ctx, s) {
		if s, err = c.reg.Snapshot(c.ctx); err != nil {
			return
		}
		turn(s)
	}
}

// plan gives every unit the first machine that fits, and withdraws what is not wanted.
func (c *cluster) plan(tb testing.TB, term fleet.Term) {
	c.each(func(s fleet.Snapshot) {
		if ds := decide(s); len(ds) > 0 {
			if _, _, err := c.reg.Commit(c.ctx, term, ds); err != nil && c.ctx.Err() == nil {
				tb.Error("commit:", err)
			}
		}
	})
}

func decide(s fleet.Snapshot) []fleet.Decision {
	var ds []fleet.Decision
	for _, name := range slices.Sorted(maps.Keys(s.Units)) {
		u := s.Units[name]
		for _, id := range slices.Sorted(maps.Keys(s.Machines)) {
			d := fleet.Decision{Unit: name, Machine: id, Hash: u.Hash, Target: u.Target, UnitRev: u.Rev, MachineRev: s.Machines[id].Rev}
			p, placed := s.Placements[fleet.Key{Machine: id, Unit: name}]
			d.Rev = p.Rev
			switch wanted := u.Target != fleet.Inactive && refusal(s.Machines[id], u) == "" && (u.Needs.Global || !elsewhere(s, name, id)); {
			case placed && u.Target == fleet.Inactive:
				d.Kind = fleet.Withdraw
			case placed && (p.Hash != u.Hash || p.Target != u.Target):
				d.Kind = fleet.Update
			case !placed && wanted:
				d.Kind = fleet.Place
			default:
				continue
			}
			ds = append(ds, d)
			if !u.Needs.Global {
				break
			}
		}
	}
	for k, p := range s.Placements { // one commit holds them all: their order does not show
		if _, known := s.Units[k.Unit]; !known {
			ds = append(ds, fleet.Decision{Kind: fleet.Withdraw, Unit: k.Unit, Machine: k.Machine, Rev: p.Rev, MachineRev: s.Machines[k.Machine].Rev})
		}
	}
	return ds
}

func elsewhere(s fleet.Snapshot, name unit.Name, id fleet.MachineID) bool {
	for k := range s.Placements {
		if k.Unit == name && k.Machine != id {
			return true
		}
	}
	return false
}

func refusal(m fleet.Machine, u fleet.Unit) string {
	for key, values := range u.Needs.Metadata {
		if !slices.Contains(values, m.Metadata[key]) {
			return fmt.Sprintf("wants %s=%s, machine has %q", key, strings.Join(values, "|"), m.Metadata[key])
		}
	}
	return ""
}

func explain(s fleet.Snapshot, names ...unit.Name) []fleet.Explanation {
	var out []fleet.Explanation
	for _, name := range names {
		x := fleet.Explanation{Unit: name}
		for _, id := range slices.Sorted(maps.Keys(s.Machines)) {
			if r := refusal(s.Machines[id], s.Units[name]); r != "" {
				x.Refusals = append(x.Refusals, fleet.Refusal{Machine: id, Reason: r})
			} else {
				x.Machine = id
			}
		}
		if x.Machine != "" {
			x.Refusals = nil
		} else if len(x.Refusals) == 0 {
			x.Reason = "no machine is registered"
		}
		out = append(out, x)
	}
	return out
}

// machine adds a host with its agent.
func (c *cluster) machine(id, ip string, metadata map[string]string) error {
	p, err := c.reg.Register(c.ctx, registry.Hello{
		Machine: fleet.Machine{ID: fleet.MachineID(id), IP: netip.MustParseAddr(ip), Metadata: metadata, Version: "1.2.3"}, Instance: id,
	}, time.Hour)
	if err != nil {
		return err
	}
	c.presences[fleet.MachineID(id)] = p
	c.task(func() {
		known := map[unit.Name]fleet.Observation{}
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		o, err := c.reg.Orders(c.ctx, p)
		for orders := c.reg.WatchOrders(c.ctx, p, o); err == nil; {
			for _, changed := range c.carryOut(o, known, &now) {
				err = c.reg.Report(c.ctx, p, changed, nil)
			}
			var gone []unit.Name
			for _, name := range slices.Sorted(maps.Keys(known)) {
				if _, placed := o.Placements[name]; !placed {
					delete(known, name)
					gone = append(gone, name)
				}
			}
			if len(gone) > 0 {
				err = c.reg.Report(c.ctx, p, nil, gone)
			}
			var more bool
			if o, more = <-orders; !more {
				return
			}
		}
	})
	return nil
}

// carryOut returns what an agent reports, one list after the other, while it does what the placements say.
func (c *cluster) carryOut(o registry.Orders, known map[unit.Name]fleet.Observation, now *time.Time) [][]fleet.Observation {
	var first, then []fleet.Observation
	for _, name := range slices.Sorted(maps.Keys(o.Placements)) {
		p := o.Placements[name]
		old, loaded := known[name]
		if loaded && old.Hash == p.Hash && old.Launched == (p.Target == fleet.Launched) && old.Reason == "" &&
			old.Restarted >= o.Restarts[name] {
			continue
		}
		*now = now.Add(time.Second)
		s := fleet.Observation{Unit: name, Machine: p.Machine, Hash: p.Hash, Load: "loaded", Active: "inactive", Sub: "dead", Result: "success",
			Order: p.Rev, Restarted: o.Restarts[name]}
		if loaded {
			s.Since = *now
		}
		if p.Target == fleet.Launched {
			files, err := c.reg.Files(c.ctx, p.Hash)
			if err != nil || files[p.Hash] == nil {
				continue
			}
			s.Launched = true
			s.Since = *now
			before := s
			before.Active, before.Sub = "activating", "start"
			first = append(first, before)
			if !launch(c.journal, &s, files[p.Hash].Get("Service", "ExecStart")[0]) {
				known[name] = before
				continue
			}
		}
		then = append(then, s)
		known[name] = s
	}
	return [][]fleet.Observation{first, then}
}

// launch is systemd: what becomes of a service by its command. ok=false: it stays activating.
func launch(journal *fakeJournal, s *fleet.Observation, exec string) (ok bool) {
	switch exec {
	case "/bin/true": // a oneshot
	case "/bin/false":
		journal.add(s.Machine, s.Unit, "Main process exited, code=exited, status=1/FAILURE")
		journal.add(s.Machine, s.Unit, "Failed with result 'exit-code'.")
		s.Active, s.Sub, s.Result = "failed", "failed", "exit-code"
	case "/bin/missing":
		s.Active, s.Reason, s.Launched = "inactive", "write /run/fleet/units: no space left on device", false
	case "/bin/forever":
		return false
	default:
		s.Active, s.Sub = "active", "running"
	}
	return true
}
