package fleettest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/functional/host"
)

// releases is a release directory, its keys, and the images of what was published.
type releases struct {
	t               *testing.T
	dir, keys, prog string
	uki             string
}

const mirror = "/srv/releases"

func newReleases(t *testing.T) *releases {
	dir := t.TempDir()
	p := &releases{t: t, dir: filepath.Join(dir, "releases"), keys: dir, prog: filepath.Join(host.Tree(t), "usr/bin/update-engine"), uki: filepath.Join(dir, "uki")}
	for _, k := range []string{"root", "targets", "online"} {
		p.run("keys", "new", p.file(k))
	}
	p.run("keys", "init", p.dir, "--root", p.file("root"), "--targets", p.file("targets"), "--online", p.file("online"))
	if err := os.WriteFile(p.uki, []byte("a kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *releases) file(name string) string { return filepath.Join(p.keys, name) }

func (p *releases) run(args ...string) string {
	p.t.Helper()
	out, err := exec.CommandContext(host.Context(p.t), p.prog, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("update-engine %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// noise is bytes that nothing makes smaller, the same for the same seed.
func noise(n int, seed uint64) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, seed))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// image writes the image of a release's files and returns where. Most of it is the same in all releases.
func (p *releases) image(version string, files map[string]string) string {
	p.t.Helper()
	all := map[string]string{"usr/share/fleet-os/bulk": noise(1200<<10, 7), "usr/share/fleet-os/version": version + "\n"}
	for k, v := range files {
		all[k] = v
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	var names []string
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(all[n])), ModTime: time.Unix(1700000000, 0)})
		if _, werr := w.Write([]byte(all[n])); err != nil || werr != nil {
			p.t.Fatal(err, werr)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(p.file("usr-"+version), buf.Bytes(), 0o644)); err != nil {
		p.t.Fatal(err)
	}
	return p.file("usr-" + version)
}

// publish puts a release into the directory, with a delta against another.
func (p *releases) publish(version, base string, files map[string]string) {
	p.t.Helper()
	p.run("publish", p.dir, "--keys", p.file("targets")+","+p.file("online"), "--version", version, "--usr", p.image(version, files), "--uki", p.uki,
		"--base", p.file("usr-"+base))
}

// tree is a folder as Options.Files and WriteFiles want it, below another path.
func (p *releases) tree(dir, at string) map[string]string {
	p.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[at+strings.TrimPrefix(path, dir)] = string(b)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}
