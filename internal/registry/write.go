package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fleet-init/fleet/internal/kv"
)

// atom is a change that is written whole or not at all.
type atom struct {
	guards []kv.Guard
	ops    []kv.Op
	alone  bool // in a transaction of its own: others' guards are about keys it writes. Submit heeds that
}

// chunk is a transaction in the making: atoms that go together. Equal guards and equal ops of its atoms stand in it once.
type chunk struct {
	guards []kv.Guard
	ops    []kv.Op
	guard  map[string]int // key → place in guards
	op     map[string]int // key → place in ops
	bytes  int
	atoms  int
}

func newChunk(shared ...kv.Guard) *chunk {
	c := &chunk{guard: map[string]int{}, op: map[string]int{}}
	c.take(atom{guards: shared})
	c.atoms = 0
	return c
}

// add takes an atom in, if there is room and it does not contradict what is there. The first one always fits: if it is too much
// for the store, the store says so.
func (c *chunk) add(a atom) bool {
	guards, ops, bytes := 0, 0, 0
	for _, g := range a.guards {
		at, known := c.guard[g.Key]
		if known && !sameGuard(c.guards[at], g) {
			return false
		}
		if !known {
			guards++
			bytes += len(g.Key) + len(g.Val) + overhead
		}
	}
	for _, op := range a.ops {
		at, known := c.op[op.Key]
		if known && !sameOp(c.ops[at], op) {
			return false
		}
		if !known {
			ops++
			bytes += len(op.Key) + len(op.Value) + overhead
		}
	}
	if c.atoms > 0 && (len(c.guards)+guards > kv.MaxOps || len(c.ops)+ops > kv.MaxOps || c.bytes+bytes > kv.MaxBytes) {
		return false
	}
	c.take(a)
	c.bytes += bytes
	return true
}

// overhead is more than what the encoding of one guard or op takes beside its key and value.
const overhead = 64

func (c *chunk) take(a atom) {
	for _, g := range a.guards {
		at, known := c.guard[g.Key]
		if known && sameGuard(c.guards[at], g) {
			continue
		}
		if !known {
			c.guard[g.Key] = len(c.guards)
		}
		// Of one atom's guards that contradict each other both stand, so that it fails, as it must.
		c.guards = append(c.guards, g)
	}
	for _, op := range a.ops {
		if _, known := c.op[op.Key]; !known {
			c.op[op.Key] = len(c.ops)
			c.ops = append(c.ops, op)
		}
	}
	c.atoms++
}

func sameGuard(a, b kv.Guard) bool {
	return a.Kind == b.Kind && a.Rev == b.Rev && string(a.Val) == string(b.Val)
}

func sameOp(a, b kv.Op) bool {
	return a.Delete == b.Delete && a.Lease == b.Lease && string(a.Value) == string(b.Value)
}

// errShared: a guard that all of a write stands under does not hold.
var errShared = errors.New("guard of the whole write does not hold")

// write writes atoms in order, many in one transaction, all under the shared guards. lost tells per atom that its own guards do not
// hold: it is not written, the others are. After an error, errShared or the store's, an unknown part is written.
func (r *Registry) write(ctx context.Context, shared []kv.Guard, atoms []atom) (rev int64, lost []bool, err error) {
	lost = make([]bool, len(atoms))
	for next := 0; next < len(atoms); {
		c := newChunk(shared...)
		end := next
		for end < len(atoms) && c.add(atoms[end]) {
			end++
		}
		n, err := r.writeChunk(ctx, shared, atoms[next:end], lost[next:end])
		if err != nil {
			return rev, lost, err
		}
		rev = max(rev, n)
		next = end
	}
	return rev, lost, nil
}

// tries bounds how often one write is tried again while others win the race for its keys.
const tries = 8

// writeChunk writes atoms that fit one transaction. When it is refused, the guarded keys are read again, the atoms whose guards
// do not hold are lost, and the others are tried again.
func (r *Registry) writeChunk(ctx context.Context, shared []kv.Guard, atoms []atom, lost []bool) (int64, error) {
	for range tries {
		c := newChunk(shared...)
		for i, a := range atoms {
			if !lost[i] {
				c.add(a)
			}
		}
		if c.atoms == 0 {
			return 0, nil
		}
		rev, ok, err := r.store.Txn(ctx, c.guards, c.ops)
		if err != nil {
			return 0, err
		}
		if ok {
			return rev, nil
		}
		if err := r.findLost(ctx, c.guards, shared, atoms, lost); err != nil {
			return 0, err
		}
	}
	for i := range lost {
		lost[i] = true
	}
	return 0, nil
}

func (r *Registry) findLost(ctx context.Context, guards, shared []kv.Guard, atoms []atom, lost []bool) error {
	keys := make([]string, len(guards))
	for i, g := range guards {
		keys[i] = g.Key
	}
	now, err := r.read(ctx, keys)
	if err != nil {
		return err
	}
	holds := func(g kv.Guard) bool { return g.Holds(now[g.Key]) }
	for _, g := range shared {
		if !holds(g) {
			return fmt.Errorf("%s: %w", g.Key, errShared)
		}
	}
	for i, a := range atoms {
		lost[i] = lost[i] || slices.ContainsFunc(a.guards, func(g kv.Guard) bool { return !holds(g) })
	}
	return nil
}

// read reads exact keys at one revision; what does not exist is not in the map.
func (r *Registry) read(ctx context.Context, keys []string) (map[string]*kv.KV, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	kvs, _, err := r.store.Range(ctx, keys...)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*kv.KV, len(keys))
	for _, found := range kvs {
		for i := range found {
			out[found[i].Key] = &found[i]
		}
	}
	return out, nil
}
