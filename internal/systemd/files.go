package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// listWhole is from how many files on one list of all units is cheaper than a question per file.
const listWhole = 8

// Load makes unit files known to systemd until the next boot: links them and enables those with [Install]. stale says that systemd
// holds on to an older text of one, or must learn a new dependency of a unit it has loaded: reload before anything starts. Errors are
// by unit; the others are loaded all the same.
func (s *Systemd) Load(ctx context.Context, files []fleet.UnitPath) (stale bool, errs map[unit.Name]error) {
	errs = map[unit.Name]error{}
	c, err := s.connected()
	if err != nil {
		for _, f := range files {
			errs[f.Name] = err
		}
		return false, errs
	}
	unwanted := s.unlinkReplaced(ctx, c, files, errs)
	var install []fleet.UnitPath
	for _, f := range files {
		if errs[f.Name] != nil {
			continue
		}
		// Before the link: once systemd finds the unit, it finds it whole.
		if err := s.dropIns(f.Name, f.DropIns); err != nil {
			errs[f.Name] = fmt.Errorf("write drop-ins of %s: %w", f.Name, err)
			continue
		}
		if f.Install && len(f.DropIns) == 0 {
			install = append(install, f)
			continue
		}
		if err := s.link(f); err != nil {
			errs[f.Name] = fmt.Errorf("link %s: %w", f.Name, err)
			continue
		}
		if f.Install {
			// A unit that is enabled by its path is read without its drop-ins, which may be where [Install] is; one that is found by its name is not.
			f.Path = string(f.Name)
			install = append(install, f)
		}
	}
	wanting := s.enable(ctx, c, install, errs)
	s.touch()
	// only now, with the folder touched: asking about a unit may make systemd read it
	stale = s.loadedInactive(ctx, c, wanting)
	for n := range wanting {
		delete(unwanted, n)
	}
	stale = s.anyInMemory(ctx, c, unwanted) || stale
	for _, n := range s.inMemory(ctx, c, files) {
		stale = s.isStale(ctx, c, n) || stale
	}
	s.expect(files, errs)
	return stale, errs
}

// unlinkReplaced takes back what an older text had enabled. It returns the units that wanted one of them.
func (s *Systemd) unlinkReplaced(ctx context.Context, c *conn, files []fleet.UnitPath, errs map[unit.Name]error) (unwanted map[string]bool) {
	var names []unit.Name
	for _, f := range files {
		if f.Replaced {
			names = append(names, f.Name)
		}
	}
	failed, unwanted := s.disable(ctx, c, names)
	for n, err := range failed {
		errs[n] = err
	}
	return unwanted
}

// link makes the symlink that LinkUnitFiles with runtime=true would make, at a twentieth of the cost: is-enabled says
// linked-runtime either way.
func (s *Systemd) link(f fleet.UnitPath) error {
	at := filepath.Join(s.dir, string(f.Name))
	if old, err := os.Readlink(at); err == nil && old == f.Path {
		return nil
	}
	err := os.Symlink(f.Path, at)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a user's systemd makes its folder when it first needs it
		if err := os.MkdirAll(s.dir, 0o755); err != nil {
			return err
		}
		return os.Symlink(f.Path, at)
	case errors.Is(err, fs.ErrExist):
		if err := os.Remove(at); err != nil {
			return err
		}
		return os.Symlink(f.Path, at)
	}
	return err
}

// touch gives the links' folder a modification time of its own. systemd looks for new files only when that time has changed, and the
// kernel may give two changes within one clock tick (4 ms) the same.
func (s *Systemd) touch() {
	now := time.Now()
	if err := os.Chtimes(s.dir, now, now); err != nil {
		s.opt.Log.Debug("touch the folder of unit links", "err", err)
	}
}

// change is one row of what EnableUnitFiles or DisableUnitFiles did.
type change struct{ Kind, File, Destination string }

// wanting is the unit that a change made want or require another, or no longer; empty if it did not.
func (ch change) wanting() string {
	if ch.Kind != "symlink" && ch.Kind != "unlink" {
		return "" // a remark
	}
	dir := filepath.Base(filepath.Dir(ch.File))
	for _, kind := range []string{".wants", ".requires"} {
		if w, ok := strings.CutSuffix(dir, kind); ok {
			return w
		}
	}
	return ""
}

