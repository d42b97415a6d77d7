package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

type holderRecord struct {
	stamp
	Machine fleet.MachineID `json:"machine"`
	Wait    int64           `json:"wait"` // milliseconds after the end of its registration
}

type brakeRecord struct {
	stamp
	Since   time.Time         `json:"since"`
	Missing []fleet.MachineID `json:"missing"`
	Of      int               `json:"of"`
	Resumed bool              `json:"resumed,omitempty"`
}

func (r *Registry) holderKey(n unit.Name) string { return r.under(holders) + string(n) }
func (r *Registry) brakeKey() string             { return r.prefix + brake }

func (r *Registry) holder(n unit.Name, kv kv.KV) (fleet.Holder, bool) {
	rec, err := decode[holderRecord](kv.Value)
	if err != nil {
		r.unreadable(kv, err)
		return fleet.Holder{}, false
	}
	return fleet.Holder{Unit: n, Machine: rec.Machine, Wait: time.Duration(rec.Wait) * time.Millisecond, Rev: kv.Mod}, true
}

// brakeOf decodes a record; nil if it cannot be read, which stops nothing.
func (r *Registry) brakeOf(kv kv.KV) *fleet.Brake {
	if len(kv.Value) == 0 {
		return nil // deleted
	}
	rec, err := decode[brakeRecord](kv.Value)
	if err != nil {
		r.unreadable(kv, err)
		return nil
	}
	return &fleet.Brake{Since: rec.Since, Missing: rec.Missing, Of: rec.Of, Resumed: rec.Resumed, Rev: kv.Mod}
}

// hold adds to an atom that the decision's machine becomes the unit's holder. A holder of which the plan did not know makes it fail, whatever
// else holds: this is what keeps an exclusive unit from being on two machines.
func (r *Registry) hold(a atom, d fleet.Decision) atom {
	key := r.holderKey(d.Unit)
	a.guards = append(a.guards, planned(key, d.HolderRev))
	if d.HolderGone != "" && d.HolderGone != d.Machine {
		a.guards = append(a.guards, kv.Guard{Key: r.machineKey(d.HolderGone), Kind: kv.Missing})
	}
	a.ops = append(a.ops, kv.Op{Key: key, Value: encode(holderRecord{Machine: d.Machine, Wait: d.Hold.Milliseconds()})})
	return a
}

// LetGo says that nothing of these exclusive units runs on p's machine any more and that nothing will before another placement is written: their
// holders are deleted where they are this machine. Each placement must be as the machine knows it, else the unit's holder stays. More
// than once is as good as once. kv.ErrLeaseGone: the registration is gone, and the holder is left to the leader.
func (r *Registry) LetGo(ctx context.Context, p Presence, of ...fleet.Placement) error {
	if len(of) == 0 {
		return nil
	}
	keys := make([]string, len(of))
	for i, pl := range of {
		keys[i] = r.holderKey(pl.Unit)
	}
	found := map[string]*kv.KV{}
	if err := r.readInto(ctx, found, keys); err != nil {
		return storeErr("let go", err)
	}
	var atoms []atom
	for _, pl := range of {
		cur := found[r.holderKey(pl.Unit)]
		if cur == nil {
			continue
		}
		h, ok := r.holder(pl.Unit, *cur)
		if !ok || h.Machine != p.Machine {
			continue
		}
		atoms = append(atoms, atom{
			guards: []kv.Guard{{Key: cur.Key, Kind: kv.ModIs, Rev: cur.Mod}, planned(r.of(placements, p.Machine)+string(pl.Unit), pl.Rev)},
			ops:    []kv.Op{{Key: cur.Key, Delete: true}},
		})
	}
	self := []kv.Guard{{Key: r.machineKey(p.Machine), Kind: kv.CreateIs, Rev: p.Rev}}
	_, lost, err := r.write(ctx, self, atoms)
	switch {
	case errors.Is(err, errShared):
		return fmt.Errorf("let go: the registration is gone: %w", kv.ErrLeaseGone)
	case err != nil:
		return storeErr("let go", err)
	case slices.Contains(lost, true):
		return fmt.Errorf("let go: %w", fleet.ErrConflict)
	}
	return nil
}

