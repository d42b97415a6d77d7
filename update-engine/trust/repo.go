package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ErrThreshold: too few of the right private keys were given.
var ErrThreshold = errors.New("not enough signatures")

// Roles say who may sign what: Root and Targets by Threshold of their keys, the online key alone what is the newest.
type Roles struct {
	Root, Targets    []Key
	RootThreshold    int
	TargetsThreshold int
	Online           []Key // one is enough
}

// Expiry is how long each role's word holds. Root and targets keys come out of the safe before that; the online key must sign
// anew every few days.
type Expiry struct {
	Root, Targets, Online time.Duration
}

// DefaultExpiry is two years, one year, and ten days.
func DefaultExpiry() Expiry {
	const day = 24 * time.Hour
	return Expiry{Root: 730 * day, Targets: 365 * day, Online: 10 * day}
}

// Repo is a release directory that is written.
type Repo struct {
	Dir    string
	Expiry Expiry
}

type state struct {
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
}

// Init makes an empty directory. Its root metadata is what images must carry.
func (r Repo) Init(roles Roles, now time.Time) error {
	if _, err := os.Stat(r.path("metadata/1.root.json")); err == nil {
		return fmt.Errorf("%s holds a release directory already", r.Dir)
	}
	s := state{metadata.Root(now.Add(r.Expiry.Root)), metadata.Targets(now.Add(r.Expiry.Targets)), metadata.Snapshot(now.Add(r.Expiry.Online)),
		metadata.Timestamp(now.Add(r.Expiry.Online))}
	s.root.Signed.ConsistentSnapshot = true
	keys, err := s.setRoles(roles)
	if err != nil {
		return err
	}
	if err := s.signRoot(nil, keys); err != nil {
		return err
	}
	if err := s.sign(keys, true); err != nil {
		return err
	}
	if err := r.writeRoot(s); err != nil {
		return err
	}
	return r.write(s, true)
}

// setRoles puts the keys into the root metadata and returns all of them.
func (s state) setRoles(roles Roles) ([]Key, error) {
	root := &s.root.Signed
	root.Keys, root.Roles = map[string]*metadata.Key{}, map[string]*metadata.Role{}
	for _, role := range []struct {
		name      string
		keys      []Key
		threshold int
	}{{metadata.ROOT, roles.Root, roles.RootThreshold}, {metadata.TARGETS, roles.Targets, roles.TargetsThreshold},
		{metadata.SNAPSHOT, roles.Online, 1}, {metadata.TIMESTAMP, roles.Online, 1}} {
		root.Roles[role.name] = &metadata.Role{Threshold: role.threshold}
		for _, k := range role.keys {
			key, err := metadata.KeyFromPublicKey(k.Public)
			if err != nil {
				return nil, err
			}
			if err := root.AddKey(key, role.name); err != nil {
				return nil, err
			}
		}
		if n := len(root.Roles[role.name].KeyIDs); role.threshold < 1 || role.threshold > n {
			return nil, fmt.Errorf("role %s: threshold %d of %d different keys", role.name, role.threshold, n)
		}
	}
	return slices.Concat(roles.Root, roles.Targets, roles.Online), nil
}

// signRoot signs by the new keys and, after the first root, by the old ones too: that is what lets hosts follow.
func (s state) signRoot(old *metadata.Metadata[metadata.RootType], keys []Key) error {
	s.root.ClearSignatures()
	want := []*metadata.Role{s.root.Signed.Roles[metadata.ROOT]}
	if old != nil {
		want = append(want, old.Signed.Roles[metadata.ROOT])
	}
	if err := signBy(s.root, keys, want...); err != nil {
		return fmt.Errorf("sign root: %w", err)
	}
	for _, by := range []*metadata.Metadata[metadata.RootType]{s.root, old} {
		if by == nil {
			continue
		}
		if err := by.VerifyDelegate(metadata.ROOT, s.root); err != nil {
			return fmt.Errorf("sign root: %w: %w", ErrThreshold, err)
		}
	}
	return nil
}

