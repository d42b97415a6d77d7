package slot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir is a boot file system and two images in a folder: "boot/" and "slots/a/usr.img", "slots/b/usr.img". nspawn hosts use it
// as it is; a machine with a mounted ESP uses the boot half.
type Dir struct{ Root string }

func (d Dir) path(p string) string { return filepath.Join(d.Root, "boot", filepath.FromSlash(p)) }

// List implements Boot.
func (d Dir) List(dir string) ([]string, error) {
	list, err := os.ReadDir(d.path(dir))
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names, err
}

// Open implements Boot.
func (d Dir) Open(p string) (File, error) { return openFile(d.path(p), os.O_RDWR) }

// Create implements Boot. The space is taken at once, so that a full file system says so before anything is written.
func (d Dir) Create(p string, size int64) (File, error) {
	f, err := openFile(d.path(p), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	if size > 0 {
		err = syscall.Fallocate(int(f.Fd()), 0, 0, size)
		if errors.Is(err, syscall.EOPNOTSUPP) {
			err = f.Truncate(size)
		}
	}
	f.size = size
	if err = errors.Join(err, f.Sync(), d.sync(p)); err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", p, err), f.Close(), os.Remove(d.path(p)))
	}
	return f, nil
}

// Rename implements Boot.
func (d Dir) Rename(from, to string) error {
	if _, err := os.Lstat(d.path(to)); err == nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, fs.ErrExist)
	}
	if err := os.Rename(d.path(from), d.path(to)); err != nil {
		return err
	}
	return d.sync(to)
}

// Remove implements Boot.
func (d Dir) Remove(p string) error {
	if err := os.Remove(d.path(p)); err != nil {
		return err
	}
	return d.sync(p)
}

// Free implements Boot.
func (d Dir) Free() (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.path("."), &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", d.path("."), err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// sync makes a change of the directory of p last.
func (d Dir) sync(p string) error {
	f, err := os.Open(d.path(path.Dir(p)))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Image implements Images.
func (d Dir) Image(n Name) (File, error) {
	return openFile(filepath.Join(d.Root, "slots", string(n), "usr.img"), os.O_RDWR)
}

// Init makes the folders and two images of size bytes; what is there stays.
func (d Dir) Init(size int64) error {
	for _, p := range []string{entries, kernels} {
		if err := os.MkdirAll(d.path(p), 0o755); err != nil {
			return err
		}
	}
	for _, n := range []Name{A, B} {
		p := filepath.Join(d.Root, "slots", string(n))
		if err := os.MkdirAll(p, 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(p, "usr.img"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(size), f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

type osFile struct {
	*os.File
	size int64
}

func (f *osFile) Size() int64 { return f.size }

// Sync also takes what is safe on disk out of the page cache, so that reading back reads the disk, and the host's own work keeps the cache.
func (f *osFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // advice; a file system that knows no cache need not follow it
	return nil
}

func openFile(p string, flags int) (*osFile, error) {
	f, err := os.OpenFile(p, flags, 0o644)
	if err != nil {
		return nil, err
	}
	// Seek finds the size of a partition too, Stat does not.
	size, err := f.Seek(0, 2)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &osFile{f, size}, nil
}

// OpenWith opens a partition or a file as a File, with flags as os.OpenFile has them. A file opened for reading only cannot be written or synced.
func OpenWith(p string, flags int) (File, error) {
	f, err := openFile(p, flags)
	if err != nil {
		return nil, err // a typed nil would look like a file
	}
	return f, nil
}
