package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

const otherText = "[Service]\nExecStart=/bin/other\n"

func TestSubmit(t *testing.T) { eachStore(t, testSubmit) }

func testSubmit(t *testing.T, f *fixture) {
	ctx := t.Context()
	step := func(name string, sub Submission, want SubmitResult, wantTarget fleet.TargetState, wantText string, writes bool) {
		t.Helper()
		before := f.rev()
		got := f.Submit(ctx, sub)[0]
		if got.Err != nil {
			t.Fatalf("%s: %v", name, got.Err)
		}
		want.Rev, want.Hash = got.Rev, file(t, wantText).Hash()
		f.want(name, want, got)
		if wrote := f.rev() > before; wrote != writes {
			t.Errorf("%s: wrote=%v, want %v", name, wrote, writes)
		}
		u, text, err := f.Unit(ctx, sub.Name)
		f.must(err)
		f.want(name+": target", wantTarget, u.Target)
		f.want(name+": revision", u.Rev, got.Rev)
		f.want(name+": text", file(t, wantText).String(), text.String())
	}
	const web = unit.Name("web.service")
	step("new without target is inactive", Submission{Name: web, File: file(t, webText)}, SubmitResult{Created: true}, fleet.Inactive, webText, true)
	step("target alone", Submission{Name: web, Target: target(fleet.Launched)}, SubmitResult{}, fleet.Launched, webText, true)
	step("the same target again writes nothing", Submission{Name: web, Target: target(fleet.Launched)}, SubmitResult{}, fleet.Launched, webText, false)
	step("the same text keeps the target and writes nothing", Submission{Name: web, File: file(t, webText)}, SubmitResult{}, fleet.Launched, webText, false)
	step("the same text with a target sets it", Submission{Name: web, File: file(t, webText), Target: target(fleet.Loaded)}, SubmitResult{}, fleet.Loaded, webText, true)
	step("another text without target is inactive", Submission{Name: web, File: file(t, otherText)}, SubmitResult{Created: true}, fleet.Inactive, otherText, true)
	step("another text with a target", Submission{Name: web, File: file(t, webText), Target: target(fleet.Launched)}, SubmitResult{Created: true}, fleet.Launched, webText, true)
	step("neither text nor target tells the revision", Submission{Name: web}, SubmitResult{}, fleet.Launched, webText, false)
	step("a template is stored", Submission{Name: "a@.service", File: file(t, otherText), Target: target("")}, SubmitResult{Created: true}, fleet.Inactive, otherText, true)
}

func TestSubmitRefuses(t *testing.T) {
	long := "[Service]\nExecStart=/bin/true\n[X-Fleet]\n"
	for i := 0; len(long) < 900<<10; i++ {
		long += fmt.Sprintf("MachineMetadata=key%d=%s\n", i, strings.Repeat("v", 1000))
	}
	rows := []struct {
		name string
		sub  Submission
		want error
		says string
	}{
		{"no such unit", Submission{Name: "a.service", Target: target(fleet.Loaded)}, fleet.ErrNotFound, "a.service"},
		{"no unit name", Submission{Name: "a", File: file(t, otherText)}, fleet.ErrInvalid, ""},
		{"no target state", Submission{Name: "a.service", File: file(t, otherText), Target: target("up")}, fleet.ErrInvalid, "launched"},
		{"a template launched", Submission{Name: "a@.service", File: file(t, otherText), Target: target(fleet.Launched)}, fleet.ErrInvalid, "a@1.service"},
		{"a template loaded", Submission{Name: "a@.service", Target: target(fleet.Loaded)}, fleet.ErrInvalid, "start an instance"},
		{"an unknown option", Submission{Name: "a.service", File: file(t, "[X-Fleet]\nConflict=b\n")}, fleet.ErrInvalid, "Conflicts"},
		{"a record that is too large", Submission{Name: "a.service", File: file(t, long)}, fleet.ErrInvalid, "1 MiB"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			// A good one rides along in the same call and must not suffer.
			res := f.Submit(t.Context(), row.sub, Submission{Name: "good.service", File: file(t, otherText)})
			f.wantErr("bad", res[0].Err, row.want)
			if !strings.Contains(res[0].Err.Error(), row.says) {
				t.Errorf("%q does not say %q", res[0].Err, row.says)
			}
			f.want("good", SubmitResult{Created: true, Rev: f.rev(), Hash: file(t, otherText).Hash()}, res[1])
		})
	}
}

