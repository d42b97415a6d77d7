package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/trust"
)

// place is what a release is published as.
type place struct {
	product, arch, channel *string
	keys                   *[]string
}

func placeFlags(f *pflag.FlagSet) place {
	return place{f.String("product", "fleet", "product"), f.String("arch", runtime.GOARCH, "architecture"), f.String("channel", "stable", "channel"),
		f.StringSlice("keys", nil, "private key files: enough of the targets role, and the online key")}
}

func (p place) path() string { return channelPath(*p.product, *p.arch, *p.channel) }

func readKeys(files []string) ([]trust.Key, error) {
	var out []trust.Key
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		k, err := trust.ParseKey(b)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
		out = append(out, k)
	}
	return out, nil
}

// channelOf reads a channel of the directory, or a new one.
func (p place) channelOf(r trust.Repo) (payload.Channel, error) {
	b, err := r.Read(p.path())
	if errors.Is(err, fs.ErrNotExist) {
		return payload.Channel{Format: 1, Product: *p.product, Arch: *p.arch, Name: *p.channel}, nil
	}
	if err != nil {
		return payload.Channel{}, err
	}
	return payload.ParseChannel(b)
}

func publish(ctx context.Context, j job) error {
	f, _ := j.flags()
	p := placeFlags(f)
	version := f.String("version", "", "semantic version of the release")
	usrFile := f.String("usr", "", "image of /usr, with its verity tree")
	ukiFile := f.String("uki", "", "kernel image for the boot file system")
	bases := f.StringSlice("base", nil, "older images of /usr: a delta is made for each")
	rootHash := f.String("roothash", "", "root hash of the verity tree")
	hashAt := f.Int64("hash-at", 0, "where in the image the verity superblock is")
	minFrom := f.String("min-from", "", "oldest version that may go directly to this one")
	stop := f.Bool("stop", false, "older hosts must run this release before any newer")
	propose := f.Bool("propose", false, "only propose it: others sign with keys sign, then keys commit")
	options := f.String("options", "", "words for the kernel's command line that the release needs")
	notes := f.StringArray("note", nil, "a line for people")
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	keys, err := readKeys(*p.keys)
	if err != nil {
		return err
	}
	r := trust.Repo{Dir: f.Arg(0), Expiry: trust.DefaultExpiry()}
	c, err := p.channelOf(r)
	if err != nil {
		return err
	}
	b := build{out: j.stdout, repo: r.Dir, dir: path.Join(*p.product, *p.arch, *version)}
	m := payload.Manifest{Format: 1, Product: *p.product, Arch: *p.arch, Version: *version, MinFrom: *minFrom, Stop: *stop,
		Options: *options, Notes: *notes}
	image, err := b.image(ctx, usr, *usrFile, *bases)
	if err != nil {
		return err
	}
	image.HashAt = *hashAt
	if err := image.RootHash.UnmarshalText([]byte(*rootHash)); err != nil {
		return err
	}
	kernel, err := b.image(ctx, uki, *ukiFile, nil)
	if err != nil {
		return err
	}
	m.Images = []payload.Image{image, kernel}
	if err := m.Check(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	at := path.Join(b.dir, "manifest.json")
	list, err := json.MarshalIndent(c.With(payload.Listed{Version: *version, Manifest: at, Sum: payload.Sum(text), MinFrom: *minFrom, Stop: *stop}), "", " ")
	if err != nil {
		return err
	}
	files := map[string][]byte{at: text, p.path(): list}
	if *propose {
		return r.Propose(files, keys, time.Now())
	}
	return r.Publish(files, keys, time.Now())
}

// build makes the payload files of a release.
type build struct {
	out  interface{ Write([]byte) (int, error) }
	repo string
	dir  string
}

// image makes all payload files of one image.
func (b build) image(ctx context.Context, name, file string, bases []string) (payload.Image, error) {
	im := payload.Image{Name: name}
	for _, base := range append([]string{""}, bases...) {
		built, size, err := b.file(ctx, name, file, base)
		if err != nil {
			return im, fmt.Errorf("build %s: %w", name, err)
		}
		im.Size, im.SHA256 = size, built.SHA256
		im.Files = append(im.Files, built.File)
		fmt.Fprintf(b.out, "%s %d bytes, %.2f %% of the image, frames same %d full %d delta %d\n", built.File.Name, built.File.Size,
			100*float64(built.File.Size)/float64(size), built.Kinds[payload.Same], built.Kinds[payload.Full], built.Kinds[payload.Delta])
	}
	return im, nil
}

func (b build) file(ctx context.Context, name, file, base string) (built payload.Built, size int64, err error) {
	image, size, err := openSized(file)
	if err != nil {
		return built, 0, err
	}
	defer image.Close()
	dir := filepath.Join(b.repo, "payloads", filepath.FromSlash(b.dir))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return built, 0, err
	}
	out, err := os.CreateTemp(dir, "new*")
	if err != nil {
		return built, 0, err
	}
	w := bufio.NewWriterSize(out, 1<<20)
	if base == "" {
		built, err = payload.Build(ctx, w, image, size, nil, 0)
	} else {
		var old *os.File
		var oldSize int64
		if old, oldSize, err = openSized(base); err == nil {
			built, err = payload.Build(ctx, w, image, size, old, oldSize)
			err = errors.Join(err, old.Close())
		}
	}
	err = errors.Join(err, w.Flush(), out.Chmod(0o644), out.Sync(), out.Close())
	// The name carries the index's hash: a file that is there never changes, whatever is published under the same version.
	built.File.Name = fmt.Sprintf("%s-%s.zst", name, built.File.Index.Sum.String()[:16])
	if err == nil {
		err = os.Rename(out.Name(), filepath.Join(dir, built.File.Name))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(out.Name()))
	}
	return built, size, err
}

