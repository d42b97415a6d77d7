package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/fleet-init/fleet/fleetd/agent"
	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// userOp is one request of a user.
type userOp struct {
	who    string
	wishes map[unit.Name]wish
	wrote  map[unit.Name]int64 // revision at which the request changed the unit

	settings fleet.Settings // of a machine
}

// wish is what a request wants of one unit.
type wish struct {
	destroy bool
	file    *unit.File
	target  *fleet.TargetState
}

// ask starts a request at a host's fleetd.
func (h *host) ask(run func(*task, *userOp)) {
	if h.p == nil {
		h.w.note("no fleetd")
		return
	}
	h.w.users++
	op := &userOp{wishes: map[unit.Name]wish{}, wrote: map[unit.Name]int64{}}
	t := h.p.spawn(fmt.Sprintf("u%d", h.w.users), func(t *task) { run(t, op) })
	op.who = t.name
	h.p.ops[t.kind] = op
	h.w.note("%s", t.name)
}

// submit takes triples of name, target and text; "-" for a target or text leaves it as it is.
func (h *host) submit(args []string) error {
	var subs []fleet.Submission
	wishes := map[unit.Name]wish{}
	for ; len(args) >= 3; args = args[3:] {
		s := fleet.Submission{Name: unit.Name(args[0])}
		if args[1] != "-" {
			target := fleet.TargetState(args[1])
			s.Target = &target
		}
		if args[2] != "-" {
			f, err := textOf(args[2])
			if err != nil {
				return err
			}
			s.File = f
			h.w.facts.lasting[f.Hash()] = strings.HasPrefix(args[2], "run") || strings.HasPrefix(args[2], "slow")
		}
		subs = append(subs, s)
		wishes[s.Name] = wish{file: s.File, target: s.Target}
	}
	h.ask(func(t *task, op *userOp) {
		op.wishes = wishes
		for i, res := range t.registry().Submit(t.context(), subs...) {
			if res.Err != nil {
				t.w.note("%s: %v", subs[i].Name, res.Err)
				continue
			}
			t.w.note("%s acknowledged", subs[i].Name)
			t.w.acknowledged(op, subs[i].Name, res)
		}
	})
	return nil
}

func (h *host) destroy(names []string) {
	var units []unit.Name
	wishes := map[unit.Name]wish{}
	for _, n := range names {
		units = append(units, unit.Name(n))
		wishes[unit.Name(n)] = wish{destroy: true}
	}
	h.ask(func(t *task, op *userOp) {
		op.wishes = wishes
		for i, err := range t.registry().Destroy(t.context(), units...) {
			if err != nil {
				t.w.note("%v", err)
			} else if t.w.note("%s acknowledged", units[i]); op.wrote[units[i]] == 0 {
				t.w.broken("lost write", "%s was told that %s is destroyed, which it did not do", op.who, units[i])
			}
		}
	})
}

// set changes a machine's settings: cordon=yes, leaving=no, any other key is metadata, hidden by the value "-".
func (h *host) set(machine string, args []string) error {
	m := h.w.host(machine)
	if m == nil {
		return fmt.Errorf("no host %s", machine)
	}
	s := fleet.Settings{Metadata: map[string]*string{}}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		yes := v == "yes"
		switch {
		case k == "cordon":
			s.Cordon = &yes
		case k == "leaving":
			s.Leaving = &yes
		case v == "-":
			s.Metadata[k] = nil
		default:
			s.Metadata[k] = &v
		}
	}
	h.ask(func(t *task, op *userOp) {
		op.settings = s
		if err := t.registry().SetMachine(t.context(), m.id, s); err != nil {
			t.w.note("%v", err)
		}
	})
	return nil
}

