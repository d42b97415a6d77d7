package registry

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// A host that comes back from a power cut before its lease has ended registers at once. Nobody sees it gone meanwhile, for then all its
// units would be moved away; but nothing is left of what it said of them before.
func TestARebootedHostTakesTheOldBootsPlace(t *testing.T) {
	eachStore(t, func(t *testing.T, f *fixture) {
		old := f.register(m1)
		f.must(f.Report(t.Context(), old, []fleet.Observation{observation(m1, "a.service")}, nil))
		watch := f.Watch(t.Context(), f.snapshot())
		again := hello(m1)
		again.Boot, again.Version = "second boot", "2"
		p, err := f.Register(t.Context(), again, 10*time.Second)
		f.must(err)
		f.want("registration", old.Rev, p.Rev)
		f.wantErr("the old presence", f.KeepAlive(t.Context(), old), kv.ErrLeaseGone)
		f.must(f.KeepAlive(t.Context(), p))
		f.want("observed", 0, len(f.snapshot().Observed))
		for told := false; !told; {
			for _, c := range (<-watch).Changes {
				if c.Machine != nil && c.Deleted {
					t.Fatal("the machine was gone for a moment")
				}
				told = told || c.Machine != nil && c.Machine.Version == "2"
			}
		}
	})
}

// Two hosts made from one disk: the one that comes later is told, and the first one does not notice.
func TestACopiedHostIsToldApart(t *testing.T) {
	eachStore(t, func(t *testing.T, f *fixture) {
		first := f.register(m1)
		clone := hello(m1)
		clone.Boot, clone.IP = "the copy's boot", netip.MustParseAddr("10.0.0.2")
		before := f.rev()
		_, err := f.Register(t.Context(), clone, 10*time.Second)
		if dup := (*DuplicateError)(nil); !errors.As(err, &dup) || dup.Machine != m1 {
			t.Fatalf("got %v, want a DuplicateError that names %s", err, m1)
		}
		f.want("revision", before, f.rev())
		f.must(f.KeepAlive(t.Context(), first))
	})
}

// A host that was away for longer than its lease finds that a copy of it has come.
func TestACopiedHostIsNotThrownOut(t *testing.T) {
	eachStore(t, func(t *testing.T, f *fixture) {
		clone := hello(m1)
		clone.Boot = "the copy's boot"
		_, err := f.Register(t.Context(), clone, 10*time.Second)
		f.must(err)
		first := hello(m1)
		first.Again = true
		_, err = f.Register(t.Context(), first, 10*time.Second)
		if dup := (*DuplicateError)(nil); !errors.As(err, &dup) || dup.Machine != m1 {
			t.Fatalf("got %v, want a DuplicateError that names %s", err, m1)
		}
	})
}

// A machine that goes down says so in its own record: it ends with the registration.
func TestLeavingEndsWithTheRegistration(t *testing.T) {
	eachStore(t, func(t *testing.T, f *fixture) {
		p := f.register(m1)
		h := hello(m1)
		h.Leaving = true
		if err := f.Update(t.Context(), p, h); err != nil {
			t.Fatal(err)
		}
		if !f.snapshot().Machines[m1].Leaving {
			t.Error("the machine is not leaving, though it said so")
		}
		if err := f.Leave(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		f.register(m1)
		if f.snapshot().Machines[m1].Leaving {
			t.Error("the machine is leaving still, though it came back")
		}
	})
}

// A registration that somebody ends, or that another boot of this host takes the place of, is seen at once.
func TestLossIsSeen(t *testing.T) {
	eachStore(t, func(t *testing.T, f *fixture) {
		for _, end := range []func(p Presence){
			func(p Presence) { f.must(f.Leave(t.Context(), p)) },
			func(Presence) {
				again := hello(m1)
				again.Boot = "second boot"
				_, err := f.Register(t.Context(), again, 10*time.Second)
				f.must(err)
			},
		} {
			p := f.register(m1)
			lost := make(chan error, 1)
			go func() { lost <- f.AwaitLoss(t.Context(), p) }()
			end(p)
			f.must(<-lost)
			f.must(f.AwaitLoss(t.Context(), p)) // also by who comes later
		}
	})
}
