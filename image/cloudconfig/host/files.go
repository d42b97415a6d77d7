package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/image/cloudconfig/desired"
)

// AsideDir is where files lie that stood where we write.
const AsideDir = "/var/lib/cloud-config/before"

// staging is the files of a plan that are written, but not yet in their places.
type staging struct {
	tmp map[string]string // path to temporary file
}

// stage writes every file of the plan near its place. A full disk, a folder that is a file, a tree that is read-only: all come out here. It makes
// no folder: a home must be made by useradd.
func (h *Host) stage(steps []desired.Step) (*staging, error) {
	st := &staging{tmp: map[string]string{}}
	for _, s := range steps {
		if s.Kind != desired.Write {
			continue
		}
		tmp, err := h.stageFile(s.File)
		if err != nil {
			return st, fmt.Errorf("write %s: %w; nothing was changed", s.File.Path, err)
		}
		st.tmp[s.File.Path] = tmp
	}
	return st, nil
}

func (h *Host) stageFile(f desired.File) (string, error) {
	// The nearest folder that is there is on the file system of those that are made inside of it later.
	dir := filepath.Dir(h.at(f.Path))
	info, err := os.Stat(dir)
	for ; errors.Is(err, fs.ErrNotExist); info, err = os.Stat(dir) {
		dir = filepath.Dir(dir)
	}
	switch {
	case err != nil:
		return "", err
	case !info.IsDir():
		return "", fmt.Errorf("%s is no folder", dir)
	}
	base := desired.Hash([]byte(f.Path))[:16]
	if f.Link == "" {
		return temporary(dir, base, f.Content, 0o600) // nobody but root reads it before it has its owner
	}
	tmp := filepath.Join(dir, "."+base+".cloud-config")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return tmp, os.Symlink(f.Link, tmp)
}

// drop removes what has not found its place.
func (st *staging) drop() {
	for _, tmp := range st.tmp {
		_ = os.Remove(tmp)
	}
}

// temporary writes a file beside its place, under a name that systemd, sshd and others skip, and has it on the disk.
func temporary(dir, base string, data []byte, mode uint32) (string, error) {
	name := filepath.Join(dir, "."+base+".cloud-config")
	// What a crash has left may be anything, also a link to somewhere else.
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	err = errors.Join(err, unix.Fchmod(int(f.Fd()), mode), f.Sync(), f.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(name))
	}
	return name, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// write puts a staged file into its place, with its owner and mode.
func (h *Host) write(s desired.Step, st *staging) error {
	f, tmp := s.File, st.tmp[s.File.Path]
	if s.Keep {
		if err := h.layAside(f.Path); err != nil {
			return fmt.Errorf("keep what is at %s: %w", f.Path, err)
		}
	}
	names, err := h.names() // users may have come since the look
	if err != nil {
		return err
	}
	uid, gid, err := names.number(f.Owner)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	if err := os.Lchown(tmp, uid, gid); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	// After the owner: chown takes setuid and setgid away. The kernel's call, since Go's file mode has those bits elsewhere.
	if f.Link == "" {
		if err := unix.Chmod(tmp, f.Mode); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	dir := filepath.Dir(h.at(f.Path))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	if err := errors.Join(os.Rename(tmp, h.at(f.Path)), syncDir(dir)); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	delete(st.tmp, f.Path)
	return nil
}

func aside(path string) string { return filepath.Join(AsideDir, desired.Hash([]byte(path))) }

// layAside copies what stands at path, once: what lies there already is older, and so what was before us.
func (h *Host) layAside(path string) error {
	kept := h.at(aside(path))
	if _, err := os.Lstat(kept); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return err
	}
	if target, err := os.Readlink(h.at(path)); err == nil {
		return errors.Join(os.Symlink(target, kept), syncDir(filepath.Dir(kept)))
	}
	data, err := os.ReadFile(h.at(path))
	if err != nil {
		return err
	}
	return h.Keep(aside(path), data, 0o600)
}

// restore puts back what was laid aside.
func (h *Host) restore(s desired.Step) error {
	kept := h.at(aside(s.Path))
	names, err := h.names()
	if err != nil {
		return err
	}
	uid, gid, err := names.number(s.Before.Owner)
	if err != nil {
		return fmt.Errorf("restore %s: %w", s.Path, err)
	}
	dir := filepath.Dir(h.at(s.Path))
	if target, err := os.Readlink(kept); err == nil {
		tmp := filepath.Join(dir, "."+filepath.Base(s.Path)+".cloud-config")
		return errors.Join(os.Symlink(target, tmp), os.Rename(tmp, h.at(s.Path)), os.Remove(kept))
	}
	data, err := os.ReadFile(kept)
	if err != nil {
		return fmt.Errorf("restore %s: %w", s.Path, err)
	}
	tmp, err := temporary(dir, filepath.Base(s.Path), data, 0o600)
	if err != nil {
		return fmt.Errorf("restore %s: %w", s.Path, err)
	}
	err = errors.Join(os.Lchown(tmp, uid, gid), unix.Chmod(tmp, s.Before.Mode), os.Rename(tmp, h.at(s.Path)), syncDir(dir), os.Remove(kept))
	if err != nil {
		return fmt.Errorf("restore %s: %w", s.Path, err)
	}
	return nil
}

// ids are the names and numbers of users and groups, from the host's own files: they are the ones that useradd writes.
type ids struct {
	users, groups map[string]int
}

func (h *Host) names() (ids, error) {
	users, err := h.numbers("/etc/passwd")
	if err != nil {
		return ids{}, err
	}
	groups, err := h.numbers("/etc/group")
	return ids{users, groups}, err
}

func (h *Host) numbers(path string) (map[string]int, error) {
	data, err := h.Read(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	out := map[string]int{"root": 0}
	for line := range strings.Lines(string(data)) {
		parts := strings.Split(line, ":")
		var n int
		if len(parts) < 3 {
			continue
		}
		if _, err := fmt.Sscan(parts[2], &n); err == nil {
			out[parts[0]] = n
		}
	}
	return out, nil
}

// number reads "user:group", as names or numbers.
func (n ids) number(owner string) (uid, gid int, err error) {
	user, group, _ := strings.Cut(owner, ":")
	if uid, err = lookup(n.users, user, "user"); err != nil {
		return 0, 0, err
	}
	gid, err = lookup(n.groups, group, "group")
	return uid, gid, err
}

func lookup(m map[string]int, name, what string) (int, error) {
	if id, ok := m[name]; ok {
		return id, nil
	}
	var id int
	if _, err := fmt.Sscanf(name, "%d", &id); err == nil && fmt.Sprint(id) == name {
		return id, nil
	}
	return 0, fmt.Errorf("this host has no %s %q: make it under users, or name another owner", what, name)
}

// owner spells numbers as names, where they have some.
func (n ids) owner(uid, gid uint32) string {
	return word(n.users, int(uid)) + ":" + word(n.groups, int(gid))
}

func word(m map[string]int, id int) string {
	best := ""
	for name, n := range m {
		if n == id && (best == "" || name < best) {
			best = name
		}
	}
	if best == "" {
		return fmt.Sprint(id)
	}
	return best
}
