package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/update-engine/disk/disktest"
	"github.com/google/go-cmp/cmp"
)

const espSize = 34 << 20

func fat(t *testing.T) (*disktest.Disk, *FAT) {
	t.Helper()
	d := disktest.New(espSize)
	if err := FormatFAT(d, espSize); err != nil {
		t.Fatal(err)
	}
	return d, open(t, d)
}

func open(t *testing.T, d Device) *FAT {
	t.Helper()
	f, err := OpenFAT(d)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// put makes a file with content, on disk.
func put(f *FAT, p string, b []byte) error {
	x, err := f.Create(p, int64(len(b)))
	if err != nil {
		return err
	}
	if _, err := x.WriteAt(b, 0); err != nil {
		return err
	}
	return x.Sync()
}

func get(t *testing.T, f *FAT, p string) []byte {
	t.Helper()
	x, err := f.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, x.Size())
	if n, err := x.ReadAt(b, 0); n != len(b) {
		t.Fatalf("read %s: %d bytes of %d, %v", p, n, len(b), err)
	}
	return b
}

// tree is all of a file system as text, one line a file.
func tree(t *testing.T, f *FAT) []string {
	t.Helper()
	var out []string
	var walk func(string)
	walk = func(dir string) {
		list, err := f.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range list {
			p := strings.TrimPrefix(dir+"/"+name, "./")
			if _, e, err := f.find(p); err != nil {
				t.Fatal(err)
			} else if e.dir {
				out = append(out, p+"/")
				walk(p)
			} else {
				b := get(t, f, p)
				out = append(out, fmt.Sprintf("%s %d %x", p, len(b), fnv(b)))
			}
		}
	}
	walk(".")
	slices.Sort(out)
	return out
}

