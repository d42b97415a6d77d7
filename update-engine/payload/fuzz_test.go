package payload

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParseManifest: what is taken leads nowhere outside of where the manifest lies, and prints as what reads the same.
func FuzzParseManifest(f *testing.F) {
	good, err := json.Marshal(manifest())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"product":"a","arch":"b","version":"1.0.0","images":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Errorf("%v is not ErrManifest", err)
			}
			return
		}
		for _, im := range m.Images {
			if base := im.Choose(Hash{}); base.Name == "" || !base.Base.IsZero() {
				t.Errorf("no full file for %s", im.Name)
			}
			for _, file := range im.Files {
				if !filepath.IsLocal(file.Name) || file.Index.Len > 1<<30 || file.Index.Off < 0 {
					t.Errorf("file %+v", file)
				}
			}
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseManifest(text)
		if err != nil {
			t.Fatalf("%s does not read: %v", text, err)
		}
		if diff := cmp.Diff(m, again); diff != "" && !strings.Contains(diff, "nil") {
			t.Error(diff)
		}
	})
}

// FuzzParseChannel: what is taken names manifests below the directory, and a release can be taken out of it again.
func FuzzParseChannel(f *testing.F) {
	c := Channel{Format: 1, Product: "fleet", Arch: "amd64", Name: "stable", Releases: []Listed{{Version: "1.0.0", Manifest: "fleet/1.0.0.json", Sum: Sum(nil)}}}
	good, err := json.Marshal(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"releases":[{"version":"1.0.0","manifest":"../x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseChannel(b)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Errorf("%v is not ErrManifest", err)
			}
			return
		}
		for _, r := range c.Releases {
			if !filepath.IsLocal(r.Manifest) || r.Sum.IsZero() {
				t.Errorf("release %+v", r)
			}
			if n := len(c.With(r).Without(r.Version).Releases); n >= len(c.Releases) {
				t.Errorf("%d releases of %d without %s", n, len(c.Releases), r.Version)
			}
		}
	})
}

// FuzzJournal reads a mark that a power cut or anybody has spoiled: it counts as none, or is kept as it is, and its frames can be asked for.
func FuzzJournal(f *testing.F) {
	j := FileJournal{filepath.Join(f.TempDir(), "mark")}
	if err := j.Save(Mark{Payload: Sum(nil), Done: []byte{5}}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(j.Path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, 3)
	f.Add([]byte(`{"done":null}`), 1<<20)
	f.Add([]byte(`[`), 0)
	f.Fuzz(func(t *testing.T, b []byte, frame int) {
		if err := os.WriteFile(j.Path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := j.Load()
		if err != nil {
			t.Fatal(err)
		}
		frame &= 1<<20 - 1
		m.set(frame, true)
		if !m.has(frame) {
			t.Errorf("frame %d is not kept", frame)
		}
		if err := j.Save(m); err != nil {
			t.Fatal(err)
		}
		again, err := j.Load()
		if err != nil || again.Payload != m.Payload || !bytes.Equal(again.Done, m.Done) {
			t.Errorf("%v: %s", err, cmp.Diff(m, again))
		}
	})
}

// FuzzDecode makes frames of anything: never more bytes than the frame says, and never others than were signed.
func FuzzDecode(f *testing.F) {
	base := bytes.Repeat([]byte("the quick brown fox "), 200)
	f.Add([]byte("x"), uint8(Full), uint32(1), uint16(0), uint16(0))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 9, 0, 0, 'x'}, uint8(Full), uint32(1), uint16(0), uint16(0))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 255, 255, 255, 255, 255, 255, 255, 0, 9, 0, 0, 'x'}, uint8(Delta), uint32(FrameSize), uint16(3), uint16(90))
	f.Add([]byte(nil), uint8(Same), uint32(20), uint16(40), uint16(20))
	f.Fuzz(func(t *testing.T, wire []byte, kind uint8, size uint32, off, length uint16) {
		w, err := newBench()
		if err != nil {
			t.Fatal(err)
		}
		defer w.dec.Close()
		fr := Frame{Kind: Kind(kind), Len: int(size), WireLen: len(wire), DictOff: int64(off), DictLen: int(length)}
		if fr.check(Index{Size: int64(size), Base: int64(len(base))}) != nil {
			return
		}
		// Once as whoever signs it would have it, once with the hash of something else.
		for range 2 {
			out, err := w.decode(fr, bytes.NewReader(base), wire)
			if err == nil && (len(out) != fr.Len || Sum(out) != fr.Out) {
				t.Fatalf("%d bytes of %d", len(out), fr.Len)
			}
			if err != nil && !errors.Is(err, ErrContent) && !errors.Is(err, ErrBase) {
				t.Errorf("%v says neither that the content nor that the base is wrong", err)
			}
			if cap(w.out) > FrameSize {
				t.Errorf("room for %d bytes", cap(w.out))
			}
			fr.Out = Sum(base[off : off+length])
		}
	})
}
