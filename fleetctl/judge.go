package main

import (
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

// goal is what one unit shall reach, with what the command knew of it before.
type goal struct {
	name    string
	verb    string
	doing   string // begins the line of an error
	target  fleet.TargetState
	hash    string // of the text that shall run
	global  bool
	gone    bool                     // destroy: no target, no trace
	changed bool                     // this command wrote it; else it was as wished before
	rev     int64                    // of the unit's record as it was found, or as this command wrote it
	base    map[string]api.UnitState // by machine, as they were before
	orders  map[string]int64         // restart: the order's number by machine
}

// A verdict says how far a unit is.
type verdict struct {
	kind    kind
	machine string // where, if it concerns one
	what    string // failed: the verb after the unit's name, "could not start"
	why     string // failed: the reason, if more is known
	// settle: what is seen may still be of the time before the change. It counts once it has stayed so for a while.
	settle bool
}

type kind int

const (
	waiting kind = iota
	unplaced
	outdated // its machine has the old text, maybe because the new one fits nowhere
	done
	failed
)

// judge looks at one goal in the world as it is known.
func judge(w *api.World, g *goal) verdict {
	u, known := w.Units[g.name]
	states := statesOf(w, g.name)
	switch {
	case g.gone && !known && len(states) == 0:
		return verdict{kind: done}
	case g.gone:
		return verdict{kind: waiting}
	case !known && g.rev > w.Rev:
		return verdict{kind: waiting}
	case !known:
		return verdict{kind: failed, what: "was destroyed meanwhile"}
	case u.DesiredState != string(g.target) || g.hash != "" && u.Hash != g.hash:
		if g.rev > 0 && u.Rev > g.rev {
			return verdict{kind: failed, what: "was changed by someone else meanwhile", why: "its target state is " + u.DesiredState}
		}
		return verdict{kind: waiting}
	case g.target == fleet.Inactive:
		if u.MachineID == "" && u.Machines == 0 && len(states) == 0 {
			return verdict{kind: done}
		}
		return verdict{kind: waiting}
	case g.orders != nil:
		return judgeRestart(w, u, g, states)
	case g.global:
		return judgeGlobal(u, g, states)
	}
	if _, here := w.Machines[fleet.MachineID(u.MachineID)]; !here {
		if g.verb == "stop" {
			return verdict{kind: done} // runs nowhere
		}
		return verdict{kind: unplaced} // not yet, or still on a machine that is gone
	}
	v := judgeOne(u, g, u.MachineID, states)
	v.machine = u.MachineID
	return v
}

// judgeRestart is done when the unit is up again on every machine that was ordered to restart it. One that it has left since, or that is gone,
// does not count: where it went it was started anew, which start waits for.
func judgeRestart(w *api.World, u api.Unit, g *goal, states map[string]api.UnitState) verdict {
	sum := verdict{kind: done, machine: u.MachineID}
	for m, number := range g.orders {
		_, here := w.Machines[fleet.MachineID(m)]
		s, has := states[m]
		switch {
		case !here || g.global && !has:
			continue
		case !g.global && u.MachineID != m:
			moved := *g
			moved.orders = nil
			return judge(w, &moved)
		case s.Restarted < number && s.Reason != "" && s.Reason != g.base[m].Reason:
			return verdict{kind: failed, machine: m, what: "could not restart", why: s.Reason}
		case s.Restarted < number:
			sum.kind = waiting
			continue
		}
		v := judgeOne(u, g, m, states)
		if v.kind == failed {
			v.machine = m
			return v
		}
		if v.kind != done {
			sum.kind = v.kind
		}
	}
	return sum
}

// judgeGlobal is done when every machine that has the unit is. Which machines fit is the engine's to say: until it has placed
// the unit at all, it is unplaced.
func judgeGlobal(u api.Unit, g *goal, states map[string]api.UnitState) verdict {
	if u.Machines == 0 {
		return verdict{kind: unplaced}
	}
	there := 0
	sum := verdict{kind: done}
	for m := range states {
		v := judgeOne(u, g, m, states)
		switch v.kind {
		case failed:
			v.machine = m
			return v
		case done:
			there++
			sum.settle = sum.settle || v.settle
		}
	}
	if there < u.Machines {
		return verdict{kind: waiting}
	}
	return sum
}

// sinceSlack is how far two reports of one change may differ in its time: systemd's clock tells that of changes before fleetd
// came up, the arrival of a signal that of later ones.
const sinceSlack = 2 * time.Second

// judgeOne looks at the unit on one machine.
func judgeOne(u api.Unit, g *goal, machine string, states map[string]api.UnitState) verdict {
	s, reported := states[machine]
	base, before := g.base[machine]
	still := before && s.Since.Sub(base.Since).Abs() < sinceSlack // maybe nothing has happened there since
	same := still && base.Hash == s.Hash
	switch {
	case !reported && g.verb == "stop":
		return verdict{kind: done}
	case !reported:
		return verdict{kind: waiting}
	case s.Reason != "":
		return verdict{kind: failed, what: "could not " + g.verb, why: s.Reason, settle: g.changed && before && base.Reason == s.Reason}
	case g.verb == "stop":
		return judgeStopped(s, base.Launched && same)
	case s.Hash != u.Hash:
		return verdict{kind: outdated}
	case s.SystemdLoadState == "error" || s.SystemdLoadState == "bad-setting" || s.SystemdLoadState == "masked":
		return verdict{kind: failed, what: "cannot be loaded", why: "systemd says " + s.SystemdLoadState}
	case s.SystemdLoadState != "loaded":
		return verdict{kind: waiting}
	case g.target == fleet.Loaded:
		return judgeStopped(s, base.Launched && same)
	case !s.Launched:
		return verdict{kind: waiting}
	}
	// A new text is reported before its start has begun, too: with the state that the old one was in.
	return judgeActive(s, g.changed && (same && !base.Launched || still && base.Hash != s.Hash || s.Since.IsZero()))
}

// judgeStopped waits for the stop to end, ExecStop and all. running: it is as it was before the stop. A unit that is up again without the
// agent (by its socket, by another unit) has been stopped all the same.
func judgeStopped(s api.UnitState, running bool) verdict {
	switch s.SystemdActiveState {
	case "deactivating", "activating":
		return verdict{kind: waiting}
	case "active", "reloading", "refreshing":
		if s.Launched || running {
			return verdict{kind: waiting}
		}
	}
	if s.Launched {
		return verdict{kind: waiting}
	}
	return verdict{kind: done}
}

// judgeActive waits for what systemctl start waits for. A oneshot that ended well is inactive again and a success; a
// service that is being restarted is activating. old: the state may be that of before the start.
func judgeActive(s api.UnitState, old bool) verdict {
	switch s.SystemdActiveState {
	case "active", "reloading", "refreshing":
		return verdict{kind: done}
	case "failed":
		return verdict{kind: failed, what: "failed", why: "systemd says " + saysSystemd(s), settle: old}
	case "inactive":
		if s.Result == "" || s.Result == "success" {
			return verdict{kind: done, settle: old}
		}
		return verdict{kind: failed, what: "ended", why: "systemd says " + saysSystemd(s), settle: old}
	}
	return verdict{kind: waiting}
}

func saysSystemd(s api.UnitState) string {
	says := s.SystemdActiveState
	if s.SystemdSubState != "" && s.SystemdSubState != says {
		says += " (" + s.SystemdSubState + ")"
	}
	if s.Result != "" && s.Result != "success" {
		says += ", result " + s.Result
	}
	return says
}

// statesOf collects a unit's states by machine.
func statesOf(w *api.World, name string) map[string]api.UnitState {
	out := map[string]api.UnitState{}
	for m, units := range w.States {
		if s, ok := units[name]; ok {
			out[string(m)] = s
		}
	}
	return out
}
