package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

// Every change below is made of steps that end in a Sync, so that a power cut leaves at worst clusters that no file holds;
// OpenFAT gives those back. The step that counts is always one sector.

// Create makes a file of size bytes with undefined content. It is there, with its space, when Create returns.
func (f *FAT) Create(p string, size int64) (*FATFile, error) {
	if size < 0 || size > 1<<32-1 {
		return nil, fmt.Errorf("create %s: FAT holds no file of %d bytes", p, size)
	}
	dir, err := f.vacant(p)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", p, err)
	}
	file := &FATFile{fs: f, size: size}
	raw := dated()
	if size > 0 {
		if file.clusters, err = f.take((size + f.cluster - 1) / f.cluster); err != nil {
			return nil, fmt.Errorf("create %s: %w", p, err)
		}
		point(&raw, file.clusters[0])
	}
	binary.LittleEndian.PutUint32(raw[28:], uint32(size))
	if err := f.enter(dir, path.Base(p), raw); err != nil {
		return nil, fmt.Errorf("create %s: %w", p, errors.Join(err, f.collect()))
	}
	return file, nil
}

// Mkdir makes a directory; one that is there is fine.
func (f *FAT) Mkdir(p string) error {
	dir, err := f.vacant(p)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mkdir %s: %w", p, err)
	}
	c, err := f.take(1)
	if err != nil {
		return fmt.Errorf("mkdir %s: %w", p, err)
	}
	b := make([]byte, f.cluster)
	for i, name := range []string{".", ".."} {
		r := (*[dirent]byte)(b[i*dirent:])
		*r = dated()
		copy(r[:11], fmt.Sprintf("%-11s", name))
		r[11] = attrDir
		switch {
		case i == 0:
			point(r, c[0])
		case dir != f.root: // the root is written as 0
			point(r, dir)
		}
	}
	if _, err := f.dev.WriteAt(b, f.offset(c[0])); err != nil {
		return fmt.Errorf("mkdir %s: %w", p, err)
	}
	if err := f.dev.Sync(); err != nil {
		return fmt.Errorf("mkdir %s: %w", p, err)
	}
	raw := dated()
	raw[11] = attrDir
	point(&raw, c[0])
	return f.enter(dir, path.Base(p), raw)
}

// Remove deletes a file: first its name, in one step, then what it held.
func (f *FAT) Remove(p string) error {
	_, e, err := f.find(p)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if e.dir {
		return fmt.Errorf("remove %s: is a directory", p)
	}
	if err := f.strike(e); err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	if e.first == 0 {
		return nil
	}
	c, err := f.chain(e.first)
	if err != nil {
		return err
	}
	return f.link(c, func(int) uint32 { return 0 })
}

// Rename gives a file another name in the same directory; the new name must be free. Where the records allow it, it is the
// write of one sector. Otherwise (a long name that firmware has spread over two sectors) the content is copied under the new name
// first and the old one removed last, so that a power cut leaves one of the names or both, each with sound content.
func (f *FAT) Rename(from, to string) error {
	fail := func(err error) error { return fmt.Errorf("rename %s to %s: %w", from, to, err) }
	if path.Dir(from) != path.Dir(to) {
		return fail(errors.New("other directory"))
	}
	dir, e, err := f.find(from)
	if err != nil {
		return fail(err)
	}
	if _, err := f.vacant(to); err != nil {
		return fail(err)
	}
	list, err := f.list(dir)
	if err != nil {
		return fail(err)
	}
	recs, err := names(path.Base(to), e.raw, list)
	if err != nil {
		return fail(err)
	}
	if len(recs) <= len(e.at) && oneSector(e.at) {
		// The records that are left over come first: a struck record before a long name separates it from what is before.
		return f.change(e.at, func(i int) [dirent]byte {
			if k := i - (len(e.at) - len(recs)); k >= 0 {
				return recs[k]
			}
			return [dirent]byte{gone}
		})
	}
	if e.dir {
		return fail(errors.New("the longer name of a directory does not fit"))
	}
	if err := f.copy(from, to, e.size); err != nil {
		return fail(err)
	}
	return f.Remove(from)
}

