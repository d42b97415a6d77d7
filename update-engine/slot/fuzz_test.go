package slot

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzEntry reads boot entries that anybody may have written into the ESP. A name that is taken is printed as itself, and a text as one that reads
// the same.
func FuzzEntry(f *testing.F) {
	good := Entry{Slot: "a", Generation: 3, Left: 2, Done: 1, Release: Release{Version: "1.2.3", RootHash: "00"}, Options: "quiet"}
	text, err := good.text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.file(), text)
	f.Add("fleet-b-00009.conf", []byte(releaseLine+"{}\noptions "))
	f.Add("FLEET-A-1+0-9.CONF", []byte(releaseLine+`{"version":"1\n2"}`))
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		e, ok := parseFile(name)
		if !ok {
			return
		}
		if again, ok := parseFile(e.file()); !ok || again != e {
			t.Fatalf("%q reads as %+v, and that as %+v", name, e, again)
		}
		if err := e.parseText(text); err != nil {
			if !strings.Contains(err.Error(), e.file()) {
				t.Errorf("%v does not name %s", err, e.file())
			}
			return
		}
		printed, err := e.text()
		if err != nil {
			return // a line break in the version: it is not written again
		}
		again := Entry{Slot: e.Slot, Generation: e.Generation, Left: e.Left, Done: e.Done}
		if err := again.parseText(printed); err != nil {
			t.Fatalf("%q does not read: %v", printed, err)
		}
		twice, err := again.text()
		if err != nil || again.Release != e.Release {
			t.Errorf("%v: %s", err, cmp.Diff(e, again))
		}
		if !bytes.Equal(printed, twice) && !strings.ContainsAny(e.Release.Version+e.Release.RootHash, " \t\v\f\u0085\u00a0") {
			t.Errorf("%q is written back as %q", printed, twice)
		}
	})
}

// FuzzCheckVerity changes bytes of an image: it never matches its root hash then, whatever the superblock says.
func FuzzCheckVerity(f *testing.F) {
	const blocks = 130
	image, root := verityImage(blocks)
	f.Add(uint32(0), byte(1))
	for _, at := range []uint32{0, 6, 8, 12, 64, 68, 72, 76, 79, 80, 88} {
		f.Add(uint32(blocks*verityBlock)+at, byte(255))
	}
	f.Fuzz(func(t *testing.T, at uint32, by byte) {
		b := bytes.Clone(image)
		i := int(at) % len(b)
		b[i] ^= by
		sb := blocks * verityBlock
		// Of the superblock these say nothing of the content: the UUID, and what is behind the salt.
		idle := i >= sb+16 && i < sb+32 || i >= sb+6 && i < sb+8 || i >= sb+82 && i < sb+88 || i >= sb+88+16 && i < sb+verityBlock || i > sb+32+6 && i < sb+64
		if err := CheckVerity(bytes.NewReader(b), blocks*verityBlock, root); err == nil && by != 0 && !idle {
			t.Errorf("byte %d changed, and the image is believed", i)
		}
	})
}
