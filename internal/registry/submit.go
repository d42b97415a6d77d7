package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// Submission is fleet.Submission: the API speaks of it too, without knowing the registry.
type Submission = fleet.Submission

// SubmitResult is fleet.SubmitResult: the API speaks of it too, without knowing the registry.
type SubmitResult = fleet.SubmitResult

// Submit writes the submissions, each whole or not at all: text, record and target state in one transaction (many small
// submissions share one, also those of calls at the same time). It tries again by itself when another writer was faster. One
// result per submission, in order; submissions of one name take effect in order. When ctx ends while a transaction is on its way,
// whether it was written is not known.
func (r *Registry) Submit(ctx context.Context, subs ...Submission) []SubmitResult {
	if len(subs) > kv.MaxOps {
		// Fills transactions by itself; sharing them would only make small calls wait for all of this one.
		return r.submit(ctx, subs)
	}
	return r.submits.do(ctx, subs, r.submit)
}

// pending is a submission on its way into the store.
type pending struct {
	Submission
	at     int // place in the results
	record unitRecord
	text   []byte
	joined bool // record and text have drop-ins that were stored before
	tries  int
}

// take makes the text and the record of a file.
func (p *pending) take(f *unit.File) {
	p.text = []byte(f.String())
	p.record = unitRecord{Hash: f.Hash(), Target: fleet.Inactive, Description: f.Description(), Aliases: f.Aliases(p.Name)}
	if len(f.DropIns) > 0 {
		p.record.Main = f.Main().Hash()
	}
	if needs, err := f.Needs(p.Name); err == nil && needs.Exclusive {
		p.record.Stop = f.Stop().Budget().Milliseconds()
	}
	for _, o := range f.Section(unit.FleetSection) {
		p.record.Fleet = append(p.record.Fleet, [2]string{o.Name, o.Value})
	}
}

// perRound bounds what is read at once.
const perRound = 1024

// submit writes subs in rounds: read what they touch, fill transactions, write; what lost a race goes into the next round.
func (r *Registry) submit(ctx context.Context, subs []Submission) []SubmitResult {
	results := make([]SubmitResult, len(subs))
	todo := make([]*pending, 0, len(subs))
	for i, s := range subs {
		p, err := prepare(s)
		if err != nil {
			results[i].Err = fmt.Errorf("submit %s: %w", s.Name, err)
			continue
		}
		p.at = i
		todo = append(todo, p)
	}
	for len(todo) > 0 {
		now, later := oneOfEachName(todo)
		again, err := r.submitRound(ctx, now, results)
		if err != nil {
			for _, p := range append(again, later...) {
				results[p.at].Err = storeErr("submit "+string(p.Name), err)
			}
			return results
		}
		todo = append(again, later...)
	}
	return results
}

// prepare does all that needs no store: checks the submission and prints its text and record.
func prepare(s Submission) (*pending, error) {
	if _, err := unit.ParseName(string(s.Name)); err != nil {
		return nil, err
	}
	if s.Target != nil {
		// The empty word means inactive on the wire only; a record holds one of the three.
		target, err := fleet.ParseTargetState(string(*s.Target))
		if err != nil {
			return nil, err
		}
		if s.Name.IsTemplate() && target != fleet.Inactive {
			return nil, &fleet.InvalidError{
				What: fmt.Sprintf("target state %q of the template %s", target, s.Name),
				Hint: fmt.Sprintf("a template is only stored; start an instance of it, such as %s@1.%s", s.Name.Prefix(), s.Name.Type()),
			}
		}
		s.Target = &target
	}
	p := &pending{Submission: s}
	if s.File == nil {
		return p, nil
	}
	if err := unit.Validate(s.File, s.Name); err != nil {
		return nil, err
	}
	p.take(s.File)
	return p, nil
}

// oneOfEachName takes the first submission of each name, up to perRound of them. What is over waits, in order.
func oneOfEachName(todo []*pending) (now, later []*pending) {
	seen := map[unit.Name]bool{}
	for i, p := range todo {
		if len(now) == perRound {
			return now, append(later, todo[i:]...)
		}
		if seen[p.Name] {
			later = append(later, p)
			continue
		}
		seen[p.Name] = true
		now = append(now, p)
	}
	return now, later
}

