package disk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"testing"

	"github.com/fleet-init/fleet/update-engine/disk/disktest"
)

// bent is a disk with bytes changed: each four of edit are a place, in units of step from the start of where, and what is there now.
func bent(d *disktest.Disk, at, step int64, edit []byte) {
	for ; len(edit) >= 4; edit = edit[4:] {
		off := at + int64(binary.LittleEndian.Uint16(edit))*step
		_, _ = d.WriteAt(edit[2:4], off) // behind the end: not changed
	}
}

// FuzzReadTable reads tables that may say anything, with checksums that are right: what is taken lies at places that a disk can have, is found
// again by its label, and reads as the same after it was repaired.
func FuzzReadTable(f *testing.F) {
	const size = 50 << 20
	whole := disktest.New(size)
	if err := NewTable(GUID{9}, parts()).Repair(whole, size); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(nil), true)
	f.Add([]byte{80, 0, 0, 4}, true)                 // 1024 entries
	f.Add([]byte{0, 2 + 2, 255, 255}, true)          // another type
	f.Add([]byte{32, 4, 255, 255}, false)            // a start behind the end
	f.Add([]byte{78, 0, 0xff, 0x7f, 72, 0, 1}, true) // entries before the beginning
	f.Fuzz(func(t *testing.T, edit []byte, sums bool) {
		d := whole.Clone()
		bent(d, 512, 1, edit)
		if sums {
			var head [headerSize]byte
			_, _ = d.ReadAt(head[:], 512)
			if n := binary.LittleEndian.Uint32(head[80:]); n <= maxEntries {
				entries := make([]byte, n*entrySize)
				_, _ = io.NewSectionReader(d, 0, size).ReadAt(entries, int64(binary.LittleEndian.Uint64(head[72:])&0xffff)*512)
				binary.LittleEndian.PutUint32(head[88:], crc32.ChecksumIEEE(entries))
			}
			clear(head[16:20])
			binary.LittleEndian.PutUint32(head[16:], crc32.ChecksumIEEE(head[:]))
			_, _ = d.WriteAt(head[:], 512)
		}
		table, err := ReadTable(d, size)
		if err != nil {
			return
		}
		for _, p := range table.Partitions {
			if p.Off < 0 || p.Size < 0 || p.Off+p.Size < 0 || p.Type != (GUID{}) && p.Size == 0 {
				t.Fatalf("partition at %d of %d bytes", p.Off, p.Size)
			}
		}
		if table.Primary == nil && table.Backup == nil {
			return
		}
		if err := table.Repair(d, size); err != nil {
			t.Fatal(err)
		}
		again, err := ReadTable(d, size)
		if err != nil || again.Primary != nil || again.Backup != nil || !bytes.Equal(again.entries, table.entries) {
			t.Errorf("repaired, it reads %v %v %v", err, again.Primary, again.Backup)
		}
	})
}

// FuzzFAT opens file systems that something else has written to: a damage is an error, and what opens can be read, written and opened again.
func FuzzFAT(f *testing.F) {
	d := disktest.New(espSize)
	if err := FormatFAT(d, espSize); err != nil {
		f.Fatal(err)
	}
	fs, err := OpenFAT(d)
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range []string{"EFI", "EFI/fleet", "loader"} {
		if err := fs.Mkdir(p); err != nil {
			f.Fatal(err)
		}
	}
	for _, p := range []string{"EFI/fleet/a.efi", "loader/fleet-a-00001+3-0.conf", "SHORT"} {
		if err := put(fs, p, bytes.Repeat([]byte(p), 300)); err != nil {
			f.Fatal(err)
		}
	}
	areas := []int64{0, fs.reserved, fs.data, fs.offset(3), fs.offset(4), fs.offset(5)}
	for i := range areas {
		f.Add(uint8(i), []byte{0, 0, 1, 2, 26, 0, 3, 0, 44, 0, 255, 255})
	}
	f.Fuzz(func(t *testing.T, area uint8, edit []byte) {
		d := d.Clone()
		bent(d, areas[int(area)%len(areas)], 1, edit)
		fs, err := OpenFAT(d)
		if err != nil {
			return
		}
		var walk func(dir string, depth int)
		walk = func(dir string, depth int) {
			names, err := fs.List(dir)
			if err != nil || depth > 3 {
				return
			}
			for _, n := range names[:min(len(names), 50)] {
				p := dir + "/" + n
				if x, err := fs.Open(p); err == nil && x.Size() < espSize {
					b := make([]byte, x.Size())
					if k, err := x.ReadAt(b, 0); k != len(b) && err == nil {
						t.Errorf("%q: %d bytes of %d", p, k, len(b))
					}
				}
				walk(p, depth+1)
			}
		}
		walk(".", 0)
		if err := put(fs, "new-file", []byte("new")); err != nil {
			return // no room, or damaged there
		}
		if fs, err = OpenFAT(d); err != nil {
			t.Fatalf("after a file was added: %v", err)
		}
		x, err := fs.Open("new-file")
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 3)
		if _, err := x.ReadAt(b, 0); err != nil || string(b) != "new" {
			t.Errorf("the new file reads %q, %v", b, err)
		}
	})
}
