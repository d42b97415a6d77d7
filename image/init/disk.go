package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/update-engine/disk"
)

// found is the disk that holds the system.
type found struct {
	name  string // in /dev
	size  int64
	table disk.Table
}

// part returns the device of the partition with a label.
func (d found) part(label string) (string, error) {
	for i, p := range d.table.Partitions {
		if p.Label != label {
			continue
		}
		dirs, _ := filepath.Glob("/sys/class/block/" + d.name + "/" + d.name + "*/partition")
		for _, f := range dirs {
			if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(i+1) {
				return "/dev/" + filepath.Base(filepath.Dir(f)), nil
			}
		}
		return "", fmt.Errorf("the kernel does not show partition %d (%s) of %s", i+1, label, d.name)
	}
	return "", fmt.Errorf("disk %s has no partition %s", d.name, label)
}

var errNoDisk = errors.New("no disk has partitions usr-a, usr-b and state")

// findDisk waits for the disk whose ESP the boot loader came from; where the firmware does not say, for the only one with our partitions.
func findDisk(m *modules) (found, error) {
	end := time.Now().Add(patience / 2)
	for {
		m.devices()
		esp := efiWord("LoaderDevicePartUUID")
		d, err := choose(disks(), esp)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, errNoDisk) || time.Now().After(end) {
			return d, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// disks reads the partition tables of all disks.
func disks() []found {
	var out []found
	dirs, _ := filepath.Glob("/sys/class/block/*/device")
	for _, dir := range dirs {
		name := filepath.Base(filepath.Dir(dir))
		f, err := os.Open("/dev/" + name)
		if err != nil {
			continue // no medium
		}
		d := found{name: name}
		if d.size, err = f.Seek(0, 2); err == nil {
			d.table, err = disk.ReadTable(f, d.size)
		}
		_ = f.Close()
		if err == nil {
			out = append(out, d)
		}
	}
	return out
}

// choose picks the disk with our partitions, and of several the one with that ESP.
func choose(list []found, esp string) (found, error) {
	var ours []found
	for _, d := range list {
		whole := true
		for _, l := range []string{"usr-a", "usr-b", "state"} {
			p, err := d.table.Find(l, disk.GUID{})
			if err == nil && p.Off+p.Size > d.size {
				return d, fmt.Errorf("disk %s is too small: it has %d MiB, the image needs %d MiB: make it larger", d.name, d.size>>20, (p.Off+p.Size)>>20+1)
			}
			whole = whole && err == nil
		}
		if whole {
			ours = append(ours, d)
		}
	}
	if len(ours) > 1 && esp != "" {
		for _, d := range ours {
			if e, err := d.table.Find("", disk.TypeESP()); err == nil && strings.EqualFold(e.ID.String(), esp) {
				return d, nil
			}
		}
	}
	switch len(ours) {
	case 0:
		return found{}, errNoDisk
	case 1:
		return ours[0], nil
	}
	return found{}, fmt.Errorf("%d disks have our partitions, and the firmware does not say which it booted from: remove one", len(ours))
}

// loaderVendor is systemd-boot's vendor GUID.
const loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// efiWord reads one of the boot loader's EFI variables; "" when there is none.
func efiWord(name string) (word string) {
	_ = withEFI(unix.MS_RDONLY, func() error {
		if b, err := os.ReadFile(filepath.Join(efivars, name+"-"+loaderVendor)); err == nil && len(b) >= 4 {
			word = utf16le(b[4:]) // after four bytes of attributes
		}
		return nil
	})
	return word
}

func utf16le(b []byte) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// runningSlot is what the boot entry says, or under Secure Boot, where the entry's options do not count, its name.
func runningSlot(words map[string]string) (string, error) {
	name := words["fleet.slot"]
	if name == "" {
		name = slotOfEntry(efiWord("LoaderEntrySelected"))
	}
	if name != "a" && name != "b" {
		return "", fmt.Errorf("which slot runs is unknown (%q): neither fleet.slot= on the command line nor the boot loader says", name)
	}
	return name, nil
}

func slotOfEntry(entry string) string {
	rest, ok := strings.CutPrefix(strings.ToLower(entry), "fleet-")
	if slot, _, more := strings.Cut(rest, "-"); ok && more {
		return slot
	}
	return ""
}

// grow gives the state partition what the disk has behind it, on disk and in the kernel. It is the last one.
func (d *found) grow() error {
	t, at, changed := grown(d.table, d.size)
	if !changed && d.table.Primary == nil && d.table.Backup == nil {
		return nil
	}
	f, err := os.OpenFile("/dev/"+d.name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.Repair(f, d.size); err != nil || !changed {
		return err
	}
	d.table = t
	p := t.Partitions[at]
	return resizePartition(f, at+1, p.Off, p.Size)
}

// grown is the table with the partition "state", at its index, if it is the last, up to the disk's end. A gain below 16 MiB is not worth a write.
func grown(t disk.Table, size int64) (disk.Table, int, bool) {
	const mib, least = 1 << 20, 16 << 20
	// Somebody has made this table or added to it: what lies behind "state" would be written over.
	last := int64(0)
	for _, p := range t.Partitions {
		last = max(last, p.Off)
	}
	if len(t.Partitions) > disk.NewEntries {
		return t, 0, false
	}
	end := (size - mib) / mib * mib // the backup table is behind it
	for i, p := range t.Partitions {
		if p.Label == "state" && p.Off == last && p.Off+p.Size+least <= end {
			parts := append([]disk.Partition(nil), t.Partitions...)
			parts[i].Size = end - p.Off
			n := disk.NewTable(t.Disk, parts)
			return n, i, n.Partitions[i].Off == p.Off
		}
	}
	return t, 0, false
}

// blkpg is the kernel's struct blkpg_partition, and how BLKPG is called.
type blkpg struct {
	start, length int64
	number        int32
	_             [128]byte // names, unused since long
}

func resizePartition(f *os.File, number int, off, size int64) error {
	const resize = 3 // BLKPG_RESIZE_PARTITION
	p := blkpg{start: off, length: size, number: int32(number)}
	arg := struct {
		op, flags, length int32
		_                 int32
		data              unsafe.Pointer
	}{op: resize, length: int32(unsafe.Sizeof(p)), data: unsafe.Pointer(&p)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return fmt.Errorf("grow partition %d: %w", number, e)
	}
	return nil
}
