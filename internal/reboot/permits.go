package reboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/fleet-init/fleet/internal/kv"
)

var (
	// ErrGroup: no group can have that name.
	ErrGroup = errors.New(`group names have letters, digits, "." and "-"`)
	// ErrBusy: others changed the semaphore each time we tried. Try again.
	ErrBusy = errors.New("the semaphore is being changed by others all the time")
)

// Permits are the semaphores of a cluster, kept under "<prefix>reboot/<group>".
type Permits struct {
	Store  kv.Store
	Prefix string // ends in "/"
}

type record struct {
	V int `json:"v"`
	Semaphore
}

const version = 1

// Facts reads what a permit is decided on, and guards under which it stays true until the semaphore is written.
type Facts func(ctx context.Context) (Cluster, []kv.Guard, error)

func (p Permits) key(group string) (string, error) {
	if !regexp.MustCompile(`^[A-Za-z0-9.-]{1,100}$`).MatchString(group) {
		return "", fmt.Errorf("group %q: %w", group, ErrGroup)
	}
	return p.Prefix + "reboot/" + group, nil
}

// Get reads a group's semaphore; the zero one if it has none yet.
func (p Permits) Get(ctx context.Context, group string) (Semaphore, error) {
	s, _, err := p.get(ctx, group)
	return s, err
}

func (p Permits) get(ctx context.Context, group string) (Semaphore, kv.Guard, error) {
	key, err := p.key(group)
	if err != nil {
		return Semaphore{}, kv.Guard{}, err
	}
	kvs, _, err := p.Store.Range(ctx, key)
	if err != nil {
		return Semaphore{}, kv.Guard{}, fmt.Errorf("read semaphore %s: %w", group, err)
	}
	if len(kvs[0]) == 0 {
		return Semaphore{}, kv.Guard{Key: key, Kind: kv.Missing}, nil
	}
	s, err := decode(kvs[0][0])
	return s, kv.Guard{Key: key, Kind: kv.ModIs, Rev: kvs[0][0].Mod}, err
}

func decode(e kv.KV) (Semaphore, error) {
	var r record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return Semaphore{}, fmt.Errorf("semaphore %s is damaged (%w): delete the key to start anew", e.Key, err)
	}
	if r.V != version {
		return Semaphore{}, fmt.Errorf("semaphore %s has version %d, this program knows %d: update it", e.Key, r.V, version)
	}
	return r.Semaphore, nil
}

// Groups reads all semaphores.
func (p Permits) Groups(ctx context.Context) (map[string]Semaphore, error) {
	kvs, _, err := p.Store.Range(ctx, p.Prefix+"reboot/")
	if err != nil {
		return nil, fmt.Errorf("read semaphores: %w", err)
	}
	out := map[string]Semaphore{}
	for _, e := range kvs[0] {
		if e.Key == p.Prefix+turnKey {
			continue
		}
		s, err := decode(e)
		if err != nil {
			return nil, err
		}
		out[strings.TrimPrefix(e.Key, p.Prefix+"reboot/")] = s
	}
	return out, nil
}

// tries bounds how often a change is begun anew: with n machines at once, each round lets one through.
const tries = 100

// Going are the machines that hold permits of other groups.
func (p Permits) Going(ctx context.Context, group string) (map[string]bool, error) {
	groups, err := p.Groups(ctx)
	out := map[string]bool{}
	for g, s := range groups {
		for _, h := range s.Holders {
			if g != group {
				out[h.ID] = true
			}
		}
	}
	return out, err
}

// turnKey is no group's: names of groups have no underscore.
const turnKey = "reboot/_turn"

// turn is written with each permit of any group, under the guard that nobody else has since it was read: two groups must not both decide
// on a quorum that only bears one of them.
func (p Permits) turn(ctx context.Context, ask Holder) (kv.Guard, kv.Op, error) {
	key := p.Prefix + turnKey
	kvs, _, err := p.Store.Range(ctx, key)
	if err != nil {
		return kv.Guard{}, kv.Op{}, fmt.Errorf("read whose turn it is: %w", err)
	}
	g := kv.Guard{Key: key, Kind: kv.Missing}
	if len(kvs[0]) > 0 {
		g = kv.Guard{Key: key, Kind: kv.ModIs, Rev: kvs[0][0].Mod}
	}
	return g, kv.Op{Key: key, Value: []byte(ask.ID)}, nil
}

// Change replaces a group's semaphore by what change makes of it; nothing is written when it changes nothing or fails. change
// may be called several times.
func (p Permits) Change(ctx context.Context, group string, change func(context.Context, Semaphore) (Semaphore, []kv.Guard, error)) (Semaphore, error) {
	return p.change(ctx, group, func(ctx context.Context, s Semaphore) (Semaphore, []kv.Guard, []kv.Op, error) {
		next, guards, err := change(ctx, s)
		return next, guards, nil, err
	})
}

func (p Permits) change(ctx context.Context, group string, change func(context.Context, Semaphore) (Semaphore, []kv.Guard, []kv.Op, error)) (Semaphore, error) {
	for range tries {
		s, at, err := p.get(ctx, group)
		if err != nil {
			return s, err
		}
		next, guards, more, err := change(ctx, s)
		if err != nil {
			return s, err
		}
		before, err := json.Marshal(record{version, s})
		if err != nil {
			return s, err
		}
		after, err := json.Marshal(record{version, next})
		if err != nil {
			return s, err
		}
		if string(before) == string(after) {
			return s, nil
		}
		_, ok, err := p.Store.Txn(ctx, append([]kv.Guard{at}, guards...), append(more, kv.Op{Key: at.Key, Value: after}))
		if err != nil {
			return s, fmt.Errorf("write semaphore %s: %w", group, err)
		}
		if ok {
			return next, nil
		}
	}
	return Semaphore{}, fmt.Errorf("semaphore %s: %w", group, ErrBusy)
}

// Take asks for a permit. The error is a *Refusal when there is none now.
func (p Permits) Take(ctx context.Context, group string, ask Holder, facts Facts) error {
	_, err := p.change(ctx, group, func(ctx context.Context, s Semaphore) (Semaphore, []kv.Guard, []kv.Op, error) {
		guard, write, err := p.turn(ctx, ask)
		if err != nil {
			return s, nil, nil, err
		}
		c, guards, err := facts(ctx)
		if err != nil {
			return s, nil, nil, err
		}
		next, refusal := s.Take(ask, c)
		if refusal != nil {
			return s, nil, nil, refusal
		}
		return next, append(guards, guard), []kv.Op{write}, nil
	})
	return err
}

// Pure makes a change that needs no facts fit for Change.
func Pure(change func(Semaphore) (Semaphore, error)) func(context.Context, Semaphore) (Semaphore, []kv.Guard, error) {
	return func(_ context.Context, s Semaphore) (Semaphore, []kv.Guard, error) {
		next, err := change(s)
		return next, nil, err
	}
}

// Steady gives the permit back after a reboot; see Semaphore.Steady. It writes nothing when there is nothing to give back.
func (p Permits) Steady(ctx context.Context, group, id, boot string) error {
	_, err := p.Change(ctx, group, Pure(func(s Semaphore) (Semaphore, error) { return s.Steady(id, boot) }))
	return err
}

// Abort gives the permit back without a reboot; see Semaphore.Abort.
func (p Permits) Abort(ctx context.Context, group, id, boot string) error {
	_, err := p.Change(ctx, group, Pure(func(s Semaphore) (Semaphore, error) { return s.Abort(id, boot) }))
	return err
}
