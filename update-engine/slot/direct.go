package slot

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// page is what place and length of an access past the page cache must be multiples of: no disk has larger sectors.
const page = 4096

// image is a slot that is written and read past the page cache, where the file system can: copying a release of some hundred MiB through it costs more
// than hashing it, it would push the host's own files out of memory, and what is read back comes from the disk itself.
type image struct {
	*osFile
	direct *os.File // nil: the file system cannot
}

// openImage opens a slot. Windows of the running one that begin within a page are read by way of the cache.
func openImage(p string, flags int) (File, error) {
	f, err := openFile(p, flags)
	if err != nil {
		return nil, err // a typed nil would look like a file
	}
	// A second descriptor, without O_EXCL: a device that the first one has for itself gives us that too (tried with a loop device on Linux 6.18).
	direct, err := os.OpenFile(p, flags&unix.O_ACCMODE|unix.O_DIRECT, 0)
	if err != nil {
		return f, nil
	}
	return &image{f, direct}, nil
}

func (f *image) WriteAt(b []byte, off int64) (int, error) {
	if aligned(b, off) {
		if n, err := f.direct.WriteAt(b, off); !errors.Is(err, syscall.EINVAL) {
			return n, err
		}
	}
	return f.osFile.WriteAt(b, off)
}

func (f *image) ReadAt(b []byte, off int64) (int, error) {
	if aligned(b, off) {
		if n, err := f.direct.ReadAt(b, off); !errors.Is(err, syscall.EINVAL) {
			return n, err
		}
	}
	return f.osFile.ReadAt(b, off)
}

// aligned says whether it is worth asking; where the bytes lie in memory the kernel says by EINVAL. Large slices of Go's begin at a page.
func aligned(b []byte, off int64) bool { return len(b) > 0 && len(b)%page == 0 && off%page == 0 }

func (f *image) Close() error { return errors.Join(f.direct.Close(), f.osFile.Close()) }
