package fleettest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/registry"
)

// store opens the etcd of a host by the socket that programs on it use. close ends the connection.
func (r *rig) store(h *host.Host) (c *clientv3.Client, err error) {
	path, err := h.Path("/run/fleet/etcd.sock")
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + path}, DialTimeout: 2 * time.Second})
}

// anyRegistry calls f with the registry as the first host serves it that can.
func (r *rig) anyRegistry(f func(context.Context, *registry.Registry, *clientv3.Client) error) error {
	err := errors.New("no host is on")
	for _, h := range r.Hosts() {
		if !h.On() {
			continue
		}
		var c *clientv3.Client
		if c, err = r.store(h); err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
		err = f(ctx, registry.New(etcd.New(c), "/fleet/", slog.New(slog.DiscardHandler)), c)
		cancel()
		_ = c.Close()
		if err == nil {
			return nil
		}
	}
	return err
}

// term is the machine whose engine leads, as the store has it.
func (r *rig) term() (m fleet.MachineID, err error) {
	err = r.anyRegistry(func(ctx context.Context, reg *registry.Registry, _ *clientv3.Client) error {
		var ok bool
		if m, _, ok, err = reg.Leader(ctx); err == nil && !ok {
			err = errors.New("nobody leads")
		}
		return err
	})
	return m, err
}

func (r *rig) snapshot() (s fleet.Snapshot, err error) {
	err = r.anyRegistry(func(ctx context.Context, reg *registry.Registry, _ *clientv3.Client) error {
		s, err = reg.Snapshot(ctx)
		return err
	})
	return s, err
}

// voters counts the members of the store that vote.
func (r *rig) voters() (n int, err error) {
	err = r.anyRegistry(func(ctx context.Context, _ *registry.Registry, c *clientv3.Client) error {
		list, err := c.MemberList(ctx)
		if err != nil {
			return err
		}
		n = 0
		for _, m := range list.Members {
			if !m.IsLearner {
				n++
			}
		}
		return nil
	})
	return n, err
}

// revision is the store's: it grows with every write, but not when a lease is renewed.
func (r *rig) revision() (rev int64) {
	r.t.Helper()
	r.must(r.anyRegistry(func(ctx context.Context, _ *registry.Registry, c *clientv3.Client) error {
		resp, err := c.Get(ctx, "/fleet/", clientv3.WithCountOnly())
		if err == nil {
			rev = resp.Header.Revision
		}
		return err
	}))
	return rev
}

// settled waits until nothing is left to do: the store holds nothing that a plan would change or that waits for something, and every host
// runs what is placed on it, and nothing else.
func (r *rig) settled() fleet.Snapshot {
	r.t.Helper()
	var s fleet.Snapshot
	r.wait("the cluster to have nothing left to do", func() (err error) {
		if s, err = r.snapshot(); err != nil {
			return err
		}
		if ds := engine.Plan(s); len(ds) > 0 {
			return fmt.Errorf("%d decisions are open, such as %+v", len(ds), ds[0])
		}
		for k, p := range s.Placements {
			if p.Handover {
				return fmt.Errorf("%s on %s is being handed over", k.Unit, k.Machine.Short())
			}
		}
		for _, h := range r.Hosts() {
			if err := r.carriesOnly(h, s); err != nil {
				return err
			}
		}
		return nil
	})
	return s
}

// carriesOnly compares a host with the store.
func (r *rig) carriesOnly(h *host.Host, s fleet.Snapshot) error {
	self := fleet.MachineID(h.MachineID)
	if !h.On() {
		return nil
	}
	placed := map[string]bool{}
	for k, p := range s.Placements {
		if k.Machine == self {
			placed[string(k.Unit)] = true
			if o := s.Observed[k]; !o.Running(p.Hash, p.Target) && o.Active != "failed" {
				return fmt.Errorf("%s on %s is placed, but observed as %+v", k.Unit, h.Name, o)
			}
		}
	}
	for k := range s.Observed {
		if k.Machine == self && !placed[string(k.Unit)] {
			return fmt.Errorf("%s on %s is observed, but not placed", k.Unit, h.Name)
		}
	}
	out, err := h.Run(r.ctx, "ls", "/run/fleet/units")
	if err != nil {
		return err
	}
	files := map[string]bool{}
	for _, n := range strings.Fields(out) {
		files[n] = true
	}
	if !maps.Equal(files, placed) {
		return fmt.Errorf("%s has the units %v, placed are %v", h.Name, sorted(files), sorted(placed))
	}
	return nil
}

func sorted(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }

// event is one thing systemd told of a unit's run. All hosts have the same clock.
type event struct {
	host string
	at   time.Time
	what string // started, stopping, stopped or failed
	run  string // the invocation
}

// history is what the journals of all hosts that are on say of a unit, in order; also of earlier boots.
func (r *rig) history(u string) []event {
	r.t.Helper()
	var all []event
	for _, h := range r.Hosts() {
		if h.On() {
			all = append(all, r.journal(h)[u]...)
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return a.at.Compare(b.at) })
	return all
}

// kinds are the IDs that systemd gives its messages of each kind (sd-messages.h).

func kinds() map[string]string {
	return map[string]string{
		"39f53479d3a045ac8e11786248231fbf": "started",
		"de5b426a63be47a7b6ac3eaac82e2f6f": "stopping",
		"9d1aaa27d60140bd96365438aad20286": "stopped",
		"d9b373ed55a64feb8242e02dbe79a49c": "failed",
	}
}

// journal is what systemd wrote about all units of a host.
func (r *rig) journal(h *host.Host) map[string][]event {
	r.t.Helper()
	out, err := h.Sh(r.ctx, "journalctl --sync; journalctl -o json --output-fields=MESSAGE_ID,UNIT,INVOCATION_ID _PID=1")
	r.must(err)
	all := map[string][]event{}
	for line := range strings.Lines(out) {
		var entry struct {
			ID   string `json:"MESSAGE_ID"`
			Unit string `json:"UNIT"`
			Run  string `json:"INVOCATION_ID"`
			Time string `json:"__REALTIME_TIMESTAMP"`
		}
		r.must(json.Unmarshal([]byte(line), &entry))
		what := kinds()[entry.ID]
		if what == "" {
			continue
		}
		usec, err := strconv.ParseInt(entry.Time, 10, 64)
		r.must(err)
		all[entry.Unit] = append(all[entry.Unit], event{h.Name, time.UnixMicro(usec), what, entry.Run})
	}
	return all
}

// starts counts how often units were started on a host since its journal began.
func (r *rig) starts(h *host.Host) map[string]int {
	r.t.Helper()
	n := map[string]int{}
	for u, events := range r.journal(h) {
		for _, e := range events {
			if e.what == "started" {
				n[u]++
			}
		}
	}
	return n
}