func fnv(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

func TestFilesComeBack(t *testing.T) {
	d, f := fat(t)
	want := map[string][]byte{}
	r := rand.New(rand.NewPCG(1, 1))
	for _, dir := range []string{"loader", "loader/entries", "EFI", "EFI/fleet"} {
		if err := f.Mkdir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Mkdir("loader"); err != nil {
		t.Errorf("making a directory again: %v", err)
	}
	for i := range 60 { // more than one cluster of names
		b := make([]byte, r.IntN(3000))
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		want[fmt.Sprintf("loader/entries/fleet-a-%05d+3.conf", i)] = b
	}
	want["EFI/fleet/A.EFI"] = bytes.Repeat([]byte("kernel"), 100_000)
	for p, b := range want {
		if err := put(f, p, b); err != nil {
			t.Fatal(err)
		}
	}
	f = open(t, d)
	for p, b := range want {
		if !bytes.Equal(b, get(t, f, p)) {
			t.Errorf("%s has another content", p)
		}
		if !bytes.Equal(b, get(t, f, strings.ToUpper(p))) {
			t.Errorf("%s is not found in upper case", p)
		}
	}
	list, err := f.List("loader/entries")
	if err != nil || len(list) != 60 {
		t.Errorf("%d entries, %v", len(list), err)
	}
}

func TestRemovedSpaceIsFreeAgain(t *testing.T) {
	d, f := fat(t)
	before, _ := f.Free()
	if err := put(f, "big.efi", make([]byte, 5<<20)); err != nil {
		t.Fatal(err)
	}
	if free, _ := f.Free(); before-free < 5<<20 {
		t.Errorf("%d bytes free after writing 5 MiB, %d before", free, before)
	}
	if err := f.Remove("big.efi"); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*FAT{f, open(t, d)} {
		if free, _ := f.Free(); free != before {
			t.Errorf("%d bytes free, %d before", free, before)
		}
	}
}

func TestWhatAnotherSystemWroteMeanwhileIsNeitherFreeNorOverwritten(t *testing.T) {
	d, ours := fat(t)
	before, _ := ours.Free()
	theirs := bytes.Repeat([]byte("theirs"), 1<<20)
	if err := put(open(t, d), "filler", theirs); err != nil {
		t.Fatal(err)
	}
	if free, err := ours.Free(); err != nil || before-free < int64(len(theirs)) {
		t.Errorf("%d bytes free, %v, %d before", free, err, before)
	}
	if err := put(ours, "b.efi", make([]byte, 5<<20)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(t, open(t, d), "filler"), theirs) {
		t.Error("the other system's file was overwritten")
	}
}

func TestFATErrors(t *testing.T) {
	_, f := fat(t)
	if err := put(f, "a.conf", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Create("huge", espSize); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("too large a file: %v", err)
	}
	if _, err := f.Create("a.conf", 1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a name that is taken: %v", err)
	}
	if _, err := f.Create("no/a.conf", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := f.Remove("b.conf"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to remove: %v", err)
	}
	if err := f.Rename("a.conf", "a.conf"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("rename to what is there: %v", err)
	}
	if _, err := f.Create("a:b", 1); err == nil {
		t.Error("a colon was taken")
	}
	if _, err := OpenFAT(disktest.New(1 << 20)); !errors.Is(err, ErrNoFAT) {
		t.Errorf("zeros: %v", err)
	}
	if err := FormatFAT(disktest.New(1<<20), 1<<20); err == nil {
		t.Error("a FAT32 of 1 MiB was made")
	}
}

// TestFATPowerCutAtEveryWrite runs each change with the power cut at each of its writes: the tree is then the one before or the
// one after (for a rename that had to copy, also both names), and the file system is sound.
func TestFATPowerCutAtEveryWrite(t *testing.T) {
	d, f := fat(t)
	for _, dir := range []string{"e"} {
		if err := f.Mkdir(dir); err != nil {
			t.Fatal(err)
		}
	}
	text := bytes.Repeat([]byte("text "), 300)
	for i := range 4 {
		if err := put(f, fmt.Sprintf("e/fleet-a-0000%d+3-0.conf.new", i), text); err != nil {
			t.Fatal(err)
		}
	}
	for name, do := range map[string]func(f *FAT) error{
		"create":          func(f *FAT) error { _, err := f.Create("e/new-file-with-a-long-name.conf", 1500); return err },
		"create and grow": func(f *FAT) error { _, err := f.Create("e/"+strings.Repeat("long", 20), 10); return err },
		"remove":          func(f *FAT) error { return f.Remove("e/fleet-a-00001+3-0.conf.new") },
		"rename in place": func(f *FAT) error { return f.Rename("e/fleet-a-00002+3-0.conf.new", "e/fleet-a-00002+3-0.conf") },
		"rename by copy":  func(f *FAT) error { return f.Rename("e/fleet-a-00003+3-0.conf.new", "e/"+strings.Repeat("y", 60)) },
		"mkdir":           func(f *FAT) error { return f.Mkdir("directory") },
	} {
		t.Run(name, func(t *testing.T) {
			before := tree(t, open(t, d.Clone()))
			done := d.Clone()
			if err := do(open(t, done)); err != nil {
				t.Fatal(err)
			}
			after := tree(t, open(t, done))
			both := slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(before), after...))))
			for cut := 0; ; cut++ {
				c := d.Clone()
				cf := open(t, c)
				c.Cut(cut)
				err := do(cf)
				if err == nil {
					break
				}
				if !errors.Is(err, disktest.ErrPower) {
					t.Fatal(err)
				}
				for seed := range uint64(8) {
					got := tree(t, open(t, c.Boot(seed)))
					// What a file holds that was just created is undefined: compare names and sizes.
					if b, a := cmp.Diff(before, got), cmp.Diff(bare(after), bare(got)); b != "" && a != "" &&
						(name != "rename by copy" || !cmp.Equal(both, got)) {
						t.Fatalf("cut at %d, seed %d: neither before:\n%s\nnor after:\n%s", cut, seed, b, a)
					}
				}
			}
		})
	}
}

func bare(lines []string) []string {
	var out []string
	for _, l := range lines {
		out = append(out, l[:max(strings.LastIndex(l, " "), 0)])
	}
	return out
}

// TestFATAgainstAModel does random changes and compares with a map, reopening now and then.
func TestFATAgainstAModel(t *testing.T) {
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 9))
		d, f := fat(t)
		model := map[string]string{}
		name := func() string { return fmt.Sprintf("f%d%s.conf", r.IntN(12), strings.Repeat("-x", r.IntN(3)*8)) }
		for range 120 {
			a, b := name(), name()
			_, hasA := model[a]
			_, hasB := model[b]
			var err error
			switch r.IntN(4) {
			case 0, 1:
				body := strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(2000))
				if err = put(f, a, []byte(body)); !hasA {
					model[a] = body
				} else if errors.Is(err, fs.ErrExist) {
					err = nil
				}
			case 2:
				if err = f.Remove(a); !hasA && errors.Is(err, fs.ErrNotExist) {
					err = nil
				}
				delete(model, a)
			case 3:
				err = f.Rename(a, b)
				switch {
				case hasA && !hasB && a != b:
					model[b] = model[a]
					delete(model, a)
				case err != nil:
					err = nil
				}
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if r.IntN(20) == 0 {
				f = open(t, d)
			}
		}
		f = open(t, d)
		got := map[string]string{}
		list, err := f.List(".")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range list {
			got[n] = string(get(t, f, n))
		}
		if diff := cmp.Diff(model, got); diff != "" {
			t.Fatalf("seed %d:\n%s", seed, diff)
		}
	}
}