// alias mends the link of an Alias=. systemd makes it lead to the unit's file; since that lies outside of where systemd looks for units, the
// alias would be a second unit with the same text (tried on 252). One that leads to the unit's own link is a name of it.
func (s *Systemd) alias(ch change) error {
	to := filepath.Base(ch.Destination)
	if ch.Kind != "symlink" || filepath.Dir(ch.File) != s.dir || filepath.Base(ch.File) == to {
		return nil
	}
	if err := os.Remove(ch.File); err != nil {
		return err
	}
	return os.Symlink(to, ch.File)
}

// enable links and enables files, all in one call, or one by one when systemd refuses them together. It returns the
// units that want one of them now.
func (s *Systemd) enable(ctx context.Context, c *conn, files []fleet.UnitPath, errs map[unit.Name]error) (wanting map[string]bool) {
	wanting = map[string]bool{}
	if len(files) == 0 {
		return wanting
	}
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = f.Path
	}
	var carries bool
	var changes []change
	err := c.call(ctx, "EnableUnitFiles", []any{&carries, &changes}, paths, true, true)
	if err != nil && len(files) == 1 {
		errs[files[0].Name] = fmt.Errorf("enable %s: %w", files[0].Name, err)
	} else if err != nil {
		for _, f := range files {
			for w := range s.enable(ctx, c, []fleet.UnitPath{f}, errs) {
				wanting[w] = true
			}
		}
		return wanting
	}
	for _, ch := range changes {
		if w := ch.wanting(); w != "" {
			wanting[w] = true
		}
		if err := s.alias(ch); err != nil {
			n := unit.Name(filepath.Base(ch.Destination))
			errs[n] = fmt.Errorf("alias of %s: %w", n, err)
		}
	}
	return wanting
}

// anyInMemory reports whether systemd holds one of the units, and with it what it once read from the folder of its wants.
func (s *Systemd) anyInMemory(ctx context.Context, c *conn, names map[string]bool) bool {
	for n := range names {
		var object dbus.ObjectPath
		if c.call(ctx, "GetUnit", []any{&object}, n) == nil {
			return true
		}
	}
	return false
}

// loadedInactive reports whether one of the units is in memory and not running: it would not pull its new dependency up when it
// is started. A running one, such as multi-user.target, has done its pulling for this boot.
func (s *Systemd) loadedInactive(ctx context.Context, c *conn, names map[string]bool) bool {
	for n := range names {
		var object dbus.ObjectPath
		if c.call(ctx, "GetUnit", []any{&object}, n) != nil {
			continue // not in memory
		}
		if state, err := c.property(ctx, object, unitIface, "ActiveState"); err != nil || state != "active" {
			return true
		}
	}
	return false
}

// inMemory returns those of the units that systemd holds already: the others it will read from the new file.
func (s *Systemd) inMemory(ctx context.Context, c *conn, files []fleet.UnitPath) []unit.Name {
	var names []unit.Name
	if len(files) < listWhole {
		for _, f := range files {
			var object dbus.ObjectPath
			if c.call(ctx, "GetUnit", []any{&object}, string(f.Name)) == nil {
				names = append(names, f.Name)
			}
		}
		return names
	}
	var rows []listed
	if err := c.call(ctx, "ListUnits", []any{&rows}); err != nil {
		s.opt.Log.Debug("list all units", "err", err)
	}
	held := make(map[string]bool, len(rows))
	for _, r := range rows {
		held[r.ID] = true
	}
	for _, f := range files {
		if held[string(f.Name)] {
			names = append(names, f.Name)
		}
	}
	return names
}

// isStale asks whether systemd's text of a unit is older than the file.
func (s *Systemd) isStale(ctx context.Context, c *conn, name unit.Name) bool {
	v, err := c.property(ctx, objectOf(name), unitIface, "NeedDaemonReload")
	stale, _ := v.(bool)
	return err == nil && stale
}

