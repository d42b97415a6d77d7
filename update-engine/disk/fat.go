package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// ErrNoFAT: the partition holds no FAT32 file system that this code understands.
var ErrNoFAT = errors.New("no FAT32 file system")

// FAT is a FAT32 file system on a device. Paths are relative, with "/"; case does not matter, as FAT has it. It is for one
// goroutine. The whole allocation table is in memory: 4 bytes for each cluster.
type FAT struct {
	dev      Device
	cluster  int64 // bytes in one
	reserved int64 // byte offset of the first allocation table
	tables   int64
	span     int64 // bytes of one table
	data     int64 // byte offset of cluster 2
	root     uint32
	info     int64 // byte offset of the FSInfo sector, 0 without
	next     []uint32
	told     bool // FSInfo's count is marked unknown already
}

const (
	sector  = 512
	endMark = 0x0FFFFFF8
	linkMsk = 0x0FFFFFFF
	dirent  = 32

	attrDir  = 0x10
	attrVol  = 0x08
	attrLong = 0x0F
	gone     = 0xE5
)

// OpenFAT reads the file system's parameters and its table, and gives back clusters that no file holds: what a power cut in the
// middle of a change left behind.
func OpenFAT(dev Device) (*FAT, error) {
	b := make([]byte, sector)
	if _, err := dev.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read boot sector: %w", err)
	}
	le := binary.LittleEndian
	f := &FAT{dev: dev, cluster: int64(b[13]) * sector, reserved: int64(le.Uint16(b[14:])) * sector, tables: int64(b[16]),
		span: int64(le.Uint32(b[36:])) * sector, root: le.Uint32(b[44:]), info: int64(le.Uint16(b[48:])) * sector}
	total := int64(le.Uint32(b[32:])) * sector
	f.data = f.reserved + f.tables*f.span
	if b[510] != 0x55 || b[511] != 0xAA || le.Uint16(b[11:]) != sector || le.Uint16(b[17:]) != 0 || le.Uint16(b[22:]) != 0 ||
		f.cluster == 0 || f.reserved == 0 || f.tables < 1 || f.tables > 2 || f.span == 0 || total <= f.data {
		return nil, fmt.Errorf("%w: the boot sector says something else", ErrNoFAT)
	}
	n := (total-f.data)/f.cluster + 2
	if n*4 > f.span || n > endMark || f.root < 2 || int64(f.root) >= n {
		return nil, fmt.Errorf("%w: %d clusters in a table of %d bytes", ErrNoFAT, n, f.span)
	}
	if err := f.load(n); err != nil {
		return nil, err
	}
	return f, f.collect()
}

// load reads the allocation table of n clusters, piece by piece: a boot sector that claims more than the device has must not cost their memory.
func (f *FAT) load(n int64) error {
	var next []uint32
	raw := make([]byte, 64<<10)
	for at := int64(0); at < n*4; at += int64(len(raw)) {
		raw = raw[:min(int64(len(raw)), n*4-at)]
		if _, err := f.dev.ReadAt(raw, f.reserved+at); err != nil {
			return fmt.Errorf("read allocation table: %w", err)
		}
		for b := raw; len(b) > 0; b = b[4:] {
			next = append(next, binary.LittleEndian.Uint32(b)&linkMsk)
		}
	}
	f.next = next
	return nil
}

// chain lists the clusters of a file. A chain that leaves the disk or runs in a circle is an error.
func (f *FAT) chain(first uint32) ([]uint32, error) {
	var c []uint32
	for at := first; at < endMark; at = f.next[at] {
		if at < 2 || int(at) >= len(f.next) || len(c) > len(f.next) {
			return nil, fmt.Errorf("damaged FAT: chain from cluster %d leads to %d: run fsck.vfat", first, at)
		}
		c = append(c, at)
	}
	return c, nil
}

func (f *FAT) offset(cluster uint32) int64 { return f.data + int64(cluster-2)*f.cluster }

// collect frees what no directory reaches.
func (f *FAT) collect() error {
	used := make([]bool, len(f.next))
	if err := f.reach(f.root, used, 0); err != nil {
		return err
	}
	var lost []uint32
	for i := 2; i < len(f.next); i++ {
		const bad = 0x0FFFFFF7
		if f.next[i] != 0 && f.next[i] != bad && !used[i] {
			lost = append(lost, uint32(i))
		}
	}
	return f.link(lost, func(int) uint32 { return 0 })
}

