package registry

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// What cannot be read is left out, hides nothing else, and is logged once.
func TestSnapshotLeavesOut(t *testing.T) {
	f := newFixture(t)
	f.register(m1)
	f.submit(otherText, fleet.Launched, "good.service")
	f.put("units/new.service", `{"v":2,"hash":7}`)
	f.put("units/bad.service", `{"v":1,`)
	f.put("units/needs.service", `{"v":1,"hash":"h","target":"loaded","fleet":[["MachineMetadata","nonsense"]]}`)
	f.put("machines/new", `{"v":2}`)
	f.put("machine-settings/"+string(m1), `[]`)
	f.put("admitted/"+string(m1), `{"rev":7}`)
	f.put("placements/m/new.service", `{"v":3}`)
	f.put("observed/m/new.service", `x`)
	f.put("something-else/a", `{}`)
	for range 3 {
		s := f.snapshot()
		f.want("units", 1, len(s.Units))
		f.want("machines", 1, len(s.Machines))
		f.want("others", 0, len(s.Placements)+len(s.Observed))
	}
	for _, key := range []string{
		"units/new.service", "units/bad.service", "units/needs.service", "machines/new", "machine-settings/", "admitted/",
		"placements/m/new.service", "observed/m/new.service",
	} {
		if n := strings.Count(f.logs.String(), "/fleet/"+key); n != 1 {
			t.Errorf("%s was logged %d times, want once", key, n)
		}
	}
	f.put("units/bad.service", `{"v":1,,`)
	f.snapshot()
	if n := strings.Count(f.logs.String(), "/fleet/units/bad.service"); n != 2 {
		t.Errorf("a record damaged anew was logged %d times in all, want twice", n)
	}
}

// Units of one text share their Needs, unless a specifier makes them differ.
func TestSnapshotNeeds(t *testing.T) {
	f := newFixture(t)
	f.submit("[X-Fleet]\nMachineOf=db@%i.service\n", fleet.Launched, names(2)...)
	f.submit("[X-Fleet]\nMachineMetadata=rack=7\n", fleet.Launched, "a.service", "b.service")
	s := f.snapshot()
	f.want("of 0", []unit.Name{"db@0.service"}, s.Units["web@0.service"].Needs.MachineOf)
	f.want("of 1", []unit.Name{"db@1.service"}, s.Units["web@1.service"].Needs.MachineOf)
	for _, n := range []unit.Name{"a.service", "b.service"} {
		f.want("name", n, s.Units[n].Name)
		f.want("needs", map[string][]string{"rack": {"7"}}, s.Units[n].Needs.Metadata)
	}
}

// A snapshot brought up by all changes is the later snapshot, whatever happened in between.
func TestSnapshotAndChangesAreTheLaterSnapshot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := newFixture(t)
		w := &world{fixture: f, rt: rt, presences: map[fleet.MachineID]Presence{}}
		w.steps("before")
		first := f.snapshot()
		w.steps("before the watch")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ch := f.Watch(ctx, first)
		w.steps("during")
		last := w.finish()
		got := clone(first)
		for got.Rev < last.Rev {
			c := <-ch
			if c.Err != nil {
				rt.Fatal(c.Err)
			}
			got = apply(got, c)
		}
		if d := cmp.Diff(last, got, cmpopts.EquateComparable(fleet.Machine{}.IP, fleet.Machine{}.HostAddr)); d != "" {
			rt.Fatalf("later snapshot and changes differ (-snapshot +changes):\n%s", d)
		}
	})
}

// world does random things that are all allowed.
type world struct {
	*fixture
	rt        *rapid.T
	presences map[fleet.MachineID]Presence
}

func (w *world) steps(label string) {
	for range rapid.IntRange(0, 15).Draw(w.rt, label) {
		w.step()
	}
}

// finish makes a last change, so that the watch has something to bring up to the last revision.
func (w *world) finish() fleet.Snapshot {
	w.put("units/last.service", `{"v":1,"hash":"h","target":"inactive"}`)
	return w.snapshot()
}

