package link

import (
	"context"
	"fmt"
	"testing"

	"github.com/fleet-init/fleet/netd/nettest"
)

// BenchmarkRealKernel takes the time of a first Set and of one that finds everything in order, and counts what goes to the kernel.
func BenchmarkRealKernel(b *testing.B) {
	for _, n := range []int{10, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h, far := nettest.New(b, "host"), nettest.New(b, "far")
			nettest.Cable(h, "eth0", far, "eth0", 1500, []string{"192.168.0.1/24"}, []string{"192.168.0.2/24"})
			h.Do(func() {
				k, err := Open(Options{Instance: "/test", Table: "netd", RunDir: b.TempDir()})
				if err != nil {
					b.Fatal(err)
				}
				defer k.Close()
				host := vxlanHost()
				for i := range n {
					host.Peers = append(host.Peers, vxlanPeer(2+i))
				}
				l := New(k)
				if _, err := l.Set(context.Background(), host); err != nil {
					b.Fatal(err)
				}
				b.Run("in order", func(b *testing.B) {
					for b.Loop() {
						if rep, err := l.Set(context.Background(), host); err != nil || len(rep.Steps) > 0 {
							b.Fatal(err, rep.Steps[0])
						}
					}
				})
				b.Run("one more and one less", func(b *testing.B) {
					sent := k.rt.seq
					for b.Loop() {
						p := vxlanPeer(20000)
						if _, err := l.Peers(context.Background(), append(host.Peers[:0:0], p), nil); err != nil {
							b.Fatal(err)
						}
						if _, err := l.Peers(context.Background(), nil, []string{p.Name}); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(k.rt.seq-sent)/float64(b.N), "messages/op")
				})
				// The same three put and taken away by one who knows no peers: what the kernel itself takes among so many.
				p := vxlanPeer(20000)
				for _, kind := range []struct {
					name string
					step Step
				}{
					{"by hand: neighbour", Step{Neigh: &p.Neighs[0]}},
					{"by hand: forwarding entry", Step{FDB: &p.FDB[0]}},
					{"by hand: route", Step{Route: &p.Routes[0]}},
				} {
					b.Run(kind.name, func(b *testing.B) {
						for b.Loop() {
							for _, verb := range []string{"replace", "delete"} {
								s := kind.step
								s.Verb = verb
								if errs := k.Do(context.Background(), []Step{s}); errs[0] != nil {
									b.Fatal(errs[0])
								}
							}
						}
					})
				}
				b.Run("all anew", func(b *testing.B) {
					for b.Loop() {
						if _, err := l.Clean(context.Background()); err != nil {
							b.Fatal(err)
						}
						if _, err := l.Set(context.Background(), host); err != nil {
							b.Fatal(err)
						}
					}
				})
			})
		})
	}
}
