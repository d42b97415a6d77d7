package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// diskImage makes a disk of an ESP and two slots, with nothing on them but an empty FAT.
func diskImage(t *testing.T, p string) disk.Table {
	t.Helper()
	usr, err := disk.ParseGUID("8484680c-9521-48c6-9c11-b0720656f69e")
	must(t, err)
	table := disk.NewTable(disk.GUID{9}, []disk.Partition{{Type: disk.TypeESP(), ID: disk.GUID{1}, Size: 34 << 20, Label: "esp"},
		{Type: usr, ID: disk.GUID{2}, Size: 2 << 20, Label: "usr-a"}, {Type: usr, ID: disk.GUID{3}, Size: 2 << 20, Label: "usr-b"}})
	f, err := os.Create(p)
	must(t, err)
	defer f.Close()
	const size = 40 << 20
	must(t, f.Truncate(size))
	must(t, table.Repair(f, size))
	e := table.Partitions[0]
	must(t, disk.FormatFAT(disk.NewPart(f, e.Off, e.Size), e.Size))
	return table
}

// installed writes 1.0.0 into slot a as an image builder does.
func installed(t *testing.T, slots string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "usr"), image("1.0.0"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "uki"), []byte("kernel 1.0.0"), 0o644))
	ok(t, "install", slots, "--version", "1.0.0", "--usr", filepath.Join(dir, "usr"), "--uki", filepath.Join(dir, "uki"), "--options", "panic=5")
}

func TestInstalledSlotSaysWhatIsInIt(t *testing.T) {
	img := filepath.Join(t.TempDir(), "disk")
	diskImage(t, img)
	folder := filepath.Join(t.TempDir(), "host")
	for _, p := range []string{img, folder} {
		installed(t, p)
		s, err := openSlots(p, slot.A)
		must(t, err)
		st, err := s.State()
		must(t, err)
		e := st.Entries[slot.A]
		if e.Left != slot.Good || e.Release.Image != sumOf(image("1.0.0")) || e.Options != "panic=5" || st.Next != slot.A || len(st.Entries) != 1 {
			t.Errorf("%s: %+v", p, st)
		}
		k, err := s.Boot.Open("EFI/fleet/a.efi")
		must(t, err)
		b := make([]byte, k.Size())
		_, _ = k.ReadAt(b, 0)
		if must(t, k.Close()); string(b) != "kernel 1.0.0" {
			t.Errorf("kernel %q", b)
		}
	}
	if _, err := cmd(t, "install", img, "--version", "1.0.0"); err == nil {
		t.Error("nothing was installed without images")
	}
}

// machineTree is /sys and /dev of a machine with the disk vda, whose partitions are files of their own.
func machineTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	put := func(p, text string) {
		p = filepath.Join(root, p)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte(text), 0o644))
	}
	put("dev/null", "")
	img := filepath.Join(root, "dev/vda")
	table := diskImage(t, img)
	installed(t, img)
	whole, err := os.ReadFile(img)
	must(t, err)
	put("sys/class/block/none", "")
	for i, p := range table.Partitions {
		name := fmt.Sprint("vda", i+1)
		put("dev/"+name, string(whole[p.Off:p.Off+p.Size]))
		dir := "sys/devices/virtio/block/vda/" + name
		put(dir+"/partition", fmt.Sprint(i+1))
		put(dir+"/start", fmt.Sprintln(p.Off/512))
		put(dir+"/size", fmt.Sprintln(p.Size/512))
		put(dir+"/uevent", "DEVTYPE=partition\nPARTN="+fmt.Sprint(i+1)+"\nPARTNAME="+p.Label+"\n")
		must(t, os.Symlink("../../devices/virtio/block/vda/"+name, filepath.Join(root, "sys/class/block", name)))
	}
	return root
}

