package trust

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParseKey: what is taken prints as itself, and only a private key gives a private key.
func FuzzParseKey(f *testing.F) {
	k, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	private, public, err := k.PEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(private)
	f.Add(public)
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKey(b)
		if err != nil {
			return
		}
		private, public, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		text := public
		if k.Private != nil {
			text = private
		}
		again, err := ParseKey(text)
		if err != nil || !bytes.Equal(again.Public, k.Public) || !bytes.Equal(again.Private, k.Private) {
			t.Errorf("%q reads as another key: %v", text, err)
		}
	})
}

// FuzzDirectory serves one file of a directory spoiled, as whoever holds the web server can: what a host believes is what was signed, or nothing.
func FuzzDirectory(f *testing.F) {
	h := newHouse(f)
	files := map[string][]byte{}
	v, err := h.client(f).Open(f.Context(), day(0))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := v.Read("fleet/stable.json"); err != nil {
		f.Fatal(err)
	}
	for _, file := range v.Files() {
		files[file.Path] = file.Data
		f.Add(path.Base(file.Path), file.Data)
		f.Add(path.Base(file.Path), []byte(`{"signed":{"_type":"root","version":9,"expires":"2030-01-01T00:00:00Z","spec_version":"1.0.31"},"signatures":[]}`))
	}
	f.Add("2.root.json", files["metadata/1.root.json"])
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		c := Client{Root: h.root, Cache: t.TempDir(), Fetch: func(_ context.Context, p string, _ int64) ([]byte, error) {
			if name != "" && path.Base(p) == name {
				return b, nil
			}
			if b, ok := files[p]; ok {
				return b, nil
			}
			return nil, fs.ErrNotExist
		}}
		v, err := c.Open(t.Context(), day(0))
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without words")
			}
			return
		}
		if diff := cmp.Diff([]string{"fleet/stable.json"}, v.Targets()); diff != "" {
			t.Errorf("%s spoiled: %s", name, diff)
		}
		if got, err := v.Read("fleet/stable.json"); err == nil && string(got) != "one" {
			t.Errorf("%s spoiled: %q is believed", name, got)
		}
	})
}

// FuzzRepo reads a publisher's directory that something else has written into: an error, or a directory that can be published to.
func FuzzRepo(f *testing.F) {
	h := newHouse(f)
	f.Add("timestamp.json", []byte(`{"signed":{"_type":"timestamp","meta":{}},"signatures":[]}`))
	f.Add("1.root.json", []byte(`{"signed":null}`))
	f.Add("9.root.json", []byte(`{}`))
	f.Add("2.snapshot.json", []byte(`{"signed":{"_type":"snapshot","version":1,"meta":{"targets.json":{"version":1}}}}`))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		if len(name) == 0 || len(name) > 40 || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			return
		}
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(h.Dir)); err != nil {
			t.Fatal(err)
		}
		if err := put(path.Join(dir, "metadata", name), b); err != nil {
			t.Fatal(err)
		}
		r := Repo{dir, DefaultExpiry()}
		if err := r.Publish(map[string][]byte{"fleet/stable.json": []byte("two")}, h.all(), day(0)); err != nil {
			return
		}
		if got, err := r.Read("fleet/stable.json"); err != nil || string(got) != "two" {
			t.Errorf("%s spoiled: published, and it reads %q, %v", name, got, err)
		}
	})
}
