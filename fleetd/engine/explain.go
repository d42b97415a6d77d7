package engine

import (
	"slices"
	"strconv"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Explain plans on a snapshot and says of each named unit where it is or would be placed, or why no machine takes it: one
// refusal per machine, by machine ID. Without names it answers for every unit that shall be placed and has no machine, or only one
// that is gone. Units that are refused for the same reasons share one slice of refusals: do not change it.
func Explain(snap fleet.Snapshot, names ...unit.Name) []fleet.Explanation {
	s := NewState(snap)
	reasons := map[fleet.Key]string{}
	for _, d := range s.Turn() {
		if d.Kind == fleet.Place {
			reasons[fleet.Key{Machine: d.Machine, Unit: d.Unit}] = d.Reason
		}
	}
	if len(names) == 0 {
		names = homeless(snap)
	}
	e := explainer{State: s, snap: snap, reasons: reasons, refusals: map[*class][]fleet.Refusal{}}
	out := make([]fleet.Explanation, 0, len(names))
	for _, name := range names {
		out = append(out, e.explain(name))
	}
	return out
}

// homeless lists the units that shall be placed and are not on any machine that is here.
func homeless(snap fleet.Snapshot) []unit.Name {
	homes := map[unit.Name]bool{}
	for k, p := range snap.Placements {
		if _, here := snap.Machines[k.Machine]; here && !p.Handover {
			homes[k.Unit] = true
		}
	}
	var names []unit.Name
	for name, u := range snap.Units {
		if u.Target != fleet.Inactive && u.Target != "" && !homes[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

type explainer struct {
	*State
	snap     fleet.Snapshot
	reasons  map[fleet.Key]string
	refusals map[*class][]fleet.Refusal
}

func (e *explainer) explain(name unit.Name) fleet.Explanation {
	out := fleet.Explanation{Unit: name}
	u := e.units[name]
	switch {
	case u == nil || !u.exists:
		out.Reason = "no such unit"
	case u.template:
		out.Reason = "templates are not placed: start an instance of it, such as " + instanceOf(name)
	case !u.wanted():
		out.Reason = "target state is inactive"
	case u.needs.exclusive:
		e.explainHeld(u, &out)
	case u.needs.global:
		e.explainGlobal(u, &out)
	default:
		e.explainOne(u, &out)
	}
	return out
}

// instanceOf makes web@1.service of web@.service.
func instanceOf(template unit.Name) string {
	return template.Base() + "1." + template.Type()
}

// explainHeld also says how long a failover takes, and what an exclusive unit waits for.
func (e *explainer) explainHeld(u *record, out *fleet.Explanation) {
	e.explainOne(u, out)
	wait := fleet.Failover(e.longestLease(), u.stop)
	if u.holder != nil {
		wait = u.holder.wait
	}
	out.Failover = wait.Seconds()
	h := e.holderOf(u)
	switch {
	case h == nil:
	case !h.m.here:
		out.Reason = "machine " + h.m.id.Short() + " gone: it starts elsewhere when it cannot run there any more, " + wait.String() + " after the lease"
	case u.full() == nil:
		out.Reason = "machine " + h.m.id.Short() + " stops it before it starts elsewhere"
	}
}

func (e *explainer) longestLease() (ttl time.Duration) {
	for _, m := range e.machines {
		ttl = max(ttl, m.ttl)
	}
	return ttl
}

func (e *explainer) explainOne(u *record, out *fleet.Explanation) {
	p := u.full()
	if p != nil {
		k := fleet.Key{Machine: p.m.id, Unit: u.name}
		before, stored := e.snap.Placements[k]
		out.Machine, out.Placed, out.Reason = p.m.id, stored && !before.Handover, e.reasons[k]
		v := e.mayStay(u, p)
		if v.ok() {
			if !p.m.here && e.brake.On() {
				out.Reason = "machine " + p.m.id.Short() + " gone, and many with it: nothing is moved until enough are back, or fleetctl resume"
			}
			return
		}
		out.Reason = v.text(u, p.m) + ", and no other machine takes it"
	}
	if peer, ok := e.peerNowhere(u); ok {
		out.Reason = "peer " + string(peer) + " is not placed" + e.peerHint(peer)
	}
	if len(e.machinesHere()) == 0 {
		out.Reason = "no machine is registered"
	}
	out.Refusals = e.refuse(u)
}

func (e *explainer) peerHint(name unit.Name) string {
	peer := e.units[name]
	switch {
	case peer == nil || !peer.exists:
		return ": there is no such unit"
	case !peer.wanted():
		return ": its target state is inactive"
	}
	return ": no machine takes it"
}

func (e *explainer) explainGlobal(g *record, out *fleet.Explanation) {
	here, stored := 0, 0
	for _, p := range g.places {
		if !p.m.here {
			continue
		}
		here++
		if before, ok := e.snap.Placements[fleet.Key{Machine: p.m.id, Unit: g.name}]; ok && !before.Handover {
			stored++
		}
	}
	out.Placed = here > 0 && here == stored
	out.Reason = "global unit, on " + strconv.Itoa(stored) + " of " + strconv.Itoa(len(e.machinesHere())) + " machines"
	if stored < here {
		out.Reason += ", on " + strconv.Itoa(here) + " with the next plan"
	}
	out.Refusals = e.refuse(g)
}

func (e *explainer) machinesHere() []*machine {
	return slices.DeleteFunc(slices.Clone(e.order), func(m *machine) bool { return !m.here })
}

// refuse asks every machine that does not carry u.
func (e *explainer) refuse(u *record) []fleet.Refusal {
	c := e.classOf(u)
	shared := !c.private && len(u.places) == 0 // own copies make a difference
	if shared {
		if rs, ok := e.refusals[c]; ok {
			return rs
		}
	}
	group := e.circle(u)
	var rs []fleet.Refusal
	for _, m := range e.machinesHere() {
		if p := u.on(m); p != nil && e.mayStay(u, p).ok() {
			continue
		}
		v := e.mayArrive(u, m, group)
		text := v.text(u, m)
		if v.ok() {
			text = e.groupText(u, m, group)
		}
		rs = append(rs, fleet.Refusal{Machine: m.id, Reason: text})
	}
	if shared {
		e.refusals[c] = rs
	}
	return rs
}

// groupText tells what keeps a group off a machine that would take u itself.
func (e *explainer) groupText(u *record, m *machine, group []*record) string {
	for _, v := range group {
		if verdict := e.mayArrive(v, m, group); v != u && !verdict.ok() {
			return "must be there together with " + string(v.name) + ": " + verdict.text(v, m)
		}
	}
	for _, v := range group {
		if !v.wanted() {
			return "must be there together with " + string(v.name) + ", whose target state is inactive"
		}
	}
	return "the units that name each other in MachineOf conflict with each other"
}