// expect notes that fresh units are inactive, so that their first status asks for nothing more.
func (s *Systemd) expect(files []fleet.UnitPath, errs map[unit.Name]error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		if _, ok := s.known[f.Name]; !ok && !f.Replaced && errs[f.Name] == nil {
			s.known[f.Name] = known{active: "inactive", result: "success"}
		}
	}
}

// Unload makes systemd forget units that have stopped: takes back links and what was enabled, and a failed state. Their
// files may go after that. One that systemd does not know is no error.
func (s *Systemd) Unload(ctx context.Context, names []unit.Name) map[unit.Name]error {
	c, err := s.connected()
	if err != nil {
		return all(names, err)
	}
	errs, unwanted := s.disable(ctx, c, names)
	for _, n := range names {
		if errs[n] != nil {
			continue
		}
		if !s.isInactive(n) {
			if err := c.call(ctx, "ResetFailedUnit", nil, string(n)); err != nil && errorName(err) != errNotLoaded {
				errs[n] = fmt.Errorf("reset %s: %w", n, err)
			}
		}
		// after the reset, so that a unit whose reset failed is not lost from sight
		if err := s.unlink(n); err != nil {
			errs[n] = fmt.Errorf("unlink %s: %w", n, err)
		}
		if err := s.dropIns(n, nil); err != nil && errs[n] == nil {
			errs[n] = fmt.Errorf("remove drop-ins of %s: %w", n, err)
		}
	}
	s.touch()
	// A unit that required one of these would not start any more, and one that wanted it would keep its name in lists.
	if s.anyInMemory(ctx, c, unwanted) {
		if err := s.Reload(ctx); err != nil {
			s.opt.Log.Warn("systemd was not reloaded", "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		delete(s.known, n)
	}
	return errs
}

// isInactive reports whether a unit is known not to have failed, so that there is nothing to reset.
func (s *Systemd) isInactive(n unit.Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.known[n]
	return ok && k.active == "inactive" && k.moved.IsZero()
}

// unlink removes a unit's symlink. A real file of that name is somebody else's.
func (s *Systemd) unlink(n unit.Name) error {
	at := filepath.Join(s.dir, string(n))
	if _, err := os.Readlink(at); err != nil {
		return nil
	}
	return os.Remove(at)
}

// disable takes back what was enabled for units, and with it their links. Units without such leftovers cost no call. unwanted are the units
// that wanted or required one of them.
func (s *Systemd) disable(ctx context.Context, c *conn, names []unit.Name) (errs map[unit.Name]error, unwanted map[string]bool) {
	errs, unwanted = map[unit.Name]error{}, map[string]bool{}
	if len(names) == 0 {
		return errs, unwanted
	}
	on := s.enabled() // DisableUnitFiles of a unit without links is an error, and each call costs milliseconds
	for _, n := range names {
		if !on[n] {
			continue
		}
		var changes []change
		if err := c.call(ctx, "DisableUnitFiles", []any{&changes}, []string{string(n)}, true); err != nil {
			errs[n] = fmt.Errorf("disable %s: %w", n, err)
		}
		for _, ch := range changes {
			if w := ch.wanting(); w != "" {
				unwanted[w] = true
			}
		}
	}
	return errs, unwanted
}

// enabled returns the units that another name or another unit's folder links to.
func (s *Systemd) enabled() map[unit.Name]bool {
	on := map[unit.Name]bool{}
	s.mu.Lock()
	known := maps.Clone(s.known) // their links have their own names and need not be read
	s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return on
	}
	for _, e := range entries {
		switch {
		case e.IsDir() && (strings.HasSuffix(e.Name(), ".wants") || strings.HasSuffix(e.Name(), ".requires")):
			inner, err := os.ReadDir(filepath.Join(s.dir, e.Name()))
			if err != nil {
				continue
			}
			for _, i := range inner {
				on[unit.Name(i.Name())] = true
			}
		case e.Type()&fs.ModeSymlink != 0:
			if _, plain := known[unit.Name(e.Name())]; plain {
				continue
			}
			if to, err := os.Readlink(filepath.Join(s.dir, e.Name())); err == nil && filepath.Base(to) != e.Name() {
				on[unit.Name(filepath.Base(to))] = true // Alias=
			}
		}
	}
	return on
}
