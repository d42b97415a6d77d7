package registry

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

func observation(m fleet.MachineID, n unit.Name) fleet.Observation {
	return fleet.Observation{Unit: n, Machine: m, Load: "loaded", Active: "active", Sub: "running", Result: "success"}
}

func TestRegister(t *testing.T) { eachStore(t, testRegister) }

func testRegister(t *testing.T, f *fixture) {
	ctx := t.Context()
	p := f.register(m1)
	f.must(f.Report(ctx, p, []fleet.Observation{observation(m1, "a.service")}, nil))
	seen := f.snapshot().Observed

	// A restarted fleetd takes over: the same registration, nothing written.
	before := f.rev()
	f.want("taken over", p, f.register(m1))
	f.want("revision", before, f.rev())
	f.must(f.KeepAlive(ctx, p))

	// With another address or version it is still the same registration.
	h := hello(m1)
	h.Version = "2"
	got, err := f.Register(ctx, h, 10*time.Second)
	f.must(err)
	f.want("taken over with a new version", p, got)
	f.want("version", "2", f.snapshot().Machines[m1].Version)

	// With another ttl it moves to another lease, with its observations.
	got, err = f.Register(ctx, h, 20*time.Second)
	f.must(err)
	f.want("create revision", p.Rev, got.Rev)
	f.want("ttl", 20*time.Second, got.TTL)
	f.wantErr("old lease", f.KeepAlive(ctx, p), kv.ErrLeaseGone)
	f.want("observed", seen, f.snapshot().Observed)
	p = got

	// A clone has the same machine ID but is another instance.
	clone := hello(m1)
	clone.Instance = "clone"
	var dup *DuplicateError
	if _, err := f.Register(ctx, clone, 10*time.Second); !errors.As(err, &dup) {
		t.Fatalf("clone: %v", err)
	}
	f.want("duplicate", &DuplicateError{Machine: m1, Name: "host-11111111", IP: "10.0.0.1"}, dup)

	// After the end of the lease everything begins anew.
	f.must(f.Leave(ctx, p))
	f.want("left", 0, len(f.snapshot().Machines)+len(f.snapshot().Observed))
	again, err := f.Register(ctx, clone, 10*time.Second)
	f.must(err)
	if again.Rev <= p.Rev {
		t.Errorf("registrations %v and %v", p, again)
	}
	f.wantErr("keep alive", f.KeepAlive(ctx, p), kv.ErrLeaseGone)
	f.wantErr("update", f.Update(ctx, p, h), kv.ErrLeaseGone)
	f.wantErr("report", f.Report(ctx, p, []fleet.Observation{observation(m1, "a.service")}, nil), kv.ErrLeaseGone)
	f.want("observed", 0, len(f.snapshot().Observed))
}

func TestRegisterMeetsADyingRecord(t *testing.T) {
	f := newFixture(t)
	p := f.register(m1)
	f.now = f.now.Add(p.TTL) // its lease ends as we look
	again := f.register(m1)
	if again.Rev <= p.Rev {
		t.Errorf("registrations %v and %v", p, again)
	}

	// Two processes of one instance, both new: one writes, the other takes that over.
	f.must(f.Leave(t.Context(), again))
	var first Presence
	f.hook = func() { first = f.register(m1) }
	f.want("second", first, f.register(m1))
}

func TestUpdate(t *testing.T) {
	f := newFixture(t)
	p := f.register(m1)
	before := f.rev()
	f.must(f.Update(t.Context(), p, hello(m1)))
	f.want("the same again writes nothing", before, f.rev())
	h := hello(m1)
	h.Metadata = map[string]string{"rack": "8"}
	f.must(f.Update(t.Context(), p, h))
	m := f.snapshot().Machines[m1]
	f.want("metadata", h.Metadata, m.Metadata)
	f.want("registration", p.Rev, m.Rev)
	f.now = f.now.Add(p.TTL)
	f.want("still on its lease", 0, len(f.snapshot().Machines))
}

func TestSettings(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	text := func(s string) *string { return &s }
	yes, no := true, false
	f.must(f.SetMachine(ctx, m1, Settings{Metadata: map[string]*string{"rack": nil, "disk": text("ssd")}, Cordon: &yes}))
	f.want("not registered", 0, len(f.snapshot().Machines))
	f.register(m1)
	check := func(metadata map[string]string, cordon, leaving bool) {
		t.Helper()
		m := f.snapshot().Machines[m1]
		f.want("metadata", metadata, m.Metadata)
		f.want("cordon, leaving", [2]bool{cordon, leaving}, [2]bool{m.Cordon, m.Leaving})
	}
	check(map[string]string{"disk": "ssd"}, true, false)
	f.must(f.SetMachine(ctx, m1, Settings{Leaving: &yes, Cordon: &no}))
	check(map[string]string{"disk": "ssd"}, false, true)
	f.must(f.SetMachine(ctx, m1, Settings{Metadata: map[string]*string{"rack": text("9"), "disk": nil}}))
	check(map[string]string{"rack": "9"}, false, true)
	before := f.rev()
	f.must(f.SetMachine(ctx, m1, Settings{Leaving: &yes}))
	f.want("the same again writes nothing", before, f.rev())

	// Another writer in between loses nothing.
	f.hook = func() { f.must(f.SetMachine(ctx, m1, Settings{Metadata: map[string]*string{"zone": text("a")}})) }
	f.must(f.SetMachine(ctx, m1, Settings{Leaving: &no}))
	check(map[string]string{"rack": "9", "zone": "a"}, false, false)
}

func TestReport(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	p := f.register(m1)
	var all []fleet.Observation
	want := map[unit.Name]fleet.Observation{}
	for i := range 300 {
		o := observation(m1, unit.Name(fmt.Sprintf("a%d.service", i)))
		o.Reason = strings.Repeat("why ", 2500) // a transaction is full by bytes before it is by number
		all = append(all, o)
		want[o.Unit] = o
	}
	f.txns = 0
	f.must(f.Report(ctx, p, all, nil))
	f.want("transactions", 3, f.txns)
	got, err := f.Observed(ctx, m1)
	f.must(err)
	f.want("observed", want, got)

	changed := observation(m1, "a0.service")
	changed.Since = time.Unix(1700000000, 123456789).In(time.FixedZone("there", 3600))
	f.must(f.Report(ctx, p, []fleet.Observation{changed}, []unit.Name{"a1.service", "none.service"}))
	changed.Since = changed.Since.UTC()
	want["a0.service"] = changed
	delete(want, "a1.service")
	got, err = f.Observed(ctx, m1)
	f.must(err)
	f.want("observed", want, got)

	f.now = f.now.Add(p.TTL)
	f.want("with the lease all goes", 0, len(f.snapshot().Observed))
}
