package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/unit"
)

// text is what a unit shall be made of, and the units whose folders of drop-ins it speaks for. A folder that is not there says
// nothing: the drop-ins that the registry has stay. One that is there and empty says that there shall be none.
type text struct {
	file *unit.File
	says []unit.Name
}

// folder is a folder of drop-ins on disk.
type folder struct {
	there   bool
	dropIns []unit.DropIn
}

// beside adds the drop-ins of folders beside the path given: web@.service.d and web@1.service.d for web@1.service.
func (f *finder) beside(t *text, w word, of ...unit.Name) error {
	all := slices.Clone(t.file.DropIns)
	for _, n := range of {
		path := filepath.Join(filepath.Dir(w.arg), unit.Folder(n))
		d := f.folders[path]
		if d == nil {
			var err error
			if d, err = readFolder(path, n); err != nil {
				return err
			}
			f.folders[path] = d
		}
		if d.there {
			all = append(all, d.dropIns...)
			t.says = append(t.says, n)
		}
	}
	t.file = t.file.With(all)
	return nil
}

// readFolder reads a folder as systemd does: files that end in .conf. An empty one takes a template's of its name away; elsewhere it is
// nothing.
func readFolder(path string, of unit.Name) (*folder, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &folder{}, nil
	}
	if err != nil {
		return nil, err
	}
	d := &folder{there: true}
	for _, e := range entries {
		file := filepath.Join(path, e.Name())
		if !strings.HasSuffix(e.Name(), ".conf") || e.Name()[0] == '.' || e.IsDir() {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		in, err := unit.ParseDropIn(of, e.Name(), b)
		if err != nil {
			return nil, unit.InFile(file, err)
		}
		if len(in.Options) > 0 || of.IsInstance() {
			d.dropIns = append(d.dropIns, in)
		}
	}
	return d, nil
}

// same reports whether a stored unit has this text already; sure=false: the stored text must be read to tell.
func (t *text) same(stored api.Unit) (same, sure bool) {
	silent := slices.ContainsFunc(unit.Folders(unit.Name(stored.Name)), func(n unit.Name) bool { return !slices.Contains(t.says, n) })
	switch {
	case string(t.file.Hash()) == stored.Hash:
		return true, true
	case stored.Main == "" || !silent:
		return false, true
	case len(t.says) == 0:
		return string(t.file.Hash()) == stored.Main, true
	}
	return false, false
}

// isStored reports whether a stored unit has this text already. All texts that are needed to tell, of all units, are read in one request.
func (f *finder) isStored(ctx context.Context, t *text, stored api.Unit) (bool, error) {
	same, sure := t.same(stored)
	if sure {
		return same, nil
	}
	if f.texts == nil {
		var names []string
		for name, u := range f.world.Units {
			if u.Main != "" {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		var err error
		if f.texts, err = storedTexts(ctx, f.client, names); err != nil {
			return false, err
		}
	}
	old := f.texts[stored.Name]
	return old != nil && t.file.Keeping(old, t.says).Hash() == old.Hash(), nil
}

// storedTexts reads the texts of units.
func storedTexts(ctx context.Context, c *api.Client, names []string) (map[string]*unit.File, error) {
	list, err := c.Texts(ctx, names...)
	if err != nil {
		return nil, err
	}
	found := map[string]*unit.File{}
	for _, u := range list {
		file, _, err := u.File()
		if err != nil {
			return nil, unit.InFile(u.Name, err)
		}
		found[u.Name] = file
	}
	return found, nil
}
