package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/fleet-init/fleet/image/release"
)

const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// uki makes the kernel image of the release: kernel, initramfs and command line in one file that the firmware starts, bound to /usr by its
// root hash. The same file serves either slot.
func (b *builder) uki() error {
	work, err := os.MkdirTemp(b.out, "uki")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	initrd := filepath.Join(work, "initrd")
	if err := b.initramfs(initrd); err != nil {
		return err
	}
	line := filepath.Join(work, "cmdline")
	// With Secure Boot these words are all there is; without it the boot entry's take their place.
	text := fmt.Sprintf("os.usrhash=%s fleet.version=%s %s", b.hash, b.version, b.words)
	if err := os.WriteFile(line, append([]byte(text), 0), 0o644); err != nil {
		return err
	}
	kernel := filepath.Join(b.base, "kernel", "vmlinuz")
	args, err := sections([]section{{".osrel", filepath.Join(b.rootDir, "usr/lib/os-release"), 0}, {".cmdline", line, 0}, {".linux", kernel, 0},
		{".initrd", initrd, 0}})
	if err != nil {
		return err
	}
	b.kernel = b.result("fleet-%s.efi")
	if err := b.call("objcopy", append(args, stub, b.kernel)...); err != nil {
		return err
	}
	if err := b.date(b.kernel); err != nil || b.key == "" {
		return err
	}
	return b.sign(b.kernel)
}

// date puts the build's time where objcopy has put its own, and clears the checksum, which firmware does not look at.
func (b *builder) date(p string) error {
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 64)
	if _, err := f.ReadAt(head, 0); err != nil {
		return err
	}
	const stampAt, sumAt = 4 + 4, 4 + 20 + 64 // behind the signature "PE": in the COFF header, and in the optional one
	pe := int64(binary.LittleEndian.Uint32(head[0x3C:]))
	if _, err := f.WriteAt(binary.LittleEndian.AppendUint32(nil, uint32(b.epoch)), pe+stampAt); err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 4), pe+sumAt)
	return err
}

// sign signs a program of the firmware in place.
func (b *builder) sign(p string) error {
	return b.call("sbsign", "--key", b.key, "--cert", b.cert, "--output", p, p)
}

type section struct {
	name, file string
	at         int64
}

// sections are objcopy's arguments. The sections lie one behind the other, each at a whole page; the kernel, which is unpacked in place,
// comes where nothing of ours is behind it but the initramfs.
func sections(list []section) ([]string, error) {
	const begin, page = 0x10000000, 0x1000
	at := int64(begin)
	var args []string
	for _, s := range list {
		info, err := os.Stat(s.file)
		if err != nil {
			return nil, err
		}
		args = append(args, "--add-section", s.name+"="+s.file, "--change-section-vma", fmt.Sprintf("%s=%#x", s.name, at))
		at += (info.Size() + page - 1) / page * page
	}
	return args, nil
}

// initramfs packs process 1 of image/init, the modules, and what it is told.
func (b *builder) initramfs(to string) error {
	version, err := os.ReadFile(filepath.Join(b.base, "kernel", "version"))
	if err != nil {
		return err
	}
	m, err := readModuleDir(filepath.Join(b.rootDir, "usr/lib/modules", strings.TrimSpace(string(version))))
	if err != nil {
		return err
	}
	take, load, err := m.pick(always(), byDevice())
	if err != nil {
		return err
	}
	deps, aliases := m.lists(take)
	rel, err := json.Marshal(release.Built{Version: b.version, RootHash: b.hash, HashAt: b.hashAt, Always: load})
	if err != nil {
		return err
	}
	prog, err := os.ReadFile(b.init)
	if err != nil {
		return err
	}
	a := archive{epoch: b.epoch}
	for _, d := range []string{"dev", "proc", "sys", "run", "modules"} {
		a.dir(d)
	}
	// The kernel opens it before anything is mounted; without it process 1 has no stderr, and Go's own panics go nowhere.
	a.device("dev/console", 5, 1)
	a.file("init", prog, 0o755)
	a.file("release.json", rel, 0o644)
	a.file("modules/deps", []byte(deps), 0o644)
	a.file("modules/aliases", []byte(aliases), 0o644)
	for _, n := range take {
		text, err := os.ReadFile(m.files[n])
		if err != nil {
			return err
		}
		a.file("modules/"+n+".ko", text, 0o644)
	}
	if err := os.WriteFile(to+".cpio", a.end(), 0o644); err != nil {
		return err
	}
	return b.call("zstd", "-q", "-12", "-T1", "--no-progress", to+".cpio", "-o", to)
}

// archive is a cpio archive in the form "newc", all its files root's.
type archive struct {
	buf   bytes.Buffer
	inode int
	epoch int64
}

func (a *archive) dir(name string) { a.add(name, nil, 0o40755, 0, 0) }

func (a *archive) device(name string, major, minor int) { a.add(name, nil, 0o20600, major, minor) }

func (a *archive) file(name string, text []byte, mode int) { a.add(name, text, 0o100000|mode, 0, 0) }

func (a *archive) add(name string, text []byte, mode, major, minor int) {
	a.inode++
	fmt.Fprintf(&a.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", a.inode, mode, 0, 0, 1, a.epoch, len(text), 0, 0, major, minor,
		len(name)+1, 0)
	a.buf.WriteString(name + "\x00")
	a.pad()
	a.buf.Write(text)
	a.pad()
}

func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *archive) end() []byte {
	a.add("TRAILER!!!", nil, 0, 0, 0)
	return a.buf.Bytes()
}