func (w *world) step() {
	ctx := w.Context()
	m := rapid.SampledFrom([]fleet.MachineID{m1, m2}).Draw(w.rt, "machine")
	u := rapid.SampledFrom(names(3)).Draw(w.rt, "unit")
	text := rapid.SampledFrom([]string{webText, otherText, "[X-Fleet]\nMachineOf=x-%i.service\n"}).Draw(w.rt, "text")
	yes := rapid.Bool().Draw(w.rt, "bool")
	p, registered := w.presences[m]
	switch rapid.IntRange(0, 9).Draw(w.rt, "step") {
	case 0:
		h := hello(m)
		h.Version = fmt.Sprint(yes)
		p, err := w.Register(ctx, h, 10*time.Second)
		w.must(err)
		w.presences[m] = p
	case 1:
		if registered {
			w.must(w.Leave(ctx, p))
			delete(w.presences, m)
		}
	case 2:
		// Refused, too, over a record of a newer format.
		_ = w.SetMachine(ctx, m, Settings{Cordon: &yes, Metadata: map[string]*string{"rack": nil, "zone": new(string)}})
	case 3:
		w.put("admitted/"+string(m), fmt.Sprintf(`{"v":1,"rev":%d}`, p.Rev))
	case 4:
		// Or refused, over a record of a newer format.
		w.Submit(ctx, Submission{Name: u, File: file(w, text), Target: target(fleet.Launched)})
	case 5:
		w.Destroy(ctx, u) // or not found
	case 6:
		w.put("placements/"+string(m)+"/"+string(u), fmt.Sprintf(`{"v":1,"hash":"h","target":"loaded","handover":%v}`, yes))
	case 7:
		w.txn(kv.Op{Key: "/fleet/placements/" + string(m) + "/" + string(u), Delete: true})
	case 8:
		if registered {
			w.must(w.Report(ctx, p, []fleet.Observation{observation(m, u)}, nil))
		}
	case 9:
		// Records that cannot be read come and go too.
		kind := rapid.SampledFrom([]string{"units/" + string(u), "machine-settings/" + string(m), "placements/" + string(m) + "/" + string(u)}).Draw(w.rt, "kind")
		w.put(kind, `{"v":2}`)
	}
}

func TestWatch(t *testing.T) { eachStore(t, testWatch) }

func testWatch(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	p := f.register(m1)
	s := f.snapshot()
	ch := f.Watch(ctx, s)
	next := func() []Change {
		t.Helper()
		c := <-ch
		f.must(c.Err)
		return c.Changes
	}
	yes := true
	f.must(f.SetMachine(t.Context(), m1, Settings{Cordon: &yes}))
	m := s.Machines[m1]
	m.Cordon = true
	f.want("settings are joined to their machine", []Change{{Machine: &m}}, next())
	f.must(f.SetMachine(t.Context(), m2, Settings{Cordon: &yes})) // nothing to tell: m2 is not registered
	f.put("admitted/"+string(m1), fmt.Sprintf(`{"v":1,"rev":%d}`, p.Rev))
	m.Admitted = p.Rev
	f.want("so is the admission", []Change{{Machine: &m}}, next())
	f.must(f.Report(t.Context(), p, []fleet.Observation{observation(m1, "a.service")}, nil))
	o := observation(m1, "a.service")
	f.want("an observation", []Change{{Observation: &o}}, next())
	f.must(f.Leave(t.Context(), p))
	gone := next()
	f.want("all that hung on the lease goes at once", 2, len(gone))
	for _, c := range gone {
		f.want("deleted", true, c.Deleted)
	}
	cancel()
	for c := range ch {
		f.wantErr("end", c.Err, context.Canceled)
	}
}

func TestWatchOfACompactedRevision(t *testing.T) {
	f := newFixture(t)
	s := f.snapshot()
	f.submit(otherText, fleet.Launched, names(3)...)
	f.submit(webText, fleet.Launched, names(3)...)
	f.mem.Compact(f.rev())
	ch := f.Watch(t.Context(), s)
	f.wantErr("watch", (<-ch).Err, kv.ErrCompacted)
	if _, open := <-ch; open {
		t.Error("open after the end")
	}
}

func TestWatchOrders(t *testing.T) { eachStore(t, testWatchOrders) }

func testWatchOrders(t *testing.T, f *fixture) {
	s := newStage(f)
	ctx, cancel := context.WithCancel(t.Context())
	from, err := f.Orders(ctx, s.p1)
	f.must(err)
	f.want("at first", []any{1, false}, []any{len(from.Placements), from.Admitted})
	ch := f.WatchOrders(ctx, s.p1, from)

	_, _, err = f.Commit(ctx, s.term, []fleet.Decision{s.place("web@1.service", m1), s.place("web@2.service", m2)})
	f.must(err)
	o := <-ch
	f.want("another machine's placements are not its own", []any{2, false}, []any{len(o.Placements), o.Admitted})

	// Admission and placements come by two watches; the agent must not see the admission without the placements before it.
	_, _, err = f.Commit(ctx, s.term, []fleet.Decision{
		s.decide(fleet.Withdraw, "web@0.service", m1), s.place("web@2.service", m1), s.decide(fleet.Admit, "", m1),
	})
	f.must(err)
	for o = <-ch; !o.Admitted; o = <-ch {
		continue
	}
	want, err := f.Orders(t.Context(), s.p1)
	f.must(err)
	f.want("orders", want.Placements, o.Placements)

	// What was handed out is the agent's own.
	clear(o.Placements)
	_, _, err = f.Commit(ctx, s.term, []fleet.Decision{s.decide(fleet.Withdraw, "web@1.service", m1)})
	f.must(err)
	for o = <-ch; len(o.Placements) != 1; o = <-ch {
		continue
	}
	f.want("still admitted", true, o.Admitted)
	cancel()
	for range ch {
		continue
	}
}

