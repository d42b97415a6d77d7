package systemd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fleet-init/fleet/internal/unit"
)

// ownDropIn is how the names of fleet's drop-ins begin. An operator's, in the same folder, stay as they are.
const ownDropIn = "fleet-"

// dropIns makes fleet's drop-ins of a unit these. They lie beside the unit's link and go with the next boot as it does. One that is
// right already is not written: its new time would make systemd take the unit for changed.
func (s *Systemd) dropIns(n unit.Name, want map[string]string) error {
	dir := filepath.Join(s.dir, string(n)+".d")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(want) == 0 && err != nil {
		return nil // as nearly all units
	}
	for _, e := range entries {
		if _, keep := want[e.Name()]; !keep && strings.HasPrefix(e.Name(), ownDropIn) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if len(want) == 0 {
		_ = os.Remove(dir) // unless somebody else's are in it
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range want {
		at := filepath.Join(dir, name)
		if have, err := os.ReadFile(at); err == nil && string(have) == text {
			continue
		}
		// systemd reads no file whose name does not end in .conf
		if err := os.WriteFile(at+".new", []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.Rename(at+".new", at); err != nil {
			return err
		}
	}
	return nil
}
