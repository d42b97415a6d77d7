package payload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// FrameSize is how many bytes of the image a frame makes; the last one may be shorter.
const FrameSize = 1 << 20

const (
	// maxWire is the most bytes a frame may have on the wire: zstd grows what it cannot compress by less than this.
	maxWire = FrameSize + 4096
	// maxDict is the most of the base that one delta may look at; it bounds the memory of who applies it.
	maxDict = 4 * FrameSize

	indexHead  = 16
	recordSize = 88
	// skippable is the magic number of a zstd frame that decoders pass over (the first of sixteen).
	skippable = 0x184D2A50
)

// ErrContent: bytes that came from a source do not hash to what the signed manifest says. Another source may have them right.
var ErrContent = errors.New("content differs from what was signed")

// Kind says how a frame's bytes are made.
type Kind byte

const (
	Same  Kind = 1 // a piece of the base, nothing on the wire
	Full  Kind = 2 // a zstd frame
	Delta Kind = 3 // a zstd frame with a piece of the base as raw dictionary
)

func (k Kind) String() string {
	switch k {
	case Same:
		return "same"
	case Full:
		return "full"
	case Delta:
		return "delta"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Frame is one MiB of an image. The offsets on the wire and in the image follow from the frames before it.
type Frame struct {
	Kind    Kind
	Off     int64 // in the image
	Len     int   // in the image
	WireOff int64
	WireLen int
	DictOff int64 // in the base
	DictLen int
	Wire    Hash // of the wire bytes: checked before anything decodes them
	Out     Hash // of the image's bytes: checked before anything is written
}

// Index is what a payload file's tail says.
type Index struct {
	Frames []Frame
	Size   int64 // of the image
	Base   int64 // size of the base, 0 without one
	Sum    Hash  // of the index as it is in the file: names this very payload
}

// encode gives the index's bytes. All numbers are little-endian, as in zstd.
func (x Index) encode() []byte {
	var b bytes.Buffer
	le := binary.LittleEndian
	put := func(v any) { _ = binary.Write(&b, le, v) } // a bytes.Buffer takes everything
	put(x.Size)
	put(x.Base)
	for _, f := range x.Frames {
		put(uint32(f.Kind))
		put(uint32(f.WireLen))
		put(f.DictOff)
		put(uint32(f.DictLen))
		put(uint32(f.Len))
		b.Write(f.Wire[:])
		b.Write(f.Out[:])
	}
	return b.Bytes()
}

// tail is the end of the file: the index in a skippable frame.
func (x Index) tail() []byte {
	b := x.encode()
	head := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, skippable), uint32(len(b)))
	return append(head, b...)
}

// ParseIndex reads the index of a payload of an image, checking that no number in it leads outside the image, the file or
// the base. It must have been checked against its hash already; this keeps a mistake of the publisher from becoming a panic.
func ParseIndex(b []byte, im Image, f File) (Index, error) {
	x := Index{Sum: Sum(b)}
	if x.Sum != f.Index.Sum {
		return Index{}, fmt.Errorf("index of %s: %w", f.Name, ErrContent)
	}
	bad := func(format string, a ...any) (Index, error) {
		return Index{}, fmt.Errorf("%w: index of %s: %w", ErrManifest, f.Name, fmt.Errorf(format, a...))
	}
	if len(b) < indexHead || (len(b)-indexHead)%recordSize != 0 {
		return bad("%d bytes", len(b))
	}
	le := binary.LittleEndian
	x.Size, x.Base = int64(le.Uint64(b)), int64(le.Uint64(b[8:]))
	if x.Size != im.Size || x.Base < 0 || x.Base > maxImage {
		return bad("for an image of %d bytes and a base of %d, not %d", x.Size, x.Base, im.Size)
	}
	var off, wire int64
	for b := b[indexHead:]; len(b) > 0; b = b[recordSize:] {
		fr := Frame{Kind: Kind(le.Uint32(b)), Off: off, Len: int(le.Uint32(b[20:])), WireOff: wire, WireLen: int(le.Uint32(b[4:])),
			DictOff: int64(le.Uint64(b[8:])), DictLen: int(le.Uint32(b[16:]))}
		copy(fr.Wire[:], b[24:56])
		copy(fr.Out[:], b[56:88])
		if err := fr.check(x); err != nil {
			return bad("frame %d: %w", len(x.Frames), err)
		}
		off, wire = off+int64(fr.Len), wire+int64(fr.WireLen)
		x.Frames = append(x.Frames, fr)
	}
	if off != x.Size || wire+skipHead != f.Index.Off {
		return bad("frames make %d of %d bytes from %d of %d", off, x.Size, wire, f.Index.Off)
	}
	return x, nil
}

// skipHead is the header of the skippable frame between the last frame and the index.
const skipHead = 8

func (f Frame) check(x Index) error {
	if want := min(FrameSize, x.Size-f.Off); int64(f.Len) != want || want <= 0 {
		return fmt.Errorf("%d bytes at %d of %d", f.Len, f.Off, x.Size)
	}
	if f.DictOff < 0 || f.DictOff > x.Base || int64(f.DictLen) > x.Base-f.DictOff || f.DictLen > maxDict {
		return fmt.Errorf("window %d+%d in a base of %d", f.DictOff, f.DictLen, x.Base)
	}
	ok := false
	switch f.Kind {
	case Same:
		ok = f.WireLen == 0 && f.DictLen == f.Len
	case Full:
		ok = f.WireLen > 0 && f.DictLen == 0
	case Delta:
		ok = f.WireLen > 0 && f.DictLen > 0
	}
	if !ok || f.WireLen > maxWire {
		return fmt.Errorf("%s with %d wire bytes and a window of %d", f.Kind, f.WireLen, f.DictLen)
	}
	return nil
}
