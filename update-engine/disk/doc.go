// Package disk reads and writes the two formats that the firmware reads on a raw disk or a disk image: the GPT partition table
// and the FAT32 file system of the ESP. No mount, no loop device, no kernel support is needed, and each change is ordered so
// that a power cut at any moment leaves the old state or the new one; the kernel's vfat promises no such thing for a rename.
//
// It knows nothing of slots or releases. update-engine's main hands it to slot.
//
// Never open an ESP that is mounted: two writers destroy each other's FAT. Open the device with O_EXCL, which the kernel
// refuses while it is mounted.
package disk

import "io"

// Device is a disk or a part of one. Sync returns when all writes before it survive a power cut; a write of one sector is
// there whole or not at all, as disks promise.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Part is a piece of a device, as a partition is.
type Part struct {
	dev       Device
	off, size int64
}

// NewPart returns size bytes of dev from off on.
func NewPart(dev Device, off, size int64) Part { return Part{dev, off, size} }

// Size is how many bytes it has.
func (p Part) Size() int64 { return p.size }

// ReadAt implements io.ReaderAt.
func (p Part) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(p.dev, p.off, p.size).ReadAt(b, off)
}

// WriteAt implements io.WriterAt; it never writes behind the end.
func (p Part) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > p.size || int64(len(b)) > p.size-off {
		return 0, io.ErrShortWrite
	}
	return p.dev.WriteAt(b, p.off+off)
}

// Sync makes what was written last.
func (p Part) Sync() error { return p.dev.Sync() }
