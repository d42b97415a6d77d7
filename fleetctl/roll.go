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
	units, _, err := a.client.Units(ctx)
	if err != nil {
		return a.refused(creating, err)
	}
	file, stored, err := a.template(ctx, w, units)
	if err != nil {
		return a.refused(creating, err)
	}
	return a.rollTo(ctx, w, rollout{file: file, stored: stored, units: units, again: fmt.Sprintf("fleetctl %s --replace %s", v.name, w.arg)})
}

// A rollout is a template's text on its way to the template and its instances.
type rollout struct {
	file   *unit.File // the template with its drop-ins
	stored unit.Hash  // what the registry has; empty: nothing
	was    unit.Hash  // what it must still have; empty: whatever it has
	units  []api.Unit // all there are
	again  string     // the command that goes on after a failure
}

func (a *app) rollTo(ctx context.Context, w word, r rollout) int {
	name := string(w.name)
	behind, err := a.outdated(ctx, r.units, w.name, r.file)
	if err != nil {
		return a.refused(creating, err)
	}
	// What its specifiers make of each instance's name is checked before anything is changed.
	for _, n := range behind {
		if err := unit.Validate(r.file, n); err != nil {
			return a.refused(creating, unit.InFile(string(n), err))
		}
	}
	if r.stored != r.file.Hash() {
		set := api.Unit{Name: name, DesiredState: string(fleet.Inactive), Was: string(r.was)}
		set.SetFile(r.file, w.name)
		res, err := a.client.Batch(ctx, api.Batch{Set: []api.Unit{set}})
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
		a.warn("%s keep their text. To replace them, one after another: %s", instances(len(behind)), r.again)
		return exitOK
	}
	for i, n := range behind {
		if code := a.rollOne(ctx, w.name, n, r.file); code != exitOK {
			a.warn("%d of %d instances of %s are replaced, %s was the last one touched. To go on: %s", i, len(behind), name, n, r.again)
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

// template returns what a template shall be: the local file, or, without one, what the registry has; and the hash of that. Of a local file
// without a folder of drop-ins beside it the stored ones stay.
func (a *app) template(ctx context.Context, w word, units []api.Unit) (file *unit.File, stored unit.Hash, err error) {
	local, err := newFinder(a.client, nil).local(w)
	if err != nil {
		return nil, "", err
	}
	i := slices.IndexFunc(units, func(u api.Unit) bool { return u.Name == string(w.name) })
	if i >= 0 {
		stored = unit.Hash(units[i].Hash)
	}
	if local != nil && (i < 0 || units[i].Main == "" || len(local.says) > 0) {
		return local.file, stored, nil
	}
	u, err := a.client.Unit(ctx, string(w.name))
	if errors.Is(err, fleet.ErrNotFound) {
		return nil, "", fmt.Errorf("replace %s: it is neither a local file nor in the registry", w.name)
	}
	if err != nil {
		return nil, "", err
	}
	file, _, err = u.File()
	if err == nil && local != nil {
		file = local.file.Keeping(file, nil)
	}
	return file, stored, err
}

// outdated are a template's instances whose text is another, but for drop-ins of their own; web@2 before web@10.
func (a *app) outdated(ctx context.Context, units []api.Unit, template unit.Name, want *unit.File) ([]unit.Name, error) {
	var found []unit.Name
	var with []string // those that may differ by their own drop-ins only
	for _, u := range units {
		n := unit.Name(u.Name)
		if t, ok := n.Template(); !ok || t != template || u.Hash == string(want.Hash()) {
			continue
		}
		found = append(found, n)
		if u.Main != "" {
			with = append(with, u.Name)
		}
	}
	texts, err := storedTexts(ctx, a.client, with)
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(n unit.Name) bool {
		f := texts[string(n)]
		return f != nil && f.With(f.From(template)).Hash() == want.Hash()
	})
	slices.SortFunc(found, func(a, b unit.Name) int { return cmp.Or(len(a)-len(b), strings.Compare(string(a), string(b))) })
	return found, nil
}

// rollOne gives one instance its template's new text and waits until it is again where it was. Its own drop-ins stay.
func (a *app) rollOne(ctx context.Context, template, n unit.Name, file *unit.File) int {
	w, err := a.watch(ctx, []string{string(n)})
	if err != nil {
		return a.refused(creating, err)
	}
	defer w.close()
	stored, known := w.world.Units[string(n)]
	if !known || stored.Hash == string(file.Hash()) {
		return exitOK // destroyed since, or replaced by someone else
	}
	return a.carryOut(ctx, w, []change{replaced(w.world, stored, &text{file, []unit.Name{template}})}, replacing())
}

func replacing() verb { return verb{name: "submit", doing: "Error replacing units"} }

// replaced is the change that gives a stored unit another text and keeps its target state.
func replaced(world *api.World, stored api.Unit, t *text) change {
	target := fleet.TargetState(stored.DesiredState)
	name := map[fleet.TargetState]string{fleet.Launched: "start", fleet.Loaded: "load"}[target]
	if name == "" {
		name, target = "submit", fleet.Inactive
	}
	c := change{
		set: &api.Unit{Name: stored.Name, DesiredState: string(target)},
		goal: goal{name: stored.Name, verb: name, doing: replacing().doing, target: target, hash: string(t.file.Hash()),
			global: stored.Global, rev: stored.Rev, base: statesOf(world, stored.Name)},
	}
	c.set.SetFile(t.file, t.says...)
	return c
}
