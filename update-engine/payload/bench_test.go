package payload

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// BenchmarkApply writes a 64 MiB image into a file, by way of the page cache, and reads it back; the figures to hold it against are `zstd -d` and `dd` of the same file.
func BenchmarkApply(b *testing.B) {
	r := rand.New(rand.NewPCG(8, 8))
	base := text(r, 64*FrameSize)
	image := bytes.Clone(base)
	for range 200 {
		image[r.IntN(len(image))] ^= 1
	}
	for name, against := range map[string][]byte{"full": nil, "delta": base} {
		b.Run(name, func(b *testing.B) { apply(b, image, against) })
	}
}

func apply(b *testing.B, image, base []byte) {
	dir := b.TempDir()
	var out bytes.Buffer
	var built Built
	var err error
	if base == nil {
		built, err = Build(b.Context(), &out, bytes.NewReader(image), int64(len(image)), nil, 0)
	} else {
		built, err = Build(b.Context(), &out, bytes.NewReader(image), int64(len(image)), bytes.NewReader(base), int64(len(base)))
	}
	if err != nil {
		b.Fatal(err)
	}
	x, err := ReadIndex(b.Context(), bytesSource(out.Bytes()), Image{Size: int64(len(image))}, built.File)
	if err != nil {
		b.Fatal(err)
	}
	to, err := os.Create(filepath.Join(dir, "slot"))
	if err != nil {
		b.Fatal(err)
	}
	defer to.Close()
	if err := to.Truncate(int64(len(image))); err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	var before, m runtime.MemStats
	runtime.ReadMemStats(&before)
	most := uint64(0)
	b.SetBytes(int64(len(image)))
	for b.Loop() {
		j := Job{Index: x, From: bytesSource(out.Bytes()), To: to, Journal: &memJournal{}, Base: bytes.NewReader(base), Every: 8}
		j.Tell = func(Progress) { runtime.ReadMemStats(&m); most = max(most, m.HeapInuse-before.HeapInuse) }
		if err := j.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	own := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(float64(copied(b, to, image))/float64(own), "of-dd")
	b.ReportMetric(float64(unpacked(b, image))/float64(own), "of-zstd-d")
	b.ReportMetric(float64(most)/(1<<20), "MiB-heap")
	b.ReportMetric(100*float64(built.File.Size)/float64(len(image)), "%-of-image")
}

// copied is how long the image takes to the same file by itself, as dd conv=fdatasync writes it.
func copied(b *testing.B, to *os.File, image []byte) time.Duration {
	begin := time.Now()
	for at := 0; at < len(image); at += FrameSize {
		if _, err := to.WriteAt(image[at:min(at+FrameSize, len(image))], int64(at)); err != nil {
			b.Fatal(err)
		}
	}
	if err := to.Sync(); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

// unpacked is how long the whole image takes to be decompressed into memory, by two workers as apply has them.
func unpacked(b *testing.B, image []byte) time.Duration {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		b.Fatal(err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2))
	if err != nil {
		b.Fatal(err)
	}
	defer dec.Close()
	wire := enc.EncodeAll(image, nil)
	begin := time.Now()
	if _, err := dec.DecodeAll(wire, make([]byte, 0, len(image))); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}
