package slot

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestPastTheCacheAndThroughIt writes and reads a slot in pieces of every alignment, and looks at it as any other program does.
func TestPastTheCacheAndThroughIt(t *testing.T) {
	const size = 20*page + 700 // ends within a page
	p := filepath.Join(t.TempDir(), "usr.img")
	want := make([]byte, size)
	if err := os.WriteFile(p, want, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := openImage(p, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	place := func() (off, n int) {
		off, n = r.IntN(size), 1+r.IntN(5*page)
		if r.IntN(2) == 0 {
			off, n = off/page*page, (n+page-1)/page*page
		}
		return off, min(n, size-off)
	}
	for range 400 {
		off, n := place()
		b := make([]byte, n+1)[r.IntN(2):][:n] // also where in memory no page begins
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if k, err := f.WriteAt(b, int64(off)); k != n || err != nil {
			t.Fatalf("wrote %d of %d at %d: %v", k, n, off, err)
		}
		copy(want[off:], b)
		off, n = place()
		b = make([]byte, n)
		if k, err := f.ReadAt(b, int64(off)); k != n || err != nil || !bytes.Equal(b, want[off:off+n]) {
			t.Fatalf("%d bytes of %d at %d: %v, or other ones", k, n, off, err)
		}
	}
	// Over the end, as aligned as can be.
	b := make([]byte, 4*page)
	if k, err := f.ReadAt(b, 18*page); k != size-18*page || !errors.Is(err, io.EOF) || !bytes.Equal(b[:k], want[18*page:]) {
		t.Errorf("over the end: %d bytes, %v", k, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file holds something else (%v)", err)
	}
	if _, err := openImage(p+"2", os.O_RDWR); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such slot: %v", err)
	}
}
