package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/fleetd/agent"
	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

const (
	// settleLimit is how long the cluster may take to come to rest after the last fault. Most of it is a stop that takes long, twice
	// (an old text's, and a move's), and back-offs of up to a minute.
	settleLimit = 300 * time.Second
	// quietTime is how long it must then stay as it is: all its timers have gone off once.
	quietTime = 70 * time.Second
)

// settle heals all faults, and asks whether the cluster comes to rest, as its users want it.
func (w *world) settle() {
	w.quorum(true)
	w.confirmed = w.cluster
	for len(w.inFlight) > 0 {
		w.deliver(w.inFlight[0].id)
	}
	for _, h := range w.hosts {
		h.cut, h.deaf, h.busOff, h.frozen = false, false, false, false
		h.power(true)
		h.startFleetd()
		h.lostAt = time.Time{}
	}
	end := w.since() + settleLimit
	wrong := []string{"nothing was asked"}
	for len(wrong) > 0 && w.since() < end && w.bad == nil {
		for _, h := range w.hosts {
			h.startFleetd() // one that was told to stop has gone
		}
		w.runFor(5 * time.Second)
		wrong = w.wrong()
	}
	if len(wrong) > 0 {
		w.broken("restless", "after %s: %s", settleLimit, strings.Join(wrong, "; "))
		return
	}
	before, rev := w.facts, w.writes()
	w.runFor(quietTime)
	if after := w.facts; after.starts-before.starts > w.retries() || after.stops != before.stops {
		w.broken("restless", "%d starts and %d stops in a cluster at rest", after.starts-before.starts, after.stops-before.stops)
	}
	if n := w.writes() - rev; n > 0 {
		w.broken("restless", "%d changes of units, placements and machines in a cluster at rest", n)
	}
	if wrong := w.wrong(); len(wrong) > 0 {
		w.broken("restless", "was at rest, and then: %s", strings.Join(wrong, "; "))
	}
}

// retries is how many starts the quiet time may see: a unit that systemd refuses to start is tried again.
func (w *world) retries() (n int) {
	for _, p := range w.snap.Placements {
		if o := w.snap.Observed[fleet.Key{Machine: p.Machine, Unit: p.Unit}]; o.Load == "bad-setting" {
			n += 70
		}
	}
	return n
}

// writes counts the revisions that changed something people see.
func (w *world) writes() int {
	n := 0
	for _, r := range w.history {
		if slices.ContainsFunc(r.changes, func(c fleet.Change) bool { return c.Observation == nil }) {
			n++
		}
	}
	return n
}

// wrong lists what is not as it must be in a cluster at rest.
func (w *world) wrong() []string {
	var bad []string
	add := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	snap, err := registry.New(w.mem, prefix, w.log).Snapshot(context.Background())
	if err != nil {
		panic(err) // the memory store has no faults
	}
	for _, d := range engine.Plan(snap) {
		add("plan: %s %s %s: %s", d.Kind, d.Unit, w.name(d.Machine), d.Reason)
	}
	for _, h := range w.hosts {
		if h.p == nil || h.p.present == nil {
			add("%s is not registered", h.name)
			continue
		}
		if w.now.Before(h.p.heldTill) {
			add("%s holds its exclusive units down", h.name)
			continue
		}
		if h.p.departing {
			add("fleetd on %s is about to end", h.name)
			continue
		}
		w.wrongHost(snap, h, add)
	}
	for _, n := range slices.Sorted(maps.Keys(snap.Units)) {
		w.wrongUnit(snap, snap.Units[n], add)
	}
	w.wrongTexts(snap, add)
	return bad
}

// wrongHost compares a host with its placements, and what it has reported with what is.
func (w *world) wrongHost(snap fleet.Snapshot, h *host, add func(string, ...any)) {
	disk, err := h.disk.Read()
	if err != nil {
		panic(err) // neither has the memory disk
	}
	reported := 0
	for _, n := range w.names(disk) {
		p, placed := snap.Placements[fleet.Key{Machine: h.id, Unit: n}]
		st := h.status(n)
		d, there := disk[n]
		o, told := snap.Observed[fleet.Key{Machine: h.id, Unit: n}]
		if told {
			reported++
		}
		if st.Job != "" || st.Active == "activating" || st.Active == "deactivating" {
			add("%s is %s on %s", n, st.Active, h.name)
		}
		if !placed {
			if there || st.Active != "inactive" {
				add("%s is %s on %s, and not placed there", n, st.Active, h.name)
			}
			if told {
				add("%s reports %s, which it has not", h.name, n)
			}
			continue
		}
		if !p.Handover {
			w.wrongCopy(h, p, d.Hash, d.Started, st, add)
		}
		if there && (o.Load != st.Load || o.Active != st.Active || o.Sub != st.Sub || o.Result != st.Result || o.Hash != d.Hash ||
			o.Launched != (d.Started == d.Hash)) {
			add("%s reports %s %s %s %s, it is %s %s %s %s", h.name, n, o.Load, o.Active, short(o.Hash), st.Load, st.Active, st.Sub, short(d.Hash))
		}
	}
	for k := range snap.Observed {
		if k.Machine == h.id {
			reported--
		}
	}
	if reported != 0 {
		add("%s reports units that nobody knows", h.name)
	}
}

