package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/unit"
)

// reboots answers who may reboot, out of what this fleetd knows of the cluster: docs/decisions/0022-reboots-and-updates.md.
type reboots struct {
	permits  reboot.Permits
	snapshot func(context.Context) (fleet.Snapshot, error)
	guard    func(fleet.Machine) kv.Guard
	voters   func(context.Context) ([]voter, error)
	now      func() time.Time
	alarm    time.Duration // a holder that is away for longer is an alarm
}

// voter is one voting member of the store: where it serves clients says on which machine it is.
type voter struct {
	addrs   []netip.Addr
	started bool
}

func newReboots(h *host) *reboots {
	return &reboots{permits: reboot.Permits{Store: h.store, Prefix: h.cfg.EtcdKeyPrefix}, snapshot: h.registry.Snapshot, guard: h.registry.GuardMachine,
		voters: h.voters, now: time.Now, alarm: h.cfg.RebootAlarm}
}

// voters reads the members that vote. The store answers it itself, whatever this host's part in it is.
func (h *host) voters(ctx context.Context) ([]voter, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := h.member.Client().MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("who votes in the store: %w: %w", fleet.ErrNoStore, err)
	}
	var out []voter
	for _, m := range list.Members {
		if m.IsLearner {
			continue
		}
		v := voter{started: m.Name != ""}
		for _, s := range slices.Concat(m.ClientURLs, m.PeerURLs) {
			u, err := url.Parse(s)
			if err != nil {
				continue
			}
			if a, err := netip.ParseAddr(u.Hostname()); err == nil {
				v.addrs = append(v.addrs, a.Unmap())
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// most guards of one transaction; a cluster with more machines guards the voters only.
const mostGuards = kv.MaxOps - 8

// facts are what a permit of a group is decided on when a machine asks, and the guards under which that stays true.
func (r *reboots) facts(group, asker string) reboot.Facts {
	return func(ctx context.Context) (reboot.Cluster, []kv.Guard, error) {
		s, err := r.snapshot(ctx)
		if err != nil {
			return reboot.Cluster{}, nil, err
		}
		sem, err := r.permits.Get(ctx, group)
		if err != nil {
			return reboot.Cluster{}, nil, err
		}
		votes, err := r.voters(ctx)
		if err != nil {
			return reboot.Cluster{}, nil, err
		}
		going, err := r.permits.Going(ctx, group)
		if err != nil {
			return reboot.Cluster{}, nil, err
		}
		c, votingMachines := clusterOf(s, votes, sem.Domain, asker)
		for id := range going {
			if m, ok := c.Machines[id]; ok {
				m.Going = true
				c.Machines[id] = m
			}
		}
		c.At, c.Homeless, c.Stranded = r.now(), homelessOf(s, fleet.MachineID(asker)), strandedOf(s, fleet.MachineID(asker))
		var guards []kv.Guard
		for _, id := range slices.Sorted(maps.Keys(s.Machines)) {
			if len(s.Machines) <= mostGuards || votingMachines[id] {
				guards = append(guards, r.guard(s.Machines[id]))
			}
		}
		return c, guards, nil
	}
}

// clusterOf says which machines there are, which are up, and which vote. A machine without a registration that still has placements is
// down; so is a voter that no registered machine has, unless the asker does not vote: then the store is somewhere else.
func clusterOf(s fleet.Snapshot, votes []voter, domain, asker string) (reboot.Cluster, map[fleet.MachineID]bool) {
	c := reboot.Cluster{Machines: map[string]reboot.Machine{}}
	for k := range s.Placements {
		c.Machines[string(k.Machine)] = reboot.Machine{}
	}
	by := map[netip.Addr]fleet.MachineID{}
	for id, m := range s.Machines {
		c.Machines[string(id)] = reboot.Machine{Up: true, Domain: m.Metadata[domain]}
		for _, a := range []netip.Addr{m.IP.Unmap(), m.HostAddr.Addr().Unmap()} {
			if a.IsValid() {
				by[a] = id
			}
		}
	}
	voting := map[fleet.MachineID]bool{}
	var strangers []string
	for i, v := range votes {
		j := slices.IndexFunc(v.addrs, func(a netip.Addr) bool { return by[a] != "" })
		if j < 0 {
			strangers = append(strangers, fmt.Sprintf("a voter of the store that is away (%d of %d)", i+1, len(votes)))
			continue
		}
		id := by[v.addrs[j]]
		m := c.Machines[string(id)]
		m.Voter, m.Up = true, m.Up && v.started
		c.Machines[string(id)], voting[id] = m, true
	}
	// The first host of all has no address of the store's for others: it is alone, and votes.
	if self, ok := c.Machines[asker]; ok && len(votes) == 1 && len(s.Machines) == 1 {
		self.Voter = true
		c.Machines[asker] = self
	}
	if c.Machines[asker].Voter && len(s.Machines) > 1 {
		for _, name := range strangers {
			c.Machines[name] = reboot.Machine{Voter: true}
		}
	}
	return c, voting
}

// homelessOf are the units that only run on a machine as long as it is there: planned on the same cluster without it, no machine
// takes them. Units that name this machine live and die with it, as their authors said, and global ones have a copy elsewhere or need none.
func homelessOf(s fleet.Snapshot, m fleet.MachineID) []string {
	var names []unit.Name
	for k, p := range s.Placements {
		if k.Machine == m && movable(s, k, p) {
			names = append(names, k.Unit)
		}
	}
	var out []string
	for _, e := range withoutHome(s, names, m) {
		out = append(out, fmt.Sprintf("%s (%s)", e.Unit, whyNot(e)))
	}
	return out
}

// strandedOf are the exclusive units of other machines whose failover a machine is: if theirs died, it would take them, and without it none does.
func strandedOf(s fleet.Snapshot, m fleet.MachineID) []string {
	by := map[fleet.MachineID][]unit.Name{}
	for k, p := range s.Placements {
		if _, here := s.Machines[k.Machine]; here && k.Machine != m && movable(s, k, p) && s.Units[k.Unit].Needs.Exclusive {
			by[k.Machine] = append(by[k.Machine], k.Unit)
		}
	}
	var out []string
	for _, on := range slices.Sorted(maps.Keys(by)) {
		// Who has no failover as it is loses none.
		none := map[unit.Name]bool{}
		for _, e := range withoutHome(s, by[on], on) {
			none[e.Unit] = true
		}
		for _, e := range withoutHome(s, by[on], on, m) {
			if !none[e.Unit] {
				out = append(out, fmt.Sprintf("%s on %s (%s)", e.Unit, on.Short(), whyNot(e)))
			}
		}
	}
	return out
}

// movable says whether a placement is of a unit that runs and may run elsewhere.
func movable(s fleet.Snapshot, k fleet.Key, p fleet.Placement) bool {
	u, known := s.Units[k.Unit]
	return known && !p.Handover && p.Target == fleet.Launched && !u.Needs.Global && u.Needs.MachineID == "" && runs(s.Observed[k])
}

// withoutHome are those of the units that no machine takes when some machines are gone for good, with all that ran there.
func withoutHome(s fleet.Snapshot, names []unit.Name, gone ...fleet.MachineID) (out []fleet.Explanation) {
	if len(names) == 0 {
		return nil
	}
	without := s
	without.Machines, without.Placements, without.Observed = maps.Clone(s.Machines), maps.Clone(s.Placements), maps.Clone(s.Observed)
	without.Holders = maps.Clone(s.Holders) // they have let go, and whoever holds an exclusive unit longest does in the end
	maps.DeleteFunc(without.Machines, func(id fleet.MachineID, _ fleet.Machine) bool { return slices.Contains(gone, id) })
	maps.DeleteFunc(without.Placements, func(k fleet.Key, _ fleet.Placement) bool { return slices.Contains(gone, k.Machine) })
	maps.DeleteFunc(without.Observed, func(k fleet.Key, _ fleet.Observation) bool { return slices.Contains(gone, k.Machine) })
	maps.DeleteFunc(without.Holders, func(_ unit.Name, h fleet.Holder) bool { return slices.Contains(gone, h.Machine) })
	slices.Sort(names)
	for _, e := range engine.Explain(without, names...) {
		if e.Machine == "" {
			out = append(out, e)
		}
	}
	return out
}

// whyNot is why no machine takes a unit.
func whyNot(e fleet.Explanation) string {
	if len(e.Refusals) > 0 {
		return e.Refusals[0].Machine.Short() + ": " + e.Refusals[0].Reason
	}
	return e.Reason
}

// rebootAsk is what is wanted of a group's semaphore.
type rebootAsk struct {
	Do      string `json:"do"` // take, confirm, drained, lock, unlock, set-max, set-percent, set-domain, set-outage, set-homeless
	ID      string `json:"id,omitempty"`
	Boot    string `json:"boot,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Number  int    `json:"number,omitempty"`
	Word    string `json:"word,omitempty"`
	Allowed bool   `json:"allowed,omitempty"`
}

// groupState is a group as the API shows it.
type groupState struct {
	Group string `json:"group"`
	reboot.Semaphore
	Limit int             `json:"limit"`
	Lost  []reboot.Holder `json:"lost,omitempty"`
}

func (r *reboots) routes() map[string]api.Route {
	return map[string]api.Route{
		"reboot":  {"GET": r.list},
		"reboot/": {"GET": r.show, "POST": r.change},
	}
}

func (r *reboots) list(w http.ResponseWriter, req *http.Request, _ string) error {
	groups, err := r.permits.Groups(req.Context())
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		groups["default"] = reboot.Semaphore{}
	}
	var out []groupState
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		st, err := r.state(req.Context(), g, groups[g])
		if err != nil {
			return err
		}
		out = append(out, st)
	}
	api.Reply(w, http.StatusOK, map[string]any{"groups": out})
	return nil
}

func (r *reboots) state(ctx context.Context, group string, sem reboot.Semaphore) (groupState, error) {
	s, err := r.snapshot(ctx)
	if err != nil {
		return groupState{}, err
	}
	c, _ := clusterOf(s, nil, sem.Domain, "")
	for _, h := range sem.Holders {
		if _, known := c.Machines[h.ID]; !known && h.Boot != "" {
			c.Machines[h.ID] = reboot.Machine{} // one of ours that is away with all its units
		}
	}
	c.At = r.now()
	return groupState{group, sem, sem.Limit(len(s.Machines)), sem.Lost(c, r.alarm)}, nil
}

func (r *reboots) show(w http.ResponseWriter, req *http.Request, group string) error {
	sem, err := r.permits.Get(req.Context(), group)
	if err != nil {
		return mean(err)
	}
	st, err := r.state(req.Context(), group, sem)
	if err == nil {
		api.Reply(w, http.StatusOK, st)
	}
	return err
}

func (r *reboots) change(w http.ResponseWriter, req *http.Request, group string) error {
	b, err := api.Body(w, req, 64<<10)
	if err != nil {
		return err
	}
	var ask rebootAsk
	if err := json.Unmarshal(b, &ask); err != nil {
		return api.Refuse(http.StatusBadRequest, "body: "+err.Error())
	}
	if err := r.do(req.Context(), group, ask); err != nil {
		return mean(err)
	}
	return r.show(w, req, group)
}

func (r *reboots) do(ctx context.Context, group string, ask rebootAsk) error {
	if ask.ID == "" && (ask.Do == "take" || ask.Do == "confirm" || ask.Do == "drained" || ask.Do == "lock" || ask.Do == "unlock") {
		return api.Refuse(http.StatusBadRequest, ask.Do+": no machine is named")
	}
	pure := func(f func(s reboot.Semaphore) (reboot.Semaphore, error)) error {
		_, err := r.permits.Change(ctx, group, reboot.Pure(f))
		return err
	}
	switch ask.Do {
	case "take":
		return r.permits.Take(ctx, group, reboot.Holder{ID: ask.ID, Boot: ask.Boot, Reason: ask.Reason}, r.facts(group, ask.ID))
	case "confirm":
		return r.confirm(ctx, group, ask.ID)
	case "drained":
		return r.drained(ctx, fleet.MachineID(ask.ID))
	case "lock":
		return pure(func(s reboot.Semaphore) (reboot.Semaphore, error) {
			return s.Lock(reboot.Holder{ID: ask.ID, Reason: "locked by hand: " + ask.Reason}, r.now()), nil
		})
	case "unlock":
		return pure(func(s reboot.Semaphore) (reboot.Semaphore, error) { return s.Unlock(ask.ID) })
	case "set-max":
		return pure(func(s reboot.Semaphore) (reboot.Semaphore, error) { return s.SetMax(ask.Number) })
	case "set-percent":
		return pure(func(s reboot.Semaphore) (reboot.Semaphore, error) { return s.SetPercent(ask.Number) })
	case "set-domain":
		return pure(func(s reboot.Semaphore) (reboot.Semaphore, error) { s.Domain = ask.Word; return s, nil })
	case "set-outage":
		return pure(func(s reboot.Semaphore) (reboot.Semaphore, error) { s.Outage = ask.Allowed; return s, nil })
	case "set-homeless":
		return pure(func(s reboot.Semaphore) (reboot.Semaphore, error) { s.Homeless = ask.Allowed; return s, nil })
	}
	return api.Refuse(http.StatusBadRequest, fmt.Sprintf("cannot do %q with reboot permits", ask.Do))
}

// confirm is a holder's last question before it goes.
func (r *reboots) confirm(ctx context.Context, group, id string) error {
	sem, err := r.permits.Get(ctx, group)
	if err != nil {
		return err
	}
	c, _, err := r.facts(group, id)(ctx)
	if err != nil {
		return err
	}
	if refusal := sem.Still(id, c); refusal != nil {
		return refusal
	}
	return nil
}

// drained says to a leaving machine whether everything has left it that will.
func (r *reboots) drained(ctx context.Context, id fleet.MachineID) error {
	s, err := r.snapshot(ctx)
	if err != nil {
		return err
	}
	if !moved(s, id) {
		return api.Refuse(http.StatusConflict, "units are still moving away from "+id.Short())
	}
	return nil
}

// mean gives the errors of permits their status.
func mean(err error) error {
	var refusal *reboot.Refusal
	switch {
	case errors.As(err, &refusal):
		return api.Refuse(http.StatusConflict, refusal.Reason)
	case errors.Is(err, reboot.ErrGroup):
		return api.Refuse(http.StatusBadRequest, err.Error())
	case errors.Is(err, reboot.ErrNotHolder):
		return api.Refuse(http.StatusNotFound, err.Error())
	case errors.Is(err, reboot.ErrSameBoot), errors.Is(err, reboot.ErrBusy):
		return api.Refuse(http.StatusConflict, err.Error())
	}
	return err
}

// watchPermits raises the alarm for machines that are away with a permit: they keep it, and the others wait for a person. The host whose
// engine leads says so, once for each holder.
func (h *host) watchPermits(ctx context.Context) error {
	r := newReboots(h)
	said := map[string]time.Time{}
	for pause.For(ctx, time.Minute) {
		if h.leader == nil || !h.leader.Counters().Leading {
			continue
		}
		groups, err := r.permits.Groups(ctx)
		if err != nil {
			continue // the outage is told by others
		}
		lost := 0.0
		for group, sem := range groups {
			st, err := r.state(ctx, group, sem)
			if err != nil {
				continue
			}
			lost += float64(len(st.Lost))
			for _, x := range st.Lost {
				if said[group+x.ID] != x.Since {
					said[group+x.ID] = x.Since
					h.log.Error("a machine got a reboot permit and has not come back: the others wait. Bring it back, or say that it is gone: fleetctl reboot unlock "+x.ID,
						"machine", x.ID, "group", group, "since", x.Since, "reason", x.Reason)
				}
			}
		}
		h.metrics.lost.Set(lost)
	}
	return nil
}

// serveFleetLock answers other hosts' FleetLock clients on an address of its own, when fleetlock_listen says so. The protocol knows no
// client but by the word it gives: whoever reaches the port can hold reboots up, and nothing more.
func (h *host) serveFleetLock(ctx context.Context) error {
	if h.cfg.FleetLockListen == "" {
		return nil
	}
	r := newReboots(h)
	handler := reboot.FleetLock(r.permits, func(ctx context.Context) (reboot.Cluster, []kv.Guard, error) {
		// A stranger is only counted, but machines of ours that are down count too.
		return r.facts("default", "")(ctx)
	})
	l, err := net.Listen("tcp", h.cfg.FleetLockListen)
	if err != nil {
		return fmt.Errorf("fleetlock_listen: %w: choose another port, or end what uses it", err)
	}
	srv := api.NewServer(ctx, h.whenReady(handler), h.log)
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("fleetlock_listen: %w", err)
	}
	return nil
}

// whenReady answers 503 until this fleetd knows the cluster.
func (h *host) whenReady(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h.ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}
