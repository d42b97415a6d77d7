// Package disktest holds a disk in memory whose power can be cut at any write, for tests of what must survive that.
package disktest

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
)

// ErrPower is what every call returns once the power is cut.
var ErrPower = errors.New("power cut")

const sector = 512

// Disk keeps sectors that were written and remembers which of them a Sync has made last. Writes that nothing has synced are
// lost, kept, or partly kept at a power cut, sector by sector, as the seed has it. It costs memory only for what was written, and
// Boot and Clone are cheap, so that a test can cut at every single write.
type Disk struct {
	size    int64
	solid   map[int64][sector]byte
	pending map[int64][sector]byte
	writes  int
	cut     int
}

// New returns a disk of zeros. Its power is not cut.
func New(size int64) *Disk {
	return &Disk{size: size, solid: map[int64][sector]byte{}, pending: map[int64][sector]byte{}, cut: -1}
}

// Size is how many bytes it has.
func (d *Disk) Size() int64 { return d.size }

// Cut cuts the power after n more writes and syncs.
func (d *Disk) Cut(n int) { d.writes, d.cut = 0, n }

// Writes is how many writes and syncs there were since the last Cut.
func (d *Disk) Writes() int { return d.writes }

// Dead says that the power is cut.
func (d *Disk) Dead() bool { return d.cut >= 0 && d.writes > d.cut }

// Clone is a copy that goes its own way.
func (d *Disk) Clone() *Disk {
	c := *d
	c.solid, c.pending = maps.Clone(d.solid), maps.Clone(d.pending)
	return &c
}

// Boot is the disk as the next start finds it: each sector that was not synced is there or not.
func (d *Disk) Boot(seed uint64) *Disk {
	c := d.Clone()
	r := rand.New(rand.NewPCG(seed, 0))
	for _, i := range slices.Sorted(maps.Keys(c.pending)) {
		if r.IntN(2) == 0 {
			c.solid[i] = c.pending[i]
		}
	}
	c.pending, c.cut, c.writes = map[int64][sector]byte{}, -1, 0
	return c
}

func (d *Disk) step() error {
	d.writes++
	if d.Dead() {
		return ErrPower
	}
	return nil
}

func (d *Disk) sector(i int64) [sector]byte {
	if s, ok := d.pending[i]; ok {
		return s
	}
	return d.solid[i]
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) {
	if d.Dead() {
		return 0, ErrPower
	}
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	n := 0
	for n < len(b) && off < d.size {
		s := d.sector(off / sector)
		k := copy(b[n:], s[off%sector:])
		n, off = n+k, off+int64(k)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt. The write at which the power goes may still have reached any of its sectors.
func (d *Disk) WriteAt(b []byte, off int64) (int, error) {
	if d.Dead() {
		return 0, ErrPower
	}
	if off < 0 || off+int64(len(b)) > d.size {
		return 0, errors.New("no space left on device")
	}
	for n := 0; n < len(b); {
		i := (off + int64(n)) / sector
		s := d.sector(i)
		n += copy(s[(off+int64(n))%sector:], b[n:])
		d.pending[i] = s
	}
	if err := d.step(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Sync makes what was written last.
func (d *Disk) Sync() error {
	if d.Dead() {
		return ErrPower
	}
	if err := d.step(); err != nil {
		return err
	}
	maps.Copy(d.solid, d.pending)
	clear(d.pending)
	return nil
}
