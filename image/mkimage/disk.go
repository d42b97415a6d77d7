package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/slot"
)

const (
	typeUsr   = "8484680c-9521-48c6-9c11-b0720656f69e"
	typeState = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" // root file system, x86-64
	loader    = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

// loaderConf: no menu unless a key is held down, so that nothing waits; the editor stays, it is how an operator gets in.
const loaderConf = "timeout 0\nconsole-mode keep\n"

// startup is what the firmware's shell does, where it has one, when no boot loader would start: nothing stays at a prompt.
const startup = "reset\r\n"

// disk puts it all together. It writes with update-engine's own code for the formats, since that is what will keep them up to date.
func (b *builder) disk() error {
	b.raw = b.result("fleet-%s.raw")
	parts := []disk.Partition{{Type: disk.TypeESP(), Size: b.esp, Label: "esp"}, {Size: b.slot, Label: "usr-a"}, {Size: b.slot, Label: "usr-b"},
		{Size: b.state, Label: "state"}}
	for i := range parts {
		parts[i].ID = b.guid(parts[i].Label)
	}
	for label, typ := range map[int]string{1: typeUsr, 2: typeUsr, 3: typeState} {
		g, err := disk.ParseGUID(typ)
		if err != nil {
			return err
		}
		parts[label].Type = g
	}
	table := disk.NewTable(b.guid("disk"), parts)
	last := table.Partitions[3]
	size := last.Off + last.Size + mib // the backup table

	return once2(b.raw, func(fresh string) error {
		f, err := os.Create(fresh)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			return err
		}
		if err := errors.Join(protect(f, size), table.Repair(f, size)); err != nil {
			return err
		}
		if err := b.fillESP(disk.NewPart(f, table.Partitions[0].Off, b.esp), disk.NewPart(f, table.Partitions[1].Off, b.slot)); err != nil {
			return err
		}
		return b.fillState(f, last)
	})
}

// protect writes the protective MBR. Without one the firmware takes the disk for empty.
func protect(f *os.File, size int64) error {
	mbr := make([]byte, 512)
	entry := mbr[446:]
	copy(entry, []byte{0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF})
	binary.LittleEndian.PutUint32(entry[8:], 1)
	binary.LittleEndian.PutUint32(entry[12:], uint32(min(size/512-1, 1<<32-1)))
	mbr[510], mbr[511] = 0x55, 0xAA
	_, err := f.WriteAt(mbr, 0)
	return err
}

// once2 writes a file beside its place and renames it, so that a disk that exists is a whole one.
func once2(p string, do func(fresh string) error) error {
	if err := do(p + ".new"); err != nil {
		return errors.Join(err, os.Remove(p+".new"))
	}
	return os.Rename(p+".new", p)
}

// guid makes an identity from the release and a word: the same for the same image, and different for each partition.
func (b *builder) guid(word string) disk.GUID {
	sum := sha256.Sum256([]byte(b.version + b.hash + word))
	g := disk.GUID(sum[:16])
	g[7], g[8] = g[7]&0x0F|0x40, g[8]&0x3F|0x80 // a random UUID by its form
	return g
}

