package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"unicode/utf16"
)

// ErrNoTable: neither copy of the partition table can be read.
var ErrNoTable = errors.New("no readable GPT: both copies are damaged or absent")

// GUID is a partition type or identity as it stands on the disk (the first three groups little-endian).
type GUID [16]byte

// ParseGUID reads the usual text form.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(s), []byte("-"), nil)))
	if err != nil || len(b) != 16 || len(s) != 36 {
		return g, fmt.Errorf("GUID %q: want 8-4-4-4-12 hex digits", s)
	}
	copy(g[:], b)
	return g.swap(), nil
}

func (g GUID) swap() GUID {
	slices.Reverse(g[0:4])
	slices.Reverse(g[4:6])
	slices.Reverse(g[6:8])
	return g
}

func (g GUID) String() string {
	b := g.swap()
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// TypeESP is the type of the EFI system partition.
func TypeESP() GUID {
	g, _ := ParseGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	return g
}

// Partition is one entry of the table; Off and Size are bytes.
type Partition struct {
	Type, ID  GUID
	Off, Size int64
	Attrs     uint64
	Label     string
}

// Table is a partition table in memory.
type Table struct {
	Disk       GUID
	Partitions []Partition // by their number; holes have the zero Type
	Sector     int64       // 512 or 4096 bytes
	// Primary and Backup say what is wrong with that copy; nil = it is sound, agrees with the other and is where it belongs.
	Primary, Backup error

	header  [92]byte // of the sound copy
	entries []byte
}

const (
	headerSize = 92
	entrySize  = 128
	maxEntries = 1024
)

// NewEntries is how many partitions a NewTable can have.
const NewEntries = 128

// ReadTable reads the table of a disk of size bytes: the primary copy, or the backup when that is damaged.
func ReadTable(dev Device, size int64) (Table, error) {
	for _, sector := range []int64{512, 4096} {
		last := size/sector - 1
		p, perr := readCopy(dev, sector, 1)
		b, berr := readCopy(dev, sector, last)
		if perr != nil && berr != nil {
			// A disk that grew has its backup where the end was; only the primary knows where.
			continue
		}
		t := p
		if perr != nil {
			t = b
		}
		t.Primary, t.Backup = perr, berr
		if perr == nil && berr == nil && (!bytes.Equal(p.entries, b.entries) || p.Disk != b.Disk) {
			t.Backup = errors.New("differs from the primary copy")
		}
		return t, nil
	}
	return Table{}, ErrNoTable
}

func readCopy(dev Device, sector, lba int64) (Table, error) {
	t := Table{Sector: sector}
	if lba < 1 {
		return t, errors.New("disk too small")
	}
	h := t.header[:]
	if _, err := dev.ReadAt(h, lba*sector); err != nil {
		return t, err
	}
	le := binary.LittleEndian
	if string(h[:8]) != "EFI PART" || le.Uint32(h[12:]) != headerSize {
		return t, errors.New("no header")
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if crc32.ChecksumIEEE(h) != sum {
		return t, errors.New("header checksum is wrong")
	}
	n, es := le.Uint32(h[80:]), le.Uint32(h[84:])
	if int64(le.Uint64(h[24:])) != lba || n == 0 || n > maxEntries || es != entrySize {
		return t, fmt.Errorf("header for block %d with %d entries of %d bytes", le.Uint64(h[24:]), n, es)
	}
	t.entries = make([]byte, n*es)
	if _, err := dev.ReadAt(t.entries, int64(le.Uint64(h[72:]))*sector); err != nil {
		return t, err
	}
	if crc32.ChecksumIEEE(t.entries) != le.Uint32(h[88:]) {
		return t, errors.New("entries checksum is wrong")
	}
	copy(t.Disk[:], h[56:])
	for e := t.entries; len(e) > 0; e = e[entrySize:] {
		p := Partition{Attrs: le.Uint64(e[48:])}
		copy(p.Type[:], e)
		copy(p.ID[:], e[16:])
		if p.Type != (GUID{}) {
			first, last := int64(le.Uint64(e[32:])), int64(le.Uint64(e[40:]))
			if first < 2 || last < first || last > 1<<50 {
				return t, fmt.Errorf("partition %d lies at blocks %d to %d", len(t.Partitions)+1, first, last)
			}
			p.Off, p.Size = first*sector, (last-first+1)*sector
			u := make([]uint16, 36)
			for i := range u {
				u[i] = le.Uint16(e[56+2*i:])
			}
			if end := slices.Index(u, 0); end >= 0 {
				u = u[:end]
			}
			p.Label = string(utf16.Decode(u))
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t, nil
}

// Find returns the one partition with the label, or with a type when label is "".
func (t Table) Find(label string, typ GUID) (Partition, error) {
	var found []Partition
	for _, p := range t.Partitions {
		if p.Type != (GUID{}) && (label != "" && p.Label == label || label == "" && p.Type == typ) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return Partition{}, fmt.Errorf("%d partitions with label %q or type %s, want one", len(found), label, typ)
	}
	return found[0], nil
}

// Repair writes the copies that are not sound from the one that is, first the entries, then the header that points to them,
// never both copies at once. It does nothing when both are sound. A disk that grew gets its backup at the new end. Do it before
// anything else is written: firmware and boot loaders fall back to the other copy, and a stale one is worse than none.
func (t Table) Repair(dev Device, size int64) error {
	if t.Primary == nil && t.Backup == nil {
		return nil
	}
	last := size/t.Sector - 1
	span := (int64(len(t.entries)) + t.Sector - 1) / t.Sector
	le := binary.LittleEndian
	write := func(at, other, entries int64) error {
		if _, err := dev.WriteAt(t.entries, entries*t.Sector); err != nil {
			return err
		}
		if err := dev.Sync(); err != nil {
			return err
		}
		h := t.header
		le.PutUint32(h[16:], 0)
		le.PutUint64(h[24:], uint64(at))
		le.PutUint64(h[32:], uint64(other))
		le.PutUint64(h[48:], uint64(last-span-1)) // last block a partition may use
		le.PutUint64(h[72:], uint64(entries))
		le.PutUint32(h[88:], crc32.ChecksumIEEE(t.entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:]))
		block := make([]byte, t.Sector)
		copy(block, h[:])
		if _, err := dev.WriteAt(block, at*t.Sector); err != nil {
			return err
		}
		return dev.Sync()
	}
	if t.Backup != nil {
		if err := write(last, 1, last-span); err != nil {
			return fmt.Errorf("write backup GPT: %w", err)
		}
	}
	// The primary's header names the backup's place and the disk's usable end: a new backup means a new primary too.
	if err := write(1, last, 2); err != nil {
		return fmt.Errorf("write primary GPT: %w", err)
	}
	return nil
}

// NewTable lays partitions out one after the other, each beginning at a whole MiB; only their Size, Type, ID and Label are read.
// Write it with Repair.
func NewTable(disk GUID, parts []Partition) Table {
	t := Table{Disk: disk, Sector: 512, Primary: errors.New("new"), Backup: errors.New("new"), entries: make([]byte, NewEntries*entrySize)}
	le := binary.LittleEndian
	const mib = 1 << 20
	off := int64(mib)
	for i, p := range parts {
		p.Off = off
		off += (p.Size + mib - 1) / mib * mib
		e := t.entries[i*entrySize:]
		copy(e, p.Type[:])
		copy(e[16:], p.ID[:])
		le.PutUint64(e[32:], uint64(p.Off/512))
		le.PutUint64(e[40:], uint64((p.Off+p.Size)/512-1))
		le.PutUint64(e[48:], p.Attrs)
		for k, u := range utf16.Encode([]rune(p.Label)) {
			if k < 36 {
				le.PutUint16(e[56+2*k:], u)
			}
		}
		t.Partitions = append(t.Partitions, p)
	}
	h := t.header[:]
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x10000)
	le.PutUint32(h[12:], headerSize)
	le.PutUint64(h[40:], 34)
	copy(h[56:], disk[:])
	le.PutUint32(h[80:], NewEntries)
	le.PutUint32(h[84:], entrySize)
	return t
}