// submitRound writes what it can of todo, which has each name once, into results and returns what is to be tried again. With an
// error, the store's, that is what was not written.
func (r *Registry) submitRound(ctx context.Context, todo []*pending, results []SubmitResult) (again []*pending, err error) {
	view, err := r.readFor(ctx, todo)
	if err == nil {
		err = r.keepDropIns(ctx, todo, view)
	}
	if err == nil {
		err = r.readAliases(ctx, todo, view)
	}
	if err != nil {
		return todo, err
	}
	for len(todo) > 0 {
		c := newChunk()
		var in []*pending
		for len(todo) > 0 {
			p := todo[0]
			a, res := r.plan(p, view)
			if len(a.ops) > 0 {
				// Those that lost a race go on in ever smaller company, so that a unit that many write at once cannot take others with it.
				if c.atoms > 0 && (a.alone || c.atoms >= kv.MaxOps>>(2*p.tries)) || !c.add(a) {
					break
				}
				in = append(in, p)
			}
			results[p.at] = res
			todo = todo[1:]
			if a.alone {
				break // those after it are planned with what it writes
			}
		}
		if len(in) == 0 {
			continue
		}
		rev, ok, err := r.store.Txn(ctx, c.guards, c.ops)
		switch {
		case errors.Is(err, kv.ErrTooLarge) && len(in) == 1:
			results[in[0].at] = SubmitResult{Err: &fleet.InvalidError{
				What: fmt.Sprintf("unit %s of %d bytes", in[0].Name, len(in[0].text)),
				Hint: "the store takes at most about 1 MiB with all of [X-Fleet]; keep data out of unit files",
			}}
		case errors.Is(err, kv.ErrTooLarge):
			again = append(again, alone(in)...)
		case err != nil:
			return append(append(in, again...), todo...), err
		case ok:
			for _, p := range in {
				results[p.at].Rev = rev
			}
			written(view, c.ops, rev)
		default:
			again = append(again, beaten(in, results)...)
		}
	}
	return again, nil
}

// alone makes each of ps go in a transaction of its own.
func alone(ps []*pending) []*pending {
	for _, p := range ps {
		p.tries = max(p.tries, tries/2)
	}
	return ps
}

// beaten notes a lost race and returns those that may try again.
func beaten(ps []*pending, results []SubmitResult) (again []*pending) {
	for _, p := range ps {
		if p.tries++; p.tries < tries {
			again = append(again, p)
			continue
		}
		results[p.at] = SubmitResult{Err: fmt.Errorf("submit %s: others write it all the time: %w", p.Name, fleet.ErrConflict)}
	}
	return again
}

// readFor reads the records and texts that todo touches.
func (r *Registry) readFor(ctx context.Context, todo []*pending) (map[string]*kv.KV, error) {
	var keys []string
	texts, templates := map[unit.Hash]bool{}, map[unit.Name]bool{}
	if slices.ContainsFunc(todo, func(p *pending) bool { return p.File != nil }) {
		keys = append(keys, r.aliasMark(), r.under(aliases)) // all, which are few: one look for any number of units
	}
	for _, p := range todo {
		keys = append(keys, r.unitKey(p.Name))
		if t, ok := p.Name.Template(); ok && p.File != nil && !templates[t] {
			templates[t] = true
			keys = append(keys, r.unitKey(t))
		}
		if h := p.record.Hash; p.File != nil && !texts[h] {
			texts[h] = true
			keys = append(keys, r.fileKey(h))
		}
	}
	return r.read(ctx, keys)
}

// written brings a view up to our own write.
func written(view map[string]*kv.KV, ops []kv.Op, rev int64) {
	for _, op := range ops {
		create := rev
		if old := view[op.Key]; old != nil {
			create = old.Create
		}
		view[op.Key] = &kv.KV{Key: op.Key, Value: op.Value, Create: create, Mod: rev}
	}
}