// textOf makes a unit file of words with commas between: first what it does, then
//
//	vN        makes texts differ      stop=N   ExecStop takes N seconds, limit=N: no stop takes longer
//	install   has an [Install]        Key=V    an option of [X-Fleet]
func textOf(spec string) (*unit.File, error) {
	words := strings.Split(spec, ",")
	service, known := map[string]string{
		"run":     "ExecStart=/bin/app\n",
		"once":    "Type=oneshot\nExecStart=/bin/sleep 1\n",
		"slow":    "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 4\n",
		"fail":    "Type=oneshot\nExecStart=/bin/false\n",
		"missing": "Type=forking\nExecStart=/nonexistent\n",
		"broken":  "Type=simple\n",
	}[words[0]]
	if !known {
		return nil, fmt.Errorf("text %q: what is %q", spec, words[0])
	}
	var about, install, fleetd string
	for _, word := range words[1:] {
		k, v, pair := strings.Cut(word, "=")
		switch {
		case word == "install":
			install = "[Install]\nWantedBy=multi-user.target\n"
		case k == "limit":
			service += "TimeoutStopSec=" + v + "\n"
		case k == "stop":
			service += "ExecStop=/bin/sleep " + v + "\n"
		case pair && strings.ToUpper(k[:1]) == k[:1]:
			fleetd += k + "=" + v + "\n"
		default:
			about += "Description=" + word + "\n"
		}
	}
	text := "[Unit]\n" + about + "[Service]\n" + service + install
	if fleetd != "" {
		text += "[X-Fleet]\n" + fleetd
	}
	return unit.Parse([]byte(text))
}

// depart is fleetd/depart.go for systemctl stop, step by step.
func (p *process) depart(t *task) {
	p.hello.Leaving, p.said = true, true
	p.awaitMoves(t)
	p.agentStop = true
	t.await(0, func() bool { return p.agentDone })
	p.acting = t
	stopped := p.release(t)
	if now := p.present; now != nil {
		if stopped {
			if err := t.registry().LetAllGo(t.context(), *now); err != nil {
				t.w.note("%v", err)
			}
		}
		if err := t.registry().Leave(t.context(), *now); err != nil {
			t.w.note("%v", err)
		}
	}
	t.w.note("fleetd has ended")
	h := p.h
	h.p = nil
	for _, other := range p.tasks {
		if other != t {
			other.kill()
		}
	}
}

func (p *process) awaitMoves(t *task) {
	if p.present == nil {
		return
	}
	reg := t.registry()
	begin, answered := t.w.now, t.w.now
	for t.w.now.Sub(answered) < 5*time.Second && t.w.now.Sub(begin) < 45*time.Second {
		if s, err := reg.Snapshot(t.context()); err == nil {
			answered = t.w.now
			if moved(s, p.h.id) {
				return
			}
		}
		rev := t.w.ordersRev[p.h.id]
		t.await(time.Second, func() bool { return !p.h.cut && t.w.ordersRev[p.h.id] > rev })
	}
}

// moved is fleetd/depart.go's, which is in a main that cannot be imported.
func moved(s fleet.Snapshot, self fleet.MachineID) bool {
	m, registered := s.Machines[self]
	if !registered {
		return true
	}
	if !m.Leaving {
		return false
	}
	for k, p := range s.Placements {
		if o := s.Observed[k]; k.Machine == self && p.Target == fleet.Inactive || k.Machine == self && p.Handover && o.Active != "" && o.Active != "inactive" && o.Active != "failed" {
			return false
		}
	}
	for _, d := range engine.Plan(s) {
		if d.Machine == self && d.Kind != fleet.Admit {
			return false
		}
	}
	return true
}

// release is agent.Release, step by step.
func (p *process) release(t *task) (stopped bool) {
	p.orders = agent.Orders{Rev: p.orders.Rev, Admitted: true}
	p.agent.SetOrders(p.orders)
	for end, failures := t.w.now.Add(95*time.Second), 0; t.w.now.Before(end); {
		now := p.h.clock()
		seen, err := p.agent.Observe(t.context(), now)
		if err == nil && len(seen.Disk) == 0 {
			return true
		}
		wait := 100 * time.Millisecond
		if err == nil {
			p.agent.Do(t.context(), now, agent.Plan(p.orders, seen))
		} else {
			failures++
			wait = backoff(failures)
		}
		t.await(wait, func() bool { return len(p.h.sys.Wake()) > 0 })
		select {
		case <-p.h.sys.Wake():
		default:
		}
	}
	return false
}