func (f *FAT) reach(first uint32, used []bool, depth int) error {
	if depth > 32 {
		return errors.New("damaged FAT: directories more than 32 deep: run fsck.vfat")
	}
	c, err := f.chain(first)
	if err != nil {
		return err
	}
	for _, i := range c {
		if used[i] {
			return fmt.Errorf("damaged FAT: cluster %d belongs to two files: run fsck.vfat", i)
		}
		used[i] = true
	}
	list, err := f.list(first)
	if err != nil {
		return err
	}
	for _, e := range list {
		switch {
		case e.first == 0 || e.name == "." || e.name == "..":
		case e.dir:
			err = f.reach(e.first, used, depth+1)
		default:
			var own []uint32
			own, err = f.chain(e.first)
			for _, i := range own {
				if used[i] {
					err = fmt.Errorf("damaged FAT: cluster %d belongs to two files: run fsck.vfat", i)
				}
				used[i] = true
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// link sets table entries and writes the sectors they are in to every copy of the table.
func (f *FAT) link(clusters []uint32, to func(i int) uint32) error {
	if len(clusters) == 0 {
		return nil
	}
	if err := f.forgetCount(); err != nil {
		return err
	}
	sectors := map[int64]bool{}
	var order []int64
	for i, c := range clusters {
		f.next[c] = to(i)
		if s := int64(c) * 4 / sector; !sectors[s] {
			sectors[s], order = true, append(order, s)
		}
	}
	for _, s := range order {
		b := make([]byte, sector)
		if _, err := f.dev.ReadAt(b, f.reserved+s*sector); err != nil {
			return fmt.Errorf("read allocation table: %w", err)
		}
		for k := range int64(sector / 4) {
			if i := s*sector/4 + k; i < int64(len(f.next)) {
				keep := binary.LittleEndian.Uint32(b[4*k:]) &^ linkMsk // the upper four bits are not ours
				binary.LittleEndian.PutUint32(b[4*k:], keep|f.next[i])
			}
		}
		for t := range f.tables {
			if _, err := f.dev.WriteAt(b, f.reserved+t*f.span+s*sector); err != nil {
				return fmt.Errorf("write allocation table: %w", err)
			}
		}
	}
	return f.dev.Sync()
}

// forgetCount marks FSInfo's free count as unknown: it is a hint, and a wrong one is worse than none.
func (f *FAT) forgetCount() error {
	if f.told || f.info == 0 {
		return nil
	}
	b := make([]byte, sector)
	if _, err := f.dev.ReadAt(b, f.info); err != nil {
		return fmt.Errorf("read FSInfo: %w", err)
	}
	f.told = true
	if string(b[:4]) != "RRaA" || binary.LittleEndian.Uint64(b[488:]) == 1<<64-1 {
		return nil
	}
	binary.LittleEndian.PutUint64(b[488:], 1<<64-1)
	if _, err := f.dev.WriteAt(b, f.info); err != nil {
		return fmt.Errorf("write FSInfo: %w", err)
	}
	return nil
}

// Free is how many bytes are left. It reads the table anew: a person, or another system, may have mounted this file system and changed it since, and
// what was written there must neither be counted as free nor be overwritten.
func (f *FAT) Free() (int64, error) {
	if err := f.load(int64(len(f.next))); err != nil {
		return 0, err
	}
	n := int64(0)
	for _, c := range f.next[2:] {
		if c == 0 {
			n += f.cluster
		}
	}
	return n, nil
}

// take finds n free clusters and chains them, on disk, when it returns.
func (f *FAT) take(n int64) ([]uint32, error) {
	var c []uint32
	for i := 2; i < len(f.next) && int64(len(c)) < n; i++ {
		if f.next[i] == 0 {
			c = append(c, uint32(i))
		}
	}
	if int64(len(c)) < n {
		return nil, fmt.Errorf("no space: %d clusters of %d bytes are left, %d are needed", len(c), f.cluster, n)
	}
	return c, f.link(c, func(i int) uint32 {
		if i+1 < len(c) {
			return c[i+1]
		}
		return linkMsk
	})
}

// find walks a path. The last part may be missing: then the error is fs.ErrNotExist and dir is where it would be.
func (f *FAT) find(p string) (dir uint32, e entry, err error) {
	dir = f.root
	e = entry{dir: true, first: f.root}
	parts := strings.Split(path.Clean(p), "/")
	if parts[0] == "." {
		return dir, e, nil
	}
	for i, part := range parts {
		if !e.dir {
			return 0, entry{}, fmt.Errorf("%s: %w", p, fs.ErrNotExist)
		}
		dir = e.first
		list, err := f.list(dir)
		if err != nil {
			return 0, entry{}, err
		}
		found := false
		for _, c := range list {
			if strings.EqualFold(c.name, part) || strings.EqualFold(c.short, part) {
				e, found = c, true
			}
		}
		if !found {
			if i < len(parts)-1 {
				dir = 0
			}
			return dir, entry{}, fmt.Errorf("%s: %w", p, fs.ErrNotExist)
		}
	}
	return dir, e, nil
}

// List gives the names in a directory, without . and .., in the order on disk.
func (f *FAT) List(dir string) ([]string, error) {
	_, e, err := f.find(dir)
	if err != nil {
		return nil, err
	}
	if !e.dir {
		return nil, fmt.Errorf("%s is no directory", dir)
	}
	list, err := f.list(e.first)
	var names []string
	for _, c := range list {
		if c.name != "." && c.name != ".." {
			names = append(names, c.name)
		}
	}
	return names, err
}

// FATFile is an open file of fixed size.
type FATFile struct {
	fs       *FAT
	clusters []uint32
	size     int64
}

// Open opens a file for reading and for writing within its size.
func (f *FAT) Open(p string) (*FATFile, error) {
	_, e, err := f.find(p)
	if err != nil {
		return nil, err
	}
	if e.dir {
		return nil, fmt.Errorf("%s is a directory", p)
	}
	file := &FATFile{fs: f, size: e.size}
	if e.size > 0 {
		if file.clusters, err = f.chain(e.first); err != nil {
			return nil, err
		}
		if int64(len(file.clusters))*f.cluster < e.size {
			return nil, fmt.Errorf("damaged FAT: %s has %d bytes and %d clusters: run fsck.vfat", p, e.size, len(file.clusters))
		}
	}
	return file, nil
}

// Size is the file's size in bytes.
func (x *FATFile) Size() int64 { return x.size }

// Sync makes what was written last.
func (x *FATFile) Sync() error { return x.fs.dev.Sync() }

// Close has nothing to do: what is not synced may be lost.
func (x *FATFile) Close() error { return nil }

// each calls do for the pieces of [off, off+n), each within a run of clusters that lie side by side.
func (x *FATFile) each(n int, off int64, do func(at int64, lo, hi int) error) error {
	for done := 0; done < n; {
		i := (off + int64(done)) / x.fs.cluster
		in := (off + int64(done)) % x.fs.cluster
		run := x.fs.cluster - in
		for k := i; k+1 < int64(len(x.clusters)) && x.clusters[k+1] == x.clusters[k]+1 && run < int64(n-done); k++ {
			run += x.fs.cluster
		}
		hi := done + int(min(run, int64(n-done)))
		if err := do(x.fs.offset(x.clusters[i])+in, done, hi); err != nil {
			return err
		}
		done = hi
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (x *FATFile) ReadAt(b []byte, off int64) (int, error) {
	if off >= x.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), x.size-off))
	err := x.each(n, off, func(at int64, lo, hi int) error {
		_, err := x.fs.dev.ReadAt(b[lo:hi], at)
		return err
	})
	if err == nil && n < len(b) {
		err = io.EOF
	}
	return n, err
}

// WriteAt implements io.WriterAt; the file does not grow.
func (x *FATFile) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > x.size {
		return 0, io.ErrShortWrite
	}
	return len(b), x.each(len(b), off, func(at int64, lo, hi int) error {
		_, err := x.fs.dev.WriteAt(b[lo:hi], at)
		return err
	})
}
