package registry

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
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

func TestLivesOfMachines(t *testing.T) {
	f := newFixture(t)
	one := f.register(m1)
	f.now = f.now.Add(time.Second)
	two := f.register(m2)
	_, _, err := f.raw.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/machines/by-hand", Value: []byte("{}")}})
	f.must(err)
	lives, err := f.Lives(t.Context())
	f.must(err)
	f.want("lives", map[fleet.MachineID]time.Duration{m1: one.TTL - time.Second, m2: two.TTL, "by-hand": math.MaxInt64}, lives)
	f.must(f.KeepAlive(t.Context(), one))
	f.now = f.now.Add(two.TTL - time.Second)
	lives, err = f.Lives(t.Context())
	f.must(err)
	f.want("one has renewed", map[fleet.MachineID]time.Duration{m1: time.Second, m2: time.Second, "by-hand": math.MaxInt64}, lives)
	f.now = f.now.Add(time.Second)
	lives, err = f.Lives(t.Context())
	f.must(err)
	f.want("and they are gone", map[fleet.MachineID]time.Duration{"by-hand": math.MaxInt64}, lives)
}
