package unit

import (
	"path"
	"testing"

	"pgregory.net/rapid"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		name, glob, unit string
		want             bool
	}{
		{"a plain name fits itself", "web.service", "web.service", true},
		{"and not its beginning", "web.service", "web.servic", false},
		{"nor a longer one", "web.service", "web.service1", false},
		{"star", "web@*.service", "web@1.service", true},
		{"star fits nothing too", "web@*.service", "web@.service", true},
		{"star with another type", "web@*.service", "web@1.socket", false},
		{"only a star", "*", "web.service", true},
		{"question mark", "web@?.service", "web@12.service", false},
		{"set", "web@[1-3].service", "web@2.service", true},
		{"set left out", "web@[^1-3].service", "web@2.service", false},
		{"escaped name as it is", `a\x2db.mount`, `a\x2db.mount`, true},
		{"escaped name with a star", `a\x2d*.mount`, `a\x2db.mount`, true},
		{"backslash as path.Match takes it", `web@\1.service`, "web@1.service", true},
		{"doubled backslash as path.Match takes it", `a\\x2d*.mount`, `a\x2db.mount`, true},
		{"malformed", "web@[", "web@[", false},
		{"malformed after what differs anyway", "web@[", "db@1.service", false},
		{"empty pattern", "", "web.service", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Glob(tt.glob).Match(Name(tt.unit)); got != tt.want {
				t.Errorf("Match(%q, %q) = %v", tt.glob, tt.unit, got)
			}
		})
	}
}

func TestMatchIsPathMatchWithoutBackslashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringOf(rapid.SampledFrom([]rune("ab.@*?[]^-"))).Draw(t, "glob")
		name := rapid.StringOf(rapid.SampledFrom([]rune("ab.@-"))).Draw(t, "name")
		want, err := path.Match(glob, name)
		if got := Glob(glob).Match(Name(name)); got != want {
			t.Fatalf("Match %v, path.Match %v", got, want)
		}
		if Glob(glob).Valid() != (err == nil) {
			t.Fatalf("Valid %v, path.Match %v", Glob(glob).Valid(), err)
		}
		if only, ok := Glob(glob).Literal(); ok && (Name(name) == only) != want {
			t.Fatalf("Literal %q, but path.Match %v", only, want)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	names := []Name{"db@1.service", "web@1.service", "web@12.service", "web-other@1.service"}
	for _, g := range []Glob{"web@1.service", "web@*.service", "*@1.service"} {
		b.Run(string(g), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				g.Match(names[i%len(names)])
			}
		})
	}
}
