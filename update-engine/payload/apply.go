package payload

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// ErrBase: the running slot's image does not give what the delta was made against. Take the full payload.
var ErrBase = errors.New("the running image is not the one the delta was made for")

// Target is the slot that is written.
type Target interface {
	io.ReaderAt
	io.WriterAt
	Sync() error // returns when what was written survives a power cut
}

// Source delivers pieces of one payload file. It calls take once for each span, in order, with its bytes, which take may keep.
// When take returns an error that wraps ErrContent the bytes were wrong: the source may try that span from elsewhere; any
// other error of take ends it and is returned.
type Source interface {
	Fetch(ctx context.Context, file string, spans []Span, take func(i int, wire []byte) error) error
}

// Journal remembers across a crash which frames are on disk. Save replaces what was saved before, whole or not at all. A
// journal that is lost or of another payload costs time, not correctness.
type Journal interface {
	Load() (Mark, error) // the zero Mark when there is none
	Save(Mark) error
}

// Mark is the journal's content: a bit for each frame of the payload whose index has this hash.
type Mark struct {
	Payload Hash   `json:"payload,omitzero"`
	Done    []byte `json:"done,omitempty"`
}

func (m Mark) has(i int) bool { return i/8 < len(m.Done) && m.Done[i/8]&(1<<(i%8)) != 0 }

func (m *Mark) set(i int, done bool) {
	if done {
		m.Done[i/8] |= 1 << (i % 8)
	} else {
		m.Done[i/8] &^= 1 << (i % 8)
	}
}

// Progress is how far a run is.
type Progress struct {
	Frames, Done int
}

// Job is one payload to be applied.
type Job struct {
	File    string // name for the Source
	Index   Index
	Base    io.ReaderAt // the running slot's image; nil is fine for a full payload
	From    Source
	To      Target
	Journal Journal
	// Tell is called after each group of frames that is safe on disk; nil tells nobody.
	Tell func(Progress)
	// Workers is how many frames are decoded and written at once; 0 is 2. Each needs up to 6 MiB.
	Workers int
	// Every is how many frames are written between two syncs; 0 is 64, which is 64 MiB. A crash repeats at most that much.
	Every int
}

// Run writes every frame that the journal does not know as done. When it returns nil all of them are on disk, each checked. It
// may be called again after any error or crash; ErrBase, ErrContent and what Source and Target return tell what to change.
func (j Job) Run(ctx context.Context) error { return j.run(ctx, nil) }

// RunAndVerify is Run and then Verify, and quicker: what is safe on disk is read back while the rest is being written.
func (j Job) RunAndVerify(ctx context.Context, want Hash) error {
	whole := sha256.New()
	if err := j.run(ctx, whole); err != nil {
		return err
	}
	if Hash(whole.Sum(nil)) == want {
		return nil
	}
	return j.Verify(ctx, want) // it went on with an earlier run's work, or something is wrong
}

// run is Run; each group is read back into whole once it is safe, unless whole is nil.
func (j Job) run(ctx context.Context, whole io.Writer) error {
	mark, err := j.Journal.Load()
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if n := (len(j.Index.Frames) + 7) / 8; mark.Payload != j.Index.Sum || len(mark.Done) != n {
		// Another payload's frames are on the slot now: forget them before the first of ours is written over them.
		mark = Mark{Payload: j.Index.Sum, Done: make([]byte, n)}
		if err := j.Journal.Save(mark); err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
	}
	var todo []int
	for i := range j.Index.Frames {
		if !mark.has(i) {
			todo = append(todo, i)
		}
	}
	p := Progress{Frames: len(j.Index.Frames), Done: len(j.Index.Frames) - len(todo)}
	benches := make(chan *bench, max(1, cmp.Or(j.Workers, 2)))
	for range cap(benches) {
		w, err := newBench()
		if err != nil {
			return fmt.Errorf("set up zstd: %w", err)
		}
		defer w.dec.Close()
		benches <- w
	}
	// While one group is made and written the one before it is synced: the disk is never without work.
	written := make(chan []int)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for part := range written {
			if err := j.settle(&mark, part); err != nil {
				return err
			}
			if p.Done += len(part); j.Tell != nil {
				j.Tell(p)
			}
			if whole == nil || len(todo) < p.Frames {
				continue
			}
			if err := j.readBack(ctx, part, func(_ int, b []byte) { _, _ = whole.Write(b) }); err != nil { // a hash takes everything
				return err
			}
		}
		return nil
	})
	err = j.produce(ctx, benches, todo, written)
	close(written)
	// A sync that failed ends the making with its context's error: the sync's own says why.
	if serr := g.Wait(); serr != nil {
		return serr
	}
	return err
}