func TestWatchOrdersRecoversFromCompaction(t *testing.T) {
	f := newFixture(t)
	s := newStage(f)
	from, err := f.Orders(t.Context(), s.p1)
	f.must(err)
	_, _, err = f.Commit(t.Context(), s.term, []fleet.Decision{s.place("web@1.service", m1), s.decide(fleet.Withdraw, "web@0.service", m1)})
	f.must(err)
	f.put("x", "")
	f.mem.Compact(f.rev())
	ch := f.WatchOrders(t.Context(), s.p1, from)
	o := <-ch
	if _, there := o.Placements["web@1.service"]; !there || len(o.Placements) != 1 {
		t.Errorf("%+v", o)
	}
	_, _, err = f.Commit(t.Context(), s.term, []fleet.Decision{s.place("web@2.service", m1)})
	f.must(err)
	f.want("it goes on", 2, len((<-ch).Placements))
}

// While a placement cannot be read, its unit must not be cleared away: the orders do not count as complete.
func TestOrdersWithAnUnreadablePlacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		s := newStage(f)
		_, _, err := f.Commit(t.Context(), s.term, []fleet.Decision{s.decide(fleet.Admit, "", m1)})
		f.must(err)
		from, err := f.Orders(t.Context(), s.p1)
		f.must(err)
		f.want("admitted", true, from.Admitted)
		ch := f.WatchOrders(t.Context(), s.p1, from)
		key := "placements/" + string(m1) + "/web@0.service"
		good := f.get(key)
		f.put(key, `{"v":2}`)
		o := <-ch
		f.want("admitted with an unreadable one", []any{false, 0}, []any{o.Admitted, len(o.Placements)})
		f.put(key, good)
		o = <-ch
		f.want("admitted again", []any{true, 1}, []any{o.Admitted, len(o.Placements)})
	})
}

// A machine that lost its registration, and has not heard of that, must not clear away what was moved elsewhere meanwhile.
func TestOrdersOfALostRegistrationClearNothingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		s := newStage(f)
		_, _, err := f.Commit(t.Context(), s.term, []fleet.Decision{s.decide(fleet.Admit, "", m1)})
		f.must(err)
		from, err := f.Orders(t.Context(), s.p1)
		f.must(err)
		f.want("admitted", true, from.Admitted)
		ch := f.WatchOrders(t.Context(), s.p1, from)
		f.must(f.Leave(t.Context(), s.p1))
		d := s.decide(fleet.Withdraw, "web@0.service", m1)
		d.MachineRev = 0
		_, conflicts, err := f.Commit(t.Context(), s.term, []fleet.Decision{d})
		f.must(err)
		f.want("refused", 0, len(conflicts))
		o := <-ch
		f.want("by the watch", []any{false, 0}, []any{o.Admitted, len(o.Placements)})
		o, err = f.Orders(t.Context(), s.p1)
		f.must(err)
		f.want("read", []any{false, 0}, []any{o.Admitted, len(o.Placements)})
	})
}

// A slow agent gets the newest orders, not all that were.
func TestWatchOrdersLatestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		s := newStage(f)
		from, err := f.Orders(t.Context(), s.p1)
		f.must(err)
		ch := f.WatchOrders(t.Context(), s.p1, from)
		for i := range 20 {
			f.put(fmt.Sprintf("placements/%s/a%d.service", m1, i), `{"v":1,"hash":"h","target":"loaded"}`)
			synctest.Wait()
		}
		f.want("placements", 21, len((<-ch).Placements))
	})
}

func TestWatchLeaderOutlivesCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ch := f.WatchLeader(t.Context())
		<-ch
		for range 3 {
			term := f.lead(m1)
			f.must(f.Resign(t.Context(), term))
			f.mem.Compact(f.rev())
			synctest.Wait()
			<-ch
		}
		f.lead(m1)
		<-ch
	})
}