// LetAllGo is LetGo for a machine that has stopped all its units, for good. One that is still ordered to run there is kept: the machine may be back, or
// its fleetd be started again, and run it by that order, before a leader has seen either. Others wait for it then, as for a machine that died.
func (r *Registry) LetAllGo(ctx context.Context, p Presence) error {
	kvs, _, err := r.store.Range(ctx, r.under(holders), r.of(placements, p.Machine))
	if err != nil {
		return storeErr("let go", err)
	}
	d, ordered := r.newDecoder(), map[unit.Name]fleet.Placement{}
	for _, kv := range kvs[1] {
		key := fleet.Key{Machine: p.Machine, Unit: unit.Name(strings.TrimPrefix(kv.Key, r.of(placements, p.Machine)))}
		pl, ok := d.placement(key, kv)
		if !ok {
			pl = fleet.Placement{Target: fleet.Launched} // that it cannot be read does not make it harmless
		}
		ordered[key.Unit] = pl
	}
	var of []fleet.Placement
	for _, kv := range kvs[0] {
		n := unit.Name(strings.TrimPrefix(kv.Key, r.under(holders)))
		h, ok := r.holder(n, kv)
		pl, there := ordered[n]
		if ok && h.Machine == p.Machine && (!there || pl.Target == fleet.Inactive) {
			of = append(of, fleet.Placement{Unit: n, Machine: p.Machine, Rev: pl.Rev})
		}
	}
	return r.LetGo(ctx, p, of...)
}

// SetBrake pulls the brake, or with nil lets it go; was is the one planned on, nil if there was none. fleet.ErrConflict: it has changed.
func (r *Registry) SetBrake(ctx context.Context, t Term, was, now *fleet.Brake) error {
	op := kv.Op{Key: r.brakeKey(), Delete: true}
	if now != nil {
		op = kv.Op{Key: r.brakeKey(), Value: encode(brakeRecord{Since: now.Since.UTC(), Missing: now.Missing, Of: now.Of, Resumed: now.Resumed})}
	}
	var rev int64
	if was != nil {
		rev = was.Rev
	}
	guards := []kv.Guard{{Key: r.leaderKey(), Kind: kv.CreateIs, Rev: t.Rev}, planned(r.brakeKey(), rev)}
	_, ok, err := r.store.Txn(ctx, guards, []kv.Op{op})
	if err != nil {
		return storeErr("set the brake", err)
	}
	if !ok {
		return fmt.Errorf("set the brake: %w", fleet.ErrConflict)
	}
	return nil
}

// Brake reads the brake; nil if it was not pulled.
func (r *Registry) Brake(ctx context.Context) (*fleet.Brake, error) {
	kvs, _, err := r.store.Range(ctx, r.brakeKey())
	if err != nil {
		return nil, storeErr("read the brake", err)
	}
	for _, kv := range kvs[0] {
		return r.brakeOf(kv), nil
	}
	return nil, nil
}

// Resume lets the brake go by an operator's word: the machines that are missing now do not pull it again. No brake: nothing is done.
func (r *Registry) Resume(ctx context.Context) error {
	for range tries {
		kvs, _, err := r.store.Range(ctx, r.brakeKey())
		if err != nil {
			return storeErr("resume", err)
		}
		if len(kvs[0]) == 0 {
			return nil
		}
		rec, err := decode[brakeRecord](kvs[0][0].Value)
		if err != nil {
			return fmt.Errorf("resume: %s: %w", r.brakeKey(), err)
		}
		if rec.Resumed {
			return nil
		}
		rec.Resumed = true
		_, ok, err := r.store.Txn(ctx, []kv.Guard{{Key: r.brakeKey(), Kind: kv.ModIs, Rev: kvs[0][0].Mod}},
			[]kv.Op{{Key: r.brakeKey(), Value: encode(rec)}})
		if err != nil {
			return storeErr("resume", err)
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("resume: %w", fleet.ErrConflict)
}
