package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

var (
	// ErrNoKeys: the host has no root metadata. There is no way to go on without.
	ErrNoKeys = errors.New("no root metadata: without keys no update can be trusted; put root.json in place")
	// ErrExpired: what is signed was not renewed in time, or an old copy is served, or the clock is wrong.
	ErrExpired = errors.New("the signed metadata has expired")
	// ErrUntrusted: signatures, versions or hashes are wrong.
	ErrUntrusted = errors.New("not trusted")
)

// Fetch reads one file of the directory by its path; at most max bytes. A file that is not there is fs.ErrNotExist.
type Fetch func(ctx context.Context, path string, max int64) ([]byte, error)

// Client is what a host needs to believe a directory.
type Client struct {
	Root  []byte // the root metadata of the image
	Cache string // folder for what was seen last: the guard against being served an older state
	Fetch Fetch
}

// View is the directory at one moment, believed.
type View struct {
	ctx   context.Context
	up    *updater.Updater
	fetch *fetcher
}

// maxTarget bounds what is read as one signed file: channels and manifests are small.
const maxTarget = 1 << 20

const remote = "https://directory.invalid/"

// fetcher gives go-tuf's updater our files, and remembers them for Mirror.
type fetcher struct {
	ctx   context.Context
	fetch Fetch
	seen  []File
}

// File is one file of the directory.
type File struct {
	Path string
	Data []byte
}

// DownloadFile implements go-tuf's Fetcher.
func (f *fetcher) DownloadFile(url string, most int64, _ time.Duration) ([]byte, error) {
	p := strings.TrimPrefix(url, remote)
	b, err := f.fetch(f.ctx, p, most)
	if errors.Is(err, fs.ErrNotExist) {
		// This is how the updater learns that there is no newer root.
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: p}
	}
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", p, most)
	}
	if err == nil {
		f.seen = append(f.seen, File{p, b})
	}
	return b, err
}

// Open reads and checks the directory's metadata. It must not have expired by now, nor by the last time at which this host believed it: a clock that
// was reset to 1970 brings nothing back that had expired then.
func (c Client) Open(ctx context.Context, now time.Time) (*View, error) {
	if len(c.Root) == 0 {
		return nil, ErrNoKeys
	}
	f := &fetcher{ctx: ctx, fetch: c.Fetch}
	cfg, err := config.New(remote+"metadata", c.Root)
	if err != nil {
		return nil, fmt.Errorf("set up trust: %w", err)
	}
	cfg.Fetcher, cfg.LocalMetadataDir, cfg.LocalTargetsDir = f, c.Cache, c.Cache
	cfg.RemoteTargetsURL = remote + "targets"
	if err := dropTorn(c.Cache); err != nil {
		return nil, err
	}
	up, err := updater.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("read root metadata: %w", sort(err))
	}
	seen := filepath.Join(c.Cache, metadata.TIMESTAMP+".json")
	if info, err := os.Stat(seen); err == nil && info.ModTime().After(now) {
		now = info.ModTime()
	}
	up.UnsafeSetRefTime(now)
	// Hosts with this root can use a copy only if it holds this root.
	version := up.GetTrustedMetadataSet().Root.Signed.Version
	f.seen = append(f.seen, File{fmt.Sprintf("metadata/%d.root.json", version), c.Root})
	if err := up.Refresh(); err != nil {
		return nil, fmt.Errorf("check the directory's metadata: %w", sort(err))
	}
	// A clock that is wrong the other way is remembered no longer than what was signed last holds: behind that nothing is believed.
	if err := errors.Join(os.Chtimes(seen, now, now), syncAll(c.Cache)); err != nil {
		return nil, fmt.Errorf("keep what was seen of the directory: %w", err)
	}
	return &View{ctx, up, f}, nil
}

// cached are the files that go-tuf keeps in its folder.
func cached(dir string) []string {
	list, _ := filepath.Glob(filepath.Join(dir, "*.json")) // the pattern is a good one
	return list
}

// dropTorn removes what a power cut has left empty or half written: go-tuf renames before it syncs, and would stop at such a file at
// every check from then on. What was seen last is forgotten with it; nobody from elsewhere can bring that about.
func dropTorn(dir string) error {
	for _, p := range cached(dir) {
		b, err := os.ReadFile(p)
		if err == nil && !json.Valid(b) {
			err = os.Remove(p)
		}
		if err != nil {
			return fmt.Errorf("read what was seen of the directory last: %w", err)
		}
	}
	return nil
}

// syncAll makes what was seen outlive a power cut: else an older state could be served after it.
func syncAll(dir string) error {
	var errs []error
	for _, p := range append(cached(dir), dir) {
		f, err := os.Open(p)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sort ties go-tuf's errors to ours. What is neither is a matter of reaching the files.
func sort(err error) error {
	var download *metadata.ErrDownload
	var status *metadata.ErrDownloadHTTP
	switch {
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return fmt.Errorf("%w: %w", ErrExpired, err)
	case errors.As(err, &status), errors.As(err, &download):
		return err
	case errors.Is(err, &metadata.ErrRepository{}), errors.Is(err, &metadata.ErrValue{}):
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return err
}

// Targets lists what is signed.
func (v *View) Targets() []string {
	var out []string
	for p := range v.up.GetTopLevelTargets() {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// Read gives a signed file's content. One that nobody signed is fs.ErrNotExist.
func (v *View) Read(target string) ([]byte, error) {
	info, ok := v.up.GetTopLevelTargets()[target]
	if !ok {
		return nil, fmt.Errorf("%s is not signed: %w", target, fs.ErrNotExist)
	}
	if info.Length > maxTarget || info.Hashes["sha256"] == nil {
		return nil, fmt.Errorf("%s: %w: %d bytes, or no sha256", target, ErrUntrusted, info.Length)
	}
	// Read by our own hands: the updater would keep a copy of every file in the cache.
	b, err := v.fetch.DownloadFile(remote+"targets/"+stored(target, fmt.Sprintf("%x", []byte(info.Hashes["sha256"]))), info.Length, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", target, err)
	}
	if err := info.VerifyLengthHashes(b); err != nil {
		return nil, fmt.Errorf("read %s: %w: %w", target, ErrUntrusted, err)
	}
	return b, nil
}

// stored is where a target lies below targets/: under its hash, so that a newer one never takes its place.
func stored(target, sum string) string {
	return path.Join(path.Dir(target), sum+"."+path.Base(target))
}

// Files are all files that were read, in an order in which a copy may be written: whoever reads it meanwhile sees the old state or
// the new one.
func (v *View) Files() []File {
	weight := func(f File) int {
		switch {
		case strings.HasPrefix(f.Path, "targets/"):
			return 0
		case strings.HasSuffix(f.Path, "root.json"):
			return 1
		case strings.HasSuffix(f.Path, "targets.json"):
			return 2
		case strings.HasSuffix(f.Path, "snapshot.json"):
			return 3
		}
		return 4
	}
	out := slices.Clone(v.fetch.seen)
	slices.SortStableFunc(out, func(a, b File) int { return weight(a) - weight(b) })
	return out
}
