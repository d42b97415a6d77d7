package api

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// BenchmarkList is what fleetctl's lists cost from request to parsed answer: units placed and reported on 10 machines, the
// registry on a memory store, HTTP over loopback.
func BenchmarkList(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		c := crowd(b, n)
		b.Run(fmt.Sprintf("units/%d", n), func(b *testing.B) {
			for b.Loop() {
				if units, _, err := c.Units(b.Context()); err != nil || len(units) != n {
					b.Fatal(len(units), err)
				}
			}
		})
		b.Run(fmt.Sprintf("states/%d", n), func(b *testing.B) {
			for b.Loop() {
				if states, _, err := c.States(b.Context()); err != nil || len(states) != n {
					b.Fatal(len(states), err)
				}
			}
		})
		b.Run(fmt.Sprintf("watch/%d", n), func(b *testing.B) {
			for b.Loop() {
				s, err := c.Watch(b.Context(), 0)
				if err != nil {
					b.Fatal(err)
				}
				for e := (Event{}); !e.Sync; {
					if e, err = s.Next(); err != nil {
						b.Fatal(err)
					}
				}
				s.Close()
			}
		})
		b.Run(fmt.Sprintf("v1-pages/%d", n), func(b *testing.B) {
			for b.Loop() {
				for token := ""; ; {
					var p page
					path := "units"
					if token != "" {
						path += "?nextPageToken=" + token
					}
					if err := c.get(b.Context(), path, &p); err != nil {
						b.Fatal(err)
					}
					if token = p.NextPageToken; token == "" {
						break
					}
				}
			}
		})
	}
}

// crowd serves n running instances.
func crowd(b *testing.B, n int) *Client {
	b.Helper()
	ctx := b.Context()
	reg := registry.New(kv.NewMemory(time.Now), "/fleet/", slog.New(slog.DiscardHandler))
	term, _, err := reg.Campaign(ctx, m1, "1", time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	file, err := unit.Parse([]byte("[Unit]\nDescription=Web %i\n\n[Service]\nExecStart=/bin/web %i\n"))
	if err != nil {
		b.Fatal(err)
	}
	var subs []fleet.Submission
	target := fleet.Launched
	for i := range n {
		subs = append(subs, fleet.Submission{Name: unit.Name(fmt.Sprintf("web@%d.service", i)), File: file, Target: &target})
	}
	for _, r := range reg.Submit(ctx, subs...) {
		if r.Err != nil {
			b.Fatal(r.Err)
		}
	}
	for m := range 10 {
		id := fleet.MachineID(fmt.Sprintf("%032d", m))
		p, err := reg.Register(ctx, registry.Hello{Machine: fleet.Machine{ID: id}, Instance: string(id)}, time.Hour)
		if err != nil {
			b.Fatal(err)
		}
		s, err := reg.Snapshot(ctx)
		if err != nil {
			b.Fatal(err)
		}
		var ds []fleet.Decision
		var os []fleet.Observation
		for i := m; i < n; i += 10 {
			u := s.Units[subs[i].Name]
			ds = append(ds, fleet.Decision{Kind: fleet.Place, Unit: u.Name, Machine: id, Hash: u.Hash, Target: u.Target, UnitRev: u.Rev, MachineRev: p.Rev})
			o := running()
			o.Unit, o.Machine, o.Hash, o.Since = u.Name, id, u.Hash, time.Unix(1000, 0)
			os = append(os, o)
		}
		if _, lost, err := reg.Commit(ctx, term, ds); err != nil || len(lost) > 0 {
			b.Fatal(len(lost), err)
		}
		if err := reg.Report(ctx, p, os, nil); err != nil {
			b.Fatal(err)
		}
	}
	srv := httptest.NewServer(NewHandler(Config{Registry: reg, Version: "1"}))
	b.Cleanup(srv.Close)
	c, err := Dial(srv.URL, Options{})
	if err != nil {
		b.Fatal(err)
	}
	return c
}
