package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/image/release"
	"github.com/fleet-init/fleet/update-engine/disk"
)

func TestModulesOfADevice(t *testing.T) {
	m := &modules{loaded: map[string]bool{}}
	m.deps, m.aliases = parseModules("virtio_blk virtio_ring virtio\nnvme nvme_core\n\n",
		"virtio:d00000002v* virtio_blk\npci:v*d*sv*sd*bc01sc08i02* nvme\nbroken\n")
	for alias, want := range map[string][]string{
		"virtio:d00000002v00001AF4":                             {"virtio_blk"},
		"pci:v00008086d00005845sv00001AF4sd00001100bc01sc08i02": {"nvme"},
		"pci:v00008086d00005845sv00001AF4sd00001100bc03sc00i00": nil,
	} {
		if diff := cmp.Diff(want, m.match(alias)); diff != "" {
			t.Errorf("%s: %s", alias, diff)
		}
	}
	if diff := cmp.Diff([]string{"virtio_ring", "virtio"}, m.deps["virtio_blk"]); diff != "" {
		t.Error(diff)
	}
	if err := m.load("floppy"); err == nil || !strings.Contains(err.Error(), "not in the initramfs") {
		t.Errorf("a module that is not there: %v", err)
	}
}

const gib = 1 << 30

func table(t *testing.T, name string, labels ...string) found {
	t.Helper()
	var parts []disk.Partition
	for i, l := range labels {
		p := disk.Partition{Type: disk.GUID{1}, ID: disk.GUID{byte(len(name)), byte(i + 1)}, Size: 64 << 20, Label: l}
		if l == "esp" {
			p.Type = disk.TypeESP()
		}
		parts = append(parts, p)
	}
	return found{name: name, size: gib, table: disk.NewTable(disk.GUID{9}, parts)}
}

func TestWhichDisk(t *testing.T) {
	ours := []string{"esp", "usr-a", "usr-b", "state"}
	a, b := table(t, "vda", ours...), table(t, "sdbb", ours...)
	data, short := table(t, "vdc", "data"), table(t, "vda", ours...)
	short.size = 200 << 20
	esp := func(d found) string { return strings.ToUpper(d.table.Partitions[0].ID.String()) }
	for name, c := range map[string]struct {
		disks []found
		esp   string
		want  string
		err   string
	}{
		"the only one": {disks: []found{data, a}, want: "vda"},
		"of two the one the firmware booted from":   {disks: []found{a, b}, esp: esp(b), want: "sdbb"},
		"of two, and the firmware does not say":     {disks: []found{a, b}, err: "2 disks have our partitions"},
		"none yet":                                  {disks: []found{data}, err: errNoDisk.Error()},
		"one that is smaller than its own table is": {disks: []found{short}, err: "disk vda is too small: it has 200 MiB, the image needs 258 MiB: make it larger"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := choose(c.disks, c.esp)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
			} else if err != nil || d.name != c.want {
				t.Errorf("%s, %v, want %s", d.name, err, c.want)
			}
		})
	}
}

func TestTheStatePartitionGrowsToTheEndOfTheDisk(t *testing.T) {
	d := table(t, "vda", "esp", "usr-a", "usr-b", "state")
	n, at, changed := grown(d.table, gib)
	if !changed || at != 3 {
		t.Fatalf("partition %d, %v", at, changed)
	}
	if p := n.Partitions[3]; p.Off != d.table.Partitions[3].Off || p.Off+p.Size != gib-1<<20 || p.ID != d.table.Partitions[3].ID || n.Disk != d.table.Disk {
		t.Errorf("state lies at %d+%d", p.Off, p.Size)
	}
	if diff := cmp.Diff(d.table.Partitions[:3], n.Partitions[:3]); diff != "" {
		t.Errorf("others moved: %s", diff)
	}
	if _, _, again := grown(n, gib); again {
		t.Error("it grows again")
	}
}

func TestSlotOfTheBootEntry(t *testing.T) {
	for entry, want := range map[string]string{"fleet-b-00007+2-1.conf": "b", "FLEET-A-00001.CONF": "a", "auto-windows": "", "": "", "fleet-c": ""} {
		if got := slotOfEntry(entry); got != want {
			t.Errorf("%q: %q, want %q", entry, got, want)
		}
	}
	if n, err := runningSlot(map[string]string{"fleet.slot": "b"}); n != "b" || err != nil {
		t.Error(n, err)
	}
	if _, err := runningSlot(map[string]string{"fleet.slot": "c"}); err == nil {
		t.Error("slot c was taken")
	}
	if got := utf16le([]byte{'h', 0, 'i', 0, 0, 0, 'x', 0}); got != "hi" {
		t.Errorf("%q", got)
	}
}

func TestCommandLineWords(t *testing.T) {
	w := parseWords("quiet fleet.slot=b os.usrhash=ab=cd\n")
	if diff := cmp.Diff(map[string]string{"quiet": "", "fleet.slot": "b", "os.usrhash": "ab=cd"}, w); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]time.Duration{"fleet.patience=10": 10 * time.Second, "": patience, "fleet.patience=no": patience, "fleet.patience=-1": patience} {
		if got := seconds(parseWords(text)["fleet.patience"], patience); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if err := drill("loud"); err == nil {
		t.Error("an unknown drill was taken")
	}
}

