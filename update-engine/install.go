package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// install is the installer's part: it writes a release into slot a of a disk image, or of a folder, whose entry then says exactly what is
// in the slot. So the host's first update can be a delta against it.
func install(ctx context.Context, j job) error {
	f, _ := j.flags()
	version := f.String("version", "", "semantic version of the release")
	usrFile := f.String("usr", "", "image of /usr, with its verity tree")
	ukiFile := f.String("uki", "", "kernel image for the boot file system")
	rootHash := f.String("roothash", "", "root hash of the verity tree")
	hashAt := f.Int64("hash-at", 0, "where in the image the verity superblock is")
	options := f.String("options", "", "words for the kernel's command line")
	size := f.Int64("slot-size", 0, "size of the two slots in bytes, where SLOTS is a folder that is yet to be made; 0: that of the image")
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	if *version == "" || *usrFile == "" || *ukiFile == "" {
		return errors.New("install: --version, --usr and --uki are needed")
	}
	image, length, err := openSized(*usrFile)
	if err != nil {
		return err
	}
	defer image.Close()
	if _, err := os.Stat(f.Arg(0)); errors.Is(err, fs.ErrNotExist) {
		if err := (slot.Dir{Root: f.Arg(0)}).Init(max(*size, length)); err != nil {
			return err
		}
	}
	// Slot b is said to run, so that a is the one to write; there is no running system here at all.
	s, err := openSlots(f.Arg(0), slot.B)
	if err != nil {
		return err
	}
	if e, ok := s.Boot.(esp); ok {
		for _, dir := range []string{"loader", "loader/entries", "EFI", "EFI/fleet"} {
			if err := e.fat.Mkdir(dir); err != nil {
				return err
			}
		}
	}
	r := slot.Release{Version: *version, Size: length, RootHash: *rootHash}
	to, err := s.Image(length)
	if err != nil {
		return err
	}
	if r.Image, err = copyHashed(ctx, to, image, length); err == nil && *rootHash != "" {
		err = slot.CheckVerity(to, *hashAt, *rootHash)
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("write slot a: %w", err)
	}
	if err := installKernel(ctx, s, *ukiFile); err != nil {
		return fmt.Errorf("write the kernel of slot a: %w", err)
	}
	return s.Install(r, *options)
}

func installKernel(ctx context.Context, s slot.Slots, file string) error {
	kernel, length, err := openSized(file)
	if err != nil {
		return err
	}
	defer kernel.Close()
	to, err := s.Kernel(length)
	if err != nil {
		return err
	}
	_, err = copyHashed(ctx, to, kernel, length)
	return errors.Join(err, to.Close())
}

// copyHashed writes size bytes of r to the beginning of a file, reads them back, and gives their hash.
func copyHashed(ctx context.Context, to slot.File, r io.ReaderAt, size int64) (string, error) {
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), size-at)]
		if _, err := r.ReadAt(buf, at); err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if _, err := to.WriteAt(buf, at); err != nil {
			return "", err
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
	}
	if err := to.Sync(); err != nil {
		return "", err
	}
	sum, err := payload.SumOf(to, size)
	return sum.String(), err
}
