package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
	"github.com/fleet-init/fleet/internal/unit"
)

// fixture is a registry over a store, with a hook before each transaction.
type fixture struct {
	*testing.T
	*Registry
	raw  kv.Store
	mem  *kv.Memory // raw, when that is the memory store; its clock stands still until moved
	now  time.Time
	logs strings.Builder
	hook func() // called once, before the next transaction
	txns int
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, now: time.Unix(1000, 0)}
	f.mem = kv.NewMemory(func() time.Time { return f.now })
	f.over(f.mem)
	return f
}

func (f *fixture) over(raw kv.Store) {
	f.raw = raw
	log := slog.New(slog.NewTextHandler(&f.logs, &slog.HandlerOptions{Level: slog.LevelInfo}))
	f.Registry = New(hooked{raw, f}, "/fleet/", log)
}

// eachStore runs a test over the memory store and over a real etcd.
func eachStore(t *testing.T, test func(*testing.T, *fixture)) {
	t.Run("memory", func(t *testing.T) { test(t, newFixture(t)) })
	t.Run("etcd", func(t *testing.T) {
		f := &fixture{T: t}
		f.over(etcdtest.Start(t).Store)
		test(t, f)
	})
}

// hooked lets a test act between a registry's read and its write.
type hooked struct {
	kv.Store
	f *fixture
}

func (h hooked) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (int64, bool, error) {
	h.f.txns++
	if hook := h.f.hook; hook != nil {
		h.f.hook = nil
		hook()
	}
	return h.Store.Txn(ctx, guards, ops)
}

const (
	m1 = fleet.MachineID("11111111111111111111111111111111")
	m2 = fleet.MachineID("22222222222222222222222222222222")
)

