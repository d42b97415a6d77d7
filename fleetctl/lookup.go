package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// word is one unit as it stands on the command line: a name, maybe with a path before it.
type word struct {
	arg  string
	name unit.Name
}

// words reads the arguments as units, each once. What is wrong with any of them is printed, and ok is false.
func (a *app) words(args []string, doing string) (list []word, ok bool) {
	ok = true
	seen := map[unit.Name]bool{}
	for _, arg := range args {
		name, err := unit.Mangle(arg)
		switch {
		case err != nil:
			a.warn("%s: %v", doing, err)
			ok = false
		case !seen[name]:
			seen[name] = true
			list = append(list, word{arg, name})
		}
	}
	return list, ok
}

// names are the words' unit names.
func names(list []word) []string {
	out := make([]string, len(list))
	for i, w := range list {
		out[i] = string(w.name)
	}
	return out
}

// withTemplates adds the templates that the instances among the units are made from.
func withTemplates(list []word) []string {
	out := names(list)
	seen := map[unit.Name]bool{}
	for _, w := range list {
		if t, ok := w.name.Template(); ok && !seen[t] {
			seen[t] = true
			out = append(out, string(t))
		}
	}
	return out
}

// finder finds the texts of units: on disk, and of templates in the registry, each read once.
type finder struct {
	client    *api.Client
	world     *api.World
	templates map[unit.Name]*unit.File
	files     map[string]*unit.File // by path
	folders   map[string]*folder    // by path
	texts     map[string]*unit.File // of units in the registry that have drop-ins, by name
}

func newFinder(c *api.Client, w *api.World) *finder {
	return &finder{client: c, world: w, templates: map[unit.Name]*unit.File{}, files: map[string]*unit.File{}, folders: map[string]*folder{}}
}

// local reads the unit's own file at the path given with its drop-ins, checked; nil if there is none.
func (f *finder) local(w word) (*text, error) {
	path := filepath.Join(filepath.Dir(w.arg), string(w.name))
	t, err := f.read(path, w)
	if t == nil && err == nil && w.arg != path {
		return f.read(w.arg, w) // "web.1", a service by its name only
	}
	return t, err
}

// localTemplate reads the file of the instance's template that lies beside the path given; nil if there is none.
func (f *finder) localTemplate(w word) (*text, error) {
	t, ok := w.name.Template()
	if !ok {
		return nil, nil
	}
	return f.read(filepath.Join(filepath.Dir(w.arg), string(t)), w)
}

// read parses the file, puts the drop-ins of the folders beside it to it and checks it for a unit of that name. Errors are as compilers
// print them: web.service:7: …
func (f *finder) read(path string, w word) (*text, error) {
	file := f.files[path]
	if file == nil {
		if info, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
			return nil, nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if file, err = unit.Parse(text); err != nil {
			return nil, unit.InFile(path, err)
		}
		if len(file.Options) == 0 {
			return nil, fmt.Errorf("%s: no option in it: write at least ExecStart= in [Service]", path)
		}
		f.files[path] = file
	}
	t := &text{file: file}
	if err := f.beside(t, w, unit.Folders(w.name)...); err != nil {
		return nil, err
	}
	if err := unit.Validate(t.file, w.name); err != nil {
		return nil, unit.InFile(path, err)
	}
	return t, nil
}

// stored reads the text of the instance's template from the registry, and the instance's own drop-ins that lie here; nil if it has no
// template there.
func (f *finder) stored(ctx context.Context, w word) (*text, error) {
	t, ok := w.name.Template()
	if !ok {
		return nil, nil
	}
	if _, known := f.world.Units[string(t)]; !known {
		return nil, nil
	}
	file := f.templates[t]
	if file == nil {
		u, err := f.client.Unit(ctx, string(t))
		if errors.Is(err, fleet.ErrNotFound) {
			return nil, nil // destroyed in this moment
		}
		if err != nil {
			return nil, err
		}
		if file, _, err = u.File(); err != nil {
			return nil, unit.InFile(string(t), err)
		}
		f.templates[t] = file
	}
	found := &text{file: file, says: []unit.Name{t}}
	if err := f.beside(found, w, w.name); err != nil {
		return nil, err
	}
	// A template is checked as such when it comes in; what its specifiers make of this name is not known until now.
	if err := unit.Validate(found.file, w.name); err != nil {
		return nil, unit.InFile(string(w.name), err)
	}
	return found, nil
}

// text finds what a unit that the registry does not know is to be made of. First match wins: its own file, its template in the
// registry, its template's file.
func (f *finder) text(ctx context.Context, w word) (*text, error) {
	for _, look := range []func() (*text, error){
		func() (*text, error) { return f.local(w) },
		func() (*text, error) { return f.stored(ctx, w) },
		func() (*text, error) { return f.localTemplate(w) },
	} {
		if found, err := look(); found != nil || err != nil {
			return found, err
		}
	}
	missing := fmt.Sprintf("unit %s is neither in the registry nor a file here (%s)", w.name, filepath.Join(filepath.Dir(w.arg), string(w.name)))
	if t, ok := w.name.Template(); ok {
		missing += fmt.Sprintf(", and neither is its template %s", t)
	}
	return nil, errors.New(missing)
}
