package payload

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/coreos/go-semver/semver"
)

// ErrManifest: the manifest is not one that this program understands. It was signed like that: tell who published it.
var ErrManifest = errors.New("bad manifest")

// Hash is a SHA-256; its text form is 64 lower-case hex digits. The zero Hash means none.
type Hash [sha256.Size]byte

// Sum returns the hash of b.
func Sum(b []byte) Hash { return sha256.Sum256(b) }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero says that there is no hash.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText gives the hex form; none is the empty string.
func (h Hash) MarshalText() ([]byte, error) {
	if h.IsZero() {
		return nil, nil
	}
	return []byte(h.String()), nil
}

// UnmarshalText reads the hex form.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*h = Hash{}
		return nil
	}
	if len(b) != 2*len(h) {
		return fmt.Errorf("hash %q: want %d hex digits", b, 2*len(h))
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Manifest says everything about one release. It is small (the frames are in the files' indexes, which it pins by hash) and
// it is what gets signed.
type Manifest struct {
	Format  int    `json:"format"` // 1
	Product string `json:"product"`
	Arch    string `json:"arch"`    // Go's names: amd64, arm64
	Version string `json:"version"` // semantic version, no leading v
	MinFrom string `json:"min_from,omitempty"`
	Stop    bool   `json:"stop,omitempty"` // hosts on older releases must run this one before any newer
	// Options are words for the kernel's command line that the release needs.
	Options string   `json:"options,omitempty"`
	Images  []Image  `json:"images"`
	Notes   []string `json:"notes,omitempty"`
}

// Image is one thing that is written: "usr" goes into the slot's partition, "uki" onto the boot file system.
type Image struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"` // bytes, of the image as it stands in the slot
	SHA256   Hash   `json:"sha256"`
	RootHash Hash   `json:"roothash,omitzero"` // of the verity tree, when the image carries one
	HashAt   int64  `json:"hash_at,omitempty"` // where the verity superblock begins
	Files    []File `json:"files"`             // ways to get it; at least one without base
}

// File is one payload file: where its index is, and which image must be there for its deltas.
type File struct {
	Name  string `json:"name"` // relative to the manifest, "/"-separated
	Size  int64  `json:"size"`
	Base  Hash   `json:"base,omitzero"` // SHA-256 of the image the deltas are against; none = full
	Index Span   `json:"index"`
}

// Span is a piece of a payload file and what it must hash to.
type Span struct {
	Off int64 `json:"off"`
	Len int64 `json:"len"`
	Sum Hash  `json:"sha256"`
}

const (
	format = 1
	// maxManifest bounds what is read into memory before anything is known of it.
	maxManifest = 1 << 20
	maxImage    = 1 << 40
)

var errNames = errors.New(`want letters, digits, "._+-", no leading dot`)

// ParseManifest reads and checks a manifest. Unknown keys are errors: a key that changes the meaning must not be overlooked by
// an old client, so additions that may be ignored go into Notes.
func ParseManifest(b []byte) (Manifest, error) {
	if len(b) > maxManifest {
		return Manifest{}, fmt.Errorf("%w: %d bytes, at most %d", ErrManifest, len(b), maxManifest)
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if d.More() {
		return Manifest{}, fmt.Errorf("%w: text after its end", ErrManifest)
	}
	return m, m.Check()
}

// Check says what is wrong with the manifest, wrapping ErrManifest.
func (m Manifest) Check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %w", ErrManifest, fmt.Errorf(format, a...))
	}
	if m.Format != format {
		return bad("format %d, this program knows %d: update to a release in between", m.Format, format)
	}
	for what, s := range map[string]string{"product": m.Product, "arch": m.Arch} {
		if !isName(s) {
			return bad("%s %q: %w", what, s, errNames)
		}
	}
	if _, err := semver.NewVersion(m.Version); err != nil {
		return bad("version %q: %w", m.Version, err)
	}
	if _, err := semver.NewVersion(m.MinFrom); m.MinFrom != "" && err != nil {
		return bad("min_from %q: %w", m.MinFrom, err)
	}
	if strings.ContainsFunc(m.Options, func(r rune) bool { return r < ' ' || r > '~' }) {
		return bad("options %q: want one line of ASCII", m.Options)
	}
	if len(m.Images) == 0 {
		return bad("no images")
	}
	seen := map[string]bool{}
	for _, im := range m.Images {
		if seen[im.Name] {
			return bad("image %s is there twice", im.Name)
		}
		seen[im.Name] = true
		if err := im.check(); err != nil {
			return bad("image %q: %w", im.Name, err)
		}
	}
	return nil
}

func (im Image) check() error {
	switch {
	case !isName(im.Name):
		return errNames
	case im.Size <= 0 || im.Size > maxImage:
		return fmt.Errorf("size %d", im.Size)
	case im.SHA256.IsZero():
		return errors.New("no sha256")
	case !im.RootHash.IsZero() && (im.HashAt <= 0 || im.HashAt >= im.Size):
		return fmt.Errorf("verity tree at %d of %d bytes", im.HashAt, im.Size)
	case !slices.ContainsFunc(im.Files, func(f File) bool { return f.Base.IsZero() }):
		return errors.New("no full payload: a host whose running image is another could not take it")
	}
	for _, f := range im.Files {
		frames := (im.Size + FrameSize - 1) / FrameSize
		switch {
		case !isPath(f.Name):
			return fmt.Errorf("file %q: want a relative path that stays below the manifest", f.Name)
		case f.Index.Len != indexHead+frames*recordSize:
			return fmt.Errorf("file %s: index of %d bytes for %d frames", f.Name, f.Index.Len, frames)
		case f.Index.Off < 0 || f.Index.Off+f.Index.Len != f.Size:
			return fmt.Errorf("file %s: index at %d+%d of %d bytes", f.Name, f.Index.Off, f.Index.Len, f.Size)
		case f.Index.Sum.IsZero():
			return fmt.Errorf("file %s: index without sha256", f.Name)
		}
	}
	return nil
}

func isName(s string) bool {
	return len(s) <= 128 && regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]*$`).MatchString(s)
}

func isPath(s string) bool {
	return len(s) <= 512 && !slices.ContainsFunc(strings.Split(s, "/"), func(p string) bool { return !isName(p) })
}

// Image returns the image of that name.
func (m Manifest) Image(name string) (Image, bool) {
	i := slices.IndexFunc(m.Images, func(im Image) bool { return im.Name == name })
	if i < 0 {
		return Image{}, false
	}
	return m.Images[i], true
}

// Choose picks the file to take where the running slot's image hashes to have (zero: not known): the delta made for it, else
// the full one.
func (im Image) Choose(have Hash) File {
	var full File
	for _, f := range im.Files {
		switch {
		case !f.Base.IsZero() && f.Base == have:
			return f
		case f.Base.IsZero():
			full = f
		}
	}
	return full
}
