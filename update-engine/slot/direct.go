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

// openImage opens a slot; one that is opened for reading only is the base of deltas, whose windows begin anywhere: the page cache is better there.
func openImage(p string, flags int) (File, error) {
	f, err := openFile(p, flags)
	if err != nil {
		return nil, err // a typed nil would look like a file
	}
	if flags&os.O_RDWR == 0 {
		return f, nil
	}
	// A second descriptor, without O_EXCL, which is the first one's against everybody else. What is wrong with the file the first one has told.
	direct, err := os.OpenFile(p, os.O_RDWR|unix.O_DIRECT, 0)
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
