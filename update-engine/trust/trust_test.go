package trust

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func day(n int) time.Time { return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n) }

func key(t testing.TB) Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// house is a directory with two of three root keys, two of two targets keys, and one online key.
type house struct {
	Repo
	roles Roles
	root  []byte
}

func (h house) all() []Key {
	return append(append(append([]Key{}, h.roles.Root...), h.roles.Targets...), h.roles.Online...)
}

func newHouse(t testing.TB) house {
	t.Helper()
	h := house{Repo: Repo{t.TempDir(), DefaultExpiry()}, roles: Roles{Root: []Key{key(t), key(t), key(t)}, RootThreshold: 2,
		Targets: []Key{key(t), key(t)}, TargetsThreshold: 2, Online: []Key{key(t)}}}
	must(t, h.Init(h.roles, day(0)))
	must(t, h.Publish(map[string][]byte{"fleet/stable.json": []byte("one")}, h.all(), day(0)))
	root, err := h.Root()
	must(t, err)
	h.root = root
	return h
}

// dir reads files of a directory on disk.
func dir(d string) Fetch {
	return func(_ context.Context, p string, _ int64) ([]byte, error) {
		return os.ReadFile(filepath.Join(d, filepath.FromSlash(p)))
	}
}

func (h house) client(t testing.TB) Client { return Client{h.root, t.TempDir(), dir(h.Dir)} }

// read opens and reads the one file.
func read(t *testing.T, c Client, now time.Time) (string, error) {
	t.Helper()
	v, err := c.Open(t.Context(), now)
	if err != nil {
		return "", err
	}
	b, err := v.Read("fleet/stable.json")
	return string(b), err
}

func want(t *testing.T, c Client, now time.Time, text string) {
	t.Helper()
	if got, err := read(t, c, now); err != nil || got != text {
		t.Errorf("read %q, %v, want %q", got, err, text)
	}
}

func TestPublishAndRead(t *testing.T) {
	h := newHouse(t)
	c := h.client(t)
	want(t, c, day(1), "one")
	must(t, h.Publish(map[string][]byte{"fleet/stable.json": []byte("two"), "fleet/1/manifest.json": []byte("{}")}, h.all(), day(1)))
	want(t, c, day(1), "two")
	v, err := c.Open(t.Context(), day(1))
	must(t, err)
	if diff := cmp.Diff([]string{"fleet/1/manifest.json", "fleet/stable.json"}, v.Targets()); diff != "" {
		t.Error(diff)
	}
	must(t, h.Publish(map[string][]byte{"fleet/1/manifest.json": nil}, h.all(), day(1)))
	v, err = c.Open(t.Context(), day(1))
	must(t, err)
	if _, err := v.Read("fleet/1/manifest.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was taken away: %v", err)
	}
	if b, err := h.Read("fleet/stable.json"); err != nil || string(b) != "two" {
		t.Errorf("the publisher reads %q, %v", b, err)
	}
	if err := h.Init(h.roles, day(0)); err == nil {
		t.Error("a directory was overwritten")
	}
}

func TestWithoutKeysNothingIsBelieved(t *testing.T) {
	h := newHouse(t)
	c := h.client(t)
	c.Root = nil
	if _, err := read(t, c, day(1)); !errors.Is(err, ErrNoKeys) {
		t.Errorf("got %v", err)
	}
	c.Root = []byte("{}")
	if _, err := read(t, c, day(1)); err == nil {
		t.Error("an empty root was believed")
	}
	c.Root = newHouse(t).root
	if got, err := read(t, c, day(1)); !errors.Is(err, ErrUntrusted) {
		t.Errorf("keys of another house: %q, %v", got, err)
	}
}

// evil serves the directory with changes: path suffix → new content, nil = not there.
func evil(h house, change func(p string, b []byte) []byte) Fetch {
	good := dir(h.Dir)
	return func(ctx context.Context, p string, most int64) ([]byte, error) {
		b, err := good(ctx, p, most)
		if err != nil {
			return nil, err
		}
		if b = change(p, b); b == nil {
			return nil, fs.ErrNotExist
		}
		return b, nil
	}
}

