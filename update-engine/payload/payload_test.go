package payload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// text makes n bytes that compress a little, as programs do.
func text(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; {
		v := r.Uint64()
		run := 1 + int(v%24)
		for k := 0; k < run && i < n; k, i = k+1, i+1 {
			b[i] = byte(v >> (8 * (k % 8)))
		}
	}
	return b
}

// edit makes a next release of b: bytes changed in place, pieces put in, cut out and moved.
func edit(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + r.IntN(4) {
		at := r.IntN(len(b))
		end := min(len(b), at+1+r.IntN(50_000))
		switch r.IntN(4) {
		case 0:
			b[at] ^= 1
		case 1:
			b = slices.Insert(b, at, text(r, 1+r.IntN(300_000))...)
		case 2:
			b = slices.Delete(b, at, end)
		case 3:
			b = append(b[end:], b[:end]...)
		}
		if len(b) == 0 {
			b = []byte{1}
		}
	}
	return b
}

// memory is a Target in memory; it is all on disk at once.
type memory struct{ b []byte }

func (m *memory) ReadAt(b []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(b, off) }
func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if n := copy(m.b[off:], b); n < len(b) {
		return n, errors.New("no space left on device")
	}
	return len(b), nil
}
func (m *memory) Sync() error { return nil }

type memJournal struct{ m Mark }

func (j *memJournal) Load() (Mark, error) { return j.m, nil }
func (j *memJournal) Save(m Mark) error   { j.m = Mark{m.Payload, bytes.Clone(m.Done)}; return nil }

// bytesSource serves one payload from memory.
type bytesSource []byte

func (s bytesSource) Fetch(_ context.Context, _ string, spans []Span, take func(int, []byte) error) error {
	for i, p := range spans {
		if p.Off < 0 || p.Off+p.Len > int64(len(s)) {
			return errors.New("unexpected end of file")
		}
		if err := take(i, bytes.Clone(s[p.Off:p.Off+p.Len])); err != nil {
			return err
		}
	}
	return nil
}

// release is a built payload with all that applies it.
type release struct {
	image, base, file []byte
	built             Built
	im                Image
	index             Index
}

func build(t *testing.T, image, base []byte) release {
	t.Helper()
	var out bytes.Buffer
	var b Built
	var err error
	if base == nil {
		b, err = Build(t.Context(), &out, bytes.NewReader(image), int64(len(image)), nil, 0)
	} else {
		b, err = Build(t.Context(), &out, bytes.NewReader(image), int64(len(image)), bytes.NewReader(base), int64(len(base)))
	}
	if err != nil {
		t.Fatal(err)
	}
	b.File.Name = "usr.zst"
	r := release{image: image, base: base, file: out.Bytes(), built: b}
	r.im = Image{Name: "usr", Size: int64(len(image)), SHA256: b.SHA256, Files: []File{b.File}}
	if r.index, err = ReadIndex(t.Context(), bytesSource(r.file), r.im, b.File); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r release) job() Job {
	j := Job{File: "usr.zst", Index: r.index, From: bytesSource(r.file), To: &memory{make([]byte, len(r.image))}, Journal: &memJournal{}}
	if r.base != nil {
		j.Base = bytes.NewReader(r.base)
	}
	return j
}

// holds checks that the slot of a job holds the image.
func (r release) holds(t *testing.T, j Job) {
	t.Helper()
	if !bytes.Equal(r.image, j.To.(*memory).b) {
		t.Error("another image came out")
	}
}

// wireBytes is how much a host must fetch for the frames.
func wireBytes(x Index) (n int64) {
	for _, f := range x.Frames {
		n += int64(f.WireLen)
	}
	return n
}

func TestWhatIsBuiltIsWhatIsApplied(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		base := text(r, 1+r.IntN(5*FrameSize/2))
		rel := build(t, edit(r, base), base)
		j := rel.job()
		if err := j.Run(t.Context()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		rel.holds(t, j)
	}
}