// names are all units that there ever were, and what is on a disk, sorted.
func (w *world) names(disk map[unit.Name]agent.OnDisk) []unit.Name {
	all := map[unit.Name]bool{}
	for v := range w.facts.records {
		if !v.name.IsTemplate() {
			all[v.name] = true
		}
	}
	for n := range disk {
		all[n] = true
	}
	return slices.Sorted(maps.Keys(all))
}

func (h *host) status(n unit.Name) fleet.UnitStatus {
	states, err := h.sys.States(context.Background(), []unit.Name{n})
	if err != nil {
		panic(err) // the bus is on
	}
	return states[n]
}

// wrongCopy compares one copy of a unit with its placement.
func (w *world) wrongCopy(h *host, p fleet.Placement, hash, started unit.Hash, st fleet.UnitStatus, add func(string, ...any)) {
	if hash != p.Hash {
		add("%s has %s of %s, not %s", h.name, short(hash), p.Unit, short(p.Hash))
		return
	}
	up := st.Active == "active" || st.Active == "activating"
	switch p.Target {
	case fleet.Launched:
		if started != p.Hash && st.Load == "loaded" {
			add("%s was not started on %s", p.Unit, h.name)
		}
		lasts := w.facts.lasting[hash] || p.Unit.Type() != "service"
		if lasts && !up && !w.facts.ended[fleet.Key{Machine: h.id, Unit: p.Unit}] {
			add("%s is %s on %s, and has not ended by itself", p.Unit, st.Active, h.name)
		}
	case fleet.Loaded:
		if up || started != "" {
			add("%s is %s on %s, it shall only be loaded", p.Unit, st.Active, h.name)
		}
	}
	if text := h.sys.Text(p.Unit); up && text != "" {
		if f, err := unit.Parse([]byte(text)); err != nil || f.Hash() != p.Hash {
			add("%s runs an old text on %s", p.Unit, h.name)
		}
	}
}

// wrongUnit asks whether a unit is where it shall be.
func (w *world) wrongUnit(snap fleet.Snapshot, u fleet.Unit, add func(string, ...any)) {
	if u.Name.IsTemplate() || u.Target == fleet.Inactive {
		return
	}
	var fulls, old []fleet.MachineID
	for _, h := range w.hosts {
		p, ok := snap.Placements[fleet.Key{Machine: h.id, Unit: u.Name}]
		if ok && p.Target == fleet.Inactive {
			add("%s does not get away from %s", u.Name, h.name)
			continue
		}
		if ok && p.Handover {
			old = append(old, h.id)
		} else if ok {
			fulls = append(fulls, h.id)
			w.wrongPlace(snap, u, h.id, add)
		}
	}
	if u.Needs.Global {
		for _, h := range w.hosts {
			m := snap.Machines[h.id]
			if fitsAlone(u, m) && !m.Leaving && !w.related(u.Name) && !slices.Contains(fulls, h.id) {
				add("global %s is missing on %s", u.Name, h.name)
			}
		}
		return
	}
	if len(fulls) > 1 {
		add("%s is placed on %d machines", u.Name, len(fulls))
	}
	if len(fulls) == 0 {
		w.unplaced(snap, u, add)
		return
	}
	p := snap.Placements[fleet.Key{Machine: fulls[0], Unit: u.Name}]
	if o := snap.Observed[fleet.Key{Machine: fulls[0], Unit: u.Name}]; len(old) > 0 && o.Running(p.Hash, p.Target) {
		add("%s runs on %s and its old copy stays on %s", u.Name, w.name(fulls[0]), w.name(old[0]))
	}
}