func TestSubmitOverStrangeRecords(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.put("units/new.service", `{"v":2,"hash":{"sha256":"…"}}`)
	f.put("units/bad.service", `{`)
	res := f.Submit(ctx,
		Submission{Name: "new.service", File: file(t, otherText)},
		Submission{Name: "bad.service", File: file(t, otherText), Target: target(fleet.Loaded)},
		Submission{Name: "bad.service", Target: target(fleet.Launched)},
	)
	f.wantErr("a newer record stays", res[0].Err, errNewer)
	f.want("newer record", `{"v":2,"hash":{"sha256":"…"}}`, f.get("units/new.service"))
	f.want("a damaged record is replaced", SubmitResult{Created: true, Rev: res[1].Rev, Hash: file(t, otherText).Hash()}, res[1])
	f.want("and then set", fleet.Launched, f.snapshot().Units["bad.service"].Target)
	if _, _, err := f.Unit(ctx, "new.service"); !errors.Is(err, errNewer) {
		t.Errorf("reading a newer record: %v", err)
	}
}

// Two texts with one SHA-1: the second is refused, the first stays.
func TestSubmitNeverReplacesAText(t *testing.T) {
	f := newFixture(t)
	key := "files/" + string(file(t, otherText).Hash())
	f.put(key, "another text with that hash")
	res := f.Submit(t.Context(), Submission{Name: "a.service", File: file(t, otherText)})[0]
	f.wantErr("collision", res.Err, fleet.ErrInvalid)
	if !strings.Contains(res.Err.Error(), "same SHA-1") {
		t.Error(res.Err)
	}
	f.want("text", "another text with that hash", f.get(key))
	f.want("unit", "", f.get("units/a.service"))

	// Also when it comes in between: the guard sees it.
	f = newFixture(t)
	f.hook = func() { f.put(key, "another text with that hash") }
	res = f.Submit(t.Context(), Submission{Name: "a.service", File: file(t, otherText)})[0]
	f.wantErr("collision", res.Err, fleet.ErrInvalid)
	f.want("text", "another text with that hash", f.get(key))
}

func TestSubmitManyShareTransactions(t *testing.T) {
	f := newFixture(t)
	f.submit(webText, fleet.Launched, names(1000)...)
	f.want("transactions", 8, f.txns) // 127 units and their one text each
	f.want("units", 1000, len(f.snapshot().Units))
	kvs, _, _ := f.raw.Range(t.Context(), "/fleet/files/")
	f.want("texts", 1, len(kvs[0]))

	f.txns = 0
	f.submit(webText, fleet.Launched, names(1000)...)
	f.want("transactions of a repetition", 0, f.txns)

	// Large texts fill a transaction by their bytes.
	big := func(i int) *unit.File {
		return file(t, fmt.Sprintf("[Service]\nEnvironment=N=%d\nEnvironment=A=%s\n", i, strings.Repeat("a", 300<<10)))
	}
	var subs []Submission
	for i := range 7 {
		subs = append(subs, Submission{Name: unit.Name(fmt.Sprintf("big%d.service", i)), File: big(i)})
	}
	f.txns = 0
	for _, r := range f.Submit(t.Context(), subs...) {
		f.must(r.Err)
	}
	f.want("transactions of large texts", 3, f.txns)
}

func TestSubmissionsOfOneNameTakeEffectInOrder(t *testing.T) {
	f := newFixture(t)
	res := f.Submit(t.Context(),
		Submission{Name: "a.service", Target: target(fleet.Loaded)},
		Submission{Name: "a.service", File: file(t, otherText)},
		Submission{Name: "b.service", File: file(t, otherText)},
		Submission{Name: "a.service", File: file(t, webText), Target: target(fleet.Loaded)},
		Submission{Name: "a.service", Target: target(fleet.Launched)},
	)
	f.wantErr("before it exists", res[0].Err, fleet.ErrNotFound)
	for i, r := range res[1:] {
		f.must(r.Err)
		f.want(fmt.Sprint("created ", i+1), i < 3, r.Created)
	}
	u := f.snapshot().Units["a.service"]
	f.want("text and target", [2]any{file(t, webText).Hash(), fleet.Launched}, [2]any{u.Hash, u.Target})
}

// A writer that is faster costs a retry, of a whole transaction, but no unit is lost, doubled or undone.
func TestSubmitLosesARace(t *testing.T) { eachStore(t, testSubmitRace) }

func testSubmitRace(t *testing.T, f *fixture) {
	other := New(f.raw, "/fleet/", f.log)
	f.submit(otherText, fleet.Inactive, names(3)...)
	f.hook = func() {
		res := other.Submit(t.Context(), Submission{Name: "web@1.service", File: file(t, webText), Target: target(fleet.Loaded)})
		f.must(res[0].Err)
	}
	var subs []Submission
	for _, n := range names(3) {
		subs = append(subs, Submission{Name: n, Target: target(fleet.Launched)})
	}
	for _, r := range f.Submit(t.Context(), subs...) {
		f.must(r.Err)
	}
	for n, u := range f.snapshot().Units {
		want := file(t, otherText).Hash()
		if n == "web@1.service" {
			want = file(t, webText).Hash()
		}
		f.want(string(n), [2]any{want, fleet.Launched}, [2]any{u.Hash, u.Target})
	}
}