// produce makes group after group, and hands each on when it is written.
func (j Job) produce(ctx context.Context, benches chan *bench, todo []int, written chan<- []int) error {
	for part := range slices.Chunk(todo, max(1, cmp.Or(j.Every, 64))) {
		if err := j.group(ctx, benches, part); err != nil {
			return err
		}
		select {
		case written <- part:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// settle puts a group that is written safely on disk, and only then into the journal.
func (j Job) settle(mark *Mark, part []int) error {
	if err := j.To.Sync(); err != nil {
		return fmt.Errorf("sync slot: %w", err)
	}
	mark.Done = slices.Clone(mark.Done)
	for _, i := range part {
		mark.set(i, true)
	}
	if err := j.Journal.Save(*mark); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// group makes some frames: those of the base first, then the others as their wire bytes come in.
func (j Job) group(ctx context.Context, benches chan *bench, part []int) (err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(benches))
	var spans []Span
	var fetched []int
	for _, i := range part {
		f := j.Index.Frames[i]
		if f.Kind == Same {
			g.Go(func() error { return j.frame(ctx, benches, i, nil) })
			continue
		}
		spans, fetched = append(spans, Span{f.WireOff, int64(f.WireLen), f.Wire}), append(fetched, i)
	}
	if len(spans) > 0 {
		err = j.From.Fetch(ctx, j.File, spans, func(k int, b []byte) error {
			if Sum(b) != spans[k].Sum {
				return fmt.Errorf("frame %d of %s: %w", fetched[k], j.File, ErrContent)
			}
			g.Go(func() error { return j.frame(ctx, benches, fetched[k], b) })
			return ctx.Err()
		})
	}
	// The failure of a frame ends the fetch with its context's error: the frame's own says why.
	if werr := g.Wait(); werr != nil {
		return werr
	}
	if err != nil {
		err = fmt.Errorf("fetch %s: %w", j.File, err)
	}
	return err
}

// frame makes one frame and writes it. Nothing is written that does not hash to what the index says.
func (j Job) frame(ctx context.Context, benches chan *bench, i int, wire []byte) error {
	w := <-benches
	defer func() { benches <- w }()
	if err := ctx.Err(); err != nil {
		return err
	}
	f := j.Index.Frames[i]
	out, err := w.decode(f, j.Base, wire)
	if err != nil {
		return fmt.Errorf("frame %d of %s: %w", i, j.File, err)
	}
	if n, err := j.To.WriteAt(out, f.Off); err != nil {
		return fmt.Errorf("write frame %d at %d: %w", i, f.Off, err)
	} else if n != len(out) {
		return fmt.Errorf("write frame %d at %d: %w", i, f.Off, io.ErrShortWrite)
	}
	return nil
}

// bench is what one worker needs, made once and used for frame after frame: with buffers made anew for each frame the heap
// of a run over 64 MiB grew by 130 MiB instead of 33.
type bench struct {
	dict, out []byte
	dec       *zstd.Decoder
}

func newBench() (*bench, error) {
	// The decoder gives up when a frame would make more than the room it gets, before it takes the memory.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	return &bench{dec: dec, out: make([]byte, 0, FrameSize)}, err
}

// decode makes the image's bytes; they stand until the next call. The wire bytes are the right ones already, so that a wrong
// result means a wrong base.
func (w *bench) decode(f Frame, base io.ReaderAt, wire []byte) ([]byte, error) {
	if f.Kind != Full {
		if base == nil {
			return nil, ErrBase
		}
		if cap(w.dict) < f.DictLen {
			w.dict = make([]byte, f.DictLen)
		}
		w.dict = w.dict[:f.DictLen]
		if err := readFull(base, w.dict, f.DictOff); err != nil {
			return nil, fmt.Errorf("%w: read %d bytes at %d: %w", ErrBase, f.DictLen, f.DictOff, err)
		}
	}
	wrong, out := ErrBase, w.dict
	switch f.Kind {
	case Full:
		wrong = ErrContent
		fallthrough
	case Delta:
		set := zstd.WithDecoderDictDelete()
		if f.Kind == Delta {
			set = zstd.WithDecoderDictRaw(0, w.dict)
		}
		if err := w.dec.ResetWithOptions(nil, set); err != nil {
			return nil, fmt.Errorf("set up zstd: %w", err)
		}
		var err error
		if out, err = w.dec.DecodeAll(wire, w.out[:0:f.Len]); err != nil {
			return nil, fmt.Errorf("%w: %w", wrong, err)
		}
	}
	if len(out) != f.Len || Sum(out) != f.Out {
		return nil, wrong
	}
	return out, nil
}

// Verify reads the whole image back. Frames that are not what they must be are taken out of the journal, so that the next Run
// fetches them again, and the error wraps ErrContent: a disk that lost writes, or something else wrote the slot meanwhile.
func (j Job) Verify(ctx context.Context, want Hash) error {
	whole := sha256.New()
	all := make([]int, len(j.Index.Frames))
	for i := range all {
		all[i] = i
	}
	if err := j.readBack(ctx, all, func(_ int, b []byte) { whole.Write(b) }); err != nil {
		return err
	}
	if Hash(whole.Sum(nil)) == want {
		return nil
	}
	// Something is wrong: now it is worth a second look where.
	var bad []int
	err := j.readBack(ctx, all, func(i int, b []byte) {
		if Sum(b) != j.Index.Frames[i].Out {
			bad = append(bad, i)
		}
	})
	if err != nil {
		return err
	}
	if len(bad) == 0 {
		return fmt.Errorf("%w: every frame is right and the image is not", ErrManifest)
	}
	mark, err := j.Journal.Load()
	if err == nil && mark.Payload == j.Index.Sum {
		mark.Done = slices.Clone(mark.Done)
		for _, i := range bad {
			mark.set(i, false)
		}
		err = j.Journal.Save(mark)
	}
	return errors.Join(fmt.Errorf("read back: %d frames, first %d at %d: %w", len(bad), bad[0], j.Index.Frames[bad[0]].Off, ErrContent), err)
}

// readBack gives what the slot holds of some frames to take, one by one; the bytes stand until take returns. Reading goes on while take works.
func (j Job) readBack(ctx context.Context, frames []int, take func(i int, b []byte)) error {
	type piece struct {
		i int
		b []byte
	}
	free, read := make(chan []byte, 2), make(chan piece)
	for range cap(free) {
		free <- make([]byte, FrameSize)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(read)
		for _, i := range frames {
			f := j.Index.Frames[i]
			if err := ctx.Err(); err != nil {
				return err
			}
			b := (<-free)[:f.Len]
			if err := readFull(j.To, b, f.Off); err != nil {
				return fmt.Errorf("read back frame %d at %d: %w", i, f.Off, err)
			}
			read <- piece{i, b}
		}
		return nil
	})
	for p := range read {
		take(p.i, p.b)
		free <- p.b[:FrameSize]
	}
	return g.Wait()
}
