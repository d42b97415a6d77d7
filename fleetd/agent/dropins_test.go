package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/unit"
)

func withDropIns(t *testing.T, text string, ds ...unit.DropIn) *unit.File {
	t.Helper()
	for i, d := range ds {
		one, err := unit.ParseDropIn(d.Of, d.Name, []byte("[Service]\nNice="+string('0'+rune(i))+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		ds[i] = one
	}
	return parse(text).With(ds)
}

// A text with drop-ins is on disk what it is in the registry: its hash says so, whatever part of it was changed.
func TestDisksKeepDropIns(t *testing.T) {
	base := t.TempDir()
	for name, d := range map[string]Disk{"dir": openDir(t, base), "memory": NewMemory()} {
		t.Run(name, func(t *testing.T) {
			f := withDropIns(t, sleeper, unit.DropIn{Of: "a@.service", Name: "10.conf"}, unit.DropIn{Of: "a@1.service", Name: "20.conf"})
			for _, f := range []*unit.File{f, parse(sleeper), f} {
				if err := d.Write("a@1.service", f); err != nil {
					t.Fatal(err)
				}
				got := read(t, d)["a@1.service"]
				if got.Hash != f.Hash() {
					t.Errorf("hash on disk %s, of the text %s: it would be replaced for ever", got.Hash, f.Hash())
				}
				if (got.Beside != "") != (len(f.DropIns) > 0) {
					t.Errorf("drop-ins: %q", got.Beside)
				}
			}
			if name == "dir" {
				text, err := os.ReadFile(d.Path("a@1.service"))
				if err != nil || string(text) != parse(sleeper).String() {
					t.Errorf("systemd reads %q, %v", text, err)
				}
				if err := os.WriteFile(filepath.Join(base, "drop-ins", "a@1.service"), []byte("\n# a@.service.d/10.conf\n[Service]\nNice=-20\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				if got := read(t, d)["a@1.service"].Hash; got == f.Hash() {
					t.Error("a change by hand is not seen")
				}
			}
			if err := d.Remove("a@1.service"); err != nil {
				t.Fatal(err)
			}
			if got := read(t, d); len(got) > 0 {
				t.Errorf("there is still %v", got)
			}
		})
	}
}

// systemd gets them in the order that their names have, fleet's own among them, and none hides another.
func TestDropInsForSystemd(t *testing.T) {
	f := withDropIns(t, sleeper+"[X-Fleet]\nNetwork=overlay\n", unit.DropIn{Of: "a@.service", Name: "network.conf"},
		unit.DropIn{Of: "a@.service", Name: "10.conf"}, unit.DropIn{Of: "a@1.service", Name: "10.conf"})
	want := map[string]string{
		"fleet-unit-network.conf": "# a@.service.d/network.conf, by fleetd\n[Service]\nNice=0\n",
		"fleet-unit-10.conf":      "# a@1.service.d/10.conf, by fleetd\n[Service]\nNice=2\n",
		"fleet-network.conf":      overlayDropIn,
	}
	if diff := cmp.Diff(want, onDisk("a@1.service", f).dropIns("")); diff != "" {
		t.Error(diff)
	}
	if got := onDisk("a.service", parse(sleeper)).dropIns(""); got != nil {
		t.Errorf("a unit without has %v", got)
	}
}
