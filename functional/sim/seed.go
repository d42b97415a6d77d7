package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

// maker makes steps of luck. It knows how things are, so that few steps are in vain, but what it makes is a plain list.
type maker struct {
	*rand.Rand
	w     *world
	later []step // ends of faults, by time

	// What this seed is like. Each has its own mix, for a bug may need much of one fault and nothing of another.
	end       time.Duration
	pace      time.Duration // mean time between two tasks' steps
	userEvery time.Duration
	evilEvery time.Duration
	evils     []func(*maker, *host) []step
	flaky     float64 // requests that fail though nothing is cut
	holds     float64 // answers that take their time
	names     []string
	few       bool     // texts, so that they meet
	slow      []string // kinds of tasks that seldom get their turn

	nextUser, nextEvil, nextCompact time.Duration
	texts                           int
}

// makeScript makes a seed's steps and plays them as it goes. The same seed makes the same steps as long as the code is the same; what is
// to be kept is the steps.
func makeScript(seed uint64, o Options) (s script, bad *Bad) {
	r := rand.New(rand.NewPCG(seed, 0x666c656574))
	s.about = []string{fmt.Sprintf("# seed %d", seed)}
	if s.hosts = 2 + r.IntN(4); o.AtOnce {
		s.hosts = 5
	}
	o.Hosts = s.hosts
	w := newWorld(o)
	defer w.end()
	m := newMaker(r, w)
	if seed%4 == 0 || o.Restores {
		m.evils = append(m.evils, setBack()...)
	}
	if seed%4 == 1 {
		m.evils = append(m.evils, atOnceEvils()...)
	}
	for w.bad == nil && w.since() < m.end {
		st, any := m.step()
		if !any {
			continue
		}
		s.steps = append(s.steps, st)
		if err := w.do(st); err != nil {
			panic(err) // a step that the maker should not make
		}
		w.notes = w.notes[:0]
	}
	if w.bad == nil {
		w.settle()
	}
	return s, w.bad
}

func newMaker(r *rand.Rand, w *world) *maker {
	m := &maker{Rand: r, w: w}
	m.end = time.Duration(30+r.IntN(120)) * time.Second
	m.pace = []time.Duration{time.Millisecond, 4 * time.Millisecond, 15 * time.Millisecond, 60 * time.Millisecond}[r.IntN(4)]
	m.userEvery = time.Duration(300+r.IntN(3000)) * time.Millisecond
	m.evilEvery = time.Duration(500+r.IntN(6000)) * time.Millisecond
	for _, e := range evils() {
		if r.IntN(5) < 3 {
			m.evils = append(m.evils, e)
		}
	}
	if r.IntN(2) == 0 {
		m.flaky = r.Float64() * r.Float64() * 0.1
	}
	if r.IntN(2) == 0 {
		m.holds = r.Float64() * r.Float64() * 0.4
	}
	all := []string{"p1.service", "p2.service", "p3.service", "p4.service", "p5.socket", "web@.service", "web@1.service", "web@2.service",
		"web@3.service", "c1.service", "c2.service", "x1.service", "x2.service", "f1.service", "f2.service", "g1.service", "g2.service",
		"e1.service", "e2.service", "e3.service"}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	m.few = r.IntN(4) == 0
	for _, k := range []string{"agent", "collect", "depart", "engine", "fetch", "letgo", "orders", "presence", "renew", "report", "user"} {
		if r.IntN(8) == 0 {
			m.slow = append(m.slow, k)
		}
	}
	m.names = all[:3+r.IntN(len(all)-3)]
	if w.opt.Focus {
		m.names, m.evils, m.slow = []string{"e1.service", "e2.service"}, longEvils(), pick(m, [][]string{nil, {"engine"}, {"presence"}})
		m.pace, m.end, m.evilEvery, m.userEvery = 60*time.Millisecond, 300*time.Second, 20*time.Second, 15*time.Second
	}
	if w.opt.AtOnce {
		m.names, m.evils, m.slow = []string{"p1.service", "p2.service", "p3.service", "p4.service", "web@1.service", "e1.service"}, atOnceEvils(), nil
		m.pace, m.end, m.evilEvery = pick(m, []time.Duration{time.Millisecond, 4 * time.Millisecond}), 120*time.Second, 20*time.Second
	}
	if w.opt.Ports {
		m.names, m.few = []string{"n1.service", "n2.service", "n3.service", "n4.service", "n5.service", "p1.service", "g1.service"}, false
	}
	m.nextUser, m.nextEvil = time.Duration(r.IntN(2000))*time.Millisecond, 3*time.Second+m.about(m.evilEvery)
	m.nextCompact = m.about(10 * time.Second)
	return m
}