// fillESP writes the boot loader, and the release into slot a.
func (b *builder) fillESP(part, slotA disk.Part) error {
	if err := disk.FormatFAT(part, part.Size()); err != nil {
		return err
	}
	fat, err := disk.OpenFAT(part)
	if err != nil {
		return err
	}
	for _, d := range []string{"EFI", "EFI/BOOT", "EFI/systemd", "EFI/fleet", "loader", "loader/entries"} {
		if err := fat.Mkdir(d); err != nil {
			return err
		}
	}
	boot := loader
	if b.key != "" {
		boot = filepath.Join(b.out, "systemd-bootx64.efi")
		if err := b.call("cp", loader, boot); err != nil {
			return err
		}
		defer os.Remove(boot)
		if err := b.sign(boot); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(boot)
	if err != nil {
		return err
	}
	// The second place is where firmware looks that was told to start systemd-boot by name.
	files := []struct {
		p string
		b []byte
	}{{"EFI/BOOT/BOOTX64.EFI", text}, {"EFI/systemd/systemd-bootx64.efi", text}, {"loader/loader.conf", []byte(loaderConf)}, {"startup.nsh", []byte(startup)}}
	for _, x := range files {
		if err := put(fat, x.p, x.b); err != nil {
			return err
		}
	}
	return b.first(esp{fat}, slotA)
}

func put(fat *disk.FAT, p string, text []byte) error {
	f, err := fat.Create(p, int64(len(text)))
	if err != nil {
		return fmt.Errorf("ESP: %w", err)
	}
	_, err = f.WriteAt(text, 0)
	return err
}

// esp and one are the disk as update-engine/slot wants it.
type esp struct{ *disk.FAT }

func (e esp) Open(p string) (slot.File, error) {
	f, err := e.FAT.Open(p)
	if err != nil {
		return nil, err // a typed nil would look like a file
	}
	return f, nil
}

func (e esp) Create(p string, size int64) (slot.File, error) {
	f, err := e.FAT.Create(p, size)
	if err != nil {
		return nil, err
	}
	return f, nil
}

type one struct{ part disk.Part }

func (o one) Image(slot.Name) (slot.File, error) { return part{o.part}, nil }

type part struct{ disk.Part }

func (part) Close() error { return nil }

// first writes the release into slot a as update-engine would, but proven: there is nothing to fall back to.
func (b *builder) first(boot esp, slotA disk.Part) error {
	s := slot.Slots{Boot: boot, Images: one{slotA}, Running: slot.B}
	info, err := os.Stat(b.kernel)
	if err != nil {
		return err
	}
	k, err := s.Kernel(info.Size())
	if err != nil {
		return fmt.Errorf("ESP of %d MiB: %w: use --esp-size", b.esp/mib, err)
	}
	// Room for the kernel of the other slot and for the next one, which is written before the older goes.
	if free, err := boot.Free(); err != nil || free < 2*info.Size() {
		return errors.Join(err, fmt.Errorf("the ESP of %d MiB has no room for three kernels of %d MiB: use --esp-size", b.esp/mib, info.Size()/mib+1))
	}
	if err := copyFile(k, b.kernel); err != nil {
		return err
	}
	usr, err := s.Image(b.size())
	if err != nil {
		return err
	}
	if err := copyFile(usr, b.image); err != nil {
		return err
	}
	if err := slot.CheckVerity(usr, b.hashAt, b.hash); err != nil {
		return err
	}
	sum, err := fileSum(b.image)
	if err != nil {
		return err
	}
	r := slot.Release{Version: b.version, Image: sum, Size: b.size(), RootHash: b.hash}
	return s.Install(r, b.words)
}

func (b *builder) size() int64 {
	info, err := os.Stat(b.image)
	if err != nil {
		return 0
	}
	return info.Size()
}

// copyFile writes a file, leaving holes where it has zeros.
func copyFile(to io.WriterAt, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyHoles(to, f, 0)
}

func copyHoles(to io.WriterAt, from io.Reader, at int64) error {
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(from, buf)
		if n > 0 && string(buf[:n]) != string(zero[:n]) {
			if _, err := to.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fillState makes the empty state partition. Its identity is the same in all images made alike; what tells hosts apart is the machine ID.
func (b *builder) fillState(disk io.WriterAt, p disk.Partition) error {
	img := filepath.Join(b.out, "state.img")
	defer os.Remove(img)
	_ = os.Remove(img)
	id := b.guid("state file system").String()
	// resize= keeps room for growing online, to 256 times its size; lazy_*: nothing is left for the first boot to write, and zeros stay holes.
	// The clock is the build's: e2fsprogs asks for it by this name.
	if err := b.callEnv([]string{"E2FSPROGS_FAKE_TIME=" + strconv.FormatInt(b.epoch, 10)}, "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "1", "-L", "state", "-U", id,
		"-E", "hash_seed="+id+",lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0", "-O", "^metadata_csum_seed", img,
		strconv.FormatInt(b.state/4096, 10)); err != nil {
		return err
	}
	f, err := os.Open(img)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyHoles(disk, f, p.Off)
}