// wrongPlace: two that conflict are never on one machine; one with the right to be elsewhere, alone, is.
func (w *world) wrongPlace(snap fleet.Snapshot, u fleet.Unit, on fleet.MachineID, add func(string, ...any)) {
	for k := range snap.Placements {
		if k.Machine != on || k.Unit == u.Name {
			continue
		}
		if slices.ContainsFunc(u.Needs.Conflicts, func(g unit.Glob) bool { return g.Match(k.Unit) }) {
			add("%s and %s conflict on %s", u.Name, k.Unit, w.name(on))
		}
		if port := shared(u, snap.Units[k.Unit]); port != "" {
			add("%s and %s publish %s of %s", u.Name, k.Unit, port, w.name(on))
		}
	}
	if w.related(u.Name) || u.Needs.Global || fitsAlone(u, snap.Machines[on]) && !snap.Machines[on].Leaving {
		return
	}
	w.roomFor(snap, u, add)
}

// roomFor complains of every machine that would take a unit which is nowhere, or where it must not be.
func (w *world) roomFor(snap fleet.Snapshot, u fleet.Unit, add func(string, ...any)) {
	for _, h := range w.hosts {
		if m := snap.Machines[h.id]; !m.Leaving && !m.Cordon && fitsAlone(u, m) {
			add("%s is not on %s, which would take it", u.Name, h.name)
		}
	}
}

// unplaced: a unit without machine has none that takes it, and a reason for each.
func (w *world) unplaced(snap fleet.Snapshot, u fleet.Unit, add func(string, ...any)) {
	if !w.related(u.Name) {
		w.roomFor(snap, u, add)
	}
	e := engine.Explain(snap, u.Name)[0]
	w.unplacedForPorts(snap, u, e, add)
	reasons := len(e.Refusals)
	for _, r := range e.Refusals {
		if r.Reason == "" {
			reasons--
		}
	}
	if e.Placed || e.Machine != "" || reasons != len(snap.Machines) {
		add("%s is nowhere, and the explanation is %+v", u.Name, e)
	}
}

// shared is a port of the host that both units publish; "" when there is none.
func shared(a, b fleet.Unit) string {
	for _, p := range a.Needs.Publish {
		if slices.ContainsFunc(b.Needs.Publish, func(q unit.Port) bool { return p.Host == q.Host && p.Protocol == q.Protocol }) {
			return fmt.Sprint(p.Host, "/", p.Protocol)
		}
	}
	return ""
}

// unplacedForPorts: a unit that asks for nothing of others but ports is nowhere only as long as every machine that would take it has one of
// them published, and is told which, and by whom.
func (w *world) unplacedForPorts(snap fleet.Snapshot, u fleet.Unit, e fleet.Explanation, add func(string, ...any)) {
	if len(u.Needs.Publish) == 0 || len(u.Needs.Conflicts)+len(u.Needs.Replaces)+len(u.Needs.MachineOf) > 0 ||
		slices.ContainsFunc(w.facts.globs, func(g unit.Glob) bool { return g.Match(u.Name) }) {
		return
	}
	for _, h := range w.hosts {
		m := snap.Machines[h.id]
		if m.Leaving || m.Cordon || !fitsAlone(u, m) {
			continue
		}
		want := ""
		for _, n := range slices.Sorted(maps.Keys(snap.Units)) {
			if _, there := snap.Placements[fleet.Key{Machine: h.id, Unit: n}]; there && want == "" && shared(u, snap.Units[n]) != "" {
				want = " is published there by " + string(n)
			}
		}
		i := slices.IndexFunc(e.Refusals, func(r fleet.Refusal) bool { return r.Machine == h.id })
		switch {
		case want == "":
			add("%s is nowhere, and its ports are free on %s", u.Name, h.name)
		case i < 0 || !strings.HasPrefix(e.Refusals[i].Reason, "port ") || !strings.HasSuffix(e.Refusals[i].Reason, want):
			add("%s is nowhere, and %s does not say that a port%s: %+v", u.Name, h.name, want, e)
		}
	}
}

// wrongTexts: the texts that are named are stored, and no others.
func (w *world) wrongTexts(snap fleet.Snapshot, add func(string, ...any)) {
	named := map[unit.Hash]bool{}
	for _, u := range snap.Units {
		named[u.Hash] = true
	}
	for _, p := range snap.Placements {
		if p.Target != fleet.Inactive {
			named[p.Hash] = true
		}
	}
	if snap.Brake.On() {
		add("the brake is on, with all machines here")
	}
	kvs, _, err := w.mem.Range(context.Background(), prefix+"files/")
	if err != nil {
		panic(err)
	}
	for _, e := range kvs[0] {
		h := unit.Hash(strings.TrimPrefix(e.Key, prefix+"files/"))
		if !named[h] {
			add("text %s is stored for nobody", short(h))
		}
		delete(named, h)
	}
	if len(named) > 0 {
		add("%d texts are missing", len(named))
	}
}
