package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// shape is a cluster to plan for.
type shape struct {
	name            string
	machines, units int
	needs           func(i int) (unit.Name, unit.Needs)
	uneven          bool // machines carry different numbers of units already
}

func plain(i int) (unit.Name, unit.Needs) {
	return unit.Name(fmt.Sprintf("app-%d@%d.service", i/100, i%100)), unit.Needs{}
}

// apart keeps a hundred instances of each app on different machines.
func apart(i int) (unit.Name, unit.Needs) {
	return unit.Name(fmt.Sprintf("app-%d@%d.service", i/100, i%100)),
		unit.Needs{Conflicts: []unit.Glob{unit.Glob(fmt.Sprintf("app-%d@*", i/100))}}
}

// regional wants one of ten regions, every tenth unit one region and a disk that one machine in a hundred has.
func regional(i int) (unit.Name, unit.Needs) {
	n := unit.Needs{Metadata: map[string][]string{"region": {fmt.Sprint("r", i%10)}}}
	if i%10 == 3 {
		n.Metadata["disk"] = []string{"ssd"}
	}
	return unit.Name(fmt.Sprintf("app-%d@%d.service", i/100, i%100)), n
}

// web is one template on as many machines as there are.
func web(i int) (unit.Name, unit.Needs) {
	return unit.Name(fmt.Sprintf("web@%d.service", i)), unit.Needs{Conflicts: []unit.Glob{"web@*"}}
}

func shapes() []shape {
	return []shape{
		{name: "plain/100k-on-1k", machines: 1000, units: 100_000, needs: plain},
		{name: "conflicts/100k-on-1k", machines: 1000, units: 100_000, needs: apart},
		{name: "metadata/100k-on-1k", machines: 1000, units: 100_000, needs: regional},
		{name: "web/10k-on-10k-uneven", machines: 10_000, units: 10_000, needs: web, uneven: true},
		{name: "plain/1M-on-10k", machines: 10_000, units: 1_000_000, needs: plain},
		{name: "conflicts/1M-on-10k", machines: 10_000, units: 1_000_000, needs: apart},
		{name: "metadata/1M-on-10k", machines: 10_000, units: 1_000_000, needs: regional},
	}
}

func (sh shape) snapshot() fleet.Snapshot {
	s := fleet.NewSnapshot()
	for i := range sh.machines {
		m := fleet.Machine{ID: id(i), Rev: int64(i + 1), Admitted: int64(i + 1), Metadata: map[string]string{"region": fmt.Sprint("r", i%10)}}
		if i%100 < 10 {
			m.Metadata["disk"] = "ssd"
		}
		s.Machines[m.ID] = m
		if sh.uneven {
			for j := range i * 7919 % 23 {
				u := fleet.Unit{Name: unit.Name(fmt.Sprintf("old-%d-%d.service", i, j)), Hash: "h", Target: fleet.Launched, Rev: 1}
				s.Units[u.Name] = u
				s.Placements[fleet.Key{Machine: m.ID, Unit: u.Name}] = fleet.Placement{Unit: u.Name, Machine: m.ID, Hash: "h", Target: fleet.Launched, Rev: 1}
			}
		}
	}
	for i := range sh.units {
		u := sh.unit(i)
		s.Units[u.Name] = u
	}
	return s
}

func (sh shape) unit(i int) fleet.Unit {
	name, needs := sh.needs(i)
	return fleet.Unit{Name: name, Hash: "0123456789012345678901234567890123456789", Target: fleet.Launched, Needs: needs, Rev: int64(i + 1)}
}

func perSecond(b *testing.B, decisions int, spent time.Duration) {
	b.ReportMetric(float64(decisions)/spent.Seconds(), "decisions/s")
	b.ReportMetric(0, "ns/op")
}

// leading is a state that follows a world, and a watch that runs only while it decides: what the world around it costs, which commits and
// remembers with a million units in its maps, is the benchmark's own.
type leading struct {
	*State
	w     *world
	spent time.Duration
	n     int // decisions
}

func lead(sh shape) *leading {
	w := &world{Snapshot: sh.snapshot()}
	w.Rev = int64(sh.units) + 1
	return &leading{State: NewState(w.Snapshot), w: w}
}

