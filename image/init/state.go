package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is ours on the state partition, which is the root file system.
const (
	ours   = newRoot + "/.fleet"
	upper  = ours + "/etc"
	work   = ours + "/etc.work"
	idFile = ours + "/machine-id"
	reset  = ours + "/reset" // holds "etc" or "all": what to forget at the next start
	skel   = newRoot + "/usr/share/fleet/skel"
	defEtc = skel + "/etc"
	defVar = skel + "/var"
)

// mountState makes the root: the state partition, /usr over it, /etc as the release's defaults with this host's changes over them.
func mountState(d found) error {
	if err := d.grow(); err != nil {
		say("the state partition keeps its size: %v", err)
	}
	dev, err := d.part("state")
	if err != nil {
		return err
	}
	check(dev)
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, newRoot, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount the state partition %s: %w", dev, err)
	}
	if err := fill(dev, d); err != nil {
		say("the state partition keeps its size: %v", err)
	}
	if err := forget(); err != nil {
		return err
	}
	if err := frame(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(usrAt, newRoot+"/usr", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /usr: %w", err)
	}
	if err := copyOnce(defVar, newRoot+"/var"); err != nil {
		return err
	}
	if err := unix.Mount("overlay", newRoot+"/etc", "overlay", unix.MS_NOSUID|unix.MS_NODEV,
		"lowerdir="+defEtc+",upperdir="+upper+",workdir="+work); err != nil {
		return fmt.Errorf("mount /etc: %w", err)
	}
	return identify(newRoot+"/etc", idFile)
}

// check repairs what a power cut has left, with the release's own e2fsck. What it cannot repair the mount will say.
func check(dev string) {
	const root = "/check"
	for link, to := range map[string]string{"lib": "usr/lib", "lib64": "usr/lib64"} {
		_ = os.MkdirAll(root, 0o755)
		_ = os.Symlink(to, root+"/"+link)
	}
	_, _ = os.MkdirAll(root+"/usr", 0o755), os.MkdirAll(root+"/dev", 0o755)
	if unix.Mount(usrAt, root+"/usr", "", unix.MS_BIND, "") != nil || unix.Mount("/dev", root+"/dev", "", unix.MS_BIND, "") != nil {
		return
	}
	cmd := exec.Command("/usr/sbin/e2fsck", "-p", dev)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if err != nil {
		say("e2fsck: %v: %s", err, strings.TrimSpace(string(out)))
	}
	_, _ = unix.Unmount(root+"/usr", 0), unix.Unmount(root+"/dev", 0)
}

// fill lets the file system take all of its partition. The kernel does nothing when it has it already.
func fill(dev string, d found) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, 2)
	_ = f.Close()
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(newRoot, &st); err != nil {
		return err
	}
	blocks := uint64(size / st.Bsize)
	// Statfs leaves out what ext4 keeps for itself, at most an eighth of a small one.
	if blocks-blocks/8 <= st.Blocks {
		return nil
	}
	dir, err := os.Open(newRoot)
	if err != nil {
		return err
	}
	defer dir.Close()
	const resizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return fmt.Errorf("grow the file system on %s to %d MiB: %w", dev, size>>20, e)
	}
	say("state partition of %s grown to %d MiB", d.name, size>>20)
	return nil
}

// forget is the factory reset that was asked for before the restart.
func forget() error {
	b, err := os.ReadFile(reset)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	what := strings.TrimSpace(string(b))
	say("factory reset: %s", what)
	switch what {
	case "etc":
		err = os.RemoveAll(upper)
	case "all":
		// The mark goes last, so that a reset that is cut short goes on at the next start.
		err = removeAllBut(newRoot, ".fleet", "lost+found")
		err = errors.Join(err, removeAllBut(ours, filepath.Base(reset)))
	default:
		say("%s: %q is neither etc nor all: nothing is forgotten", reset, what)
	}
	unix.Sync()
	if err != nil {
		return fmt.Errorf("factory reset: %w", err)
	}
	return os.Remove(reset)
}

func removeAllBut(dir string, keep ...string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		kept := false
		for _, k := range keep {
			kept = kept || e.Name() == k
		}
		if !kept {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// frame makes the folders and links of a root whose content is in /usr, /etc and /var.
func frame(root string) error {
	for _, d := range []struct {
		name string
		mode fs.FileMode
	}{{"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"usr", 0o755}, {"etc", 0o755}, {"var", 0o755}, {"home", 0o755}, {"root", 0o700},
		{"srv", 0o755}, {"opt", 0o755}, {"mnt", 0o755}, {"boot", 0o700}, {"tmp", 0o1777}, {".fleet", 0o700}, {".fleet/etc", 0o755}, {".fleet/etc.work", 0o755}} {
		p := filepath.Join(root, d.name)
		err := os.Mkdir(p, d.mode&fs.ModePerm)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = unix.Chmod(p, uint32(d.mode)) // the sticky bit, and whatever the umask is
		}
		if err != nil {
			return err
		}
	}
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+l, filepath.Join(root, l)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// copyOnce fills an empty folder with folders of the same owner and mode, and files. systemd-tmpfiles makes the rest of /var.
func copyOnce(from, to string) error {
	if list, err := os.ReadDir(to); err != nil || len(list) > 0 {
		return err
	}
	return filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == from {
			return err
		}
		rel, _ := filepath.Rel(from, p)
		info, err := e.Info()
		if err != nil {
			return err
		}
		at, st := filepath.Join(to, rel), info.Sys().(*syscall.Stat_t)
		switch {
		case e.IsDir():
			if err := os.Mkdir(at, 0o700); err != nil {
				return err
			}
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err == nil {
				err = os.Symlink(target, at)
			}
			return err
		default:
			b, err := os.ReadFile(p)
			if err == nil {
				err = os.WriteFile(at, b, 0o600)
			}
			if err != nil {
				return err
			}
		}
		if err := os.Lchown(at, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		return unix.Chmod(at, st.Mode&0o7777)
	})
}

// identify gives the host its machine ID, once for all its life, and a name after it where nobody gave it one. The ID is kept outside /etc,
// so that a reset of /etc leaves the host the machine it is.
func identify(etc, kept string) error {
	b, err := os.ReadFile(kept)
	id := strings.TrimSpace(string(b))
	if err != nil || len(id) != 32 {
		var raw [16]byte
		_, _ = rand.Read(raw[:])
		raw[6], raw[8] = raw[6]&0x0F|0x40, raw[8]&0x3F|0x80 // a random UUID, as systemd makes it
		id = hex.EncodeToString(raw[:])
		if err := writeSynced(kept, id+"\n", 0o444); err != nil {
			return fmt.Errorf("keep the machine ID: %w", err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(etc, "machine-id")); err != nil || strings.TrimSpace(string(b)) != id {
		if err := writeSynced(filepath.Join(etc, "machine-id"), id+"\n", 0o444); err != nil {
			return err
		}
	}
	name := filepath.Join(etc, "hostname")
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return writeSynced(name, "fleet-"+id[:8]+"\n", 0o644)
	}
	return nil
}

// writeSynced writes a file whole or not at all.
func writeSynced(p, text string, mode fs.FileMode) error {
	f, err := os.OpenFile(p+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(p+".new", p)
}
