package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/unit"
)

func openDir(t *testing.T, base string) *Dir {
	t.Helper()
	d, err := OpenDir(filepath.Join(base, "units"), filepath.Join(base, "launched"), filepath.Join(base, "drop-ins"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func read(t *testing.T, d Disk) map[unit.Name]OnDisk {
	t.Helper()
	got, err := d.Read()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestDisks runs the same over the real one and the one in memory.
func TestDisks(t *testing.T) {
	for name, d := range map[string]Disk{"dir": openDir(t, t.TempDir()), "memory": NewMemory()} {
		t.Run(name, func(t *testing.T) {
			f, g := parse(sleeper), parse(sleeper+"[Install]\nWantedBy=multi-user.target\n")
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(d.Write("a@1.service", f))
			must(d.Write("b.service", g))
			must(d.Mark("b.service", g.Hash(), 7))
			must(d.Mark("only.service", f.Hash(), 0))
			want := map[unit.Name]OnDisk{"a@1.service": {Hash: f.Hash()}, "b.service": {Hash: g.Hash(), Install: true, Started: g.Hash(), Restarted: 7},
				"only.service": {Started: f.Hash()}}
			if diff := cmp.Diff(want, read(t, d)); diff != "" {
				t.Error(diff)
			}
			must(d.Write("b.service", f)) // the mark stays: it says which text was started
			must(d.Mark("only.service", "", 0))
			must(d.Mark("only.service", "", 0))
			must(d.Remove("a@1.service"))
			must(d.Remove("a@1.service"))
			want = map[unit.Name]OnDisk{"b.service": {Hash: f.Hash(), Started: g.Hash(), Restarted: 7}}
			if diff := cmp.Diff(want, read(t, d)); diff != "" {
				t.Error(diff)
			}
			for _, bad := range []unit.Name{"../evil.service", "t@.service", ".fleet-a.service", "plain", ""} {
				if d.Write(bad, f) == nil {
					t.Errorf("%q was written", bad)
				}
			}
		})
	}
}

func TestDirClearsHalfWrittenFilesAndLeavesOthersAlone(t *testing.T) {
	base := t.TempDir()
	openDir(t, base)
	for name, text := range map[string]string{".fleet-a.service": "[Serv", "README": "mine", "t@.service": sleeper, "odd.service": "no unit\x00"} {
		if err := os.WriteFile(filepath.Join(base, "units", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(base, "units", "dir.service"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, base)
	got := read(t, d)
	if len(got) != 1 || got["odd.service"].Hash == "" { // a leftover under a unit's name is ours to clear away
		t.Errorf("read %v", got)
	}
	for name, want := range map[string]bool{".fleet-a.service": false, "README": true, "t@.service": true} {
		if _, err := os.Stat(filepath.Join(base, "units", name)); (err == nil) != want {
			t.Errorf("%s there: %v", name, err == nil)
		}
	}
}

func TestDirWritesTheTextOfItsHash(t *testing.T) {
	base := t.TempDir()
	d := openDir(t, base)
	f := parse("# comment\n[Service]\n  ExecStart=/bin/a \\\n  b\n\n[Unit]\nDescription=x\n[Service]\nType=simple\n")
	if err := d.Write("a.service", f); err != nil {
		t.Fatal(err)
	}
	if got := read(t, d)["a.service"].Hash; got != f.Hash() {
		t.Errorf("hash on disk %s, of the text %s: it would be replaced for ever", got, f.Hash())
	}
}