// copy makes the new name whole before it can be seen as the real one: its content is written before its entry.
func (f *FAT) copy(from, to string, size int64) error {
	old, err := f.Open(from)
	if err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := old.ReadAt(b, 0); err != nil && size > 0 {
		return err
	}
	dir, err := f.vacant(to)
	if err != nil {
		return err
	}
	raw := dated()
	binary.LittleEndian.PutUint32(raw[28:], uint32(size))
	if size > 0 {
		c, err := f.take((size + f.cluster - 1) / f.cluster)
		if err != nil {
			return err
		}
		point(&raw, c[0])
		file := &FATFile{fs: f, size: size, clusters: c}
		if _, err := file.WriteAt(b, 0); err != nil {
			return err
		}
		if err := file.Sync(); err != nil {
			return err
		}
	}
	return f.enter(dir, path.Base(to), raw)
}

// dated is a record from 1 January 1980: FAT has no day 0, and no clock is asked, so that images are reproducible.
func dated() [dirent]byte { return [dirent]byte{16: 0x21, 18: 0x21, 24: 0x21} }

func point(r *[dirent]byte, first uint32) {
	binary.LittleEndian.PutUint16(r[20:], uint16(first>>16))
	binary.LittleEndian.PutUint16(r[26:], uint16(first))
}

// vacant gives the directory of a path at which nothing is yet.
func (f *FAT) vacant(p string) (uint32, error) {
	dir, _, err := f.find(p)
	switch {
	case err == nil:
		return 0, fs.ErrExist
	case errors.Is(err, fs.ErrNotExist) && dir != 0:
		return dir, nil
	}
	return 0, err
}

// enter writes a new entry into a directory, all of it in one sector. If no sector has room, the directory grows.
func (f *FAT) enter(dir uint32, name string, raw [dirent]byte) error {
	list, err := f.list(dir)
	if err != nil {
		return err
	}
	recs, err := names(name, raw, list)
	if err != nil {
		return err
	}
	all, err := f.records(dir)
	if err != nil {
		return err
	}
	if err := f.clearRest(all); err != nil {
		return err
	}
	if at := room(all, len(recs)); at != nil {
		return f.change(at, func(i int) [dirent]byte { return recs[i] })
	}
	grown, err := f.grow(dir)
	if err != nil {
		return err
	}
	at := make([]int64, len(recs))
	for i := range at {
		at[i] = grown + int64(i)*dirent
	}
	// A directory's end mark in an earlier cluster hides what is behind it: fill it with struck records first.
	for _, r := range all {
		if r.b[0] == 0 {
			if err := f.change([]int64{r.at}, func(int) [dirent]byte { return [dirent]byte{gone} }); err != nil {
				return err
			}
		}
	}
	return f.change(at, func(i int) [dirent]byte { return recs[i] })
}

// clearRest clears what another system has left behind a directory's end mark, where nobody sees it: an entry that takes the mark's place would
// bring it to light.
func (f *FAT) clearRest(all []record) error {
	ended := false
	for i := range all {
		if r := &all[i]; ended && r.b != [dirent]byte{} {
			r.b = [dirent]byte{}
			if err := f.change([]int64{r.at}, func(int) [dirent]byte { return r.b }); err != nil {
				return err
			}
		}
		ended = ended || all[i].b[0] == 0
	}
	return nil
}

// room finds n free records side by side in one sector that no end mark separates from the rest: behind the first end mark only
// its own sector's free records count.
func room(all []record, n int) []int64 {
	var run []int64
	ended := false
	for _, r := range all {
		if r.at%sector == 0 {
			if ended {
				return nil
			}
			run = nil
		}
		switch r.b[0] {
		case 0:
			ended = true
			run = append(run, r.at)
		case gone:
			run = append(run, r.at)
		default:
			run = nil
		}
		if len(run) == n {
			return run
		}
	}
	return nil
}

