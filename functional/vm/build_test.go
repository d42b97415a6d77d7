package vm

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// TestTwoBuildsOnTwoDaysAreTheSameBytes makes the first release once more, some years later by the clock and by the times of all files that go
// in, in another folder. Debian's packages are those of the first build here; soak fetches and unpacks them anew, too.
func TestTwoBuildsOnTwoDaysAreTheSameBytes(t *testing.T) {
	t.Parallel()
	images := os.Getenv("FLEET_IMAGE")
	if images == "" {
		t.Skip("FLEET_IMAGE is not set: ./build.sh test makes images and sets it")
	}
	r := &rig{t: t, ctx: host.Context(t), images: images, releases: filepath.Join(t.TempDir(), "x")}
	old, cache, install, out := filepath.Dir(images), t.TempDir(), filepath.Join(t.TempDir(), "install"), t.TempDir()
	r.tool("cp", "-r", os.Getenv("FLEET_INSTALL"), install) // without their times
	if os.Getenv("FLEET_SOAK") == "" {
		list, err := filepath.Glob(filepath.Join(old, "debian-*"))
		if err != nil || len(list) == 0 {
			t.Fatalf("%s holds no packages, %v", old, err)
		}
		for _, p := range list {
			if p, err = filepath.Abs(p); err == nil {
				err = os.Symlink(p, filepath.Join(cache, filepath.Base(p)))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	tool := filepath.Join(cache, "mkimage")
	r.tool("go", "build", "-o", tool, "../../image/mkimage")
	r.tool("faketime", "2031-05-06 07:08:09", tool, "--install", install, "--init", filepath.Join(old, "init"), "--source", "../../image", "--cache", cache, "--out", out,
		"--version", first)
	for _, name := range []string{"usr-" + first + ".img", "fleet-" + first + ".efi", "fleet-" + first + ".raw", "fleet-" + first + ".spdx.json"} {
		if a, b := sum(t, filepath.Join(images, name)), sum(t, filepath.Join(out, name)); a != b {
			t.Errorf("%s differs between two builds: %x and %x", name, a, b)
		}
	}
}

// sum is a file's SHA-256.
func sum(t *testing.T, p string) (s [32]byte) {
	t.Helper()
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	copy(s[:], h.Sum(nil))
	return s
}
