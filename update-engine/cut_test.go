package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/disk/disktest"
	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// shared lets the frames of a payload be written at once, as a kernel does.
type shared struct {
	mu   sync.Mutex // guards disk
	disk *disktest.Disk
}

func (s *shared) ReadAt(b []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disk.ReadAt(b, off)
}

func (s *shared) WriteAt(b []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disk.WriteAt(b, off)
}

func (s *shared) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disk.Sync()
}

// inserted are the slots of a disk, found as a start of update-engine finds them.
func inserted(t *testing.T, d *disktest.Disk, running slot.Name) slot.Slots {
	t.Helper()
	dev := &shared{disk: d}
	table, err := disk.ReadTable(dev, d.Size())
	must(t, err)
	must(t, table.Repair(dev, d.Size()))
	e, err := table.Find("", disk.TypeESP())
	must(t, err)
	fat, err := disk.OpenFAT(disk.NewPart(dev, e.Off, e.Size))
	must(t, err)
	return slot.Slots{Boot: esp{new(sync.Mutex), fat}, Images: partitions{dev, table}, Running: running}
}

const cutESP = 34 << 20

// diskOf10 is a disk with 1.0.0 in slot a, proven, and an older release in slot b.
func diskOf10(t *testing.T) *disktest.Disk {
	usrType, err := disk.ParseGUID("8484680c-9521-48c6-9c11-b0720656f69e")
	must(t, err)
	d := disktest.New(cutESP + 8<<20)
	table := disk.NewTable(disk.GUID{7}, []disk.Partition{{Type: disk.TypeESP(), Size: cutESP, Label: "esp"}, {Type: usrType, Size: 2 << 20, Label: "usr-a"}, {Type: usrType, Size: 2 << 20, Label: "usr-b"}})
	must(t, table.Repair(d, d.Size()))
	p := disk.NewPart(d, table.Partitions[0].Off, cutESP)
	must(t, disk.FormatFAT(p, cutESP))
	fat, err := disk.OpenFAT(p)
	must(t, err)
	for _, dir := range []string{"loader", "loader/entries", "EFI", "EFI/fleet"} {
		must(t, fat.Mkdir(dir))
	}
	for running, v := range map[slot.Name]string{slot.A: "0.9.0", slot.B: "1.0.0"} {
		s := inserted(t, d, running)
		to, err := s.Image(imageSize)
		must(t, err)
		_, err = to.WriteAt(image(v), 0)
		must(t, errors.Join(err, to.Sync(), to.Close()))
		kernel := kernelOf(v)
		to, err = s.Kernel(int64(len(kernel)))
		must(t, err)
		_, err = to.WriteAt(kernel, 0)
		must(t, errors.Join(err, to.Sync(), to.Close()))
		must(t, s.Install(slot.Release{Version: v, Image: sumOf(image(v)), Size: imageSize}, ""))
	}
	s := inserted(t, d, slot.B)
	if st, err := s.State(); err != nil || st.Next != slot.A {
		s.Running = slot.B
		_, err = s.Rollback(false)
		must(t, err)
	}
	return d
}

func kernelOf(version string) []byte { return bytes.Repeat([]byte("kernel "+version), 1000) }

// boots checks that the disk boots something, and that it is whole; it gives the slot.
func boots(t *testing.T, when string, s slot.Slots) slot.Name {
	t.Helper()
	st, err := s.State()
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	e, ok := st.Entries[st.Next]
	if !ok {
		t.Fatalf("%s: nothing boots", when)
	}
	f, err := s.Images.Image(e.Slot)
	must(t, err)
	if sum, err := payload.SumOf(f, imageSize); err != nil || sum.String() != e.Release.Image || sum.String() != sumOf(image(e.Release.Version)) {
		t.Fatalf("%s: slot %s boots next as %s, and holds something else (%v)", when, e.Slot, e.Release.Version, err)
	}
	k, err := s.Boot.Open("EFI/fleet/" + string(e.Slot) + ".efi")
	if err != nil {
		t.Fatalf("%s: slot %s boots next and has no kernel: %v", when, e.Slot, err)
	}
	b := make([]byte, k.Size())
	if n, _ := k.ReadAt(b, 0); n != len(b) || !bytes.Equal(b, kernelOf(e.Release.Version)) {
		t.Fatalf("%s: the kernel of slot %s is not that of %s", when, e.Slot, e.Release.Version)
	}
	return e.Slot
}

// TestPowerCutAtEveryWriteOfAWholeUpdate takes a release from a mirror into a disk image with everything that there is to it (signed state, payload
// with a delta, journal, kernel, boot entry) and cuts the power at every single write to the disk. The machine always has a slot that boots and is whole,
// and the next start goes on to the end.
func TestPowerCutAtEveryWriteOfAWholeUpdate(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	whole := diskOf10(t)
	dir := t.TempDir()
	// start is the daemon after a start of the machine.
	start := func(d *disktest.Disk) *host {
		return &host{cfg: Config{StateDir: dir, Product: "fleet", Arch: "amd64", Channel: "stable", Mirrors: []string{"file://" + p.dir}, Root: p.root, Tries: 2},
			log: slog.New(slog.DiscardHandler), slots: inserted(t, d, slot.A), running: "1.0.0", now: time.Now, client: http.DefaultClient}
	}
	offers, err := start(whole.Clone()).offers(t.Context(), "")
	must(t, err)
	// take is the update, until it is done or something is wrong.
	take := func(h *host) (why string) {
		for _, do := range []update.Do{update.Stage, update.Finalize} {
			f := h.do(t.Context(), update.Action{Do: do, Target: offers[0]}, func(update.Fact) {})
			if f.Kind != update.StagedOK && f.Kind != update.Finalized {
				return f.Why
			}
		}
		return ""
	}
	for cut := 0; ; cut++ {
		d := whole.Clone()
		h := start(d)
		d.Cut(cut)
		if why := take(h); why == "" {
			if boots(t, "uncut", h.slots) != slot.B || cut < 20 {
				t.Errorf("an update of %d writes: the test cut nothing, or it does not boot", cut)
			}
			t.Logf("%d writes", cut)
			return
		} else if !d.Dead() {
			t.Fatalf("cut at %d: %s", cut, why)
		}
		// The journal is of another partition, which the same cut leaves as it is.
		when := fmt.Sprintf("cut at %d", cut)
		h = start(d.Boot(uint64(cut)))
		must(t, h.slots.Tidy())
		boots(t, when, h.slots)
		if why := take(h); why != "" {
			t.Fatalf("%s, then again: %s", when, why)
		}
		if boots(t, when+", done again", h.slots) != slot.B {
			t.Fatalf("%s: done again it does not boot", when)
		}
		// What the next cut finds must not be what this one has gone on with.
		must(t, payload.FileJournal{Path: filepath.Join(dir, "journal-usr")}.Forget())
	}
}
