package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// roll replaces a template, then its instances one after another: the next one only when the one before is again as it was
// wished, and none after one that failed. Instances keep their target states.
//
// The template goes first, so that all there is to know stands in the registry at every moment: an instance whose text is not
// the template's is still to be done. A fleetctl that was interrupted, or its host lost, is taken up by the same command, from
// anywhere; the old text given the same way takes everything back.
func (a *app) roll(ctx context.Context, w word, v verb) int {
	name := string(w.name)
	units, _, err := a.client.Units(ctx)
	if err != nil {
		return a.refused(creating, err)
	}
	file, stored, err := a.template(ctx, w, units)
	if err != nil {
		return a.refused(creating, err)
	}
	behind := outdated(units, w.name, file.Hash())
	// What its specifiers make of each instance's name is checked before anything is changed.
	for _, n := range behind {
		if err := unit.Validate(file, n); err != nil {
			return a.refused(creating, unit.InFile(string(n), err))
		}
	}
	if stored != file.Hash() {
		change := api.Batch{Set: []api.Unit{{Name: name, Options: file.Options, DesiredState: string(fleet.Inactive)}}}
		res, err := a.client.Batch(ctx, change)
		if err == nil && res.Results[0].Err != nil {
			err = res.Results[0].Err
		}
		if err != nil {
			return a.refused(creating, err)
		}
		a.printf("Unit %s inactive\n", name)
	} else {
		a.printf("Unit %s is the same in the registry, nothing to replace\n", name)
	}
	if a.opts.noBlock && len(behind) > 0 {
		a.warn("%s keep their text. To replace them, one after another: fleetctl %s --replace %s", instances(len(behind)), v.name, w.arg)
		return exitOK
	}
	for i, n := range behind {
		if code := a.rollOne(ctx, n, file); code != exitOK {
			a.warn("%d of %d instances of %s are replaced, %s was the last one touched. To go on: fleetctl %s --replace %s", i, len(behind), name, n, v.name, w.arg)
			return code
		}
	}
	return exitOK
}

func instances(n int) string {
	if n == 1 {
		return "1 instance"
	}
	return fmt.Sprintf("%d instances", n)
}

// template returns what a template shall be: the local file, or, without one, what the registry has; and the hash of that.
func (a *app) template(ctx context.Context, w word, units []api.Unit) (file *unit.File, stored unit.Hash, err error) {
	for _, u := range units {
		if u.Name == string(w.name) {
			stored = unit.Hash(u.Hash)
		}
	}
	f := &finder{client: a.client, files: map[string]*unit.File{}}
	if file, err = f.local(w); file != nil || err != nil {
		return file, stored, err
	}
	u, err := a.client.Unit(ctx, string(w.name))
	if errors.Is(err, fleet.ErrNotFound) {
		return nil, "", fmt.Errorf("replace %s: it is neither a local file nor in the registry", w.name)
	}
	if err != nil {
		return nil, "", err
	}
	file, err = unit.FromOptions(u.Options)
	return file, stored, err
}

// outdated are a template's instances with another text than this one, web@2 before web@10.
func outdated(units []api.Unit, template unit.Name, want unit.Hash) []unit.Name {
	var found []unit.Name
	for _, u := range units {
		n := unit.Name(u.Name)
		if t, ok := n.Template(); ok && t == template && u.Hash != string(want) {
			found = append(found, n)
		}
	}
	slices.SortFunc(found, func(a, b unit.Name) int { return cmp.Or(len(a)-len(b), strings.Compare(string(a), string(b))) })
	return found
}

// rollOne gives one instance the new text and waits until it is again where it was.
func (a *app) rollOne(ctx context.Context, n unit.Name, file *unit.File) int {
	w, err := a.watch(ctx, []string{string(n)})
	if err != nil {
		return a.refused(creating, err)
	}
	defer w.close()
	stored, known := w.world.Units[string(n)]
	if !known || stored.Hash == string(file.Hash()) {
		return exitOK // destroyed since, or replaced by someone else
	}
	v := verb{name: "submit", target: fleet.Inactive, doing: "Error replacing units"}
	switch target := fleet.TargetState(stored.DesiredState); target {
	case fleet.Launched, fleet.Loaded:
		v.target = target
		v.name = map[fleet.TargetState]string{fleet.Launched: "start", fleet.Loaded: "load"}[target]
	}
	return a.carryOut(ctx, w, []change{{
		set: &api.Unit{Name: string(n), Options: file.Options, DesiredState: string(v.target)},
		goal: goal{name: string(n), verb: v.name, doing: v.doing, target: v.target, hash: string(file.Hash()),
			global: stored.Global, rev: stored.Rev, base: statesOf(w.world, string(n))},
	}}, v)
}