func (l *leading) turn() []fleet.Decision {
	changes := l.w.watch()
	began := time.Now()
	l.Apply(l.w.At, changes)
	ds := l.Turn()
	l.spent += time.Since(began)
	refused := l.w.commit(ds)
	began = time.Now()
	l.Refused(refused)
	l.spent += time.Since(began)
	l.n += len(ds)
	return ds
}

// begin forgets what was before the benchmark's loop.
func (l *leading) begin() { l.spent, l.n = 0, 0 }

// BenchmarkPlan places all units of a cluster at once.
func BenchmarkPlan(b *testing.B) {
	for _, sh := range shapes() {
		b.Run(sh.name, func(b *testing.B) {
			s, n := sh.snapshot(), 0
			b.ResetTimer()
			for range b.N {
				n += len(Plan(s))
			}
			if n != b.N*sh.units {
				b.Fatalf("%d decisions for %d units", n, sh.units)
			}
			perSecond(b, n, b.Elapsed())
			b.ReportMetric(float64(b.N*len(s.Units))/b.Elapsed().Seconds(), "units/s") // of the uneven cluster, most stay
		})
	}
}

// BenchmarkTurn keeps a full cluster busy: units are destroyed and started anew, a batch at a time, with all that the watch brings.
func BenchmarkTurn(b *testing.B) {
	for _, sh := range shapes() {
		for _, batch := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/batch-%d", sh.name, batch), func(b *testing.B) { benchmarkTurn(b, sh, batch) })
		}
	}
}

func benchmarkTurn(b *testing.B, sh shape, batch int) {
	l := lead(sh)
	l.turn()
	l.turn()
	l.begin()
	for at := 0; b.Loop(); at += batch {
		for i := range batch {
			l.w.destroy(sh.unit((at + i) % sh.units).Name)
		}
		l.turn()
		for i := range batch {
			u := sh.unit((at + i) % sh.units)
			l.w.unit(u.Name, func(old *fleet.Unit) { *old = u })
		}
		l.turn()
	}
	if l.n != 2*batch*b.N {
		b.Fatalf("%d decisions in %d rounds of %d", l.n, b.N, batch)
	}
	perSecond(b, l.n, l.spent)
}

// BenchmarkLoss lets a machine with its hundred units die, hands them over, and lets it come back.
func BenchmarkLoss(b *testing.B) {
	for _, sh := range shapes() {
		if sh.uneven {
			continue // every machine but the dead one has its web@ already
		}
		b.Run(sh.name, func(b *testing.B) {
			l := lead(sh)
			turn := func() {
				for _, d := range l.turn() {
					if d.Kind == fleet.Place {
						l.w.run(fleet.Key{Machine: d.Machine, Unit: d.Unit})
					}
				}
			}
			turn()
			turn() // hears that all of them run
			l.begin()
			for at := 0; b.Loop(); at = (at + 1) % sh.machines {
				m := l.w.Machines[id(at)]
				l.w.lose(m.ID)
				turn() // placed anew
				turn() // runs there, withdrawn here
				l.w.machine(m.ID, func(back *fleet.Machine) { back.Metadata = m.Metadata })
				turn()
			}
			perSecond(b, l.n, l.spent)
		})
	}
}

// BenchmarkWaiting starts and stops one unit beside ten thousand that no machine takes.
func BenchmarkWaiting(b *testing.B) {
	w := newWorld()
	for i := range 1000 {
		w.machine(id(i), nil)
	}
	for i := range 11_000 {
		name, needs := web(i)
		w.unit(name, with(needs))
	}
	s := NewState(w.Snapshot)
	turn := func() int {
		s.Apply(w.At, w.watch())
		ds := s.Turn()
		s.Refused(w.commit(ds))
		return len(ds)
	}
	turn()
	n := 0
	for b.Loop() {
		w.unit("a.service", target(fleet.Launched))
		n += turn()
		w.unit("a.service", target(fleet.Inactive))
		n += turn()
	}
	perSecond(b, n, b.Elapsed())
}