func TestSubmitGivesUpOnAUnitThatOthersWriteAllTheTime(t *testing.T) {
	f := newFixture(t)
	f.submit(otherText, fleet.Inactive, names(3)...)
	n := 0
	var fight func()
	fight = func() {
		n++
		f.put("units/web@1.service", fmt.Sprintf(`{"v":1,"hash":"%d","target":"inactive"}`, n))
		f.hook = fight
	}
	f.hook = fight
	var subs []Submission
	for _, n := range names(3) {
		subs = append(subs, Submission{Name: n, Target: target(fleet.Launched)})
	}
	res := f.Submit(t.Context(), subs...)
	f.must(res[0].Err)
	f.wantErr("fought over", res[1].Err, fleet.ErrConflict)
	f.must(res[2].Err)
}

// Calls at the same time share one transaction: while the first is on its way, the others gather.
func TestConcurrentSubmitsShareATransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		const calls = 50
		release := make(chan struct{})
		f.hook = func() { <-release } // the first transaction waits until all other calls wait for it
		results := make(chan SubmitResult, calls)
		sub := Submission{File: file(t, webText), Target: target(fleet.Launched)}
		for _, n := range names(calls) {
			s := sub
			s.Name = n
			go func() { results <- f.Submit(t.Context(), s)[0] }()
			synctest.Wait()
		}
		close(release)
		for range calls {
			if r := <-results; r.Err != nil || !r.Created {
				t.Errorf("%+v", r)
			}
		}
		f.want("transactions", 2, f.txns)
		f.want("units", calls, len(f.snapshot().Units))
	})
}

// A caller that goes away neither waits for the others' write nor fails it, also when it is the one that writes for them.
func TestSubmitCallersThatGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		release := make(chan struct{})
		f.hook = func() { <-release }
		sub := func(ctx context.Context, n unit.Name) chan SubmitResult {
			out := make(chan SubmitResult, 1)
			go func() { out <- f.Submit(ctx, Submission{Name: n, File: file(t, otherText)})[0] }()
			synctest.Wait()
			return out
		}
		first := sub(t.Context(), "first.service") // writes, and hangs
		ctx, cancel := context.WithCancel(t.Context())
		gone := sub(ctx, "gone.service") // would write next
		stays := sub(t.Context(), "stays.service")
		cancel()
		f.wantErr("gone", (<-gone).Err, context.Canceled)
		close(release)
		f.must((<-first).Err)
		f.must((<-stays).Err)
		f.want("units", 2, len(f.snapshot().Units))

		// Now the writer itself goes away, with another call in its batch.
		release = make(chan struct{})
		f.hook = func() { <-release }
		first = sub(t.Context(), "a.service")
		ctx, cancel = context.WithCancel(t.Context())
		leads, rides := sub(ctx, "b.service"), sub(t.Context(), "c.service")
		again := make(chan struct{})
		f.hook = func() { <-again }
		close(release)
		f.must((<-first).Err)
		synctest.Wait() // b writes for itself and c, and hangs
		cancel()
		close(again)
		f.must((<-rides).Err)
		<-leads
		f.want("unit c", true, f.snapshot().Units["c.service"].Rev > 0)
	})
}

// A store that fails is told to every unit that was not written.
func TestSubmitWithoutStore(t *testing.T) {
	f := newFixture(t)
	f.over(failing{f.mem, kv.ErrUnavailable})
	res := f.Submit(t.Context(), Submission{Name: "a.service", File: file(t, otherText)}, Submission{Name: "b.service", File: file(t, otherText)})
	for _, r := range res {
		f.wantErr("submit", r.Err, fleet.ErrNoStore)
		f.wantErr("submit", r.Err, kv.ErrUnavailable)
	}
}

type failing struct {
	kv.Store
	err error
}

func (s failing) Txn(context.Context, []kv.Guard, []kv.Op) (int64, bool, error) {
	return 0, false, s.err
}

func TestDestroy(t *testing.T) {
	f := newFixture(t)
	f.submit(otherText, fleet.Launched, names(300)...)
	errs := f.Destroy(t.Context(), append(names(300), "none.service")...)
	for _, err := range errs[:300] {
		f.must(err)
	}
	f.wantErr("unknown", errs[300], fleet.ErrNotFound)
	f.want("units", 0, len(f.snapshot().Units))
	_, _, err := f.Unit(t.Context(), "web@1.service")
	f.wantErr("read", err, fleet.ErrNotFound)
}
