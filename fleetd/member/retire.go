package member

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// retire moves this member's data aside and has the host begin again without any: as one that joins. The data stays until the
// next time, for whoever needs to look into it.
func (m *Member) retire(st *state, why string) error {
	to, err := setAside(m.cfg.Dir, time.Now())
	if err != nil {
		return err
	}
	next := *st
	next.ID, next.Self = "", ""
	if err := next.save(m.cfg.Dir); err != nil {
		return err
	}
	*st = next
	m.update(func(s *Status) { s.Role, s.ID, s.Leads = None, "", false })
	m.log.Warn("this host's data of the store is moved aside, it joins anew", "reason", why, "to", to)
	return errAgain
}

// setAside renames the folder of etcd's files and makes an empty one. Of those that were set aside before only the newest
// stays: it may be the original, if a restore was interrupted and begun again.
func setAside(dir string, now time.Time) (to string, err error) {
	old, err := filepath.Glob(etcdDir(dir) + ".old-*")
	if err != nil {
		return "", err
	}
	slices.Sort(old)
	for len(old) > 1 {
		if err := os.RemoveAll(old[0]); err != nil {
			return "", fmt.Errorf("remove what was set aside before: %w", err)
		}
		old = old[1:]
	}
	to = etcdDir(dir) + ".old-" + now.UTC().Format("20060102T150405.000")
	if err := os.Rename(etcdDir(dir), to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("set the store's data aside: %w", err)
	}
	if err := os.Mkdir(etcdDir(dir), 0o700); err != nil {
		return "", fmt.Errorf("make an empty folder for the store: %w", err)
	}
	return to, syncDir(dir)
}

// syncDir returns when what was renamed in a folder will survive a power loss.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
