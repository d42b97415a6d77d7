package slot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/disk/disktest"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/google/go-cmp/cmp"
)

const (
	espSize = 34 << 20
	imgSize = 64 << 10
)

// esp is the ESP of a disk image as a boot file system.
type esp struct{ *disk.FAT }

func (e esp) Open(p string) (slot.File, error) {
	f, err := e.FAT.Open(p)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (e esp) Create(p string, n int64) (slot.File, error) {
	f, err := e.FAT.Create(p, n)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// parts are the slots of a disk image.
type parts struct {
	dev   disk.Device
	table disk.Table
}

type part struct{ disk.Part }

func (part) Close() error { return nil }

func (p parts) Image(n slot.Name) (slot.File, error) {
	e, err := p.table.Find("usr-"+string(n), disk.GUID{})
	if err != nil {
		return nil, err
	}
	return part{disk.NewPart(p.dev, e.Off, e.Size)}, nil
}

// attach finds ESP and slots on a disk image, as a start of the machine does.
func attach(dev disk.Device, size int64, running slot.Name) (slot.Slots, error) {
	table, err := disk.ReadTable(dev, size)
	if err != nil {
		return slot.Slots{}, err
	}
	if err := table.Repair(dev, size); err != nil {
		return slot.Slots{}, err
	}
	e, err := table.Find("", disk.TypeESP())
	if err != nil {
		return slot.Slots{}, err
	}
	f, err := disk.OpenFAT(disk.NewPart(dev, e.Off, e.Size))
	return slot.Slots{Boot: esp{f}, Images: parts{dev, table}, Running: running}, err
}

func newDisk(t *testing.T) *disktest.Disk {
	t.Helper()
	usr, err := disk.ParseGUID("8484680c-9521-48c6-9c11-b0720656f69e")
	if err != nil {
		t.Fatal(err)
	}
	d := disktest.New(espSize + 4<<20)
	table := disk.NewTable(disk.GUID{7}, []disk.Partition{{Type: disk.TypeESP(), Size: espSize, Label: "esp"},
		{Type: usr, Size: imgSize, Label: "usr-a"}, {Type: usr, Size: imgSize, Label: "usr-b"}})
	if err := table.Repair(d, d.Size()); err != nil {
		t.Fatal(err)
	}
	p := disk.NewPart(d, table.Partitions[0].Off, espSize)
	if err := disk.FormatFAT(p, espSize); err != nil {
		t.Fatal(err)
	}
	f, err := disk.OpenFAT(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"loader", "loader/entries", "EFI", "EFI/fleet"} {
		if err := f.Mkdir(dir); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// both runs a test over the two kinds of slots. reboot opens them anew with another running slot.
func both(t *testing.T, test func(t *testing.T, reboot func(slot.Name) slot.Slots)) {
	t.Run("disk", func(t *testing.T) {
		d := newDisk(t)
		test(t, func(n slot.Name) slot.Slots {
			s, err := attach(d, d.Size(), n)
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	})
	t.Run("dir", func(t *testing.T) {
		d := slot.Dir{Root: t.TempDir()}
		for range 2 { // making it again changes nothing
			if err := d.Init(imgSize); err != nil {
				t.Fatal(err)
			}
		}
		test(t, func(n slot.Name) slot.Slots { return slot.Slots{Boot: d, Images: d, Running: n} })
	})
}

func rel(v string) slot.Release { return slot.Release{Version: v, Image: "sum of " + v, Size: imgSize} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// update does all steps of an update of the slot that does not run.
func update(s slot.Slots, v string) error {
	if err := s.Clear(); err != nil {
		return err
	}
	f, err := s.Image(imgSize)
	if err != nil {
		return err
	}
	if err := fill(f, v); err != nil {
		return err
	}
	if f, err = s.Kernel(3000); err != nil {
		return err
	}
	if err := fill(f, v); err != nil {
		return err
	}
	return s.Finalize(rel(v), 3, "quiet")
}

// fill writes the version all over a file.
func fill(f slot.File, v string) error {
	b := bytes.Repeat([]byte(v), int(f.Size())/len(v)+1)[:f.Size()]
	half := len(b) / 2
	_, err1 := f.WriteAt(b[:half], 0)
	_, err2 := f.WriteAt(b[half:], int64(half))
	return errors.Join(err1, err2, f.Sync(), f.Close())
}

// holds says whether the slot's image or kernel holds the version everywhere.
func holds(f slot.File, v string) bool {
	b := make([]byte, f.Size())
	n, _ := f.ReadAt(b, 0)
	return n > 0 && n == len(b) && bytes.Equal(b, bytes.Repeat([]byte(v), n/len(v)+1)[:n])
}

// show is the state as text: each slot's entry, and what boots next.
func show(t *testing.T, s slot.Slots) string {
	t.Helper()
	st, err := s.State()
	must(t, err)
	var out []string
	for _, n := range []slot.Name{slot.A, slot.B} {
		e, ok := st.Entries[n]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s -", n))
		case e.Left == slot.Good:
			out = append(out, fmt.Sprintf("%s %s good", n, e.Release.Version))
		default:
			out = append(out, fmt.Sprintf("%s %s +%d-%d", n, e.Release.Version, e.Left, e.Done))
		}
	}
	return strings.Join(out, ", ") + ", next " + string(st.Next)
}

func want(t *testing.T, s slot.Slots, text string) {
	t.Helper()
	if diff := cmp.Diff(text, show(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestGoodUpdateThenBadOneComesBack(t *testing.T) {
	both(t, func(t *testing.T, reboot func(slot.Name) slot.Slots) {
		start := func() slot.Slots {
			e, err := reboot(slot.A).Start()
			must(t, err)
			return reboot(e.Slot)
		}
		s := reboot(slot.A)
		want(t, s, "a -, b -, next ")
		if err := s.Clear(); !errors.Is(err, slot.ErrNoWayBack) {
			t.Errorf("clear without a way back: %v", err)
		}
		must(t, s.MarkGood(rel("1.0.0")))
		want(t, s, "a 1.0.0 good, b -, next a")

		must(t, update(s, "2.0.0"))
		want(t, s, "a 1.0.0 good, b 2.0.0 +3-0, next b")
		s = start()
		want(t, s, "a 1.0.0 good, b 2.0.0 +2-1, next b")
		if s.Running != slot.B {
			t.Fatalf("slot %s runs", s.Running)
		}
		if err := s.Clear(); !errors.Is(err, slot.ErrTrial) {
			t.Errorf("clear the way back while on trial: %v", err)
		}
		must(t, s.MarkGood(rel("2.0.0")))
		must(t, s.MarkGood(rel("2.0.0")))
		want(t, s, "a 1.0.0 good, b 2.0.0 good, next b")

		must(t, update(s, "3.0.0"))
		want(t, s, "a 3.0.0 +3-0, b 2.0.0 good, next a")
		for range 3 {
			if s = start(); s.Running != slot.A {
				t.Fatalf("slot %s runs, want the trial", s.Running)
			}
		}
		s = start()
		if s.Running != slot.B {
			t.Fatalf("slot %s runs, want to be back", s.Running)
		}
		want(t, s, "a 3.0.0 +0-3, b 2.0.0 good, next b")
		must(t, update(s, "4.0.0")) // and so it goes on
		want(t, s, "a 4.0.0 +3-0, b 2.0.0 good, next a")
	})
}

func TestRollbackByHand(t *testing.T) {
	both(t, func(t *testing.T, reboot func(slot.Name) slot.Slots) {
		s := reboot(slot.A)
		must(t, s.MarkGood(rel("1.0.0")))
		if _, err := s.Rollback(false); err == nil {
			t.Error("rolled back to an empty slot")
		}
		must(t, update(s, "2.0.0"))
		if _, err := s.Rollback(false); err == nil {
			t.Error("rolled over to a slot that has never proven itself")
		}
		s = reboot(slot.B)
		must(t, s.MarkGood(rel("2.0.0")))
		for range 2 {
			r, err := s.Rollback(false)
			must(t, err)
			if diff := cmp.Diff(rel("1.0.0"), r); diff != "" {
				t.Error(diff)
			}
			want(t, s, "a 1.0.0 good, b 2.0.0 good, next a")
		}
		must(t, s.Tidy())
		want(t, s, "a 1.0.0 good, b 2.0.0 good, next a")
		s = reboot(slot.A)
		must(t, update(s, "3.0.0"))
		want(t, s, "a 1.0.0 good, b 3.0.0 +3-0, next b")
		_, err := s.Rollback(true)
		must(t, err)
		want(t, s, "a 1.0.0 good, b 3.0.0 good, next b")
	})
}

func TestWhatMustNotBeDone(t *testing.T) {
	both(t, func(t *testing.T, reboot func(slot.Name) slot.Slots) {
		s := reboot(slot.A)
		must(t, s.MarkGood(rel("1.0.0")))
		if err := s.MarkGood(rel("1.1.0")); err == nil {
			t.Error("an entry of another version was marked good")
		}
		if err := s.Finalize(rel("2.0.0"), 3, ""); err == nil {
			t.Error("a slot without a kernel was made bootable")
		}
		if err := s.Finalize(rel("2.0.0"), 0, ""); err == nil {
			t.Error("a slot with no tries was made bootable")
		}
		must(t, update(s, "2.0.0"))
		must(t, s.Finalize(rel("2.0.0"), 3, "quiet")) // again, as after a crash
		if _, err := s.Image(imgSize); err == nil {
			t.Error("a slot that can boot was opened for writing")
		}
		if _, err := s.Kernel(10); err == nil {
			t.Error("a kernel that can boot was opened for writing")
		}
		must(t, s.Clear())
		must(t, s.Clear())
		want(t, s, "a 1.0.0 good, b -, next a")
		if _, err := s.Image(imgSize + 1); !errors.Is(err, slot.ErrSpace) {
			t.Errorf("image larger than the slot: %v", err)
		}
		if _, err := s.Kernel(1 << 60); !errors.Is(err, slot.ErrSpace) {
			t.Errorf("kernel larger than the boot file system: %v", err)
		}
		if err := s.Finalize(slot.Release{Version: "2\n0"}, 3, ""); err == nil {
			t.Error("a version with a line break got an entry")
		}
		if _, err := reboot(slot.B).Boot.Open("EFI/fleet/none.efi"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open nothing: %v", err)
		}
	})
}

func TestInterruptedKernelIsGoneOnWith(t *testing.T) {
	both(t, func(t *testing.T, reboot func(slot.Name) slot.Slots) {
		s := reboot(slot.A)
		must(t, s.MarkGood(rel("1.0.0")))
		must(t, s.Clear())
		f, err := s.Kernel(9000)
		must(t, err)
		must(t, fill(f, "part"))
		if f, err = reboot(slot.A).Kernel(9000); err != nil || !holds(f, "part") {
			t.Errorf("%v: what was written is gone", err)
		}
		must(t, f.Close())
		if f, err = reboot(slot.A).Kernel(8000); err != nil || f.Size() != 8000 {
			t.Errorf("another kernel: %v", err)
		}
		must(t, f.Close())
	})
}

// sound checks what must hold at every moment: something boots, and what boots is whole.
func sound(t *testing.T, when string, s slot.Slots) slot.Entry {
	t.Helper()
	list, err := s.State()
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	e, ok := list.Entries[list.Next]
	if !ok {
		t.Fatalf("%s: nothing boots", when)
	}
	if e.Release.Version == "" {
		t.Fatalf("%s: the entry of slot %s is damaged", when, e.Slot)
	}
	f, err := s.Images.Image(e.Slot)
	if err != nil || !holds(f, e.Release.Version) {
		t.Fatalf("%s: slot %s boots %s next and does not hold it (%v)", when, e.Slot, e.Release.Version, err)
	}
	k, err := s.Boot.Open("EFI/fleet/" + string(e.Slot) + ".efi")
	if err != nil || !holds(k, e.Release.Version) {
		t.Fatalf("%s: slot %s boots %s next and its kernel is another (%v)", when, e.Slot, e.Release.Version, err)
	}
	return e
}

// host is a disk with 1.0.0 running from A and 0.9.0 good in B.
func host(t *testing.T) *disktest.Disk {
	d := newDisk(t)
	s, err := attach(d, d.Size(), slot.B)
	must(t, err)
	must(t, s.MarkGood(rel("0.0.1")))
	must(t, update(s, "1.0.0"))
	s.Running = slot.A
	must(t, s.MarkGood(rel("1.0.0")))
	must(t, update(s, "0.9.0"))
	s.Running = slot.B
	must(t, s.MarkGood(rel("0.9.0")))
	_, err = s.Rollback(false)
	must(t, err)
	return d
}

// TestPowerCutAtEveryWriteOfAnUpdate cuts the power at every single write of an update, of the blessing after it, and of a
// rollback. What the next start finds must boot, and the operation must go through when it is done again.
func TestPowerCutAtEveryWriteOfAnUpdate(t *testing.T) {
	updated := host(t)
	s, err := attach(updated, updated.Size(), slot.A)
	must(t, err)
	must(t, update(s, "2.0.0"))
	for _, tt := range []struct {
		name    string
		disk    *disktest.Disk
		running slot.Name
		do      func(slot.Slots) error
		after   string
	}{
		{"update", host(t), slot.A, func(s slot.Slots) error { return update(s, "2.0.0") }, "a 1.0.0 good, b 2.0.0 +3-0, next b"},
		{"mark good", updated, slot.B, func(s slot.Slots) error { return s.MarkGood(rel("2.0.0")) }, "a 1.0.0 good, b 2.0.0 good, next b"},
		{"rollback", host(t), slot.A, func(s slot.Slots) error { _, err := s.Rollback(false); return err }, "a 1.0.0 good, b 0.9.0 good, next b"},
		{"tidy", host(t), slot.A, func(s slot.Slots) error { return s.Tidy() }, "a 1.0.0 good, b 0.9.0 good, next a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for cut := 0; ; cut++ {
				d := tt.disk.Clone()
				s, err := attach(d, d.Size(), tt.running)
				must(t, err)
				d.Cut(cut)
				err = tt.do(s)
				if err == nil {
					if tt.name == "update" && cut < 30 {
						t.Errorf("an update of %d writes: the test cut nothing", cut)
					}
					want(t, s, tt.after)
					return
				}
				if !errors.Is(err, disktest.ErrPower) {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				for seed := range uint64(4) {
					when := fmt.Sprintf("cut at %d, seed %d", cut, seed)
					again := d.Boot(seed)
					s, err := attach(again, again.Size(), tt.running)
					if err != nil {
						t.Fatalf("%s: %v", when, err)
					}
					sound(t, when, s)
					if err := errors.Join(s.Tidy(), tt.do(s)); err != nil {
						t.Fatalf("%s, then again: %v", when, err)
					}
					sound(t, when+", done again", s)
					want(t, s, tt.after)
				}
			}
		})
	}
}

func TestOtherFilesAmongTheEntriesAreLeftAlone(t *testing.T) {
	d := slot.Dir{Root: t.TempDir()}
	must(t, d.Init(imgSize))
	s := slot.Slots{Boot: d, Images: d, Running: slot.A}
	must(t, s.MarkGood(rel("1.0.0")))
	dir := filepath.Join(d.Root, "boot/loader/entries")
	for _, name := range []string{"debian.conf", "fleet-c-00009.conf", "fleet-b-x.conf", "fleet-b-00009+2-1.conf.new"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("title other\n"), 0o644))
	}
	want(t, s, "a 1.0.0 good, b -, next a")
	must(t, s.Tidy())
	if _, err := os.Stat(filepath.Join(dir, "debian.conf")); err != nil {
		t.Error("another system's entry was removed")
	}
	if _, err := os.Stat(filepath.Join(dir, "fleet-b-00009+2-1.conf.new")); err == nil {
		t.Error("what a crash left was not removed")
	}
}

func TestEntryIsWhatSystemdBootReads(t *testing.T) {
	d := slot.Dir{Root: t.TempDir()}
	must(t, d.Init(imgSize))
	s := slot.Slots{Boot: d, Images: d, Running: slot.A}
	r := rel("1.0.0")
	r.RootHash = "abcd"
	must(t, s.MarkGood(rel("0.9.0")))
	must(t, s.Clear())
	f, err := s.Kernel(10)
	must(t, err)
	must(t, fill(f, "k"))
	must(t, s.Finalize(r, 2, "console=ttyS0"))
	b, err := os.ReadFile(filepath.Join(d.Root, "boot/loader/entries/fleet-b-00002+2.conf"))
	must(t, err)
	const text = `# fleet-release {"version":"1.0.0","image":"sum of 1.0.0","size":65536,"roothash":"abcd"}
title Fleet 1.0.0 (slot b)
version 2-1.0.0
sort-key fleet
efi /EFI/fleet/b.efi
options fleet.slot=b fleet.version=1.0.0 os.usrhash=abcd console=ttyS0
`
	if diff := cmp.Diff(text, string(b)); diff != "" {
		t.Error(diff)
	}
	st, err := s.State()
	must(t, err)
	e := st.Entries[slot.B]
	if diff := cmp.Diff(slot.Entry{Slot: slot.B, Generation: 2, Left: 2, Release: r, Options: "console=ttyS0"}, e); diff != "" {
		t.Error(diff)
	}
}
