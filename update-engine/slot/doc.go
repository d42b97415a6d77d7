// Package slot keeps the two slots of a host: which one runs, which may be written, which boots next, and whether it has proven
// itself. All of that is in the names of a few files on the boot file system, which systemd-boot reads and renames by its boot
// assessment rules; nothing is kept elsewhere, so that nothing can disagree.
//
// It writes only the slot that is not running. Every operation is a row of steps of which each leaves the host bootable, and
// each may be repeated after a crash. It never decides that a release should be taken or a slot be left: that is update's.
// Called by update-engine's main.
//
// A slot has a partition with /usr, a kernel "EFI/fleet/<slot>.efi", and an entry
// "loader/entries/fleet-<slot>-<generation>[+left[-done]].conf" in the form of the Boot Loader Specification. Without an entry
// a slot cannot boot. "+left" is how many starts it has left to prove itself; without it the slot is good. The slot with the
// highest generation boots, unless it has no starts left.
package slot

import "io"

// Name is a slot: A or B.
type Name string

const (
	A Name = "a"
	B Name = "b"
)

// Other is the slot that is not this one.
func (n Name) Other() Name {
	if n == A {
		return B
	}
	return A
}

// File is an open file or partition of fixed size.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() int64
	Sync() error // returns when what was written survives a power cut
}

// Boot is the boot file system. Paths are relative, with "/". What a method changed survives a power cut when it returns.
type Boot interface {
	List(dir string) ([]string, error)
	// Open opens a file for reading and writing; fs.ErrNotExist when there is none.
	Open(path string) (File, error)
	// Create makes a file of that size; fs.ErrExist when it is there.
	Create(path string, size int64) (File, error)
	// Rename gives a file a name in the same directory that no other file has.
	Rename(from, to string) error
	// Remove deletes a file; fs.ErrNotExist when it is not there.
	Remove(path string) error
	// Free is how many bytes new files may take.
	Free() (int64, error)
}

// Images opens the partition of a slot, or the file that stands for it.
type Images interface {
	Image(Name) (File, error)
}
