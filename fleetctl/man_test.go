package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docs/man is what the table of commands says. UPDATE_GOLDEN=1 writes it anew.
func TestManPagesAreOfTheTable(t *testing.T) {
	dir := filepath.Join("..", "docs", "man")
	want := manPages()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		if section := filepath.Ext(e.Name()); section == ".8" {
			continue // the daemons' pages
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(text)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/man is not of this table: UPDATE_GOLDEN=1 go test ./fleetctl\n%s", diff)
	}
}

// Every command says what it completes, and everything it names exists.
func TestCommandsAreWhole(t *testing.T) {
	var o options
	fs := define(&o)
	for _, c := range commands() {
		if c.summary == "" || c.example == "" || c.run == nil {
			t.Errorf("%s lacks a summary, an example or its function", c.name)
		}
		if (c.args != "") != (len(c.completes) > 0) && c.name != "fd-forward" {
			t.Errorf("%s takes %q and completes %q", c.name, c.args, c.completes)
		}
		for _, f := range append(append(slices.Clone(c.flags), c.quiet...), globalFlags()...) {
			if fs.Lookup(f) == nil {
				t.Errorf("%s names the flag %s, which does not exist", c.name, f)
			}
		}
	}
	if got := slices.Sorted(maps.Keys(manPages())); len(got) != len(commandNames())+2 {
		t.Error(got)
	}
}