// superblock is what veritysetup wrote for an image of 8 blocks.
func superblock() []byte {
	sb := make([]byte, 512)
	copy(sb, "verity\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00")
	copy(sb[32:], "sha256")
	copy(sb[64:], []byte{0, 0x10, 0, 0, 0, 0x10, 0, 0, 8})
	copy(sb[80:], []byte{2, 0})
	copy(sb[88:], []byte{0xAB, 0xCD})
	return sb
}

func TestVerityTable(t *testing.T) {
	rel := release.Built{RootHash: "cafe", HashAt: 8 * 4096}
	line, sectors, err := verityTable(superblock(), "254:2", rel)
	if err != nil || line != "1 254:2 254:2 4096 4096 8 9 sha256 cafe abcd 1 restart_on_corruption" || sectors != 64 {
		t.Errorf("%q, %d sectors, %v", line, sectors, err)
	}
	for name, spoil := range map[string]func([]byte){
		"another magic":            func(b []byte) { b[0] = 'V' },
		"another block size":       func(b []byte) { b[65] = 0x20 },
		"more data than there is":  func(b []byte) { b[72] = 9 },
		"a salt longer than a row": func(b []byte) { b[81] = 9 },
	} {
		sb := superblock()
		spoil(sb)
		if _, _, err := verityTable(sb, "254:2", rel); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestKernelStructures: their sizes are the kernel's, checked against its headers.
func TestKernelStructures(t *testing.T) {
	if s := unsafe.Offsetof(dmIoctl{}.sectorStart); s != 312 {
		t.Errorf("struct dm_ioctl has %d bytes, the kernel's 312", s)
	}
	if s := unsafe.Offsetof(dmIoctl{}.params); s != 312+40 {
		t.Errorf("struct dm_target_spec has %d bytes, the kernel's 40", s-312)
	}
	if s := unsafe.Sizeof(blkpg{}); s != 152 {
		t.Errorf("struct blkpg_partition has %d bytes, the kernel's 152", s)
	}
}

func TestFrameAndIdentity(t *testing.T) {
	root := t.TempDir()
	for range 2 { // each boot
		if err := frame(root); err != nil {
			t.Fatal(err)
		}
	}
	if to, err := os.Readlink(filepath.Join(root, "lib64")); to != "usr/lib64" {
		t.Error(to, err)
	}
	if info, err := os.Stat(filepath.Join(root, "tmp")); err != nil || info.Mode()&os.ModeSticky == 0 || info.Mode().Perm() != 0o777 {
		t.Error(info.Mode(), err)
	}
	etc, kept := filepath.Join(root, "etc"), filepath.Join(root, ".fleet", "machine-id")
	read := func(p string) string {
		b, _ := os.ReadFile(p)
		return strings.TrimSpace(string(b))
	}
	if err := identify(etc, kept); err != nil {
		t.Fatal(err)
	}
	id := read(kept)
	if len(id) != 32 || id[12] != '4' || read(filepath.Join(etc, "machine-id")) != id || read(filepath.Join(etc, "hostname")) != "fleet-"+id[:8] {
		t.Errorf("id %q, host name %q", id, read(filepath.Join(etc, "hostname")))
	}
	// A reset of /etc: the machine is the same, and a name that somebody gave is kept.
	if err := errors.Join(os.Remove(filepath.Join(etc, "machine-id")), os.WriteFile(filepath.Join(etc, "hostname"), []byte("web1\n"), 0o644), identify(etc, kept)); err != nil {
		t.Fatal(err)
	}
	if read(filepath.Join(etc, "machine-id")) != id || read(filepath.Join(etc, "hostname")) != "web1" {
		t.Error("the identity changed")
	}
}

func TestSkeletonIsCopiedOnce(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(from, "lib/private"), 0o700), os.WriteFile(filepath.Join(from, "lib/x"), []byte("x"), 0o640),
		os.Symlink("lib", filepath.Join(from, "link")), copyOnce(from, to)); err != nil {
		t.Fatal(err)
	}
	var got []string
	_ = filepath.WalkDir(to, func(p string, e os.DirEntry, _ error) error {
		info, _ := e.Info()
		rel, _ := filepath.Rel(to, p)
		got = append(got, info.Mode().String()+" "+rel)
		return nil
	})
	if diff := cmp.Diff([]string{"drwx------ lib", "drwx------ lib/private", "-rw-r----- lib/x", "Lrwxrwxrwx link"}, got[1:]); diff != "" {
		t.Error(diff)
	}
	if err := errors.Join(os.Remove(filepath.Join(to, "lib/x")), copyOnce(from, to)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, "lib/x")); err == nil {
		t.Error("what the host removed came back")
	}
}

func TestRemoveAllBut(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"a", "b/c", "keep/d"} {
		if err := os.MkdirAll(filepath.Join(dir, n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeAllBut(dir, "keep"); err != nil {
		t.Fatal(err)
	}
	list, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	if !slices.Equal(list, []string{filepath.Join(dir, "keep", "d")}) {
		t.Error(list)
	}
}
