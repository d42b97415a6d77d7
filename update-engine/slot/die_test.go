package slot_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/fleet-init/fleet/update-engine/disk/disktest"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// dying are slots in folders whose host dies at the n-th change: before it, or when it is done and nobody has heard of it.
type dying struct {
	slot.Dir
	left  *int
	early bool
}

// change makes one change; from the one at which the host dies on nothing is done any more.
func (d dying) change(do func() error) error {
	*d.left--
	if *d.left < 0 || *d.left == 0 && d.early {
		return disktest.ErrPower
	}
	err := do()
	if *d.left == 0 {
		return errors.Join(disktest.ErrPower, err)
	}
	return err
}

func (d dying) file(f slot.File, err error) (slot.File, error) {
	if err != nil {
		return nil, err
	}
	return dyingFile{f, d}, nil
}

func (d dying) Open(p string) (slot.File, error)     { return d.file(d.Dir.Open(p)) }
func (d dying) Image(n slot.Name) (slot.File, error) { return d.file(d.Dir.Image(n)) }
func (d dying) Rename(from, to string) error {
	return d.change(func() error { return d.Dir.Rename(from, to) })
}
func (d dying) Remove(p string) error { return d.change(func() error { return d.Dir.Remove(p) }) }
func (d dying) Create(p string, n int64) (slot.File, error) {
	var f slot.File
	if err := d.change(func() (err error) { f, err = d.Dir.Create(p, n); return err }); err != nil {
		return nil, err
	}
	return d.file(f, nil)
}

type dyingFile struct {
	slot.File
	d dying
}

func (f dyingFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.d.change(func() (err error) { n, err = f.File.WriteAt(b, off); return err })
	return n, err
}

func (f dyingFile) Sync() error { return f.d.change(f.File.Sync) }

// TestDeathAtEveryStepOfAnUpdateInFolders is TestPowerCutAtEveryWriteOfAnUpdate for the slots of nspawn hosts: the file system under them keeps or
// loses each change whole, as its own journal promises.
func TestDeathAtEveryStepOfAnUpdateInFolders(t *testing.T) {
	first := slot.Dir{Root: t.TempDir()}
	must(t, first.Init(imgSize))
	s := slot.Slots{Boot: first, Images: first, Running: slot.B}
	must(t, s.MarkGood(rel("0.0.1")))
	must(t, update(s, "1.0.0"))
	s.Running = slot.A
	must(t, s.MarkGood(rel("1.0.0")))
	for _, tt := range []struct {
		name    string
		running slot.Name
		do      func(slot.Slots) error
		after   string
	}{
		{"update", slot.A, func(s slot.Slots) error { return update(s, "2.0.0") }, "a 1.0.0 good, b 2.0.0 +3-0, next b"},
		{"mark good", slot.B, func(s slot.Slots) error { return s.MarkGood(rel("2.0.0")) }, "a 1.0.0 good, b 2.0.0 good, next b"},
		{"rollback", slot.B, func(s slot.Slots) error { _, err := s.Rollback(false); return err }, "a 1.0.0 good, b 2.0.0 good, next a"},
	} {
		for n := 0; ; n++ {
			cut, early := 1+n/2, n%2 == 0
			when := fmt.Sprintf("%s, dead at %d, early %v", tt.name, cut, early)
			d := slot.Dir{Root: t.TempDir()}
			must(t, os.CopyFS(d.Root, os.DirFS(first.Root)))
			dy := dying{d, &cut, early}
			err := tt.do(slot.Slots{Boot: dy, Images: dy, Running: tt.running})
			s := slot.Slots{Boot: d, Images: d, Running: tt.running}
			if err == nil {
				if n < 2 {
					t.Errorf("%s: the test ended nothing", tt.name)
				}
				want(t, s, tt.after)
				first = d
				break
			}
			if !errors.Is(err, disktest.ErrPower) {
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
}