func TestAttacks(t *testing.T) {
	swap := func(suffix, old, new string) func(string, []byte) []byte {
		return func(p string, b []byte) []byte {
			if strings.HasSuffix(p, suffix) {
				return bytes.ReplaceAll(b, []byte(old), []byte(new))
			}
			return b
		}
	}
	for _, tt := range []struct {
		name   string
		change func(string, []byte) []byte
		want   error
	}{
		{"the file is another", swap("stable.json", "one", "two"), ErrUntrusted},
		{"the file is longer", swap("stable.json", "one", "one and more"), nil},
		{"the file is cut short", swap("stable.json", "one", "on"), ErrUntrusted},
		{"the list names another file", swap("targets.json", "stable", "secret"), ErrUntrusted},
		{"the snapshot is changed", swap("snapshot.json", `"version":2`, `"version":3`), ErrUntrusted},
		{"the timestamp's expiry is changed", swap("timestamp.json", "2026-12", "2036-12"), ErrUntrusted},
		{"a signature is changed", swap("timestamp.json", `"sig":"`, `"sig":"00`), ErrUntrusted},
		{"metadata is cut short", func(p string, b []byte) []byte {
			if strings.HasSuffix(p, "targets.json") {
				return b[:len(b)/2]
			}
			return b
		}, nil},
		{"a file without end", func(p string, b []byte) []byte {
			if strings.HasSuffix(p, "timestamp.json") {
				return append(b, bytes.Repeat([]byte(" "), 1<<20)...)
			}
			return b
		}, nil},
		{"the list is gone", func(p string, b []byte) []byte {
			if strings.HasSuffix(p, "targets.json") {
				return nil
			}
			return b
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			c := h.client(t)
			c.Fetch = evil(h, tt.change)
			got, err := read(t, c, day(1))
			if err == nil {
				t.Fatalf("%q was believed", got)
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			c.Fetch = dir(h.Dir)
			want(t, c, day(1), "one") // and the host has taken no harm
		})
	}
}

func TestNothingIsBelievedAfterItsTime(t *testing.T) {
	h := newHouse(t)
	if _, err := read(t, h.client(t), day(11)); !errors.Is(err, ErrExpired) {
		t.Errorf("ten days after the last word: %v", err)
	}
	must(t, h.Refresh(h.roles.Online, day(9)))
	want(t, h.client(t), day(18), "one")
	// The online key alone cannot keep an old list alive for ever.
	must(t, h.Refresh(h.roles.Online, day(366)))
	if _, err := read(t, h.client(t), day(366)); !errors.Is(err, ErrExpired) {
		t.Errorf("a year after the list was signed: %v", err)
	}
}

// TestClockThatIsResetBringsNothingBack sets the clock back, and forth.
func TestClockThatIsResetBringsNothingBack(t *testing.T) {
	h := newHouse(t)
	h.Expiry.Root = 5 * 24 * time.Hour
	must(t, h.Rotate(h.roles, h.all(), day(0))) // by roots that expire before the rest
	c := h.client(t)
	want(t, c, day(4), "one")
	must(t, h.Refresh(h.roles.Online, day(6)))
	if _, err := read(t, c, day(6)); !errors.Is(err, ErrExpired) {
		t.Errorf("the root has expired: %v", err)
	}
	h.Expiry.Root = 700 * 24 * time.Hour
	must(t, h.Rotate(h.roles, h.all(), day(6)))
	frozen := t.TempDir()
	must(t, os.CopyFS(frozen, os.DirFS(h.Dir)))
	want(t, c, day(15), "one")
	must(t, h.Refresh(h.roles.Online, day(15)))
	want(t, c, day(20), "one")
	want(t, c, time.Unix(0, 0), "one") // it holds at day 20, too
	// A host that is far ahead believes nothing, and remembers nothing of it.
	if _, err := read(t, c, day(9000)); !errors.Is(err, ErrExpired) {
		t.Errorf("in 25 years: %v", err)
	}
	want(t, c, day(20), "one")
	// A host that believed an older state at day 20, and is shown nothing newer, does not begin to believe again what expires at day 16.
	late := Client{h.root, t.TempDir(), dir(frozen)}
	want(t, late, time.Unix(0, 0), "one")
	must(t, os.Chtimes(filepath.Join(late.Cache, "timestamp.json"), day(20), day(20)))
	if got, err := read(t, late, time.Unix(0, 0)); !errors.Is(err, ErrExpired) {
		t.Errorf("what had expired is believed by a clock at 1970: %q, %v", got, err)
	}
}

func TestOlderStateIsNotBelievedAgain(t *testing.T) {
	h := newHouse(t)
	old := t.TempDir()
	must(t, os.CopyFS(old, os.DirFS(h.Dir)))
	must(t, h.Publish(map[string][]byte{"fleet/stable.json": []byte("two")}, h.all(), day(1)))
	c := h.client(t)
	want(t, c, day(1), "two")
	c.Fetch = dir(old)
	if got, err := read(t, c, day(1)); !errors.Is(err, ErrUntrusted) {
		t.Errorf("the state before was served again: %q, %v", got, err)
	}
	want(t, Client{h.root, t.TempDir(), dir(old)}, day(1), "one") // a host that never saw the new one cannot know
}

func TestThresholdsAndWrongKeys(t *testing.T) {
	h := newHouse(t)
	files := map[string][]byte{"fleet/stable.json": []byte("two")}
	for name, keys := range map[string][]Key{"no key": nil, "one of two targets keys": {h.roles.Targets[0], h.roles.Online[0]},
		"the same key twice": {h.roles.Targets[0], h.roles.Targets[0], h.roles.Online[0]}, "online key only": h.roles.Online,
		"strangers": {key(t), key(t), key(t)}, "no online key": h.roles.Targets,
		"public halves": {{Public: h.roles.Targets[0].Public}, {Public: h.roles.Targets[1].Public}, h.roles.Online[0]}} {
		if err := h.Publish(files, keys, day(1)); !errors.Is(err, ErrThreshold) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want(t, h.client(t), day(1), "one")
	if err := h.Repo.Init(Roles{}, day(0)); err == nil {
		t.Error("a directory without keys was made")
	}
	for _, roles := range []Roles{{}, {Root: h.roles.Root[:1], RootThreshold: 2, Targets: h.roles.Targets, TargetsThreshold: 1, Online: h.roles.Online}} {
		if err := (Repo{t.TempDir(), DefaultExpiry()}).Init(roles, day(0)); err == nil {
			t.Errorf("threshold %d of %d root keys was taken", roles.RootThreshold, len(roles.Root))
		}
	}
}

func TestKeysAreReplaced(t *testing.T) {
	h := newHouse(t)
	c := h.client(t)
	want(t, c, day(1), "one")
	next := h.roles
	next.Root = []Key{h.roles.Root[0], key(t), key(t)} // two root keys were lost
	next.Targets = []Key{key(t)}
	next.TargetsThreshold = 1
	keys := append(h.all(), append(append([]Key{}, next.Root...), next.Targets...)...)
	if err := h.Rotate(next, append([]Key{h.roles.Root[0]}, append(next.Root, next.Targets...)...), day(1)); !errors.Is(err, ErrThreshold) {
		t.Errorf("one old root key replaced the others: %v", err)
	}
	want(t, c, day(1), "one")
	must(t, h.Rotate(next, keys, day(1)))
	want(t, c, day(1), "one")
	want(t, h.client(t), day(1), "one") // an image with the first root follows
	if err := h.Publish(map[string][]byte{"fleet/stable.json": []byte("stolen")}, append(h.roles.Targets, h.roles.Online...), day(2)); !errors.Is(err, ErrThreshold) {
		t.Errorf("the old targets keys still sign: %v", err)
	}
	must(t, h.Publish(map[string][]byte{"fleet/stable.json": []byte("two")}, append(next.Targets, next.Online...), day(2)))
	want(t, c, day(2), "two")
	want(t, h.client(t), day(2), "two")
}

func TestMirror(t *testing.T) {
	h := newHouse(t)
	v, err := h.client(t).Open(t.Context(), day(1))
	must(t, err)
	for _, target := range v.Targets() {
		_, err := v.Read(target)
		must(t, err)
	}
	to := t.TempDir()
	files := v.Files()
	if last := files[len(files)-1].Path; last != "metadata/timestamp.json" {
		t.Errorf("%s is written last", last)
	}
	must(t, WriteTo(to, files))
	want(t, Client{h.root, t.TempDir(), dir(to)}, day(1), "one")
}

func TestKeyFiles(t *testing.T) {
	k := key(t)
	private, public, err := k.PEM()
	must(t, err)
	got, err := ParseKey(private)
	if diff := cmp.Diff(k, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	got, err = ParseKey(public)
	if diff := cmp.Diff(Key{Public: k.Public}, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, b := range [][]byte{nil, []byte("key"), bytes.ReplaceAll(public, []byte("PUBLIC"), []byte("RSA")), bytes.ReplaceAll(public, []byte("PUBLIC"), []byte("PRIVATE"))} {
		if _, err := ParseKey(b); err == nil {
			t.Errorf("%q was read as a key", b)
		}
	}
}

func TestPublishRefusesPathsThatLeadOut(t *testing.T) {
	h := newHouse(t)
	for _, p := range []string{"../x", "/x", "", "a//b", `a\b`} {
		if err := h.Publish(map[string][]byte{p: []byte("x")}, h.all(), day(1)); err == nil {
			t.Errorf("%q was published", p)
		}
	}
	if err := h.Publish(map[string][]byte{"big": make([]byte, maxTarget+1)}, h.all(), day(1)); err == nil {
		t.Error("a file too large to be read was published")
	}
}

// A power cut leaves files that were renamed before their content was on the disk. A host must not stop at them for good.
func TestWhatAPowerCutHasTornIsReadAnew(t *testing.T) {
	h := newHouse(t)
	c := h.client(t)
	if got, err := read(t, c, day(1)); err != nil || got != "one" {
		t.Fatalf("%q, %v", got, err)
	}
	files := cached(c.Cache)
	if len(files) != 4 {
		t.Fatalf("the cache holds %v", files)
	}
	for _, p := range files {
		b, err := os.ReadFile(p)
		must(t, err)
		for name, torn := range map[string][]byte{"empty": nil, "half": b[:len(b)/2], "zeros": make([]byte, len(b))} {
			must(t, os.WriteFile(p, torn, 0o644))
			if got, err := read(t, c, day(1)); err != nil || got != "one" {
				t.Errorf("%s %s: %q, %v", filepath.Base(p), name, got, err)
			}
		}
	}
}
