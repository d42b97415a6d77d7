package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// esp is the ESP of a disk as slot wants it. Commands look at the slots while an action writes: one at a time.
type esp struct {
	mu  *sync.Mutex // guards fat; open files touch only their own clusters
	fat *disk.FAT
}

func (e esp) List(dir string) ([]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fat.List(dir)
}

func (e esp) Open(p string) (slot.File, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, err := e.fat.Open(p)
	if err != nil {
		return nil, err // a typed nil would look like a file
	}
	return f, nil
}

func (e esp) Create(p string, size int64) (slot.File, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, err := e.fat.Create(p, size)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (e esp) Rename(from, to string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fat.Rename(from, to)
}

func (e esp) Remove(p string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fat.Remove(p)
}

func (e esp) Free() (int64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fat.Free()
}

// partitions are the slots of a disk.
type partitions struct {
	dev   disk.Device
	table disk.Table
}

type partition struct{ disk.Part }

func (partition) Close() error { return nil }

func (p partitions) Image(n slot.Name) (slot.File, error) {
	e, err := p.table.Find("usr-"+string(n), disk.GUID{})
	if err != nil {
		return nil, err
	}
	return partition{disk.NewPart(p.dev, e.Off, e.Size)}, nil
}

// openSlots finds the slots at path: a folder, or a disk or disk image with a GPT whose partitions are labelled usr-a and usr-b
// beside an ESP. A damaged copy of the partition table is repaired before anything else is done.
func openSlots(path string, running slot.Name) (slot.Slots, error) {
	info, err := os.Stat(path)
	if err != nil {
		return slot.Slots{}, fmt.Errorf("find the slots: %w", err)
	}
	if info.IsDir() {
		d := slot.Dir{Root: path}
		return slot.Slots{Boot: d, Images: d, Running: running}, nil
	}
	// O_EXCL on a block device: the kernel refuses it while the device itself is mounted.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return slot.Slots{}, fmt.Errorf("open the disk of the slots: %w", err)
	}
	s, err := onDisk(f, running)
	if err != nil {
		return s, errors.Join(fmt.Errorf("slots on %s: %w", path, err), f.Close())
	}
	return s, nil
}

func onDisk(f *os.File, running slot.Name) (slot.Slots, error) {
	size, err := f.Seek(0, 2)
	if err != nil {
		return slot.Slots{}, err
	}
	table, err := disk.ReadTable(f, size)
	if err != nil {
		return slot.Slots{}, err
	}
	if err := table.Repair(f, size); err != nil {
		return slot.Slots{}, err
	}
	e, err := table.Find("", disk.TypeESP())
	if err != nil {
		return slot.Slots{}, err
	}
	fat, err := disk.OpenFAT(disk.NewPart(f, e.Off, e.Size))
	return slot.Slots{Boot: esp{new(sync.Mutex), fat}, Images: partitions{f, table}, Running: running}, err
}

// runningOf reads slot and version of the running release from the kernel's command line, where the configuration says none.
func runningOf(c Config, cmdline string) (slot.Name, string, error) {
	n, v := c.Slot, c.Release
	for w := range strings.FieldsSeq(cmdline) {
		if x, ok := strings.CutPrefix(w, "fleet.slot="); ok && n == "" {
			n = x
		}
		if x, ok := strings.CutPrefix(w, "fleet.version="); ok && v == "" {
			v = x
		}
	}
	if n != "a" && n != "b" || v == "" {
		return "", "", fmt.Errorf("what runs is unknown (slot %q, version %q): the kernel's command line lacks fleet.slot= and fleet.version=; "+
			"on a host without a boot loader set slot and release in update.conf", n, v)
	}
	return slot.Name(n), v, nil
}
