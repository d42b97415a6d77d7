package payload

import (
	"errors"
	"io"

	"github.com/cespare/xxhash/v2"
)

// Content-defined pieces of 16 KiB on average: small enough that a frame has dozens of votes, large enough that the table of a
// 4 GiB base stays at some ten MiB on the machine that publishes.
const (
	minPiece  = 4 << 10
	maxPiece  = 64 << 10
	pieceMask = 1<<14 - 1
)

// gear is the table of the rolling hash. It is made anew for each build from a fixed seed, so that a build is reproducible.
type gear [256]uint64

func newGear() *gear {
	var g gear
	x := uint64(0x9E3779B97F4A7C15)
	for i := range g { // splitmix64
		x += 0x9E3779B97F4A7C15
		z := x
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		g[i] = z ^ z>>31
	}
	return &g
}

// cut returns the length of the first piece of b.
func (g *gear) cut(b []byte) int {
	if len(b) <= minPiece {
		return len(b)
	}
	var h uint64
	n := min(len(b), maxPiece)
	for i := minPiece - 64; i < n; i++ {
		h = h<<1 + g[b[i]]
		// The high bits have seen the last 64 bytes; the low ones only the last few.
		if h>>40&pieceMask == 0 && i >= minPiece {
			return i + 1
		}
	}
	return n
}

// places says where in the base a piece is. More than a few places of one piece (runs of zeros) tell nothing.
type places map[uint64][]int64

const maxPlaces = 4

// survey cuts the whole base into pieces.
func survey(g *gear, base io.ReaderAt, size int64) (places, error) {
	p := places{}
	buf := make([]byte, 4<<20)
	for off := int64(0); off < size; {
		n, err := base.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if err != nil && (!errors.Is(err, io.EOF) || n == 0) {
			return nil, err
		}
		b := buf[:n]
		last := off+int64(n) >= size
		// The last piece of a buffer ends where the buffer does, not where the content says: it is cut again in the next.
		for len(b) >= maxPiece || last && len(b) > 0 {
			n := g.cut(b)
			h := xxhash.Sum64(b[:n])
			if at := p[h]; len(at) < maxPlaces {
				p[h] = append(at, off)
			}
			b, off = b[n:], off+int64(n)
		}
	}
	return p, nil
}

// vote asks the pieces of a frame how far the content has moved between base and image: the shift (base offset − image offset)
// that the most bytes agree on. A piece with several places votes for each; equal votes go to the smaller move.
func (p places) vote(g *gear, frame []byte, off int64) (shift int64, ok bool) {
	votes := map[int64]int{}
	for at := 0; at < len(frame); {
		n := g.cut(frame[at:])
		for _, place := range p[xxhash.Sum64(frame[at:at+n])] {
			votes[place-off-int64(at)] += n
		}
		at += n
	}
	most := 0
	for s, n := range votes {
		if n > most || n == most && (abs(s) < abs(shift) || abs(s) == abs(shift) && s < shift) {
			shift, most = s, n
		}
	}
	return shift, most > 0
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}