// sign signs the newest word, and with targets set the list of targets too.
func (s state) sign(keys []Key, targets bool) error {
	roles := s.root.Signed.Roles
	if targets {
		s.targets.ClearSignatures()
		if err := signBy(s.targets, keys, roles[metadata.TARGETS]); err != nil {
			return fmt.Errorf("sign targets: %w", err)
		}
		if err := s.root.VerifyDelegate(metadata.TARGETS, s.targets); err != nil {
			return fmt.Errorf("sign targets: %w: %w", ErrThreshold, err)
		}
	}
	s.snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(s.targets.Signed.Version)
	s.snapshot.ClearSignatures()
	if err := signBy(s.snapshot, keys, roles[metadata.SNAPSHOT]); err != nil {
		return fmt.Errorf("sign snapshot: %w", err)
	}
	s.timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(s.snapshot.Signed.Version)
	s.timestamp.ClearSignatures()
	if err := signBy(s.timestamp, keys, roles[metadata.TIMESTAMP]); err != nil {
		return fmt.Errorf("sign timestamp: %w", err)
	}
	return errors.Join(s.root.VerifyDelegate(metadata.SNAPSHOT, s.snapshot), s.root.VerifyDelegate(metadata.TIMESTAMP, s.timestamp))
}

// signBy adds the signatures of those keys that the roles name.
func signBy[T metadata.Roles](m *metadata.Metadata[T], keys []Key, roles ...*metadata.Role) error {
	done := map[string]bool{}
	for _, k := range keys {
		id, err := k.ID()
		if err != nil {
			return err
		}
		named := slices.ContainsFunc(roles, func(r *metadata.Role) bool { return slices.Contains(r.KeyIDs, id) })
		if done[id] || !named || k.Private == nil {
			continue
		}
		signer, err := k.signer()
		if err != nil {
			return err
		}
		// Signed before: the old one goes, it may be of another text.
		m.Signatures = slices.DeleteFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
		if _, err := m.Sign(signer); err != nil {
			return err
		}
		done[id] = true
	}
	if len(done) == 0 {
		return fmt.Errorf("%w: none of the keys given belongs to this role", ErrThreshold)
	}
	return nil
}

func (r Repo) path(p string) string { return filepath.Join(r.Dir, filepath.FromSlash(p)) }

// load reads the newest state.
func (r Repo) load() (state, error) {
	var s state
	names, err := os.ReadDir(r.path("metadata"))
	if err != nil {
		return s, fmt.Errorf("read release directory: %w", err)
	}
	newest := 0
	for _, n := range names {
		v := 0
		if _, err := fmt.Sscanf(n.Name(), "%d.root.json", &v); err == nil {
			newest = max(newest, v)
		}
	}
	read := func(name string, load func([]byte) error) {
		b, rerr := os.ReadFile(r.path("metadata/" + name))
		if rerr == nil {
			rerr = load(b)
		}
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("read %s: %w", name, rerr))
		}
	}
	read(fmt.Sprintf("%d.root.json", newest), func(b []byte) (e error) { s.root, e = metadata.Root().FromBytes(b); return e })
	read("timestamp.json", func(b []byte) (e error) { s.timestamp, e = metadata.Timestamp().FromBytes(b); return e })
	if err != nil {
		return s, err
	}
	n, err := versionIn(s.timestamp.Signed.Meta, "timestamp.json", "snapshot.json")
	if err != nil {
		return s, err
	}
	read(fmt.Sprintf("%d.snapshot.json", n), func(b []byte) (e error) { s.snapshot, e = metadata.Snapshot().FromBytes(b); return e })
	if err != nil {
		return s, err
	}
	if n, err = versionIn(s.snapshot.Signed.Meta, "snapshot.json", "targets.json"); err != nil {
		return s, err
	}
	read(fmt.Sprintf("%d.targets.json", n), func(b []byte) (e error) { s.targets, e = metadata.Targets().FromBytes(b); return e })
	return s, err
}

// versionIn is the version of a file that another names.
func versionIn(meta map[string]*metadata.MetaFiles, in, name string) (int64, error) {
	f := meta[name]
	if f == nil {
		return 0, fmt.Errorf("read %s: it does not name %s: restore the directory from a copy", in, name)
	}
	return f.Version, nil
}

