package payload

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

var errPower = errors.New("power cut")

// disk is a slot and a journal that lose power at a given write: what was not synced is then there, or not, or half, as it
// comes. Every write, sync and save counts one.
type disk struct {
	mu      sync.Mutex // frames are written while those before them are synced
	r       *rand.Rand
	left    int // writes until the power cut; below zero never
	solid   []byte
	pending []piece
	mark    Mark
}

type piece struct {
	off int64
	b   []byte
}

func (d *disk) step() error {
	if d.left == 0 {
		return errPower
	}
	d.left--
	return nil
}

func (d *disk) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := bytes.NewReader(d.solid).ReadAt(b, off)
	for _, p := range d.pending {
		// What of it lies in [off, off+n).
		from, to := max(p.off, off), min(p.off+int64(len(p.b)), off+int64(n))
		if from < to {
			copy(b[from-off:to-off], p.b[from-p.off:])
		}
	}
	return n, err
}

func (d *disk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = append(d.pending, piece{off, bytes.Clone(b)})
	if err := d.step(); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	for _, p := range d.pending {
		copy(d.solid[p.off:], p.b)
	}
	d.pending = nil
	return nil
}

// boot is the disk as it is found after the power cut.
func (d *disk) boot() {
	for _, i := range d.r.Perm(len(d.pending)) {
		p := d.pending[i]
		copy(d.solid[p.off:], p.b[:d.r.IntN(len(p.b)+1)/512*512])
	}
	d.pending, d.left = nil, -1
}

func (d *disk) Load() (Mark, error) { return d.mark, nil }

// Save is atomic: before or after the power cut, never between.
func (d *disk) Save(m Mark) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		if d.r.IntN(2) == 0 {
			d.mark = Mark{m.Payload, bytes.Clone(m.Done)}
		}
		return err
	}
	d.mark = Mark{m.Payload, bytes.Clone(m.Done)}
	return nil
}

// TestPowerCutAtEveryWrite cuts the power at each write of an update, and again at each of the run that goes on after it.
func TestPowerCutAtEveryWrite(t *testing.T) {
	rel := small(t)
	old := bytes.Repeat([]byte{0xEE}, len(rel.image)) // what was in the slot before
	run := func(d *disk) error {
		j := rel.job()
		j.To, j.Journal, j.Workers, j.Every = d, d, 1, 2
		return j.Run(t.Context())
	}
	for first := 0; ; first++ {
		d := &disk{r: rand.New(rand.NewPCG(uint64(first), 7)), left: first, solid: bytes.Clone(old)}
		err := run(d)
		if err == nil {
			if first < 8 {
				t.Fatalf("the whole update took %d writes: the test cut nothing", first)
			}
			return
		}
		if !errors.Is(err, errPower) {
			t.Fatalf("cut at %d: %v", first, err)
		}
		for second := range 4 {
			again := &disk{r: rand.New(rand.NewPCG(uint64(first), uint64(second))), solid: bytes.Clone(d.solid), pending: d.pending, mark: d.mark}
			again.boot()
			for i, f := range rel.index.Frames {
				if again.mark.Payload == rel.index.Sum && again.mark.has(i) && Sum(again.solid[f.Off:][:f.Len]) != f.Out {
					t.Fatalf("cut at %d: the journal has frame %d, the disk does not", first, i)
				}
			}
			again.left = 1 + second
			if err := run(again); err != nil {
				again.boot()
				err = run(again)
				if err != nil {
					t.Fatalf("cut at %d and %d, then run: %v", first, second, err)
				}
			}
			again.boot()
			if !bytes.Equal(again.solid, rel.image) {
				t.Fatalf("cut at %d and %d: another image came out", first, second)
			}
		}
	}
}
