package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// A verb is what submit, load and start differ in.
type verb struct {
	name   string
	target fleet.TargetState
	doing  string              // begins the line of an error
	reach  []fleet.TargetState // stored target states that --replace may change
	// checked: this is the second look at the same words, local files were compared in the first.
	checked bool
}

// change is what a command does to one unit.
type change struct {
	set  *api.Unit // sent to fleetd; nil: the unit is as it shall be
	goal goal
}

// bring makes units known to the cluster if they are not, gives them the verb's target state, all in one request, and
// waits until they are there.
func (a *app) bring(ctx context.Context, args []string, v verb) int {
	if len(args) == 0 {
		a.warn("No units given")
		return exitOK
	}
	list, ok := a.words(args, creating)
	if !ok {
		return exitFailed
	}
	var templates []word
	if a.opts.replace {
		list, templates = apart(list)
	}
	code := exitOK
	if len(list) > 0 {
		code = a.bringUnits(ctx, list, v)
	}
	for _, t := range templates {
		if code != exitOK {
			break
		}
		code = a.roll(ctx, t, v)
	}
	return code
}

// apart takes templates out of a list.
func apart(list []word) (units, templates []word) {
	for _, w := range list {
		if w.name.IsTemplate() {
			templates = append(templates, w)
		} else {
			units = append(units, w)
		}
	}
	return units, templates
}

func (a *app) bringUnits(ctx context.Context, list []word, v verb) int {
	w, err := a.watch(ctx, withTemplates(list))
	if err != nil {
		return a.refused(creating, err)
	}
	defer w.close()
	changes, code := a.plan(ctx, w.world, list, v)
	if code != exitOK {
		return code
	}
	return a.carryOut(ctx, w, changes, v)
}

const creating = "Error creating units"

// plan decides for each unit what to send. Everything is checked before anything is sent: with one faulty unit the
// cluster stays as it is, and all faults are printed.
func (a *app) plan(ctx context.Context, world *api.World, list []word, v verb) ([]change, int) {
	f := newFinder(a.client, world)
	code := exitOK
	var changes []change
	for _, w := range list {
		c, err := a.planOne(ctx, f, w, v)
		if err != nil {
			code = a.refused(creating, err)
			continue
		}
		c.goal.verb, c.goal.doing, c.goal.target = v.name, v.doing, v.target
		changes = append(changes, c)
	}
	return changes, code
}

func (a *app) planOne(ctx context.Context, f *finder, w word, v verb) (change, error) {
	name := string(w.name)
	if w.name.IsTemplate() && v.target != fleet.Inactive {
		return change{}, fmt.Errorf("%s is a template, it cannot %s: name an instance, such as %s@1.%s", name, v.name, w.name.Prefix(), w.name.Type())
	}
	stored, known := f.world.Units[name]
	if !known {
		t, err := f.text(ctx, w)
		if err != nil {
			return change{}, err
		}
		needs, err := t.file.Needs(w.name)
		if err != nil {
			return change{}, unit.InFile(name, err)
		}
		c := change{
			set:  &api.Unit{Name: name, DesiredState: string(v.target)},
			goal: goal{name: name, hash: string(t.file.Hash()), global: needs.Global, base: statesOf(f.world, name)},
		}
		c.set.SetFile(t.file, t.says...)
		return c, nil
	}
	t, err := a.replacement(ctx, f, w, stored, v)
	if err != nil {
		return change{}, err
	}
	c := change{goal: goal{name: name, hash: stored.Hash, global: stored.Global, rev: stored.Rev, base: statesOf(f.world, name)}}
	switch {
	case t != nil:
		c.set = &api.Unit{Name: name, DesiredState: string(v.target)}
		c.set.SetFile(t.file, t.says...)
		c.goal.hash = string(t.file.Hash())
	case stored.DesiredState != string(v.target) && v.target != fleet.Inactive:
		c.set = &api.Unit{Name: name, DesiredState: string(v.target)}
	case v.target == fleet.Inactive:
		c.goal.name = "" // submit leaves a known unit alone
	}
	return c, nil
}

