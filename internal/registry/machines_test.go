package registry

import (
	"errors"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
)

func TestMachinesAreThoseOfTheSnapshot(t *testing.T) {
	f := newFixture(t)
	f.register(m1)
	h := hello(m2)
	h.Seat.Role, h.Seat.Peer = "stand-by", "https://10.0.0.2:2380"
	_, err := f.Register(t.Context(), h, f.register(m1).TTL)
	f.must(err)
	got, err := f.Machines(t.Context())
	f.must(err)
	f.want("machines", f.snapshot().Machines, got)
	f.want("seat", h.Seat, got[m2].Seat)
	one, err := f.Machine(t.Context(), m2)
	f.must(err)
	f.want("one of them", got[m2], one)
	if _, err := f.Machine(t.Context(), "nobody"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("a machine that is not there is read with %v", err)
	}
}