// plan says what p changes in the store as view shows it: an atom without ops if nothing, with the result as it will be.
func (r *Registry) plan(p *pending, view map[string]*kv.KV) (atom, SubmitResult) {
	cur := view[r.unitKey(p.Name)]
	var old unitRecord
	known := cur != nil
	if cur != nil {
		var err error
		old, err = decode[unitRecord](cur.Value)
		if errors.Is(err, errNewer) || err != nil && p.File == nil {
			return atom{}, SubmitResult{Err: fmt.Errorf("submit %s: record: %w", p.Name, err)}
		}
		known = err == nil // a damaged record is replaced by the text now given
	}
	if p.Was != "" && (!known || old.Hash != p.Was) {
		return atom{}, SubmitResult{Err: fmt.Errorf("submit %s: it no longer has the text %s: %w", p.Name, p.Was, fleet.ErrConflict)}
	}
	if p.File == nil {
		if !known {
			return atom{}, SubmitResult{Err: fmt.Errorf("submit %s: no text given and no such unit: %w", p.Name, fleet.ErrNotFound)}
		}
		return r.planTarget(p, cur, old, atom{})
	}

	a, err := r.planText(p, view[r.fileKey(p.record.Hash)])
	if err != nil {
		return atom{}, SubmitResult{Err: fmt.Errorf("submit %s: %w", p.Name, err)}
	}
	if known && old.Hash == p.record.Hash {
		if view[r.fileKey(old.Hash)] != nil {
			a = atom{} // the record has kept the text in use all the time
		}
		return r.planTarget(p, cur, old, a)
	}
	if err := r.planAliases(p, view, &a, cur == nil); err != nil {
		return atom{}, SubmitResult{Err: fmt.Errorf("submit %s: %w", p.Name, err)}
	}
	rec := p.record
	if p.Target != nil {
		rec.Target = *p.Target
	}
	return r.planRecord(p, cur, rec, a), SubmitResult{Created: true, Hash: rec.Hash}
}

// planTarget sets the target of a unit whose text stays; a may hold that text, if the store has lost it.
func (r *Registry) planTarget(p *pending, cur *kv.KV, old unitRecord, a atom) (atom, SubmitResult) {
	if p.Target == nil || *p.Target == old.Target {
		return a, SubmitResult{Rev: cur.Mod, Hash: old.Hash}
	}
	old.Target = *p.Target
	return r.planRecord(p, cur, old, a), SubmitResult{Hash: old.Hash}
}

// planText puts a text that a record is about to name. A text is written even if it is there: its new mod revision is what keeps
// Collect, which saw that nothing names it, from deleting it in the same moment. No text ever replaces another under its hash.
func (r *Registry) planText(p *pending, cur *kv.KV) (atom, error) {
	key := r.fileKey(p.record.Hash)
	g := kv.Guard{Key: key, Kind: kv.Missing}
	if cur != nil {
		if string(cur.Value) != string(p.text) {
			return atom{}, &fleet.InvalidError{
				What: fmt.Sprintf("text: another text with the same SHA-1 %s is stored", p.record.Hash),
				Hint: "change a word of its Description, then it has another",
			}
		}
		// While the key lives, its text cannot change; so this needs not send the text twice.
		g = kv.Guard{Key: key, Kind: kv.CreateIs, Rev: cur.Create}
	}
	return atom{guards: []kv.Guard{g}, ops: []kv.Op{{Key: key, Value: p.text}}}, nil
}

func (r *Registry) planRecord(p *pending, cur *kv.KV, rec unitRecord, a atom) atom {
	key := r.unitKey(p.Name)
	g := kv.Guard{Key: key, Kind: kv.Missing}
	if cur != nil {
		g = kv.Guard{Key: key, Kind: kv.ModIs, Rev: cur.Mod}
	}
	a.guards, a.ops = append(a.guards, g), append(a.ops, kv.Op{Key: key, Value: encode(rec)})
	return a
}
