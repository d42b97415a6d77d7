package payload

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// FileJournal keeps the mark in a file: written beside it, synced, renamed, and the folder synced, so that a power cut leaves
// the old mark or the new one.
type FileJournal struct{ Path string }

// Load reads the mark. A file that does not parse counts as none: it costs a second download, a stuck updater costs more.
func (j FileJournal) Load() (Mark, error) {
	b, err := os.ReadFile(j.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return Mark{}, nil
	}
	if err != nil {
		return Mark{}, err
	}
	var m Mark
	if json.Unmarshal(b, &m) != nil {
		return Mark{}, nil
	}
	return m, nil
}

// Save writes the mark.
func (j FileJournal) Save(m Mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(j.Path), filepath.Base(j.Path)+".new*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), j.Path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(j.Path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Forget removes the mark; none is fine.
func (j FileJournal) Forget() error {
	if err := os.Remove(j.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