func file(t testing.TB, text string) *unit.File {
	t.Helper()
	f, err := unit.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const webText = "[Unit]\nDescription=The web\n\n[Service]\nExecStart=/bin/web\n\n[X-Fleet]\nConflicts=web@*.service\n"

func target(t fleet.TargetState) *fleet.TargetState { return &t }

// submit writes units that must be taken.
func (f *fixture) submit(text string, to fleet.TargetState, names ...unit.Name) []SubmitResult {
	f.Helper()
	subs := make([]Submission, len(names))
	for i, n := range names {
		subs[i] = Submission{Name: n, File: file(f, text), Target: &to}
	}
	res := f.Submit(f.Context(), subs...)
	for i, r := range res {
		if r.Err != nil {
			f.Fatalf("submit %s: %v", names[i], r.Err)
		}
	}
	return res
}

func (f *fixture) snapshot() fleet.Snapshot {
	f.Helper()
	s, err := f.Snapshot(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func (f *fixture) register(id fleet.MachineID) Presence {
	f.Helper()
	p, err := f.Register(f.Context(), hello(id), 10*time.Second)
	if err != nil {
		f.Fatal(err)
	}
	return p
}

func hello(id fleet.MachineID) Hello {
	return Hello{
		Machine: fleet.Machine{
			ID: id, Name: "host-" + id.Short(), IP: netip.MustParseAddr("10.0.0.1"),
			Metadata: map[string]string{"rack": "7"}, Version: "1",
		},
		Instance: "instance-" + string(id),
	}
}

func (f *fixture) lead(id fleet.MachineID) Term {
	f.Helper()
	t, ok, err := f.Campaign(f.Context(), id, "1", 5*time.Second)
	if err != nil || !ok {
		f.Fatalf("campaign: ok=%v err=%v", ok, err)
	}
	return t
}

func (f *fixture) want(what string, want, got any) {
	f.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()); d != "" {
		f.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func (f *fixture) wantErr(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

// put writes raw, past the registry.
func (f *fixture) put(key, value string) int64 {
	f.Helper()
	rev, _, err := f.raw.Txn(f.Context(), nil, []kv.Op{{Key: f.prefix + key, Value: []byte(value)}})
	if err != nil {
		f.Fatal(err)
	}
	return rev
}

// A unit goes the whole way: submitted, placed, ordered, reported, seen in a snapshot.
func TestAUnitGoesTheWholeWay(t *testing.T) { eachStore(t, testWholeWay) }

func testWholeWay(t *testing.T, f *fixture) {
	ctx := t.Context()
	p := f.register(m1)
	sub := f.submit(webText, fleet.Launched, "web@1.service")[0]
	term := f.lead(m1)

	s := f.snapshot()
	hash := file(t, webText).Hash()
	f.want("unit", map[unit.Name]fleet.Unit{"web@1.service": {
		Name: "web@1.service", Hash: hash, Target: fleet.Launched, Description: "The web", Rev: sub.Rev,
		Needs: unit.Needs{Conflicts: []unit.Glob{"web@*.service"}},
	}}, s.Units)
	f.want("machine", map[fleet.MachineID]fleet.Machine{m1: {
		ID: m1, Name: "host-11111111", IP: netip.MustParseAddr("10.0.0.1"), Metadata: map[string]string{"rack": "7"}, Version: "1", Rev: p.Rev, TTL: 10 * time.Second,
	}}, s.Machines)

	rev, conflicts, err := f.Commit(ctx, term, []fleet.Decision{
		{Kind: fleet.Place, Unit: "web@1.service", Machine: m1, Hash: hash, Target: fleet.Launched, UnitRev: sub.Rev, MachineRev: p.Rev},
		{Kind: fleet.Admit, Machine: m1, MachineRev: p.Rev},
	})
	if err != nil || len(conflicts) > 0 {
		t.Fatal(conflicts, err)
	}
	o, err := f.Orders(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	placed := fleet.Placement{Unit: "web@1.service", Machine: m1, Hash: hash, Target: fleet.Launched, Rev: rev - 1}
	f.want("orders", Orders{Rev: rev, Admitted: true, Placements: map[unit.Name]fleet.Placement{"web@1.service": placed}}, o)

	texts, err := f.Files(ctx, hash, "0000")
	if err != nil {
		t.Fatal(err)
	}
	f.want("texts", map[unit.Hash]string{hash: file(t, webText).String()}, printed(texts))

	obs := fleet.Observation{
		Unit: "web@1.service", Machine: m1, Load: "loaded", Active: "active", Sub: "running", Result: "success",
		Hash: hash, Launched: true, Since: time.Unix(5, 7).UTC(),
		IP: netip.MustParseAddr("10.5.7.2"), IP6: netip.MustParseAddr("fd05::2"),
	}
	if err := f.Report(ctx, p, []fleet.Observation{obs}, nil); err != nil {
		t.Fatal(err)
	}
	s = f.snapshot()
	key := fleet.Key{Machine: m1, Unit: "web@1.service"}
	f.want("observed", map[fleet.Key]fleet.Observation{key: obs}, s.Observed)
	f.want("placements", map[fleet.Key]fleet.Placement{key: placed}, s.Placements)
	f.want("admitted", p.Rev, s.Machines[m1].Admitted)

	// The machine goes: what hangs on its lease goes, the placement stays.
	if err := f.Leave(ctx, p); err != nil {
		t.Fatal(err)
	}
	s = f.snapshot()
	f.want("after its lease", 0, len(s.Machines)+len(s.Observed))
	f.want("placements", map[fleet.Key]fleet.Placement{key: placed}, s.Placements)
}

func printed(files map[unit.Hash]*unit.File) map[unit.Hash]string {
	out := map[unit.Hash]string{}
	for h, f := range files {
		out[h] = f.String()
	}
	return out
}

// must fails the test on an error.
func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// get reads a raw value, "" if there is none.
func (f *fixture) get(key string) string {
	f.Helper()
	kvs, _, err := f.raw.Range(f.Context(), f.prefix+key)
	f.must(err)
	if len(kvs[0]) == 0 {
		return ""
	}
	return string(kvs[0][0].Value)
}

// rev is the store's last revision.
func (f *fixture) rev() int64 {
	f.Helper()
	_, rev, err := f.raw.Range(f.Context(), "any")
	f.must(err)
	return rev
}

// apply brings a snapshot up by a watch's changes, as an engine that does not read everything anew would.
func apply(s fleet.Snapshot, c Changes) fleet.Snapshot {
	for _, c := range c.Changes {
		switch {
		case c.Machine != nil && c.Deleted:
			delete(s.Machines, c.Machine.ID)
		case c.Machine != nil:
			s.Machines[c.Machine.ID] = *c.Machine
		case c.Unit != nil && c.Deleted:
			delete(s.Units, c.Unit.Name)
		case c.Unit != nil:
			s.Units[c.Unit.Name] = *c.Unit
		case c.Placement != nil:
			key := fleet.Key{Machine: c.Placement.Machine, Unit: c.Placement.Unit}
			if delete(s.Placements, key); !c.Deleted {
				s.Placements[key] = *c.Placement
			}
		case c.Observation != nil:
			key := fleet.Key{Machine: c.Observation.Machine, Unit: c.Observation.Unit}
			if delete(s.Observed, key); !c.Deleted {
				s.Observed[key] = *c.Observation
			}
		}
	}
	s.Rev = max(s.Rev, c.Rev)
	return s
}

func clone(s fleet.Snapshot) fleet.Snapshot {
	s.Machines, s.Units = maps.Clone(s.Machines), maps.Clone(s.Units)
	s.Placements, s.Observed = maps.Clone(s.Placements), maps.Clone(s.Observed)
	return s
}

func names(n int) []unit.Name {
	out := make([]unit.Name, n)
	for i := range out {
		out[i] = unit.Name(fmt.Sprintf("web@%d.service", i))
	}
	return out
}
