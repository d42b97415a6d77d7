package systemd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDropInsAreFleetsOnly(t *testing.T) {
	s := &Systemd{dir: t.TempDir()}
	dir := filepath.Join(s.dir, "web.service.d")
	set := func(want map[string]string) {
		t.Helper()
		if err := s.dropIns("web.service", want); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(want map[string]string) {
		t.Helper()
		var got map[string]string
		entries, _ := os.ReadDir(dir) // no folder: nothing
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if got == nil {
				got = map[string]string{}
			}
			got[e.Name()] = string(text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	set(nil)
	holds(nil)
	set(map[string]string{"fleet-a.conf": "1", "fleet-b.conf": "2"})
	holds(map[string]string{"fleet-a.conf": "1", "fleet-b.conf": "2"})

	// What is right already keeps its time.
	old := time.Unix(1000, 0)
	if err := os.Chtimes(filepath.Join(dir, "fleet-a.conf"), old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "operator.conf"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	set(map[string]string{"fleet-a.conf": "1", "fleet-c.conf": "3"})
	holds(map[string]string{"fleet-a.conf": "1", "fleet-c.conf": "3", "operator.conf": "mine"})
	if info, err := os.Stat(filepath.Join(dir, "fleet-a.conf")); err != nil || !info.ModTime().Equal(old) {
		t.Error("a drop-in that was right has been written anew")
	}
	set(nil)
	holds(map[string]string{"operator.conf": "mine"})
	if err := os.Remove(filepath.Join(dir, "operator.conf")); err != nil {
		t.Fatal(err)
	}
	set(map[string]string{"fleet-a.conf": "1"})
	set(nil)
	if _, err := os.Stat(dir); err == nil {
		t.Error("the empty folder is left")
	}
}
