package payload

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Built is what Build made: what goes into the manifest, and figures for a person.
type Built struct {
	File   File // without Name
	SHA256 Hash // of the image
	Kinds  map[Kind]int
	Wire   map[Kind]int64 // bytes on the wire
}

// margin is how much of the base is offered to a frame on both sides of where its content lies: content moves a little inside a
// file system. More costs time and, measured, makes the result larger (the reference's §8.4: ±4 MiB 8 % larger than ±1 MiB).
const margin = FrameSize

// Build writes the payload that makes image (size bytes) to w: against base (baseSize bytes, hashing to baseSum), or full
// when base is nil. The same input gives the same bytes.
func Build(ctx context.Context, w io.Writer, image io.ReaderAt, size int64, base io.ReaderAt, baseSize int64) (Built, error) {
	if size <= 0 || size > maxImage || baseSize < 0 || baseSize > maxImage {
		return Built{}, fmt.Errorf("build a payload of %d bytes against %d: sizes must be between 1 and %d", size, baseSize, int64(maxImage))
	}
	b := builder{image: image, base: base, baseSize: baseSize, gear: newGear()}
	out := Built{Kinds: map[Kind]int{}, Wire: map[Kind]int64{}}
	if base != nil {
		sum, err := SumOf(base, baseSize)
		if err != nil {
			return out, fmt.Errorf("read base: %w", err)
		}
		out.File.Base = sum
		if b.places, err = survey(b.gear, base, baseSize); err != nil {
			return out, fmt.Errorf("read base: %w", err)
		}
	}
	x := Index{Size: size, Base: b.baseSize}
	whole := sha256.New()
	var wire int64
	batch := make([]encoded, max(1, runtime.GOMAXPROCS(0)))
	for off := int64(0); off < size; {
		n, err := b.batch(ctx, batch, off, size)
		if err != nil {
			return out, fmt.Errorf("build frame %d: %w", len(x.Frames), err)
		}
		for _, e := range batch[:n] {
			whole.Write(e.image)
			e.frame.WireOff = wire
			if _, err := w.Write(e.wire); err != nil {
				return out, fmt.Errorf("write payload: %w", err)
			}
			out.Kinds[e.frame.Kind]++
			out.Wire[e.frame.Kind] += int64(len(e.wire))
			wire += int64(len(e.wire))
			off += int64(e.frame.Len)
			x.Frames = append(x.Frames, e.frame)
		}
	}
	whole.Sum(out.SHA256[:0])
	tail := x.tail()
	if _, err := w.Write(tail); err != nil {
		return out, fmt.Errorf("write payload: %w", err)
	}
	out.File.Index = Span{Off: wire + skipHead, Len: int64(len(tail)) - skipHead, Sum: Sum(tail[skipHead:])}
	out.File.Size = out.File.Index.Off + out.File.Index.Len
	return out, nil
}

// SumOf hashes size bytes of r.
func SumOf(r io.ReaderAt, size int64) (Hash, error) {
	h := sha256.New()
	if n, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
		return Hash{}, err
	} else if n != size {
		return Hash{}, fmt.Errorf("%d bytes of %d: %w", n, size, io.ErrUnexpectedEOF)
	}
	return Hash(h.Sum(nil)), nil
}

type builder struct {
	image, base io.ReaderAt
	baseSize    int64
	gear        *gear
	places      places
}

type encoded struct {
	frame Frame
	image []byte
	wire  []byte
}

// batch encodes as many frames at once as there are processors.
func (b builder) batch(ctx context.Context, to []encoded, off, size int64) (int, error) {
	g, ctx := errgroup.WithContext(ctx)
	n := 0
	for ; n < len(to) && off < size; n++ {
		e := &to[n]
		e.frame = Frame{Off: off, Len: int(min(FrameSize, size-off))}
		off += int64(e.frame.Len)
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			e.image = make([]byte, e.frame.Len)
			if err := readFull(b.image, e.image, e.frame.Off); err != nil {
				return fmt.Errorf("read image: %w", err)
			}
			return b.encode(e)
		})
	}
	return n, g.Wait()
}

// encode tries what may be small and keeps the smallest. The window at the same offset is tried beside the voted one: for a
// small change in place it is the better by a seventh, for moved content the voted one is by far.
func (b builder) encode(e *encoded) error {
	e.frame.Out = Sum(e.image)
	wire, err := compress(e.image, nil)
	if err != nil {
		return err
	}
	e.frame.Kind, e.wire = Full, wire
	if b.base != nil {
		windows := []int64{e.frame.Off}
		if shift, ok := b.places.vote(b.gear, e.image, e.frame.Off); ok && shift != 0 {
			windows = append(windows, e.frame.Off+shift)
		}
		for _, at := range windows {
			same, err := b.against(e, at)
			if err != nil || same {
				return err
			}
		}
	}
	e.frame.WireLen, e.frame.Wire = len(e.wire), Sum(e.wire)
	return nil
}

// against tries the base at an offset and keeps the result if it is smaller; same says that it is the very frame.
func (b builder) against(e *encoded, at int64) (same bool, err error) {
	lo, hi := max(0, at-margin), min(b.baseSize, at+int64(e.frame.Len)+margin)
	if lo >= hi {
		return false, nil
	}
	dict := make([]byte, hi-lo)
	if err := readFull(b.base, dict, lo); err != nil {
		return false, fmt.Errorf("read base: %w", err)
	}
	if at >= lo && at+int64(e.frame.Len) <= hi && Sum(dict[at-lo:at-lo+int64(e.frame.Len)]) == e.frame.Out {
		e.wire = nil
		e.frame.Kind, e.frame.DictOff, e.frame.DictLen = Same, at, e.frame.Len
		e.frame.WireLen, e.frame.Wire = 0, Sum(nil)
		return true, nil
	}
	wire, err := compress(e.image, dict)
	if err == nil && len(wire) < len(e.wire) {
		e.wire = wire
		e.frame.Kind, e.frame.DictOff, e.frame.DictLen = Delta, lo, len(dict)
	}
	return false, err
}

// compress makes one zstd frame. Its window must reach over the whole dictionary: with a window of the frame's own size zstd
// may not look further back than that, and the dictionary is as good as absent (tried: 1,048,609 bytes instead of 548).
func compress(b, dict []byte) ([]byte, error) {
	opts := []zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithWindowSize(2 * maxDict), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true)}
	if dict != nil {
		opts = append(opts, zstd.WithEncoderDictRaw(0, dict))
	}
	enc, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		return nil, err
	}
	defer enc.Close()
	return enc.EncodeAll(b, nil), nil
}

// readFull is ReadAt of exactly len(b) bytes.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