// about is a time of mean d, mostly less, now and then much more.
func (m *maker) about(d time.Duration) time.Duration {
	return (time.Duration(m.ExpFloat64()*float64(d)) + time.Millisecond).Truncate(time.Millisecond)
}

func (m *maker) oneIn(n int) bool { return m.IntN(n) == 0 }

func pick[T any](m *maker, from []T) T { return from[m.IntN(len(from))] }

// step makes the next step; any=false: only time has passed.
func (m *maker) step() (s step, any bool) {
	at := m.w.since()
	if m.oneIn(3) {
		at += m.about(m.pace)
	}
	switch {
	case len(m.later) > 0 && m.later[0].at <= at:
		s = m.later[0]
		m.later = m.later[1:]
		return s, true
	case m.nextUser <= at:
		m.nextUser = at + m.about(m.userEvery)
		return m.user(at)
	case m.nextEvil <= at && len(m.evils) > 0:
		m.nextEvil = at + m.about(m.evilEvery)
		return m.evil(at)
	case m.nextCompact <= at:
		m.nextCompact = at + m.about(10*time.Second)
		return step{at, "store", "compact", nil}, true
	case len(m.w.inFlight) > 0 && m.oneIn(40):
		return step{at, "store", "deliver", []string{fmt.Sprint(pick(m, m.w.inFlight).id)}}, true
	}
	m.w.pass(at)
	ts := m.w.waiting()
	if len(ts) == 0 {
		m.w.pass(max(at, m.idle()))
		return step{}, false
	}
	if fast := slices.DeleteFunc(slices.Clone(ts), m.isSlow); len(fast) > 0 {
		ts = fast
	} else if !m.oneIn(20) {
		m.w.pass(at + m.about(20*time.Millisecond))
		return step{}, false
	}
	t := pick(m, ts)
	return step{at, t.name, "go", m.how(t)}, true
}

// isSlow tells whether a task shall not get this turn.
func (m *maker) isSlow(t *task) bool {
	kind := t.kind
	if t.p.ops[kind] != nil {
		kind = "user"
	}
	return slices.Contains(m.slow, kind) && !m.oneIn(20)
}

// idle is how long nothing happens.
func (m *maker) idle() time.Duration {
	until := min(m.nextUser, m.nextCompact, m.end)
	if len(m.evils) > 0 {
		until = min(until, m.nextEvil)
	}
	if len(m.later) > 0 {
		until = min(until, m.later[0].at)
	}
	if next, any := m.w.next(); any {
		until = min(until, next)
	}
	return until
}

// how chooses how a task goes on.
func (m *maker) how(t *task) []string {
	if t.call == nil {
		switch {
		case t.kind == "agent" && m.oneIn(12), t.kind == "engine" && m.oneIn(4):
			return []string{fmt.Sprint(1 + m.IntN(4))}
		}
		return nil
	}
	h := t.p.h
	if h.cut {
		return []string{string(pick(m, []outcome{fail, fail, lost, late}))}
	}
	switch x := m.Float64(); {
	case x < m.flaky:
		return []string{string(pick(m, []outcome{fail, lost, late}))}
	case x < m.flaky+m.holds:
		return []string{string(held)}
	}
	return nil
}

