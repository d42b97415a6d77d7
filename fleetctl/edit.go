package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/unit"
)

// edit opens a drop-in of a unit in an editor, or with --full the unit's own text, and brings what was changed to the machines that have it,
// as --replace does. Until what was written is found good, nothing is sent; what could not be sent is kept in a file.
func edit(ctx context.Context, a *app, args []string) int {
	if len(args) != 1 {
		return a.fail("One unit must be named: fleetctl edit web.service")
	}
	if a.opts.full && a.opts.dropIn != "" {
		return a.usage(errors.New("--full edits the unit itself, --drop-in a file beside it: give one of them"), "edit")
	}
	name, was, code := a.stored(ctx, args[0])
	if code != exitOK {
		return code
	}
	e := editing{app: a, name: name, was: was, dropIn: dropInName(a.opts.dropIn)}
	kept, err := e.write()
	if err == nil {
		err = e.open(ctx, kept)
	}
	var now *unit.File
	if err == nil {
		now, err = e.read(kept)
	}
	switch {
	case err != nil && kept == "":
		return a.fail("Error: %v", err)
	case err != nil:
		return a.fail("Error: %v\nNothing was sent. What you wrote is in %s", err, kept)
	case now.Hash() == was.Hash():
		a.printf("Unit %s is as it was, nothing to replace\n", name)
		return e.forget(kept, exitOK)
	}
	code = e.send(ctx, now)
	if code != exitOK {
		a.warn("What you wrote is in %s", kept)
		return code
	}
	return e.forget(kept, code)
}

// dropInName is a drop-in's file name; systemctl edit's if none is given.
func dropInName(given string) string {
	switch {
	case given == "":
		return "override.conf"
	case strings.HasSuffix(given, ".conf"):
		return given
	}
	return given + ".conf"
}

// editing is one text in an editor.
type editing struct {
	*app
	name   unit.Name
	was    *unit.File
	dropIn string
}

// write puts the text into a file of its own.
func (e *editing) write() (path string, err error) {
	text, file := "", string(e.name)
	if e.opts.full {
		text = e.was.Main().String()
	} else {
		d, err := unit.DropInOf(e.name, e.dropIn, nil)
		if err != nil {
			return "", err
		}
		file = e.dropIn
		for _, have := range e.was.From(e.name) {
			if have.Name == e.dropIn {
				d = have
			}
		}
		text = fmt.Sprintf("### %s: what stands here is added to the unit. Comments are not kept; without any line it is taken away.\n\n%s\n"+
			"### The unit as it is now:\n%s", d.Path(), d.File(), commented(catalogued(e.name, e.was)))
	}
	dir, err := os.MkdirTemp("", "fleetctl-edit-")
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, file)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

func commented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("# " + line)
	}
	return b.String()
}

// open runs the user's editor on the file.
func (e *editing) open(ctx context.Context, path string) error {
	editor := cmp.Or(lookup(e.env, "VISUAL"), lookup(e.env, "EDITOR"))
	for _, usual := range []string{"editor", "nano", "vim", "vi"} {
		if editor != "" {
			break
		}
		if _, err := exec.LookPath(usual); err == nil {
			editor = usual
		}
	}
	if editor == "" {
		return errors.New("there is no editor: name one in the environment variable EDITOR")
	}
	_ = e.out.Flush() // its error is kept and found at the end
	// By a shell, as everybody does: the variable may hold options, too.
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = e.stdin, e.stdout, e.err, e.env
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("editor %q: %w", editor, err)
	}
	return nil
}

// read makes of the edited file what the unit shall be, checked for it and for all that are made of it.
func (e *editing) read(path string) (*unit.File, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if e.opts.full {
		f, err := unit.Parse(b)
		if err != nil {
			return nil, unit.InFile(path, err)
		}
		if len(f.Options) == 0 {
			return nil, fmt.Errorf("%s: no option in it: to take the unit away: fleetctl destroy %s", path, e.name)
		}
		f = f.With(e.was.DropIns)
		return f, unit.InFile(path, unit.Validate(f, e.name))
	}
	d, err := unit.ParseDropIn(e.name, e.dropIn, b)
	if err != nil {
		return nil, unit.InFile(path, err)
	}
	var all []unit.DropIn
	for _, have := range e.was.DropIns {
		if have.Path() != d.Path() {
			all = append(all, have)
		}
	}
	if len(d.Options) > 0 {
		all = append(all, d)
	}
	f := e.was.With(all)
	return f, unit.InFile(path, unit.Validate(f, e.name))
}

// send brings the text to the cluster: to the unit where it is, or to a template and its instances one after another.
func (e *editing) send(ctx context.Context, now *unit.File) int {
	doing := replacing().doing
	if e.name.IsTemplate() {
		units, _, err := e.client.Units(ctx)
		if err != nil {
			return e.refused(doing, err)
		}
		return e.rollTo(ctx, word{string(e.name), e.name}, rollout{file: now, stored: e.was.Hash(), was: e.was.Hash(), units: units,
			again: "fleetctl submit --replace " + string(e.name)})
	}
	w, err := e.watch(ctx, []string{string(e.name)})
	if err != nil {
		return e.refused(doing, err)
	}
	defer w.close()
	stored, known := w.world.Units[string(e.name)]
	if !known {
		stored = api.Unit{Name: string(e.name)} // was destroyed while it was edited: fleetd says so
	}
	c := replaced(w.world, stored, &text{now, unit.Folders(e.name)})
	c.set.Was = string(e.was.Hash())
	return e.carryOut(ctx, w, []change{c}, replacing())
}

// forget removes the file and its folder.
func (e *editing) forget(path string, code int) int {
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		return e.fail("Error: %v", err)
	}
	return code
}
