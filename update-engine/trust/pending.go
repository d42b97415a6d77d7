package trust

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Where several people must sign, each with a key that never leaves its owner, a change is proposed first: it lies in "pending/" beside the
// metadata, where no host looks. Everybody adds a signature to a copy of the directory and passes that on; once there are enough, the
// online key puts the change in place.

// ErrPending: there is no proposed change, or one that was overtaken.
var ErrPending = errors.New("no change is pending")

// Waiting says how far a proposed change is.
type Waiting struct {
	Role    string // root or targets
	Version int64
	Signed  []string // IDs of the keys that have signed
	Keys    []string // IDs of those that may
	Need    int
	Changes []string // of targets: paths that come, change or go ("-path")
}

// Enough says whether the threshold is reached.
func (w Waiting) Enough() bool { return len(w.Signed) >= w.Need }

// Propose is Publish without the signatures that are still missing, and without the online key: keys are those at hand.
func (r Repo) Propose(files map[string][]byte, keys []Key, now time.Time) error {
	s, err := r.load()
	if err != nil {
		return err
	}
	r.next(s, now, true)
	if err := s.change(files); err != nil {
		return err
	}
	s.targets.ClearSignatures()
	if err := signSome(s.targets, keys, s.root.Signed.Roles[metadata.TARGETS]); err != nil {
		return err
	}
	if err := r.putTargets(files); err != nil {
		return err
	}
	return errors.Join(gone(r.path("pending/root.json")), r.writePending("targets.json", s.targets.ToBytes))
}

// ProposeRotate is Rotate without the signatures that are still missing.
func (r Repo) ProposeRotate(roles Roles, keys []Key, now time.Time) error {
	s, err := r.load()
	if err != nil {
		return err
	}
	old := slices.Clone(s.root.Signed.Roles[metadata.ROOT].KeyIDs)
	s.root.Signed.Version++
	s.root.Signed.Expires = now.Add(r.Expiry.Root)
	if _, err := s.setRoles(roles); err != nil {
		return err
	}
	s.root.ClearSignatures()
	r.next(s, now, true)
	s.targets.ClearSignatures()
	all := s.root.Signed.Roles
	err = errors.Join(signSome(s.root, keys, all[metadata.ROOT], &metadata.Role{KeyIDs: old}), signSome(s.targets, keys, all[metadata.TARGETS]))
	if err != nil {
		return err
	}
	return errors.Join(r.writePending("root.json", s.root.ToBytes), r.writePending("targets.json", s.targets.ToBytes))
}

// signSome is signBy for what others sign too: no key at hand is fine.
func signSome[T metadata.Roles](m *metadata.Metadata[T], keys []Key, roles ...*metadata.Role) error {
	if err := signBy(m, keys, roles...); err != nil && !errors.Is(err, ErrThreshold) {
		return err
	}
	return nil
}

// pending is a proposed change: root is nil where the keys stay.
type pending struct {
	state // as it is now
	root2 *metadata.Metadata[metadata.RootType]
	next  *metadata.Metadata[metadata.TargetsType]
}

// after is the root metadata that counts once the change is in place.
func (p pending) after() *metadata.Metadata[metadata.RootType] {
	if p.root2 != nil {
		return p.root2
	}
	return p.root
}