// then plans the end of a fault.
func (m *maker) then(after time.Duration, host, verb string, args ...string) {
	s := step{m.w.since() + after, host, verb, args}
	i, _ := slices.BinarySearchFunc(m.later, s, func(a, b step) int {
		if a.at <= b.at {
			return -1
		}
		return 1
	})
	m.later = slices.Insert(m.later, i, s)
}

func (m *maker) evil(at time.Duration) (step, bool) {
	m.w.pass(at)
	h := pick(m, m.w.hosts)
	if m.oneIn(3) { // the leader is worth more trouble than others
		for _, o := range m.w.hosts {
			if o.p != nil && o.p.term != nil {
				h = o
			}
		}
	}
	steps := pick(m, m.evils)(m, h)
	for _, s := range steps[1:] {
		m.then(0, s.who, s.verb, s.args...)
	}
	s := steps[0]
	s.at = at
	return s, true
}

// evils are the faults there are. Each plans its own end.
func evils() []func(*maker, *host) []step {
	one := func(h *host, verb string, args ...string) []step {
		return []step{{who: h.name, verb: verb, args: args}}
	}
	return []func(*maker, *host) []step{
		func(m *maker, h *host) []step {
			m.then(m.about(2*time.Second), h.name, "start")
			return one(h, "crash")
		},
		func(m *maker, h *host) []step {
			m.then(m.about(7*time.Second), h.name, "heal")
			return one(h, "cut")
		},
		func(m *maker, h *host) []step { // cut all
			for _, o := range m.w.hosts {
				m.then(0, o.name, "cut")
				m.then(time.Second+m.about(5*time.Second), o.name, "heal")
			}
			return one(h, "cut")
		},
		func(m *maker, h *host) []step {
			m.then(m.about(5*time.Second), h.name, "thaw")
			return one(h, "freeze")
		},
		func(m *maker, h *host) []step {
			m.then(m.about(8*time.Second), h.name, "on")
			return one(h, "off")
		},
		func(m *maker, h *host) []step {
			m.then(3*time.Second+m.about(20*time.Second), h.name, "start")
			return one(h, "stop")
		},
		func(_ *maker, h *host) []step { return one(h, "restart") },
		func(m *maker, h *host) []step {
			m.then(m.about(2*time.Second), h.name, "bus", "on")
			return one(h, "bus", "off")
		},
		func(_ *maker, h *host) []step { return one(h, "lose") },
		func(m *maker, h *host) []step {
			return one(h, "exit", pick(m, m.names), pick(m, []string{"well", "badly"}))
		},
		func(m *maker, h *host) []step { // one way only
			m.then(m.about(8*time.Second), h.name, "heal")
			return one(h, "deaf")
		},
		func(m *maker, h *host) []step { // a loose cable
			for at := time.Duration(0); at < 20*time.Second; at += time.Second + m.about(2*time.Second) {
				m.then(at, h.name, pick(m, []string{"cut", "deaf", "heal"}))
			}
			m.then(25*time.Second, h.name, "heal")
			return one(h, "cut")
		},
		func(m *maker, _ *host) []step { // most of the store's members are lost
			m.then(m.about(15*time.Second), "store", "up")
			return []step{{who: "store", verb: "down"}}
		},
		func(m *maker, h *host) []step { // a partition that crashes on the way
			m.then(m.about(3*time.Second), h.name, "off")
			m.then(5*time.Second+m.about(5*time.Second), h.name, "heal")
			m.then(5*time.Second+m.about(5*time.Second), h.name, "on")
			return one(h, "cut")
		},
	}
}

// user makes a request.
func (m *maker) user(at time.Duration) (step, bool) {
	h := pick(m, m.w.hosts)
	if h.p == nil {
		return step{}, false
	}
	s := step{at: at, who: h.name}
	switch x := m.IntN(20); {
	case x < 9:
		s.verb = "submit"
		for _, n := range m.someNames() {
			s.args = append(s.args, n, m.target(n), m.text(n))
		}
	case x < 14:
		s.verb = "submit"
		for _, n := range m.someNames() {
			s.args = append(s.args, n, m.target(n), "-")
		}
	case x < 17:
		s.verb, s.args = "destroy", m.someNames()
	default:
		s.verb, s.args = "set", m.setting()
	}
	return s, true
}