// replacement returns the text that shall take the place of the stored one: the unit's own file, its template's, or what its template
// has become in the registry; nil: the stored one stays.
func (a *app) replacement(ctx context.Context, f *finder, w word, stored api.Unit, v verb) (*text, error) {
	if v.checked {
		return nil, nil
	}
	t, err := f.local(w)
	if t == nil && err == nil {
		t, err = f.localTemplate(w)
		a.oldTemplate(f, w, t)
	}
	if t == nil && err == nil && a.opts.replace {
		t, err = f.stored(ctx, w)
	}
	switch {
	case err != nil && a.opts.replace:
		return nil, err
	case err != nil:
		a.warn("WARNING: unit %s is used as it is in the registry: the local file is not valid: %v", w.name, err)
		return nil, nil
	case t == nil && a.opts.replace:
		return nil, fmt.Errorf("replace %s: there is no local file %s%s", w.name, w.arg, orTemplate(w))
	case t == nil:
		return nil, nil
	}
	same, err := f.isStored(ctx, t, stored)
	switch {
	case err != nil:
		return nil, err
	case same:
		if a.opts.replace {
			a.printf("Unit %s is the same in the registry, nothing to replace\n", w.name)
		}
		return nil, nil
	case !a.opts.replace:
		a.warn("WARNING: unit %s in the registry differs from the local file: the registry's is used; add --replace to override it", w.name)
		return nil, nil
	case !slices.Contains(v.reach, fleet.TargetState(stored.DesiredState)):
		a.warn("Warning: unit %s is not replaced, it is %s: use the appropriate command, %s", w.name, stored.DesiredState, commandFor(stored.DesiredState))
		return nil, nil
	}
	return t, nil
}

func orTemplate(w word) string {
	if t, ok := w.name.Template(); ok {
		return fmt.Sprintf(", and no template %s, here or in the registry", t)
	}
	return ""
}

// oldTemplate warns that an instance is replaced from a local template while the registry has another one: the next new instance
// would have the other text.
func (a *app) oldTemplate(f *finder, w word, found *text) {
	t, _ := w.name.Template()
	stored, known := f.world.Units[string(t)]
	if !a.opts.replace || found == nil || !known {
		return
	}
	template := &text{file: found.file.With(found.file.From(t))}
	if slices.Contains(found.says, t) {
		template.says = []unit.Name{t}
	}
	if same, _ := template.same(stored); !same {
		a.warn("WARNING: template %s in the registry differs from the local file: new instances are made from the registry's; to replace it and its instances: fleetctl submit --replace %s", t, t)
	}
}

func commandFor(state string) string {
	switch fleet.TargetState(state) {
	case fleet.Launched:
		return "fleetctl start --replace"
	case fleet.Loaded:
		return "fleetctl load --replace"
	}
	return "fleetctl submit --replace"
}

// carryOut sends the changes and waits for their goals.
func (a *app) carryOut(ctx context.Context, w *watcher, changes []change, v verb) int {
	code := exitOK
	var goals []*goal
	refused, err := a.send(ctx, changes)
	if err != nil {
		return a.refused(v.doing, err)
	}
	for i := range changes {
		c := &changes[i]
		c.goal.changed = c.set != nil || c.goal.orders != nil
		switch {
		case refused[i] != nil:
			code = a.refused(v.doing, refused[i])
		case c.goal.name == "":
		case c.goal.target == fleet.Inactive:
			a.printf("Unit %s inactive\n", c.goal.name) // stored is all that submit wants
		default:
			if c.set != nil {
				a.triggered(c.goal)
			}
			goals = append(goals, &c.goal)
		}
	}
	if a.opts.noBlock || len(goals) == 0 {
		return code
	}
	return max(code, w.wait(ctx, goals))
}

// triggered prints the line of a change that is not waited for, or not by a line of its own: global units are on many
// machines.
func (a *app) triggered(g goal) {
	switch {
	case g.global:
		a.printf("Triggered global unit %s %s\n", g.name, g.verb)
	case a.opts.noBlock:
		a.printf("Triggered unit %s %s\n", g.name, g.verb)
	}
}

// send makes one request of all changes. It notes in each goal the revision its change is visible at, and returns the refusals by
// index.
func (a *app) send(ctx context.Context, changes []change) (refused map[int]error, err error) {
	var b api.Batch
	var at []int
	for i, c := range changes {
		if c.set != nil {
			b.Set, at = append(b.Set, *c.set), append(at, i)
		}
	}
	if len(b.Set) == 0 {
		return nil, nil
	}
	res, err := a.client.Batch(ctx, b)
	if err != nil {
		return nil, err
	}
	refused = map[int]error{}
	for i, r := range res.Results {
		changes[at[i]].goal.rev = r.Rev
		if r.Hash != "" && b.Set[i].Options != nil {
			changes[at[i]].goal.hash = r.Hash // with the drop-ins that stayed
		}
		if r.Err != nil {
			refused[at[i]] = r.Err
		}
	}
	return refused, nil
}
