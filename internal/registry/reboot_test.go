package registry

import (
	"errors"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

// A host that comes back from a power cut before its lease has ended registers at once, as a new registration.
func TestARebootedHostEndsItsOldRegistration(t *testing.T) {
	eachStore(t, func(t *testing.T, f *fixture) {
		old := f.register(m1)
		again := hello(m1)
		again.Boot = "second boot"
		p, err := f.Register(t.Context(), again, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if p.Rev <= old.Rev {
			t.Errorf("registration %d after %d: it must be a new one, for the units are not running", p.Rev, old.Rev)
		}
		f.wantErr("the old presence", f.KeepAlive(t.Context(), old), kv.ErrLeaseGone)
	})
}

// Two hosts made from one disk: the one that comes later takes the name, the first one sees that and does not take it back.
func TestACopiedHostIsToldApart(t *testing.T) {
	eachStore(t, func(t *testing.T, f *fixture) {
		f.register(m1)
		clone := hello(m1)
		clone.Boot = "the copy's boot"
		if _, err := f.Register(t.Context(), clone, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		first := hello(m1)
		first.Again = true
		_, err := f.Register(t.Context(), first, 10*time.Second)
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
