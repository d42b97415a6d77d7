package registry

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
	"github.com/fleet-init/fleet/internal/unit"
)

// The benchmarks run over an embedded etcd on a unix socket that does not sync its disk (see etcdtest), so they measure the
// work and not the disk; and over the memory store, the work of the registry alone.

func benchStores(b *testing.B, run func(*testing.B, *Registry)) {
	for name, store := range map[string]func(b *testing.B) kv.Store{
		"memory": func(*testing.B) kv.Store { return kv.NewMemory(nil) },
		"etcd":   func(b *testing.B) kv.Store { return etcdtest.Start(b).Store },
	} {
		b.Run(name, func(b *testing.B) {
			run(b, New(store(b), "/fleet/", slog.New(slog.NewTextHandler(io.Discard, nil))))
		})
	}
}

// fill makes machines and launched instances of one template, half of them with a specifier in their needs.
func fill(b *testing.B, r *Registry, machines, units int) (fleet.Snapshot, fleet.Term) {
	ctx := b.Context()
	for i := range machines {
		id := fleet.MachineID(fmt.Sprintf("%032x", i+1))
		if _, err := r.Register(ctx, hello(id), time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	to := fleet.Launched
	subs := make([]Submission, units)
	for i := range subs {
		text := webText
		if i%2 == 0 {
			text = "[Service]\nExecStart=/bin/web\n[X-Fleet]\nMachineOf=db@%i.service\n"
		}
		subs[i] = Submission{Name: unit.Name(fmt.Sprintf("web@%06d.service", i)), File: file(b, text), Target: &to}
	}
	for _, res := range r.Submit(ctx, subs...) {
		if res.Err != nil {
			b.Fatal(res.Err)
		}
	}
	term, ok, err := r.Campaign(ctx, "leader", "1", time.Hour)
	if !ok || err != nil {
		b.Fatal(ok, err)
	}
	s, err := r.Snapshot(ctx)
	if err != nil {
		b.Fatal(err)
	}
	return s, term
}

// placeAll is the plan of a first start: every unit on some machine.
func placeAll(s fleet.Snapshot) []fleet.Decision {
	var ids []fleet.MachineID
	for id := range s.Machines {
		ids = append(ids, id)
	}
	var ds []fleet.Decision
	for n, u := range s.Units {
		m := ids[len(ds)%len(ids)]
		ds = append(ds, fleet.Decision{
			Kind: fleet.Place, Unit: n, Machine: m, Hash: u.Hash, Target: u.Target, UnitRev: u.Rev, MachineRev: s.Machines[m].Rev,
		})
	}
	return ds
}

func commitAll(b *testing.B, r *Registry, t fleet.Term, ds []fleet.Decision) {
	_, lost, err := r.Commit(b.Context(), t, ds)
	if err != nil || len(lost) > 0 {
		b.Fatal(len(lost), err)
	}
}

func BenchmarkCommit1000(b *testing.B) {
	for _, machines := range []int{3, 1000} {
		b.Run(fmt.Sprintf("%d machines", machines), func(b *testing.B) {
			benchStores(b, func(b *testing.B, r *Registry) {
				s, term := fill(b, r, machines, 1000)
				ds := placeAll(s)
				for b.Loop() {
					commitAll(b, r, term, ds)
					b.StopTimer()
					s, err := r.Snapshot(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					for i, d := range ds { // undo, for the next round
						ds[i].Kind, ds[i].Rev = fleet.Withdraw, s.Placements[fleet.Key{Machine: d.Machine, Unit: d.Unit}].Rev
					}
					commitAll(b, r, term, ds)
					for i := range ds {
						ds[i].Kind, ds[i].Rev = fleet.Place, 0
					}
					b.StartTimer()
				}
			})
		})
	}
}

func BenchmarkSnapshot10000(b *testing.B) {
	benchStores(b, func(b *testing.B, r *Registry) {
		benchSnapshot(b, r, 100, 10_000)
	})
}

func benchSnapshot(b *testing.B, r *Registry, machines, units int) {
	s, term := fill(b, r, machines, units)
	ds := placeAll(s)
	commitAll(b, r, term, ds)
	reports := map[fleet.MachineID][]fleet.Observation{}
	for _, d := range ds {
		o := observation(d.Machine, d.Unit)
		o.Hash, o.Since = d.Hash, time.Unix(1700000000, int64(len(reports[d.Machine])))
		reports[d.Machine] = append(reports[d.Machine], o)
	}
	for id, os := range reports {
		p, err := r.Register(b.Context(), hello(id), time.Hour)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Report(b.Context(), p, os, nil); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		s, err := r.Snapshot(b.Context())
		if err != nil || len(s.Units) != units || len(s.Placements) != units || len(s.Observed) != units {
			b.Fatal(len(s.Units), len(s.Placements), len(s.Observed), err)
		}
	}
}

// BenchmarkSubmit is one user's PUT, alone and with 64 others at the same time.
func BenchmarkSubmit(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d callers", callers), func(b *testing.B) {
			benchStores(b, func(b *testing.B, r *Registry) {
				f, to := file(b, webText), fleet.Launched
				n := 0
				for b.Loop() {
					done := make(chan error, callers)
					for i := range callers {
						name := unit.Name(fmt.Sprintf("web@%d-%d.service", n, i))
						go func() { done <- r.Submit(b.Context(), Submission{Name: name, File: f, Target: &to})[0].Err }()
					}
					for range callers {
						if err := <-done; err != nil {
							b.Fatal(err)
						}
					}
					n++
				}
			})
		})
	}
}
