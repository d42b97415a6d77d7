package registry

import (
	"log/slog"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// with is a text with drop-ins, each a folder's unit, a name and a text.
func with(t testing.TB, text string, ds ...[3]string) *unit.File {
	t.Helper()
	var all []unit.DropIn
	for _, d := range ds {
		one, err := unit.ParseDropIn(unit.Name(d[0]), d[1], []byte(d[2]))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return file(t, text).With(all)
}

func niceness(of, name, n string) [3]string {
	return [3]string{of, name, "[Service]\nNice=" + n + "\n"}
}

// Who says nothing of drop-ins neither loses nor breaks them.
func TestSubmitKeepsDropIns(t *testing.T) { eachStore(t, testSubmitKeepsDropIns) }

func testSubmitKeepsDropIns(t *testing.T, f *fixture) {
	const web, tmpl, one = unit.Name("web.service"), unit.Name("t@.service"), unit.Name("t@1.service")
	step := func(name string, sub Submission, created bool, want *unit.File) {
		t.Helper()
		res := f.Submit(t.Context(), sub)[0]
		f.must(res.Err)
		u, text, err := f.Unit(t.Context(), sub.Name)
		f.must(err)
		f.want(name, want.String(), text.String())
		f.want(name+": result", SubmitResult{Created: created, Rev: u.Rev, Hash: want.Hash()}, res)
		main := unit.Hash("")
		if len(want.DropIns) > 0 {
			main = want.Main().Hash()
		}
		f.want(name+": hashes", [2]unit.Hash{want.Hash(), main}, [2]unit.Hash{u.Hash, u.Main})
	}
	a, b := niceness("web.service", "a.conf", "1"), niceness("web.service", "b.conf", "2")
	step("without", Submission{Name: web, File: file(t, webText)}, true, file(t, webText))
	step("with", Submission{Name: web, File: with(t, webText, a, b), SpeaksFor: []unit.Name{web}}, true, with(t, webText, a, b))
	step("the same text alone", Submission{Name: web, File: file(t, webText)}, false, with(t, webText, a, b))
	step("another text alone", Submission{Name: web, File: file(t, otherText)}, true, with(t, otherText, a, b))
	step("target alone", Submission{Name: web, Target: target(fleet.Loaded)}, false, with(t, otherText, a, b))
	step("one less", Submission{Name: web, File: with(t, otherText, b), SpeaksFor: []unit.Name{web}}, true, with(t, otherText, b))
	step("none", Submission{Name: web, File: file(t, otherText), SpeaksFor: []unit.Name{web}}, true, file(t, otherText))

	all, own := niceness("t@.service", "a.conf", "3"), niceness("t@1.service", "b.conf", "4")
	step("template", Submission{Name: tmpl, File: with(t, webText, all), SpeaksFor: []unit.Name{tmpl}}, true, with(t, webText, all))
	step("new instance", Submission{Name: one, File: file(t, webText)}, true, with(t, webText, all))
	step("its own", Submission{Name: one, File: with(t, webText, own), SpeaksFor: []unit.Name{one}}, true, with(t, webText, all, own))
	changed := niceness("t@.service", "c.conf", "5")
	step("its template's new ones", Submission{Name: one, File: with(t, otherText, changed), SpeaksFor: []unit.Name{tmpl}}, true, with(t, otherText, changed, own))
	step("a new instance that wants none", Submission{Name: "t@2.service", File: file(t, webText), SpeaksFor: []unit.Name{tmpl}}, true, file(t, webText))

	// What is placed has the text that is stored under its hash, and no other stays.
	f.must(f.Destroy(t.Context(), web, tmpl, "t@2.service")[0])
	_, err := f.Collect(t.Context(), f.lead(m1))
	f.must(err)
	kept := with(t, otherText, changed, own)
	texts, err := f.Files(t.Context(), kept.Hash())
	f.must(err)
	f.want("text after a collection", kept.String(), texts[kept.Hash()].String())
}

// A text that is edited for a while must not undo what others did meanwhile.
func TestSubmitOfWhatWas(t *testing.T) {
	f := newFixture(t)
	f.submit(webText, fleet.Inactive, "web.service")
	was := file(t, webText).Hash()
	sub := Submission{Name: "web.service", File: file(t, otherText), Was: was}
	f.must(f.Submit(t.Context(), sub)[0].Err)
	f.wantErr("second", f.Submit(t.Context(), sub)[0].Err, fleet.ErrConflict)
	f.wantErr("gone", f.Submit(t.Context(), Submission{Name: "no.service", File: file(t, otherText), Was: was})[0].Err, fleet.ErrConflict)
}

// The drop-ins are those of the text that is replaced, also when that changes between the read and the write.
func TestSubmitKeepsDropInsOfARace(t *testing.T) {
	f := newFixture(t)
	const web = unit.Name("web.service")
	a, b := niceness("web.service", "a.conf", "1"), niceness("web.service", "b.conf", "2")
	other := New(f.raw, "/fleet/", slog.New(slog.DiscardHandler))
	set := func(ds ...[3]string) {
		f.must(other.Submit(t.Context(), Submission{Name: web, File: with(t, webText, ds...), SpeaksFor: []unit.Name{web}})[0].Err)
	}
	for name, during := range map[string][][3]string{"others": {b}, "none": nil} {
		set(a)
		f.hook = func() { set(during...) }
		res := f.Submit(t.Context(), Submission{Name: web, File: file(t, otherText)})[0]
		f.must(res.Err)
		_, text, err := f.Unit(t.Context(), web)
		f.must(err)
		f.want(name, with(t, otherText, during...).String(), text.String())
	}
}