func TestFullPayloadIsAnOrdinaryZstdFile(t *testing.T) {
	image := text(rand.New(rand.NewPCG(1, 1)), 2*FrameSize+77)
	rel := build(t, image, nil)
	dec, err := zstd.NewReader(bytes.NewReader(rel.file))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	var out bytes.Buffer
	if _, err := dec.WriteTo(&out); err != nil || !bytes.Equal(out.Bytes(), image) {
		t.Errorf("unpacked %d bytes of %d, %v", out.Len(), len(image), err)
	}
	if !rel.built.File.Base.IsZero() {
		t.Error("a full payload names a base")
	}
}

func TestContentThatMovedIsFoundByVote(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	base := text(r, 6*FrameSize)
	fresh := text(r, 3*FrameSize+12345) // pushes everything further than a window at the same offset reaches
	rel := build(t, slices.Concat(fresh, base), base)
	full := build(t, fresh, nil)
	if most := wireBytes(full.index) * 115 / 100; wireBytes(rel.index) > most {
		t.Errorf("%d bytes on the wire, want at most %d: the new part and little more", wireBytes(rel.index), most)
	}
	if rel.built.Kinds[Same] < 4 {
		t.Errorf("kinds %v: want the moved frames to be same", rel.built.Kinds)
	}
}

func TestBuildsAreReproducible(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	base := text(r, FrameSize+5)
	image := edit(r, base)
	if a, b := build(t, image, base), build(t, image, base); !bytes.Equal(a.file, b.file) {
		t.Error("the same input gave two payloads")
	}
}

// small gives a release of a few frames of every kind, made once for a test that runs it often.
func small(t *testing.T) release {
	r := rand.New(rand.NewPCG(5, 5))
	base := text(r, 3*FrameSize)
	image := bytes.Clone(base)
	image[FrameSize+99] ^= 1
	image = append(image, text(r, FrameSize/2)...)
	rel := build(t, image, base)
	if diff := cmp.Diff(map[Kind]int{Same: 2, Delta: 1, Full: 1}, rel.built.Kinds); diff != "" {
		t.Fatal(diff)
	}
	return rel
}

func TestTamperedPayloads(t *testing.T) {
	rel := small(t)
	flip := func(at int64) bytesSource {
		b := bytes.Clone(rel.file)
		b[at] ^= 0x10
		return b
	}
	delta, full := rel.index.Frames[1], rel.index.Frames[3]
	swapped := bytes.Clone(rel.file)
	copy(swapped, rel.file[full.WireOff:][:full.WireLen])
	copy(swapped[full.WireLen:], rel.file[delta.WireOff:][:delta.WireLen])
	for _, tt := range []struct {
		name   string
		change func(*Job)
		want   error
	}{
		{"a bit of a delta frame is flipped", func(j *Job) { j.From = flip(delta.WireOff + 5) }, ErrContent},
		{"a bit of a full frame is flipped", func(j *Job) { j.From = flip(full.WireOff + 500) }, ErrContent},
		{"two frames are exchanged", func(j *Job) { j.From = bytesSource(swapped) }, ErrContent},
		{"the running image is another", func(j *Job) { j.Base = bytes.NewReader(make([]byte, len(rel.base))) }, ErrBase},
		{"the running image is shorter", func(j *Job) { j.Base = bytes.NewReader(rel.base[:FrameSize]) }, ErrBase},
		{"there is no running image", func(j *Job) { j.Base = nil }, ErrBase},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := rel.job()
			tt.change(&j)
			err := j.Run(t.Context())
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			// Whatever was written is right: nothing unchecked reaches the slot.
			for i, f := range rel.index.Frames {
				b := j.To.(*memory).b[f.Off:][:f.Len]
				if !bytes.Equal(b, make([]byte, f.Len)) && Sum(b) != f.Out {
					t.Errorf("frame %d was written wrong", i)
				}
			}
			good := rel.job()
			good.To, good.Journal = j.To, j.Journal
			if err := good.Run(t.Context()); err != nil {
				t.Errorf("going on with a good source: %v", err)
			}
			rel.holds(t, good)
		})
	}
}