// next is the same state one version on, with the time to expire set anew.
func (r Repo) next(s state, now time.Time, targets bool) {
	if targets {
		s.targets.Signed.Version++
		s.targets.Signed.Expires = now.Add(r.Expiry.Targets)
	}
	s.snapshot.Signed.Version++
	s.snapshot.Signed.Expires = now.Add(r.Expiry.Online)
	s.timestamp.Signed.Version++
	s.timestamp.Signed.Expires = now.Add(r.Expiry.Online)
}

// Publish adds or replaces signed files, and takes those away that are nil. Needs the targets keys and the online key.
func (r Repo) Publish(files map[string][]byte, keys []Key, now time.Time) error {
	s, err := r.load()
	if err != nil {
		return err
	}
	r.next(s, now, true)
	if err := s.change(files); err != nil {
		return err
	}
	if err := s.sign(keys, true); err != nil {
		return err
	}
	if err := r.putTargets(files); err != nil {
		return err
	}
	return r.write(s, true)
}

// Refresh says once more that the directory is the newest, before the old word expires. Needs the online key only.
func (r Repo) Refresh(keys []Key, now time.Time) error {
	s, err := r.load()
	if err != nil {
		return err
	}
	r.next(s, now, false)
	if err := s.sign(keys, false); err != nil {
		return err
	}
	return r.write(s, false)
}

// Rotate replaces the roles' keys. It needs enough of the old root keys and of the new ones, and all others of the new, since
// everything is signed anew.
func (r Repo) Rotate(roles Roles, keys []Key, now time.Time) error {
	s, err := r.load()
	if err != nil {
		return err
	}
	b, err := s.root.ToBytes(false)
	if err != nil {
		return err
	}
	old, err := metadata.Root().FromBytes(b)
	if err != nil {
		return err
	}
	s.root.Signed.Version++
	s.root.Signed.Expires = now.Add(r.Expiry.Root)
	if _, err := s.setRoles(roles); err != nil {
		return err
	}
	if err := s.signRoot(old, keys); err != nil {
		return err
	}
	r.next(s, now, true)
	if err := s.sign(keys, true); err != nil {
		return err
	}
	if err := r.writeRoot(s); err != nil {
		return err
	}
	return r.write(s, true)
}

// Root is the newest root metadata: what an image carries.
func (r Repo) Root() ([]byte, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(r.path(fmt.Sprintf("metadata/%d.root.json", s.root.Signed.Version)))
}

// Read gives the newest content of a signed file; fs.ErrNotExist when there is none. It trusts the disk: it is the publisher's own.
func (r Repo) Read(target string) ([]byte, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	info, ok := s.targets.Signed.Targets[target]
	if !ok {
		return nil, fmt.Errorf("%s: %w", target, fs.ErrNotExist)
	}
	return os.ReadFile(r.path("targets/" + stored(target, fmt.Sprintf("%x", []byte(info.Hashes["sha256"])))))
}

func (r Repo) writeRoot(s state) error {
	b, err := s.root.ToBytes(false)
	if err != nil {
		return err
	}
	return put(r.path(fmt.Sprintf("metadata/%d.root.json", s.root.Signed.Version)), b)
}

// write puts the new state in place, the timestamp last: until then everybody sees the old one.
func (r Repo) write(s state, targets bool) error {
	type part struct {
		name string
		b    func(bool) ([]byte, error)
	}
	parts := []part{{fmt.Sprintf("%d.snapshot.json", s.snapshot.Signed.Version), s.snapshot.ToBytes}, {"timestamp.json", s.timestamp.ToBytes}}
	if targets {
		parts = slices.Insert(parts, 0, part{fmt.Sprintf("%d.targets.json", s.targets.Signed.Version), s.targets.ToBytes})
	}
	for _, p := range parts {
		b, err := p.b(false)
		if err == nil {
			err = put(r.path("metadata/"+p.name), b)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", p.name, err)
		}
	}
	return nil
}

// WriteTo puts a copy of files, as View.Files orders them, into a directory.
func WriteTo(dir string, files []File) error {
	for _, f := range files {
		if err := put(filepath.Join(dir, filepath.FromSlash(f.Path)), f.Data); err != nil {
			return err
		}
	}
	return nil
}

// put writes a file whole or not at all.
func put(p string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(p), ".new*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), p)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
