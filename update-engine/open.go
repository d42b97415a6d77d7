package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// partitions are the slots of a disk image.
type partitions struct {
	dev   disk.Device
	table disk.Table
}

type partition struct{ disk.Part }

func (partition) Close() error { return nil }

func (p partitions) Image(n slot.Name) (slot.File, error) {
	e, err := p.table.Find(label(n), disk.GUID{})
	if err != nil {
		return nil, err
	}
	return partition{disk.NewPart(p.dev, e.Off, e.Size)}, nil
}

// label is the name of a slot's partition.
func label(n slot.Name) string { return "usr-" + string(n) }

// auto is the setting slots of a host that finds its slots by itself.
const auto = "auto"

// openSlots finds the slots at path: a folder; a disk image with a GPT whose partitions are labelled usr-a and usr-b beside an ESP;
// a disk of this machine that has those; or auto. A damaged copy of the partition table is repaired before anything else is done.
func openSlots(path string, running slot.Name) (slot.Slots, error) {
	live := machineDisks{root: "/"}
	if path == auto {
		found, err := live.find()
		if err != nil {
			return slot.Slots{}, fmt.Errorf("find the slots: %w", err)
		}
		if path = found; path == "" {
			path = slotFolder
		}
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return slot.Slots{}, fmt.Errorf("find the slots: %w", err)
	case info.IsDir():
		d := slot.Dir{Root: path}
		return slot.Slots{Boot: d, Images: d, Running: running}, nil
	case info.Mode()&os.ModeDevice != 0:
		return live.open(path, running)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return slot.Slots{}, fmt.Errorf("open the disk of the slots: %w", err)
	}
	s, err := onImage(f, running)
	if err != nil {
		return s, errors.Join(fmt.Errorf("slots on %s: %w", path, err), f.Close())
	}
	return s, nil
}

// slotFolder is where hosts without a disk of their own (containers) have their slots.
const slotFolder = "/var/lib/update-engine/host"

// soundTable reads a partition table and repairs it.
func soundTable(f *os.File) (disk.Table, error) {
	size, err := f.Seek(0, 2)
	if err != nil {
		return disk.Table{}, err
	}
	table, err := disk.ReadTable(f, size)
	if err != nil {
		return table, err
	}
	return table, table.Repair(f, size)
}

func onImage(f *os.File, running slot.Name) (slot.Slots, error) {
	table, err := soundTable(f)
	if err != nil {
		return slot.Slots{}, err
	}
	e, err := table.Find("", disk.TypeESP())
	if err != nil {
		return slot.Slots{}, err
	}
	fat, err := disk.OpenFAT(disk.NewPart(f, e.Off, e.Size))
	return slot.Slots{Boot: esp{new(sync.Mutex), fat}, Images: partitions{f, table}, Running: running}, err
}

// told is what the boot loader told of the running slot, as words like fleet.slot=b: the initramfs's note of it, else the kernel's
// command line. In a container that is another machine's: there the arguments of process 1 stand for it, as for systemd.
func told(root string) (string, error) {
	for _, p := range []string{"run/fleet-boot", "proc/1/cmdline", "proc/cmdline"} {
		b, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			return "", err
		}
		if text := strings.ReplaceAll(string(b), "\x00", " "); strings.Contains(text, "fleet.slot=") {
			return text, nil
		}
	}
	return "", nil
}

// runningOf reads slot and version of the running release from what the boot loader told, where the configuration says none.
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
