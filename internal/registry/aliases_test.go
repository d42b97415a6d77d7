package registry

import (
	"errors"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

const aliasText = "[Service]\nExecStart=/bin/a\n[Install]\nAlias=b.service\n"

func TestAliasIsNoOtherUnitsName(t *testing.T) { eachStore(t, testAliases) }

func testAliases(t *testing.T, f *fixture) {
	ctx := t.Context()
	give := func(n unit.Name, text string) Submission { return Submission{Name: n, File: file(t, text)} }
	refused := func(what string, err error, says ...string) {
		t.Helper()
		for _, s := range says {
			if !errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v, want %q", what, err, s)
			}
		}
	}
	done := func(what string, errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	submit := func(subs ...Submission) (errs []error) {
		for _, r := range f.Submit(ctx, subs...) {
			errs = append(errs, r.Err)
		}
		return errs
	}
	done("an alias of nobody's name", submit(give("a.service", aliasText))...)
	refused("the name afterwards", submit(give("b.service", webText))[0], "b.service is an alias of unit a.service", "take that line out")
	done("another unit with that alias", submit(give("c.service", aliasText))...)
	done("the unit itself, as it is and with more", append(submit(give("a.service", aliasText)), submit(give("a.service", aliasText+"Also=x.service\n"))...)...)
	done("the first goes", f.Destroy(ctx, "a.service")...)
	refused("the second has it still", submit(give("b.service", webText))[0], "alias of unit c.service")
	done("the second says otherwise", submit(give("c.service", webText))...)
	done("the name is free", submit(give("b.service", webText))...)
	refused("the alias afterwards", submit(give("a.service", aliasText))[0], "Alias=b.service", "fleetctl destroy b.service")
	refused("by replacing", submit(give("c.service", aliasText))[0], "Alias=b.service")
	done("a target alone", f.Submit(ctx, Submission{Name: "c.service", Target: target(fleet.Launched)})[0].Err)

	// Both in one go, in either order: the later one is refused, and nobody else.
	for _, e := range f.Destroy(ctx, "b.service", "c.service") {
		done("destroy", e)
	}
	got := submit(give("x.service", webText), give("a.service", aliasText), give("b.service", webText), give("y.service", webText))
	refused("the name after the alias", got[2], "alias of unit a.service")
	done("the others", got[0], got[1], got[3])
	done("destroy", f.Destroy(ctx, "a.service")...)
	got = submit(give("x2.service", webText), give("b.service", webText), give("a.service", aliasText), give("y2.service", webText))
	refused("the alias after the name", got[2], "a unit of that name")
	done("the others", got[0], got[1], got[3])
	done("destroy", f.Destroy(ctx, "b.service")...)

	// Templates' names are names, too; an instance's alias is its own.
	done("a template with an alias per instance", submit(give("t@.service", strings.Replace(aliasText, "b.service", "b@%i.service", 1)))...)
	done("an instance", submit(give("t@1.service", strings.Replace(aliasText, "b.service", "b@%i.service", 1)))...)
	refused("the other's instance", submit(give("b@1.service", webText))[0], "alias of unit t@1.service")
	done("another instance of it", submit(give("b@2.service", webText))...)
}

// The notes go with the last unit that has the alias.
func TestAliasesAreCollected(t *testing.T) {
	f := newFixture(t)
	term := f.lead(m1)
	ctx := t.Context()
	f.must(f.Submit(ctx, Submission{Name: "a.service", File: file(t, aliasText)})[0].Err)
	noted := func() int {
		kvs, _, err := f.store.Range(ctx, f.under(aliases))
		f.must(err)
		return len(kvs[0])
	}
	_, err := f.Collect(ctx, term)
	f.must(err)
	f.want("with the unit", 1, noted())
	f.must(f.Destroy(ctx, "a.service")[0])
	_, err = f.Collect(ctx, term)
	f.must(err)
	f.want("without", 0, noted())
}

// Whoever reads before and writes after the other loses the race and looks again.
func TestAliasAndNameAtTheSameTime(t *testing.T) {
	for _, first := range []unit.Name{"a.service", "b.service"} {
		f := newFixture(t)
		subs := map[unit.Name]Submission{"a.service": {Name: "a.service", File: file(t, aliasText)}, "b.service": {Name: "b.service", File: file(t, webText)}}
		other := subs[map[unit.Name]unit.Name{"a.service": "b.service", "b.service": "a.service"}[first]]
		f.hook = func() { f.must(New(f.raw, "/fleet/", f.log).Submit(t.Context(), subs[first])[0].Err) }
		if err := f.Submit(t.Context(), other)[0].Err; !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s after %s: %v", other.Name, first, err)
		}
		if s, err := f.Snapshot(t.Context()); err != nil || len(s.Units) != 1 {
			t.Errorf("there are %d units, %v", len(s.Units), err)
		}
	}
}
