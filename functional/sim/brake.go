package sim

import (
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// brakeShare is fleetd's reschedule_brake.
const brakeShare = 33

// doubt is engine.Leader's.
func (l *leader) doubt(t *task, state *engine.State) {
	if l.h.w.opt.NoQuestion || !state.Doubt(brakeShare) {
		return
	}
	asked := t.w.now
	lives, err := l.reg.Lives(t.context())
	l.itIs(state)
	if err != nil {
		t.w.note("%v", err)
		state.Unheard()
	} else {
		state.Heard(asked, lives)
	}
	state.Doubt(brakeShare)
}

// losses are what the rule of the brake goes by.
type losses struct {
	granted map[kv.LeaseID]time.Time
	lease   map[kv.LeaseID]fleet.MachineID // that registrations hang on
	renewed map[fleet.MachineID]time.Time  // when its lease was last begun
	ended   map[fleet.MachineID]time.Time  // when its registration went; not in it: it is registered, or never was
	left    map[fleet.MachineID]bool       // it had said before that it would
}

func newLosses() losses {
	return losses{granted: map[kv.LeaseID]time.Time{}, lease: map[kv.LeaseID]fleet.MachineID{}, renewed: map[fleet.MachineID]time.Time{}, ended: map[fleet.MachineID]time.Time{},
		left: map[fleet.MachineID]bool{}}
}

// leased notes which lease a registration hangs on, or that it has ended.
func (w *world) leased(e kv.Event) {
	id := fleet.MachineID(strings.TrimPrefix(e.Key, prefix+"machines/"))
	l := &w.facts.losses
	if e.Delete {
		l.ended[id] = w.now
		return
	}
	if l.lease[e.Lease] != id {
		l.renewed[id] = l.granted[e.Lease]
	}
	l.lease[e.Lease] = id
	delete(l.ended, id)
}

// able tells whether a host's fleetd could renew its registration.
func (h *host) able() bool { return h.on && h.p != nil && !h.p.departing && !h.cut && !h.frozen }

// mind notes since when a host is lost, after a step; was: it was able before.
func (h *host) mind(was bool) {
	switch able := h.able(); {
	case able:
		h.lostAt = time.Time{}
	case was && (h.p == nil || !h.p.departing):
		h.lostAt = h.w.now
	}
}

const (
	// atOnce is how far apart losses in one moment are.
	atOnce = 100 * time.Millisecond
	// lastRenewed is how long before its loss a machine has renewed at the latest, if it does it each third of its time and is not slow. Above that
	// the leases of machines that are lost at once cannot be told from those of slow ones.
	lastRenewed = machineTTL/3 + 1500*time.Millisecond
)

// together are the hosts that were lost in the same moment as h, h among them, and are lost still, as far as a leader can know.
func (w *world) together(h *host, knows time.Time) (n int) {
	l := &w.facts.losses
	for _, o := range w.hosts {
		ended, over := l.ended[o.id]
		switch {
		case o.lostAt.IsZero() || h.lostAt.Sub(o.lostAt).Abs() > atOnce:
		case l.renewed[o.id].IsZero() || l.renewed[o.id].After(o.lostAt) || o.lostAt.Sub(l.renewed[o.id]) > lastRenewed:
		case l.left[o.id] || w.snap.Machines[o.id].Leaving:
		case over && ended.Before(o.lostAt): // it was not registered then
		case over && ended.Before(knows) && !w.carries(o.id): // the leader has never seen it
		default:
			n++
		}
	}
	return n
}

// carries tells whether something is placed on a machine that would be moved away.
func (w *world) carries(id fleet.MachineID) bool {
	for k, p := range w.snap.Placements {
		if n := w.snap.Units[k.Unit].Needs; k.Machine == id && !p.Handover && p.Target != fleet.Inactive && !n.Global && n.MachineID == "" {
			return true
		}
	}
	return false
}

// moving: from machines that vanished in one moment nothing is moved, if they are a third of all and three at least. Only where another unit on
// the same machine wants it gone it goes.
func (w *world) moving(from origin, changes []fleet.Change) {
	if from.kind != "engine" {
		return
	}
	for _, c := range changes {
		p := c.Placement
		if p == nil || !c.Deleted && !p.Handover {
			continue
		}
		was, there := w.snap.Placements[fleet.Key{Machine: p.Machine, Unit: p.Unit}]
		u, wanted := w.snap.Units[p.Unit]
		_, here := w.snap.Machines[p.Machine]
		h := w.hostOf(p.Machine)
		if !there || was.Handover || here || !wanted || u.Target == fleet.Inactive || u.Needs.Global || w.related(p.Unit) || h.lostAt.IsZero() {
			continue
		}
		if was.Rev < u.Rev {
			continue // its users want something else of it
		}
		if l := w.facts.losses; l.renewed[h.id].After(h.lostAt) || h.lostAt.Sub(l.renewed[h.id]) > lastRenewed || l.left[h.id] {
			continue
		}
		if n := w.together(h, from.knows); n >= 3 && 100*n >= brakeShare*len(w.hosts) {
			w.broken("moved", "%s from %s, which was lost in the same moment as %d of %d others", p.Unit, h.name, n-1, len(w.hosts)-1)
		}
	}
}

// atOnceEvils are faults of many hosts in one moment.
func atOnceEvils() []func(*maker, *host) []step {
	many := func(verb, end string) func(*maker, *host) []step {
		return func(m *maker, h *host) []step {
			some := slices.Clone(m.w.hosts)
			m.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
			some = slices.DeleteFunc(some, func(o *host) bool { return o == h })[:min(len(some)-1, 2+m.IntN(2))]
			steps := []step{{who: h.name, verb: verb}}
			for _, o := range some {
				steps = append(steps, step{who: o.name, verb: verb})
			}
			for _, s := range steps {
				m.then(8*time.Second+m.about(15*time.Second), s.who, end)
			}
			return steps
		}
	}
	return []func(*maker, *host) []step{many("cut", "heal"), many("off", "on"), many("freeze", "thaw"), many("crash", "start")}
}
