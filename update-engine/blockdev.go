package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// machineDisks are the disks of a running machine. root is "/", and another folder in tests.
//
// A disk of which one partition is in use cannot be had exclusively as a whole: the kernel refuses it. So each partition is opened by
// its own device.
type machineDisks struct{ root string }

func (m machineDisks) path(elem ...string) string {
	return filepath.Join(append([]string{m.root}, elem...)...)
}

// find gives the device of the disk that this machine booted from; "" = there is none with slots.
func (m machineDisks) find() (string, error) {
	if esp := m.bootESP(); esp != "" {
		// udev makes the link; its target's name is the partition's.
		to, err := os.Readlink(m.path("dev/disk/by-partuuid", esp))
		if err == nil {
			return m.diskOf(filepath.Base(to))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return m.only()
}

// bootESP is the partition GUID of the ESP that systemd-boot started from, as it says in an EFI variable; "" without one.
func (m machineDisks) bootESP() string {
	b, err := os.ReadFile(m.path("sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"))
	if err != nil || len(b) < 6 {
		return "" // no EFI, or another boot loader
	}
	var text []uint16
	for i := 4; i+1 < len(b); i += 2 { // behind four bytes of attributes
		text = append(text, binary.LittleEndian.Uint16(b[i:]))
	}
	return strings.ToLower(strings.TrimRight(string(utf16.Decode(text)), "\x00"))
}

// diskOf gives the device of the disk that a partition is on: in sysfs the partition's folder is inside the disk's.
func (m machineDisks) diskOf(part string) (string, error) {
	dir, err := filepath.EvalSymlinks(m.path("sys/class/block", part))
	if err != nil {
		return "", fmt.Errorf("disk of %s: %w", part, err)
	}
	return m.path("dev", filepath.Base(filepath.Dir(dir))), nil
}

// only gives the one disk that has both slots by the names of its partitions.
func (m machineDisks) only() (string, error) {
	names, err := m.parts()
	if err != nil {
		return "", err
	}
	have := map[string][]string{}
	for _, n := range names {
		b, err := os.ReadFile(m.path("sys/class/block", n, "uevent"))
		if err != nil {
			continue // unplugged just now
		}
		for line := range strings.Lines(string(b)) {
			if l, ok := strings.CutPrefix(strings.TrimSpace(line), "PARTNAME="); ok && (l == label(slot.A) || l == label(slot.B)) {
				d, err := m.diskOf(n)
				if err != nil {
					return "", err
				}
				have[d] = append(have[d], l)
			}
		}
	}
	var found []string
	for d, labels := range have {
		if slices.Contains(labels, label(slot.A)) && slices.Contains(labels, label(slot.B)) {
			found = append(found, d)
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%s all have partitions usr-a and usr-b, and no boot loader said which one it started from: set slots in update.conf",
		strings.Join(found, ", "))
}

// parts are the names of all partitions that the kernel knows.
func (m machineDisks) parts() ([]string, error) {
	found, err := filepath.Glob(m.path("sys/class/block/*/partition"))
	var out []string
	for _, p := range found {
		out = append(out, filepath.Base(filepath.Dir(p)))
	}
	return out, err
}

// open finds the slots on a disk of this machine.
func (m machineDisks) open(device string, running slot.Name) (slot.Slots, error) {
	s, err := m.onDisk(device, running)
	if err != nil {
		err = fmt.Errorf("slots on %s: %w", device, err)
	}
	return s, err
}

func (m machineDisks) onDisk(device string, running slot.Name) (slot.Slots, error) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return slot.Slots{}, err
	}
	// The table is outside all partitions: writing it disturbs nobody who has one open.
	table, err := soundTable(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return slot.Slots{}, err
	}
	d := liveDisk{machineDisks: m, name: filepath.Base(device), table: table, running: running}
	dev, err := d.device("", disk.TypeESP())
	if err != nil {
		return slot.Slots{}, err
	}
	// With O_EXCL the kernel keeps everybody from mounting it until we end, and us from opening it while it is mounted.
	boot, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return slot.Slots{}, fmt.Errorf("open the ESP: %w: it must not be mounted", err)
	}
	fat, err := disk.OpenFAT(boot)
	if err != nil {
		return slot.Slots{}, errors.Join(fmt.Errorf("read the ESP %s: %w", dev, err), boot.Close())
	}
	return slot.Slots{Boot: esp{new(sync.Mutex), fat}, Images: d, Running: running}, nil
}

// liveDisk is a disk of this machine.
type liveDisk struct {
	machineDisks
	name    string // as in /sys/class/block
	table   disk.Table
	running slot.Name
}

// device is the device of the one partition with that label, or type when label is "".
func (d liveDisk) device(label string, typ disk.GUID) (string, error) {
	want, err := d.table.Find(label, typ)
	if err != nil {
		return "", err
	}
	names, err := d.parts()
	if err != nil {
		return "", err
	}
	for _, n := range names {
		// The kernel counts in sectors of 512 bytes, whatever the disk's are. By place, not by number: a kernel that has not read a
		// changed table anew would lead us to other bytes than the table says.
		on, err := d.diskOf(n)
		if err == nil && filepath.Base(on) == d.name && d.number(n, "start")*512 == want.Off && d.number(n, "size")*512 == want.Size {
			return d.path("dev", n), nil
		}
	}
	return "", fmt.Errorf("the kernel knows no partition of %s at byte %d, where the table has %q: run partprobe, or reboot", d.name, want.Off, want.Label)
}

func (d liveDisk) number(part, what string) int64 {
	b, err := os.ReadFile(d.path("sys/class/block", part, what))
	if err != nil {
		return -1
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// Image implements slot.Images. The running slot is only ever read; the kernel's device mapper holds it exclusively.
func (d liveDisk) Image(n slot.Name) (slot.File, error) {
	dev, err := d.device(label(n), disk.GUID{})
	if err != nil {
		return nil, err
	}
	flags := os.O_RDWR | os.O_EXCL
	if n == d.running {
		flags = os.O_RDONLY
	}
	return slot.OpenWith(dev, flags)
}