func parts() []Partition {
	usr, _ := ParseGUID("8484680c-9521-48c6-9c11-b0720656f69e")
	return []Partition{{Type: TypeESP(), ID: GUID{1}, Size: espSize, Label: "esp"}, {Type: usr, ID: GUID{2}, Size: 3 << 20, Label: "usr-a"},
		{Type: usr, ID: GUID{3}, Size: 3 << 20, Label: "usr-b"}}
}

func TestGUIDs(t *testing.T) {
	if g := TypeESP().String(); g != "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" {
		t.Error(g)
	}
	if g := TypeESP(); g[0] != 0x28 || g[15] != 0x3b {
		t.Errorf("on disk: %x", g[:])
	}
	if _, err := ParseGUID("c12a7328"); err == nil {
		t.Error("a short GUID was taken")
	}
}

func TestTableIsReadFromEitherCopyAndRepaired(t *testing.T) {
	const size = 50 << 20
	whole := disktest.New(size)
	if err := NewTable(GUID{9}, parts()).Repair(whole, size); err != nil {
		t.Fatal(err)
	}
	good, err := ReadTable(whole, size)
	if err != nil || good.Primary != nil || good.Backup != nil {
		t.Fatal(err, good.Primary, good.Backup)
	}
	if diff := cmp.Diff(NewTable(GUID{9}, parts()).Partitions, good.Partitions[:3]); diff != "" {
		t.Error(diff)
	}
	if p, err := good.Find("usr-b", GUID{}); err != nil || p.ID != (GUID{3}) {
		t.Error(p, err)
	}
	if p, err := good.Find("", TypeESP()); err != nil || p.Label != "esp" {
		t.Error(p, err)
	}
	if _, err := good.Find("usr-c", GUID{}); err == nil {
		t.Error("a partition was found that is not there")
	}
	for name, damage := range map[string]int64{"primary header": 512 + 20, "primary entries": 1024 + 40, "backup header": size - 512 + 20,
		"backup entries": size - 33*512 + 40} {
		t.Run(name, func(t *testing.T) {
			d := whole.Clone()
			if _, err := d.WriteAt([]byte{0xAA}, damage); err != nil {
				t.Fatal(err)
			}
			tab, err := ReadTable(d, size)
			if err != nil || tab.Primary == nil && tab.Backup == nil {
				t.Fatalf("%v: damage not seen", err)
			}
			for cut := 0; ; cut++ { // at each write of the repair
				c := d.Clone()
				c.Cut(cut)
				err := tab.Repair(c, size)
				again, rerr := ReadTable(c.Boot(uint64(cut)), size)
				if rerr != nil || !cmp.Equal(again.Partitions, good.Partitions) {
					t.Fatalf("cut at %d: %v", cut, rerr)
				}
				if err == nil {
					if again, _ := ReadTable(c, size); again.Primary != nil || again.Backup != nil {
						t.Errorf("after repair: %v, %v", again.Primary, again.Backup)
					}
					break
				}
			}
		})
	}
	if _, err := ReadTable(disktest.New(size), size); !errors.Is(err, ErrNoTable) {
		t.Errorf("zeros: %v", err)
	}
}

func TestDiskThatGrewGetsItsBackupAtTheNewEnd(t *testing.T) {
	const old, size = 50 << 20, 60 << 20
	d := disktest.New(size)
	if err := NewTable(GUID{9}, parts()).Repair(NewPart(d, 0, old), old); err != nil {
		t.Fatal(err)
	}
	tab, err := ReadTable(d, size)
	if err != nil || tab.Backup == nil {
		t.Fatal(err, "backup is taken as sound")
	}
	if err := tab.Repair(d, size); err != nil {
		t.Fatal(err)
	}
	if tab, err = ReadTable(d, size); err != nil || tab.Primary != nil || tab.Backup != nil {
		t.Error(err, tab.Primary, tab.Backup)
	}
}

func TestPartsEndWhereTheyEnd(t *testing.T) {
	d := disktest.New(4096)
	p := NewPart(d, 1024, 1024)
	if _, err := p.WriteAt(make([]byte, 600), 600); err == nil {
		t.Error("wrote behind the end")
	}
	if n, _ := p.ReadAt(make([]byte, 600), 600); n != 424 {
		t.Errorf("read %d bytes, want 424", n)
	}
}