func (r Repo) loadPending() (pending, error) {
	s, err := r.load()
	p := pending{state: s}
	if err != nil {
		return p, err
	}
	b, err := os.ReadFile(r.path("pending/targets.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return p, ErrPending
	}
	if err != nil {
		return p, err
	}
	if p.next, err = metadata.Targets().FromBytes(b); err != nil {
		return p, fmt.Errorf("pending/targets.json: %w", err)
	}
	if b, err = os.ReadFile(r.path("pending/root.json")); err == nil {
		if p.root2, err = metadata.Root().FromBytes(b); err != nil {
			return p, fmt.Errorf("pending/root.json: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	if p.next.Signed.Version != s.targets.Signed.Version+1 || p.root2 != nil && p.root2.Signed.Version != s.root.Signed.Version+1 {
		return p, fmt.Errorf("%w: another change came first, propose it anew", ErrPending)
	}
	return p, nil
}

// Sign adds the signatures of these keys to the proposed change.
func (r Repo) Sign(keys []Key) error {
	p, err := r.loadPending()
	if err != nil {
		return err
	}
	errs := []error{signBy(p.next, keys, p.after().Signed.Roles[metadata.TARGETS])}
	if p.root2 != nil {
		errs = append(errs, signBy(p.root2, keys, p.root2.Signed.Roles[metadata.ROOT], p.root.Signed.Roles[metadata.ROOT]))
	}
	signed := false
	for _, err := range errs {
		if err != nil && !errors.Is(err, ErrThreshold) {
			return fmt.Errorf("sign the change: %w", err)
		}
		signed = signed || err == nil
	}
	if !signed {
		return fmt.Errorf("sign the change: %w", errs[0])
	}
	if p.root2 != nil {
		if err := r.writePending("root.json", p.root2.ToBytes); err != nil {
			return err
		}
	}
	return r.writePending("targets.json", p.next.ToBytes)
}

// Pending says what is proposed and who has signed it.
func (r Repo) Pending() ([]Waiting, error) {
	p, err := r.loadPending()
	if err != nil {
		return nil, err
	}
	role := p.after().Signed.Roles[metadata.TARGETS]
	w := Waiting{Role: metadata.TARGETS, Version: p.next.Signed.Version, Keys: role.KeyIDs, Need: role.Threshold}
	for _, sig := range p.next.Signatures {
		w.Signed = append(w.Signed, sig.KeyID)
	}
	before, now := p.targets.Signed.Targets, p.next.Signed.Targets
	for path, t := range now {
		if old := before[path]; old == nil || !old.Equal(*t) {
			w.Changes = append(w.Changes, path)
		}
	}
	for path := range before {
		if now[path] == nil {
			w.Changes = append(w.Changes, "-"+path)
		}
	}
	slices.Sort(w.Changes)
	out := []Waiting{w}
	if p.root2 == nil {
		return out, nil
	}
	// Both the old keys and the new ones have to agree.
	for _, by := range []*metadata.Metadata[metadata.RootType]{p.root, p.root2} {
		role := by.Signed.Roles[metadata.ROOT]
		x := Waiting{Role: metadata.ROOT, Version: p.root2.Signed.Version, Keys: role.KeyIDs, Need: role.Threshold}
		for _, sig := range p.root2.Signatures {
			if slices.Contains(role.KeyIDs, sig.KeyID) {
				x.Signed = append(x.Signed, sig.KeyID)
			}
		}
		out = append(out, x)
	}
	return out, nil
}

// Commit puts the proposed change in place. Needs the online key; ErrThreshold when too few have signed.
func (r Repo) Commit(online []Key, now time.Time) error {
	p, err := r.loadPending()
	if err != nil {
		return err
	}
	if p.root2 != nil {
		if err := errors.Join(p.root.VerifyDelegate(metadata.ROOT, p.root2), p.root2.VerifyDelegate(metadata.ROOT, p.root2)); err != nil {
			return fmt.Errorf("root: %w: %w", ErrThreshold, err)
		}
	}
	if err := p.after().VerifyDelegate(metadata.TARGETS, p.next); err != nil {
		return fmt.Errorf("targets: %w: %w", ErrThreshold, err)
	}
	s := state{root: p.after(), targets: p.next, snapshot: p.snapshot, timestamp: p.timestamp}
	r.next(s, now, false)
	if err := s.sign(online, false); err != nil {
		return err
	}
	if p.root2 != nil {
		if err := r.writeRoot(s); err != nil {
			return err
		}
	}
	if err := r.write(s, true); err != nil {
		return err
	}
	return errors.Join(gone(r.path("pending/root.json")), gone(r.path("pending/targets.json")))
}

func gone(p string) error {
	if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (r Repo) writePending(name string, b func(bool) ([]byte, error)) error {
	raw, err := b(false)
	if err == nil {
		err = put(r.path("pending/"+name), raw)
	}
	return err
}

// change lays files over the list of targets; nil takes one away.
func (s state) change(files map[string][]byte) error {
	for p, b := range files {
		if !fs.ValidPath(p) || strings.Contains(p, "\\") {
			return fmt.Errorf("publish %q: want a clean relative path", p)
		}
		if b == nil {
			delete(s.targets.Signed.Targets, p)
			continue
		}
		if len(b) > maxTarget {
			return fmt.Errorf("publish %s: %d bytes, at most %d", p, len(b), maxTarget)
		}
		info, err := metadata.TargetFile().FromBytes(p, b, "sha256")
		if err != nil {
			return fmt.Errorf("publish %s: %w", p, err)
		}
		s.targets.Signed.Targets[p] = info
	}
	return nil
}

// putTargets writes the files themselves. Until the list names them nobody reads them.
func (r Repo) putTargets(files map[string][]byte) error {
	for p, b := range files {
		if b != nil {
			if err := put(r.path("targets/"+stored(p, fmt.Sprintf("%x", sha256.Sum256(b)))), b); err != nil {
				return err
			}
		}
	}
	return nil
}