func (m *maker) someNames() []string {
	var some []string
	for n := 1 + m.IntN(3)*m.IntN(3); n > 0; n-- {
		if name := pick(m, m.names); !slices.Contains(some, name) {
			some = append(some, name)
		}
	}
	return some
}

func (m *maker) target(name string) string {
	if strings.Contains(name, "@.") {
		return pick(m, []string{"inactive", "-"})
	}
	return pick(m, []string{"launched", "launched", "launched", "launched", "launched", "loaded", "inactive"})
}

func (m *maker) setting() []string {
	h := pick(m, m.w.hosts)
	switch m.IntN(5) {
	case 0:
		m.then(m.about(10*time.Second), pick(m, m.w.hosts).name, "set", h.name, "cordon=no")
		return []string{h.name, "cordon=yes"}
	case 1:
		m.then(m.about(10*time.Second), pick(m, m.w.hosts).name, "set", h.name, "leaving=no")
		return []string{h.name, "leaving=yes"}
	case 2:
		return []string{h.name, "zone=-"}
	}
	return []string{h.name, "zone=" + pick(m, []string{"a", "b", "c"})}
}

// text makes a text for a unit: units of one letter have the same ways.
func (m *maker) text(name string) string {
	m.texts++
	if m.few && !alwaysExclusive(unit.Name(name)) {
		return pick(m, []string{"run,v0", "run,v1", "once,v0"})
	}
	words := []string{pick(m, []string{"run", "run", "run", "run", "run", "once", "slow", "fail", "missing", "broken"})}
	if m.oneIn(3) {
		words = append(words, fmt.Sprintf("v%d", m.IntN(3)))
	} else {
		words = append(words, fmt.Sprintf("v%d", 100+m.texts))
	}
	if m.oneIn(4) {
		words = append(words, fmt.Sprintf("stop=%d", 1+m.IntN(5)*m.IntN(5)))
	}
	if m.oneIn(8) {
		words = append(words, "install")
	}
	if alwaysExclusive(unit.Name(name)) {
		words = append(words, fmt.Sprintf("limit=%d", 1+m.IntN(3)), "Exclusive=yes")
	}
	words = append(words, m.needs(name)...)
	return strings.Join(words, ",")
}

func (m *maker) needs(name string) (words []string) {
	if m.oneIn(4) {
		words = append(words, "MachineMetadata=zone="+pick(m, []string{"a", "b", "c"}))
	}
	if m.oneIn(12) {
		words = append(words, fmt.Sprintf("MachineID=%08x", 1+m.IntN(len(m.w.hosts))))
	}
	others := []string{"web@*.service", "c*.service", "x1.service", "x*.service", "f1.service", "g*.service"}
	switch name[0] {
	case 'p':
		if m.oneIn(8) {
			return []string{"Global=true"}
		}
	case 'w':
		words = append(words, "Conflicts=web@*.service")
	case 'c':
		words = append(words, "Conflicts="+pick(m, others))
	case 'x':
		if g := pick(m, others); m.oneIn(2) {
			words = append(words, "Replaces="+g)
		} else if m.oneIn(2) {
			words = append(words, "Conflicts="+g)
		}
	case 'f':
		if peer := pick(m, m.names); peer != name {
			return []string{"MachineOf=" + peer}
		}
	case 'n':
		words = append(words, m.ports()...)
	case 'g':
		words = append(words, "Global=true")
		if m.oneIn(3) {
			words = append(words, "Conflicts="+pick(m, others))
		}
	}
	return words
}

// ports are those of a unit that publishes some: one host has room for a few such units, and for fewer of those that are everywhere.
func (m *maker) ports() []string {
	words := []string{"Network=overlay", "Publish=" + pick(m, []string{"80:80", "80:81", "81:80", "80:80 81:81", "53:53/udp", "53:53/udp 80:53"})}
	if m.oneIn(6) {
		words = append(words, "Global=true")
	}
	return words
}
