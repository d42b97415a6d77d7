package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// step is one line of a transcript.
type step struct {
	at   time.Duration // since the beginning; a step whose time has passed is done at once
	who  string        // h1, h1.agent, store, all
	verb string
	args []string
}

func (s step) String() string {
	words := append([]string{fmt.Sprintf("%.3f", s.at.Seconds()), s.who, s.verb}, s.args...)
	return strings.Join(words, " ")
}

// parseStep reads a line; ok=false if it holds no step.
func parseStep(line string) (s step, found bool, err error) {
	line, _, _ = strings.Cut(line, "#")
	words := strings.Fields(line)
	if len(words) == 0 {
		return step{}, false, nil
	}
	if len(words) < 3 {
		return step{}, false, fmt.Errorf("step %q: want a time, who, and what", line)
	}
	at, err := strconv.ParseFloat(words[0], 64)
	if err != nil {
		return step{}, false, fmt.Errorf("step %q: %w", line, err)
	}
	return step{time.Duration(at*1000+0.5) * time.Millisecond, words[1], words[2], words[3:]}, true, nil
}

// do takes a step. One that makes no sense as things are does nothing: so that steps before it can be left out.
func (w *world) do(s step) error {
	w.pass(max(s.at, w.since()))
	switch {
	case s.who == "all":
		return w.doAll(s)
	case s.who == "store":
		return w.doStore(s)
	case strings.Contains(s.who, "."):
		return w.doTask(s)
	}
	h := w.host(s.who)
	if h == nil {
		return fmt.Errorf("step %s: there is no host %s", s, s.who)
	}
	was := h.able()
	err := h.do(s)
	h.mind(was)
	return err
}

func (w *world) doAll(s step) error {
	switch s.verb {
	case "settle":
		w.settle()
	case "run":
		if len(s.args) != 1 {
			return fmt.Errorf("step %s: run for how long?", s)
		}
		d, err := time.ParseDuration(s.args[0])
		if err != nil {
			return fmt.Errorf("step %s: %w", s, err)
		}
		w.runFor(d)
	default:
		return fmt.Errorf("step %s: all can run or settle", s)
	}
	return nil
}

func (w *world) doStore(s step) error {
	switch {
	case s.verb == "down", s.verb == "up":
		w.quorum(s.verb == "up")
	case s.verb == "compact" && w.storeOff:
	case s.verb == "compact":
		w.compacted = w.rev
		w.mem.Compact(w.rev)
	case s.verb == "save" && !w.storeOff:
		w.saved = w.mem.Save()
	case s.verb == "restore" && !w.storeOff:
		w.restore()
	case s.verb == "save", s.verb == "restore":
	case s.verb == "confirm":
		w.confirmed = w.cluster
	case s.verb == "deliver" && len(s.args) == 1:
		id, err := strconv.Atoi(s.args[0])
		if err != nil {
			return fmt.Errorf("step %s: %w", s, err)
		}
		if !w.deliver(id) {
			w.note("nothing of that number is on its way")
		}
	default:
		return fmt.Errorf("step %s: the store can compact, deliver N, go down or up, save, restore, confirm", s)
	}
	return nil
}

func (w *world) doTask(s step) error {
	if s.verb != "go" {
		return fmt.Errorf("step %s: a task can go", s)
	}
	var g goOn
	for _, a := range s.args {
		if n, err := strconv.Atoi(a); err == nil {
			g.n = n
		} else if g.outcome = outcome(a); !slices.Contains([]outcome{fail, lost, late, held}, g.outcome) {
			return fmt.Errorf("step %s: %s is no outcome", s, a)
		}
	}
	t := w.task(s.who)
	if t == nil || !t.ready() {
		w.note("not now")
		return nil
	}
	t.resume(g)
	if w.opt.Trace && !t.done && t.call != nil {
		w.note("| %s?", t.call.what)
	}
	return nil
}