func openSized(p string) (*os.File, int64, error) {
	f, err := os.Open(p)
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

func withdraw(_ context.Context, j job) error {
	f, _ := j.flags()
	p := placeFlags(f)
	if err := j.parse(f, 2, 2); err != nil {
		return err
	}
	keys, err := readKeys(*p.keys)
	if err != nil {
		return err
	}
	r := trust.Repo{Dir: f.Arg(0), Expiry: trust.DefaultExpiry()}
	c, err := p.channelOf(r)
	if err != nil {
		return err
	}
	next := c.Without(f.Arg(1))
	if len(next.Releases) == len(c.Releases) {
		return fmt.Errorf("channel %s does not list %s", *p.channel, f.Arg(1))
	}
	b, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return err
	}
	return r.Publish(map[string][]byte{p.path(): b}, keys, time.Now())
}

func refresh(_ context.Context, j job) error {
	f, _ := j.flags()
	files := f.StringSlice("keys", nil, "the online key's private file")
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	keys, err := readKeys(*files)
	if err != nil {
		return err
	}
	return trust.Repo{Dir: f.Arg(0), Expiry: trust.DefaultExpiry()}.Refresh(keys, time.Now())
}

// mirror copies what is signed and what the manifests name. The payload files come first and the timestamp last: whoever reads the
// copy meanwhile sees the old state whole.
func mirror(ctx context.Context, j job) error {
	f, _ := j.flags()
	rootFile := f.String("root", "/usr/share/fleet/root.json", "root metadata")
	if err := j.parse(f, 2, 2); err != nil {
		return err
	}
	if err := checkMirror(f.Arg(0)); err != nil {
		return err
	}
	root, err := os.ReadFile(*rootFile)
	if err != nil {
		return err
	}
	to := f.Arg(1)
	get := fetch(http.DefaultClient, f.Arg(0))
	v, err := trust.Client{Root: root, Cache: filepath.Join(to, ".trust"), Fetch: get}.Open(ctx, time.Now())
	if err != nil {
		return err
	}
	for _, target := range v.Targets() {
		b, err := v.Read(target)
		if err != nil {
			return err
		}
		if strings.HasSuffix(target, "/manifest.json") {
			m, err := payload.ParseManifest(b)
			if err != nil {
				return fmt.Errorf("%s: %w", target, err)
			}
			if err := mirrorPayloads(ctx, f.Arg(0), to, path.Dir(target), m); err != nil {
				return err
			}
			fmt.Fprintf(j.stdout, "%s %s for %s\n", m.Product, m.Version, m.Arch)
		}
	}
	return trust.WriteTo(to, v.Files())
}

func mirrorPayloads(ctx context.Context, from, to, dir string, m payload.Manifest) error {
	h := host{cfg: Config{Mirrors: []string{from}}, client: http.DefaultClient}
	src, err := h.mirrors()
	if err != nil {
		return err
	}
	src.Left = nil
	for _, im := range m.Images {
		for _, file := range im.Files {
			file.Name = path.Join("payloads", dir, file.Name)
			if err := payload.Copy(ctx, src, im, file, filepath.Join(to, filepath.FromSlash(file.Name))); err != nil {
				return err
			}
		}
	}
	return nil
}