func TestSlotsOfAMachineAreFoundAndWrittenByTheirOwnDevices(t *testing.T) {
	root := machineTree(t)
	m := machineDisks{root: root}
	vda := filepath.Join(root, "dev/vda")
	if d, err := m.find(); err != nil || d != vda {
		t.Fatalf("found %q by the partitions' names, %v", d, err)
	}
	efi := filepath.Join(root, "sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
	must(t, errors.Join(os.MkdirAll(filepath.Dir(efi), 0o755), os.MkdirAll(filepath.Join(root, "dev/disk/by-partuuid"), 0o755)))
	b := []byte{7, 0, 0, 0}
	for _, u := range utf16.Encode([]rune("01000000-0000-0000-0000-00000000000A\x00")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	must(t, os.WriteFile(efi, b, 0o644))
	must(t, os.Symlink("../../vda1", filepath.Join(root, "dev/disk/by-partuuid/01000000-0000-0000-0000-00000000000a")))
	if d, err := m.find(); err != nil || d != vda {
		t.Fatalf("found %q by the boot loader's word, %v", d, err)
	}

	s, err := m.open(vda, slot.A)
	must(t, err)
	f, err := s.Images.Image(slot.A)
	must(t, err)
	if _, err := f.WriteAt([]byte{1}, 0); err == nil {
		t.Error("the running slot could be written")
	}
	must(t, f.Close())
	must(t, s.Clear())
	to, err := s.Image(1 << 20)
	must(t, err)
	_, err = to.WriteAt([]byte("new"), 0)
	must(t, errors.Join(err, to.Sync(), to.Close()))
	k, err := s.Kernel(3)
	must(t, err)
	must(t, k.Close())
	must(t, s.Finalize(slot.Release{Version: "2.0.0"}, 2, ""))
	part, err := os.ReadFile(filepath.Join(root, "dev/vda3"))
	must(t, err)
	if string(part[:3]) != "new" {
		t.Errorf("slot b begins with %q", part[:3])
	}
	again, err := m.open(vda, slot.A)
	must(t, err)
	if st, err := again.State(); err != nil || st.Next != slot.B {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestDisksThatAreNotUnderstood(t *testing.T) {
	root := machineTree(t)
	m := machineDisks{root: root}
	must(t, os.WriteFile(filepath.Join(root, "sys/class/block/vda3/start"), []byte("5"), 0o644))
	s, err := m.open(filepath.Join(root, "dev/vda"), slot.A)
	must(t, err)
	if _, err := s.Images.Image(slot.B); err == nil || !strings.Contains(err.Error(), "partprobe") {
		t.Errorf("a kernel with another table: %v", err)
	}
	if _, err := (machineDisks{root: t.TempDir()}).find(); err != nil {
		t.Errorf("a machine without disks: %v", err)
	}
	none := filepath.Join(t.TempDir(), "d")
	must(t, os.WriteFile(none, make([]byte, 1<<20), 0o644))
	if _, err := m.open(none, slot.A); err == nil || !strings.Contains(err.Error(), "slots on "+none) {
		t.Errorf("a disk without a table: %v", err)
	}
	if _, err := openSlots(none, slot.A); err == nil {
		t.Error("an image without a table was taken")
	}
	// A second disk with the same names: which of the two it is cannot be guessed.
	for _, n := range []string{"vda2", "vda3"} {
		dir := "sys/devices/virtio/block/vdb/" + strings.Replace(n, "vda", "vdb", 1)
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
		b, err := os.ReadFile(filepath.Join(root, "sys/class/block", n, "uevent"))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(root, dir, "uevent"), b, 0o644))
		must(t, os.WriteFile(filepath.Join(root, dir, "partition"), []byte("2"), 0o644))
		must(t, os.Symlink("../../../"+dir, filepath.Join(root, "sys/class/block", filepath.Base(dir))))
	}
	if _, err := m.find(); err == nil || !strings.Contains(err.Error(), "set slots in update.conf") {
		t.Errorf("two disks: %v", err)
	}
}

func TestWhatTheBootLoaderToldIsRead(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"run", "proc/1"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for _, step := range []struct{ file, text, want string }{
		{"proc/cmdline", "quiet fleet.slot=a fleet.version=1.0.0\n", "a 1.0.0"},
		{"proc/1/cmdline", "/sbin/init\x00", "a 1.0.0"},
		{"proc/1/cmdline", "/sbin/init\x00fleet.slot=b\x00fleet.version=2.0.0\x00", "b 2.0.0"},
		{"run/fleet-boot", "fleet.slot=a fleet.version=3.0.0\n", "a 3.0.0"},
	} {
		must(t, os.WriteFile(filepath.Join(root, step.file), []byte(step.text), 0o644))
		text, err := told(root)
		must(t, err)
		n, v, err := runningOf(Config{}, text)
		if err != nil || string(n)+" "+v != step.want {
			t.Errorf("%s = %q: %s %s, %v", step.file, step.text, n, v, err)
		}
	}
}
