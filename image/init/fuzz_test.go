package main

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/image/release"
	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/disk/disktest"
)

// FuzzWords reads the kernel's command line and what the boot loader left: a slot is a or b, or the error says what was found.
func FuzzWords(f *testing.F) {
	f.Add("fleet.slot=a fleet.watchdog=9x quiet", "fleet-b-00003+2.conf", []byte{'a', 0, 0, 0, 'b', 0})
	f.Add("fleet.slot=c =x", "FLEET-A-", []byte{1})
	f.Fuzz(func(t *testing.T, line, entry string, efi []byte) {
		words := parseWords(line)
		for k := range words {
			if strings.ContainsAny(k, " \t\n=") {
				t.Errorf("%q is a word", k)
			}
		}
		if seconds(words["fleet.watchdog"], 1) <= 0 {
			t.Error("no time at all")
		}
		if strings.ContainsRune(utf16le(efi), 0) {
			t.Errorf("%q goes on behind its end", utf16le(efi))
		}
		if s := slotOfEntry(entry); strings.Contains(s, "-") {
			t.Errorf("%q is of slot %q", entry, s)
		}
		if words["fleet.slot"] != "" {
			s, err := runningSlot(words)
			if err == nil && s != "a" && s != "b" || err != nil && !strings.Contains(err.Error(), "slot") {
				t.Errorf("slot %q, %v", s, err)
			}
		}
	})
}

// FuzzModules reads the lists of modules: a device's are of the list, each once for a line.
func FuzzModules(f *testing.F) {
	f.Add("virtio_blk virtio_ring virtio\n", "virtio:d00000002v* virtio_blk\n", "virtio:d00000002v00001AF4")
	f.Add("a b\na c\n\n", "[ a\n*** b\n[a-]* c\n", "[")
	f.Fuzz(func(t *testing.T, deps, aliases, device string) {
		m := &modules{loaded: map[string]bool{}}
		m.deps, m.aliases = parseModules(deps, aliases)
		if got := m.match(device); len(got) > strings.Count(aliases, "\n")+1 {
			t.Errorf("%d modules for %q", len(got), device)
		}
	})
}

// FuzzVerityTable makes the device mapper's line of any superblock: one line for the whole device, no longer than the kernel takes, or an error.
func FuzzVerityTable(f *testing.F) {
	good := make([]byte, 512)
	copy(good, "verity\x00\x00\x01\x00\x00\x00")
	le := binary.LittleEndian
	le.PutUint32(good[64:], 4096)
	le.PutUint32(good[68:], 4096)
	le.PutUint64(good[72:], 5)
	le.PutUint16(good[80:], 16)
	f.Add(good, int64(5*4096))
	huge := append([]byte(nil), good...)
	le.PutUint64(huge[72:], 1<<60)
	f.Add(huge, int64(4096))
	f.Fuzz(func(t *testing.T, sb []byte, hashAt int64) {
		if len(sb) != 512 || hashAt < 0 {
			return
		}
		line, sectors, err := verityTable(sb, "254:1", release.Built{HashAt: hashAt, RootHash: strings.Repeat("0", 64)})
		if err == nil && (sectors > uint64(hashAt)/512 || len(line) >= 1024 || strings.Contains(line, "\n") || len(strings.Fields(line)) != 12) {
			t.Errorf("%d sectors of %d bytes: %s", sectors, hashAt, line)
		}
	})
}

// FuzzGrown grows the last partition of any table that can be read: never over another, never behind the disk's end.
func FuzzGrown(f *testing.F) {
	f.Add(uint16(128), uint8(3), uint8(0), int64(1<<30))
	f.Add(uint16(1024), uint8(200), uint8(0), int64(1<<30))
	f.Add(uint16(4), uint8(2), uint8(3), int64(1<<30))
	f.Fuzz(func(t *testing.T, entries uint16, at, other uint8, size int64) {
		size &= 1<<40 - 1
		parts := make([]disk.Partition, 128)
		n, o := int(at)%128, int(other)%128
		parts[o] = disk.Partition{Type: disk.GUID{2}, Size: 64 << 20, Label: "other"}
		parts[n] = disk.Partition{Type: disk.GUID{1}, Size: 64 << 20, Label: "state"}
		d := disktest.New(1 << 31)
		if err := disk.NewTable(disk.GUID{9}, parts).Repair(d, 1<<31); err != nil {
			t.Fatal(err)
		}
		table, err := disk.ReadTable(d, 1<<31)
		if err != nil {
			t.Fatal(err)
		}
		for len(table.Partitions) < int(entries)%1025 {
			table.Partitions = append(table.Partitions, disk.Partition{})
		}
		next, i, changed := grown(table, size)
		if changed {
			p := next.Partitions[i]
			if q := next.Partitions[o]; o != n && (q != table.Partitions[o] || q.Off < p.Off+p.Size && p.Off < q.Off+q.Size) {
				t.Errorf("%+v over %+v", p, q)
			}
			if p.Label != "state" || p.Off != table.Partitions[i].Off || p.Size < table.Partitions[i].Size || p.Off+p.Size > size {
				t.Errorf("%+v of a disk of %d bytes", p, size)
			}
		}
	})
}