// grow adds an empty cluster to a directory and returns where it is.
func (f *FAT) grow(dir uint32) (int64, error) {
	old, err := f.chain(dir)
	if err != nil {
		return 0, err
	}
	c, err := f.take(1)
	if err != nil {
		return 0, err
	}
	if _, err := f.dev.WriteAt(make([]byte, f.cluster), f.offset(c[0])); err != nil {
		return 0, err
	}
	if err := f.dev.Sync(); err != nil {
		return 0, err
	}
	return f.offset(c[0]), f.link(old[len(old)-1:], func(int) uint32 { return c[0] })
}

// strike marks an entry's records as deleted, the short name's sector first: parts of a long name without it mean nothing.
func (f *FAT) strike(e entry) error {
	at := slices.Clone(e.at)
	slices.Reverse(at)
	for len(at) > 0 {
		n := 1
		for n < len(at) && at[n]/sector == at[0]/sector {
			n++
		}
		err := f.edit(at[:n], func(_ int, b []byte) { b[0] = gone })
		if err != nil {
			return err
		}
		at = at[n:]
	}
	return nil
}

// change replaces records that lie in one sector, in one write.
func (f *FAT) change(at []int64, to func(i int) [dirent]byte) error {
	return f.edit(at, func(i int, b []byte) { r := to(i); copy(b, r[:]) })
}

func (f *FAT) edit(at []int64, do func(i int, b []byte)) error {
	base := at[0] / sector * sector
	b := make([]byte, sector)
	if _, err := f.dev.ReadAt(b, base); err != nil {
		return fmt.Errorf("read directory: %w", err)
	}
	for i, a := range at {
		do(i, b[a-base:][:dirent])
	}
	if _, err := f.dev.WriteAt(b, base); err != nil {
		return fmt.Errorf("write directory: %w", err)
	}
	return f.dev.Sync()
}

func oneSector(at []int64) bool {
	return !slices.ContainsFunc(at, func(a int64) bool { return a/sector != at[0]/sector })
}

// FormatFAT makes an empty FAT32 on size bytes of dev, with one sector a cluster, which any ESP from 34 MiB to 128 GiB can have.
func FormatFAT(dev Device, size int64) error {
	total := size / sector
	const reserved, tables = 32, 2
	// Each sector of a table holds 128 clusters; the tables themselves take room from them.
	span := (total - reserved + 128 + 2*tables - 1) / (128 + tables)
	if clusters := total - reserved - tables*span; clusters < 65525 || clusters >= 1<<28-16 {
		return fmt.Errorf("format: %d bytes are no size for a FAT32 with clusters of %d", size, sector)
	}
	le := binary.LittleEndian
	b := make([]byte, sector)
	copy(b, "\xEB\x58\x90FLEETOS ")
	le.PutUint16(b[11:], sector)
	b[13], b[16], b[21] = 1, tables, 0xF8
	le.PutUint16(b[14:], reserved)
	le.PutUint16(b[24:], 32)
	le.PutUint16(b[26:], 8)
	le.PutUint32(b[32:], uint32(total))
	le.PutUint32(b[36:], uint32(span))
	le.PutUint32(b[44:], 2)
	le.PutUint16(b[48:], 1)
	le.PutUint16(b[50:], 6)
	b[64], b[66] = 0x80, 0x29
	copy(b[71:], "NO NAME    ")
	copy(b[82:], "FAT32   ")
	b[510], b[511] = 0x55, 0xAA
	info := make([]byte, sector)
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint64(info[488:], 1<<64-1)
	info[510], info[511] = 0x55, 0xAA
	table := make([]byte, span*sector)
	le.PutUint32(table, 0x0FFFFFF8)
	le.PutUint32(table[4:], linkMsk)
	le.PutUint32(table[8:], linkMsk)
	at := func(sectors int64, b []byte) func() error {
		return func() error { _, err := dev.WriteAt(b, sectors*sector); return err }
	}
	for _, write := range []func() error{at(reserved, table), at(reserved+span, table), at(reserved+2*span, make([]byte, sector)),
		at(1, info), at(7, info), at(6, b), dev.Sync, at(0, b), dev.Sync} {
		if err := write(); err != nil {
			return fmt.Errorf("format: %w", err)
		}
	}
	return nil
}
