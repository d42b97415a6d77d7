package unit

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docs/units.md holds the table of options. UPDATE_GOLDEN=1 writes it anew.
func TestManualHasAllKeywords(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "units.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?m)^\| option \| \|\n\|---\|---\|\n(\|.*\n)*`)
	got := table.FindString(string(text))
	want := "| option | |\n|---|---|\n"
	for _, k := range Keywords() {
		does := k.Does
		if len(k.Older) > 0 {
			does += " (`" + strings.Join(k.Older, "`, `") + "` in older files)"
		}
		want += "| `" + k.Name + "=" + strings.ReplaceAll(k.Value, "|", `\|`) + "` | " + does + " |\n"
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), got, want, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/units.md: UPDATE_GOLDEN=1 go test ./internal/unit\n%s", diff)
	}
}

// Each keyword is read: a value that cannot be is refused by name, or taken.
func TestKeywordsAreRead(t *testing.T) {
	for _, k := range Keywords() {
		for _, name := range append([]string{k.Name}, k.Older...) {
			f, err := Parse([]byte("[X-Fleet]\n" + name + "=yes\n"))
			if err != nil {
				t.Fatal(err)
			}
			needs, err := f.Needs("web.service")
			network, netErr := f.Network("web.service")
			if err == nil && netErr == nil && cmp.Equal(network, Network{}) && cmp.Equal(needs, Needs{}) {
				t.Errorf("%s=yes changes nothing and is no error", name)
			}
		}
	}
}
