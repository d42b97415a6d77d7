package payload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
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
	// A mark that came from a file may be shorter than its payload asks for.
	m.Done = append(m.Done, make([]byte, max(0, i/8+1-len(m.Done)))...)
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
	// Every is how many frames are written between two syncs; 0 is 32, which is 32 MiB. A crash repeats at most that much.
	Every int
}

// work is one run of a Job.
type work struct {
	Job
	benches chan *bench
	mark    Mark
	// What was written is known again by a quick hash of the right bytes, made when the slow one had been compared: reading back looks for a disk's
	// faults, and the seed is drawn anew for each run.
	seed  maphash.Seed
	wrote []uint64    // by frame
	bad   []int       // frames that read back as something else
	free  chan []byte // to read back into
}

// Run makes every frame that the journal does not know as done, and reads all of them back: when it returns nil the slot holds the image. It may be
// called again after any error or crash; ErrBase, ErrContent and what Source and Target return tell what to change. Frames that read back as
// something else (a disk that lost writes, or something else wrote the slot meanwhile) are taken out of the journal, so that the next Run makes
// them again, and the error wraps ErrContent.
func (j Job) Run(ctx context.Context) error {
	w := work{Job: j, benches: make(chan *bench, max(1, cmp.Or(j.Workers, 2))), free: make(chan []byte, 2), seed: maphash.MakeSeed(), wrote: make([]uint64, len(j.Index.Frames))}
	if err := w.begin(); err != nil {
		return err
	}
	var todo, done []int
	for i := range j.Index.Frames {
		if w.mark.has(i) {
			done = append(done, i)
		} else {
			todo = append(todo, i)
		}
	}
	for range cap(w.benches) {
		b, err := newBench()
		if err != nil {
			return fmt.Errorf("set up zstd: %w", err)
		}
		defer b.dec.Close()
		w.benches <- b
	}
	for range cap(w.free) {
		w.free <- make([]byte, FrameSize)
	}
	if err := w.make(ctx, todo); err != nil {
		return err
	}
	// What an earlier run has written is looked at too: the slot may have been elsewhere since.
	if err := w.readBack(ctx, done, func(i int, b []byte) bool { return Sum(b) == j.Index.Frames[i].Out }); err != nil {
		return err
	}
	return w.end()
}

// begin reads the journal.
func (w *work) begin() (err error) {
	if w.mark, err = w.Journal.Load(); err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if n := (len(w.Index.Frames) + 7) / 8; w.mark.Payload != w.Index.Sum || len(w.mark.Done) != n {
		// Another payload's frames are on the slot now: forget them before the first of ours is written over them.
		w.mark = Mark{Payload: w.Index.Sum, Done: make([]byte, n)}
		if err := w.Journal.Save(w.mark); err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
	}
	return nil
}

// make makes frames, group by group. While one group is made and written the one before it is synced and read back: neither the disk nor the
// processors are ever without work.
func (w *work) make(ctx context.Context, todo []int) error {
	p := Progress{Frames: len(w.Index.Frames), Done: len(w.Index.Frames) - len(todo)}
	written := make(chan []int)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for part := range written {
			if err := w.settle(part); err != nil {
				return err
			}
			if p.Done += len(part); w.Tell != nil {
				w.Tell(p)
			}
			err := w.readBack(ctx, part, func(i int, b []byte) bool { return maphash.Bytes(w.seed, b) == w.wrote[i] })
			if err != nil {
				return err
			}
		}
		return nil
	})
	err := w.produce(ctx, todo, written)
	close(written)
	// A sync that failed ends the making with its context's error: the sync's own says why.
	if serr := g.Wait(); serr != nil {
		return serr
	}
	return err
}

// produce makes group after group, and hands each on when it is written.
func (w *work) produce(ctx context.Context, todo []int, written chan<- []int) error {
	for part := range slices.Chunk(todo, max(1, cmp.Or(w.Every, 32))) {
		if err := w.group(ctx, part); err != nil {
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
func (w *work) settle(part []int) error {
	if err := w.To.Sync(); err != nil {
		return fmt.Errorf("sync slot: %w", err)
	}
	return w.note(part, true)
}

// note says in the journal whether frames are done.
func (w *work) note(frames []int, done bool) error {
	w.mark.Done = slices.Clone(w.mark.Done)
	for _, i := range frames {
		w.mark.set(i, done)
	}
	if err := w.Journal.Save(w.mark); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// end says which frames read back as something else.
func (w *work) end() error {
	if len(w.bad) == 0 {
		return nil
	}
	err := fmt.Errorf("read back: %d frames, first %d at %d: %w", len(w.bad), w.bad[0], w.Index.Frames[w.bad[0]].Off, ErrContent)
	return errors.Join(err, w.note(w.bad, false))
}

// group makes some frames: those of the base first, then the others as their wire bytes come in.
func (w *work) group(ctx context.Context, part []int) (err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(w.benches))
	var spans []Span
	var fetched []int
	for _, i := range part {
		f := w.Index.Frames[i]
		if f.Kind == Same {
			g.Go(func() error { return w.frame(ctx, i, nil) })
			continue
		}
		spans, fetched = append(spans, Span{f.WireOff, int64(f.WireLen), f.Wire}), append(fetched, i)
	}
	if len(spans) > 0 {
		err = w.From.Fetch(ctx, w.File, spans, func(k int, b []byte) error {
			if Sum(b) != spans[k].Sum {
				return fmt.Errorf("frame %d of %s: %w", fetched[k], w.File, ErrContent)
			}
			g.Go(func() error { return w.frame(ctx, fetched[k], b) })
			return ctx.Err()
		})
	}
	// The failure of a frame ends the fetch with its context's error: the frame's own says why.
	if werr := g.Wait(); werr != nil {
		return werr
	}
	if err != nil {
		err = fmt.Errorf("fetch %s: %w", w.File, err)
	}
	return err
}

// frame makes one frame and writes it. Nothing is written that does not hash to what the index says.
func (w *work) frame(ctx context.Context, i int, wire []byte) error {
	b := <-w.benches
	defer func() { w.benches <- b }()
	if err := ctx.Err(); err != nil {
		return err
	}
	f := w.Index.Frames[i]
	out, err := b.decode(f, w.Base, wire)
	if err != nil {
		return fmt.Errorf("frame %d of %s: %w", i, w.File, err)
	}
	w.wrote[i] = maphash.Bytes(w.seed, out)
	if n, err := w.To.WriteAt(out, f.Off); err != nil {
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

// readBack gives what the slot holds of some frames to right, one by one, and notes those that are not; the bytes stand until right returns. Reading
// goes on while right works.
func (w *work) readBack(ctx context.Context, frames []int, right func(i int, b []byte) bool) error {
	type piece struct {
		i int
		b []byte
	}
	read := make(chan piece)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(read)
		for _, i := range frames {
			f := w.Index.Frames[i]
			if err := ctx.Err(); err != nil {
				return err
			}
			b := (<-w.free)[:f.Len]
			if err := readFull(w.To, b, f.Off); err != nil {
				return fmt.Errorf("read back frame %d at %d: %w", i, f.Off, err)
			}
			read <- piece{i, b}
		}
		return nil
	})
	for p := range read {
		if !right(p.i, p.b) {
			w.bad = append(w.bad, p.i)
		}
		w.free <- p.b[:FrameSize]
	}
	return g.Wait()
}
