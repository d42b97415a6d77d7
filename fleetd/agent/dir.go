package agent

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

// Dir is the Disk of a real host: unit files in one folder, marks in another. Marks belong on a file system that a reboot empties, so
// that after it everything is started anew. The drop-ins of a unit are one file of a third folder, as the registry has them; what systemd reads
// of them, the adapter writes.
type Dir struct {
	units, marks, beside string
	log                  *slog.Logger
}

// tempPrefix marks files that are being written. systemd ignores names that start with a dot, and so does Read.
const tempPrefix = ".fleet-"

// OpenDir makes the folders where they do not exist, and removes what a crash left half written.
func OpenDir(units, marks, beside string, log *slog.Logger) (*Dir, error) {
	for _, d := range []string{units, marks, beside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
		entries, err := os.ReadDir(d)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), tempPrefix) {
				continue
			}
			if err := os.Remove(filepath.Join(d, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return &Dir{units: units, marks: marks, beside: beside, log: log}, nil
}

// Path is where a unit's file is, or would be.
func (d *Dir) Path(n unit.Name) string { return filepath.Join(d.units, string(n)) }

// runnable checks a name before it becomes a path.
func runnable(s string) (unit.Name, error) {
	n, err := unit.ParseName(s)
	if err != nil {
		return "", err
	}
	switch {
	case n.IsTemplate():
		return "", fmt.Errorf("%s is a template: only its instances can run", n)
	case s[0] == '.':
		return "", fmt.Errorf("%s starts with a dot: systemd does not see it", n)
	}
	return n, nil
}

// Read reads all unit files, drop-ins and marks. Other files are left alone.
func (d *Dir) Read() (map[unit.Name]OnDisk, error) {
	found := map[unit.Name]OnDisk{}
	err := d.each(d.beside, func(n unit.Name, text []byte) { found[n] = OnDisk{Beside: string(text)} })
	if err != nil {
		return nil, err
	}
	err = d.each(d.units, func(n unit.Name, text []byte) {
		o := OnDisk{Beside: found[n].Beside}
		text = append(text, o.Beside...)
		sum := sha1.Sum(text)
		if f, err := unit.ParseStored(text); err == nil {
			o = onDisk(n, f)
		}
		o.Hash = unit.Hash(hex.EncodeToString(sum[:]))
		found[n] = o
	})
	if err != nil {
		return nil, err
	}
	err = d.each(d.marks, func(n unit.Name, text []byte) {
		o := found[n]
		started, restarted, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
		o.Started = unit.Hash(started)
		o.Restarted, _ = strconv.ParseInt(restarted, 10, 64) // none: 0
		found[n] = o
	})
	return found, err
}

func (d *Dir) each(dir string, do func(unit.Name, []byte)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, err := runnable(e.Name())
		if err != nil || !e.Type().IsRegular() {
			d.log.Debug("a file that is no unit is left alone", "path", filepath.Join(dir, e.Name()))
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken away meanwhile
		}
		if err != nil {
			return err
		}
		do(n, text)
	}
	return nil
}

// Write replaces a unit's file in one step: neither systemd nor a restarted agent sees half of it. Between the drop-ins, which go first,
// and the file a crash leaves a pair of no known hash, which is written again.
func (d *Dir) Write(n unit.Name, f *unit.File) error {
	if _, err := runnable(string(n)); err != nil {
		return err
	}
	main, beside := printed(f)
	err := removeAll(filepath.Join(d.beside, string(n)))
	if err == nil && beside != "" {
		err = replace(d.beside, string(n), beside)
	}
	if err == nil {
		err = replace(d.units, string(n), main)
	}
	if err != nil {
		return err
	}
	// A time of its own: systemd compares times to see that a text is new, and the kernel's may be the same for two changes in one
	// clock tick.
	now := time.Now()
	return os.Chtimes(d.Path(n), now, now)
}

// replace does not sync: the folders are in memory, or after a power loss a text with the wrong hash is written again.
func replace(dir, name, text string) error {
	temp := filepath.Join(dir, tempPrefix+name)
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		return errors.Join(err, removeAll(temp))
	}
	return os.Rename(temp, filepath.Join(dir, name))
}

// Remove removes a unit's file, drop-ins and mark. The mark goes last: should the file be left by a crash, so is what tells that it ran.
func (d *Dir) Remove(n unit.Name) error {
	token := tokens(d, n)
	return removeAll(d.Path(n), token, token+".token", filepath.Join(d.beside, string(n)), filepath.Join(d.marks, string(n)))
}

func removeAll(paths ...string) error {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Mark notes that this content was started; "" takes the note away.
func (d *Dir) Mark(n unit.Name, started unit.Hash, restarted int64) error {
	if started == "" {
		return removeAll(filepath.Join(d.marks, string(n)))
	}
	if _, err := runnable(string(n)); err != nil {
		return err
	}
	text := string(started)
	if restarted > 0 {
		text += " " + strconv.FormatInt(restarted, 10)
	}
	return replace(d.marks, string(n), text+"\n")
}

// Token writes a unit's token for its environment, and as a credential.
func (d *Dir) Token(n unit.Name, token int64) error {
	if _, err := runnable(string(n)); err != nil {
		return err
	}
	dir, text := filepath.Dir(tokens(d, n)), strconv.FormatInt(token, 10)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(replace(dir, string(n), "FLEET_FENCING_TOKEN="+text+"\n"), replace(dir, string(n)+".token", text))
}