func TestTruncatedPayload(t *testing.T) {
	rel := small(t)
	j := rel.job()
	j.From = bytesSource(rel.file[:rel.index.Frames[3].WireOff+10])
	if err := j.Run(t.Context()); err == nil {
		t.Error("a truncated payload was applied")
	}
	if _, err := ReadIndex(t.Context(), j.From, rel.im, rel.built.File); err == nil {
		t.Error("an index was read from a truncated payload")
	}
}

func TestSlotTooSmall(t *testing.T) {
	rel := small(t)
	j := rel.job()
	j.To = &memory{make([]byte, len(rel.image)-1)}
	if err := j.Run(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestRunSeesWhatTheDiskHolds(t *testing.T) {
	for name, every := range map[string]int{"one group": 64, "a group for each frame": 1} {
		rel := small(t)
		j := rel.job()
		j.Every = every
		if err := j.Run(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// A run that goes on with another's work looks at that work too.
		j.To.(*memory).b[FrameSize+3] ^= 4
		if err := j.Run(t.Context()); !errors.Is(err, ErrContent) {
			t.Errorf("%s, damaged: got %v, want %v", name, err, ErrContent)
		}
		var told []Progress
		j.Tell = func(p Progress) { told = append(told, p) }
		if err := j.Run(t.Context()); err != nil {
			t.Errorf("%s, repaired: %v", name, err)
		}
		if diff := cmp.Diff([]Progress{{Frames: 4, Done: 4}}, told); diff != "" { // three were right
			t.Errorf("%s: only the damaged frame should be made again:\n%s", name, diff)
		}
		rel.holds(t, j)
		lost := rel.job()
		lost.To = &forgetful{memory{make([]byte, len(rel.image))}}
		if err := lost.Run(t.Context()); !errors.Is(err, ErrContent) {
			t.Errorf("%s, a disk that loses a write: got %v, want %v", name, err, ErrContent)
		}
	}
}

// forgetful is a disk that says that it wrote, and did not write the second frame.
type forgetful struct{ memory }

func (f *forgetful) WriteAt(b []byte, off int64) (int, error) {
	if off == FrameSize {
		return len(b), nil
	}
	return f.memory.WriteAt(b, off)
}

func TestJournalOfAnotherPayloadIsForgotten(t *testing.T) {
	rel := small(t)
	j := rel.job()
	j.Journal = &memJournal{Mark{Sum([]byte("other")), []byte{0xff}}}
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	rel.holds(t, j)
}

func TestIndexesThatLeadAstrayAreRefused(t *testing.T) {
	rel := small(t)
	for name, change := range map[string]func(*Index){
		"unknown kind":                 func(x *Index) { x.Frames[1].Kind = 9 },
		"window outside the base":      func(x *Index) { x.Frames[1].DictOff = x.Base - 1 },
		"window with a huge offset":    func(x *Index) { x.Frames[1].DictOff = 1<<63 - 1 },
		"negative offset":              func(x *Index) { x.Frames[1].DictOff = -1 },
		"window larger than allowed":   func(x *Index) { x.Frames[1].DictLen = maxDict + 1 },
		"frame larger than a frame":    func(x *Index) { x.Frames[0].Len++ },
		"frame of nothing":             func(x *Index) { x.Frames[3].Len = 0 },
		"wire bytes beyond the file":   func(x *Index) { x.Frames[1].WireLen = maxWire },
		"one frame less":               func(x *Index) { x.Frames = x.Frames[:3] },
		"same with wire bytes":         func(x *Index) { x.Frames[0].WireLen = 1 },
		"another image's size":         func(x *Index) { x.Size-- },
		"full with a window":           func(x *Index) { x.Frames[3].DictLen = 5 },
		"delta with nothing to decode": func(x *Index) { x.Frames[1].WireLen = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			x := rel.index
			x.Frames = slices.Clone(x.Frames)
			change(&x)
			b := x.encode()
			f := rel.built.File
			f.Index.Sum = Sum(b)
			if _, err := ParseIndex(b, rel.im, f); !errors.Is(err, ErrManifest) {
				t.Errorf("got %v, want %v", err, ErrManifest)
			}
		})
	}
}

func FuzzParseIndex(f *testing.F) {
	im := Image{Name: "usr", Size: FrameSize + 5, SHA256: Sum([]byte("x"))}
	x := Index{Size: im.Size, Base: 100, Frames: []Frame{
		{Kind: Delta, Len: FrameSize, WireLen: 5, DictOff: 3, DictLen: 90}, {Kind: Full, Off: FrameSize, Len: 5, WireOff: 5, WireLen: 4}}}
	f.Add(x.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		file := File{Name: "f", Index: Span{Off: 9 + skipHead, Len: int64(len(b)), Sum: Sum(b)}}
		x, err := ParseIndex(b, im, file)
		if err == nil && !bytes.Equal(x.encode(), b) {
			t.Errorf("%x came back as %x", b, x.encode())
		}
	})
}

func manifest() Manifest {
	h := Sum([]byte("image"))
	return Manifest{Format: 1, Product: "fleet", Arch: "amd64", Version: "1.2.3", Images: []Image{{Name: "usr", Size: 10, SHA256: h,
		Files: []File{{Name: "1.2.3/usr.zst", Size: 200, Index: Span{Off: 200 - indexHead - recordSize, Len: indexHead + recordSize, Sum: h}}}}}}
}

func TestManifests(t *testing.T) {
	for name, change := range map[string]func(*Manifest){
		"":                         func(*Manifest) {},
		"format 2":                 func(m *Manifest) { m.Format = 2 },
		"no product":               func(m *Manifest) { m.Product = "" },
		"arch with a slash":        func(m *Manifest) { m.Arch = "a/b" },
		"version with a v":         func(m *Manifest) { m.Version = "v1.2.3" },
		"version of two":           func(m *Manifest) { m.Version = "1.2" },
		"min_from":                 func(m *Manifest) { m.MinFrom = "new" },
		"no images":                func(m *Manifest) { m.Images = nil },
		"an image twice":           func(m *Manifest) { m.Images = append(m.Images, m.Images[0]) },
		"image without size":       func(m *Manifest) { m.Images[0].Size = 0 },
		"image without sum":        func(m *Manifest) { m.Images[0].SHA256 = Hash{} },
		"only a delta":             func(m *Manifest) { m.Images[0].Files[0].Base = Sum(nil) },
		"file outside":             func(m *Manifest) { m.Images[0].Files[0].Name = "../x" },
		"absolute file":            func(m *Manifest) { m.Images[0].Files[0].Name = "/x" },
		"index beyond the file":    func(m *Manifest) { m.Images[0].Files[0].Index.Off++ },
		"index of another length":  func(m *Manifest) { m.Images[0].Files[0].Index.Len++ },
		"index without sum":        func(m *Manifest) { m.Images[0].Files[0].Index.Sum = Hash{} },
		"verity behind the image":  func(m *Manifest) { m.Images[0].RootHash, m.Images[0].HashAt = Sum(nil), 10 },
		"verity at the very start": func(m *Manifest) { m.Images[0].RootHash = Sum(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			m := manifest()
			change(&m)
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseManifest(b)
			if name == "" {
				if diff := cmp.Diff(m, got); err != nil || diff != "" {
					t.Errorf("%v\n%s", err, diff)
				}
				return
			}
			if !errors.Is(err, ErrManifest) {
				t.Errorf("got %v, want %v", err, ErrManifest)
			}
		})
	}
	if _, err := ParseManifest([]byte(`{"format":1,"urgent":true}`)); !errors.Is(err, ErrManifest) {
		t.Errorf("unknown key: %v", err)
	}
}

func TestChooseTakesTheDeltaForTheRunningImage(t *testing.T) {
	a, b := Sum([]byte("a")), Sum([]byte("b"))
	im := Image{Files: []File{{Name: "from-a", Base: a}, {Name: "full"}, {Name: "from-b", Base: b}}}
	var got []string
	for _, have := range []Hash{a, b, Sum([]byte("c")), {}} {
		got = append(got, im.Choose(have).Name)
	}
	if diff := cmp.Diff([]string{"from-a", "from-b", "full", "full"}, got); diff != "" {
		t.Error(diff)
	}
}

func ExampleKind() { fmt.Println(Same, Full, Delta, Kind(7)) /* Output: same full delta kind 7 */ }