func (h *host) do(s step) error {
	switch s.verb {
	case "off", "on":
		h.power(s.verb == "on")
	case "crash":
		h.crash()
	case "start":
		h.startFleetd()
	case "restart":
		h.crash()
		h.startFleetd()
	case "stop":
		if h.p != nil && !h.p.departing {
			h.p.departing = true
			h.p.spawn("depart", h.p.depart)
		}
	case "cut":
		h.cut, h.cutAt = true, h.w.now
	case "deaf":
		h.deaf = true
	case "heal":
		h.cut, h.deaf = false, false
	case "freeze", "thaw":
		h.frozen = s.verb == "freeze" && h.p != nil
	case "bus":
		h.busOff = len(s.args) > 0 && s.args[0] == "off"
	case "jump":
		if len(s.args) != 1 {
			return fmt.Errorf("step %s: jump how far?", s)
		}
		d, err := time.ParseDuration(s.args[0])
		if err != nil {
			return fmt.Errorf("step %s: %w", s, err)
		}
		h.jumped += d
	case "lose":
		if h.on {
			h.sys.Lose()
		}
	case "exit":
		h.exit(s.args)
	case "submit":
		return h.submit(s.args)
	case "destroy":
		h.destroy(s.args)
	case "set":
		if len(s.args) == 0 {
			return fmt.Errorf("step %s: set what?", s)
		}
		return h.set(s.args[0], s.args[1:])
	default:
		return fmt.Errorf("step %s: a host cannot %s", s, s.verb)
	}
	return nil
}

// script is what a transcript says.
type script struct {
	about []string // comments at its top
	hosts int
	steps []step
}

func parseScript(text string) (script, error) {
	s := script{hosts: 3}
	for _, line := range strings.Split(text, "\n") {
		if n, is := strings.CutPrefix(line, "hosts "); is {
			hosts, err := strconv.Atoi(strings.TrimSpace(n))
			if err != nil || hosts < 1 || hosts > 9 {
				return s, fmt.Errorf("%q: want 1 to 9 hosts", line)
			}
			s.hosts = hosts
			continue
		}
		if len(s.steps) == 0 && strings.HasPrefix(line, "#") {
			s.about = append(s.about, line)
		}
		st, found, err := parseStep(line)
		if err != nil {
			return s, err
		}
		if found {
			s.steps = append(s.steps, st)
		}
	}
	return s, nil
}

// play runs a script, and then heals all faults and asks whether the cluster comes to rest. With o.Trace the transcript comes back.
func play(s script, o Options) (transcript string, bad *Bad, err error) {
	o.Hosts = s.hosts
	w := newWorld(o)
	defer w.end()
	var b strings.Builder
	for _, line := range s.about {
		b.WriteString(line + "\n")
	}
	fmt.Fprintf(&b, "hosts %d\n", s.hosts)
	take := func(st step) error {
		err := w.do(st)
		w.transcribe(&b, st)
		return err
	}
	for _, st := range s.steps {
		if err := take(st); err != nil {
			return b.String(), nil, err
		}
		if w.bad != nil {
			return b.String(), w.bad, nil
		}
	}
	if n := len(s.steps); n == 0 || s.steps[n-1].verb != "settle" {
		err = take(step{at: w.since(), who: "all", verb: "settle"})
	}
	return b.String(), w.bad, err
}

// transcribe writes down a step and what came of it.
func (w *world) transcribe(b *strings.Builder, s step) {
	if !w.opt.Trace {
		return
	}
	b.WriteString(s.String())
	if len(w.notes) > 0 {
		b.WriteString("  # " + strings.ReplaceAll(strings.Join(w.notes, ", "), ", \n", "\n"))
	}
	if w.bad != nil {
		b.WriteString("  # BAD " + w.bad.Error())
	}
	b.WriteByte('\n')
	w.notes = w.notes[:0]
}

// exit ends a unit's process: h1 exit a.service well.
func (h *host) exit(args []string) {
	if !h.on || len(args) == 0 {
		return
	}
	n := unit.Name(args[0])
	h.sys.Exit(n, len(args) > 1 && args[1] == "well")
	h.w.facts.ended[fleet.Key{Machine: h.id, Unit: n}] = true
	h.askSystemd()
}
