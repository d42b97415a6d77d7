package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/fleet-init/fleet/internal/kv"
)

// ErrBusy: others changed the rollout each time we tried. Try again.
var ErrBusy = errors.New("the rollout is being changed by others all the time")

// Rollouts are the rollouts of a cluster: "<prefix>rollouts/<channel>", and what each host said last under
// "<prefix>rollout-reports/<channel>/<machine>".
type Rollouts struct {
	Store  kv.Store
	Prefix string // ends in "/"
}

type record struct {
	V int `json:"v"`
	Rollout
}

type report struct {
	V       int    `json:"v"`
	Version string `json:"version"`
	Report  Report `json:"report"`
	Why     string `json:"why,omitempty"`
}

const version = 1

func (r Rollouts) key(channel string) string { return r.Prefix + "rollouts/" + channel }
func (r Rollouts) report(channel, machine string) string {
	return r.Prefix + "rollout-reports/" + channel + "/" + machine
}

// Get reads a channel's rollout; ok=false: it has none, its releases are free for all.
func (r Rollouts) Get(ctx context.Context, channel string) (out Rollout, ok bool, err error) {
	kvs, _, err := r.Store.Range(ctx, r.key(channel))
	if err != nil || len(kvs[0]) == 0 {
		return Rollout{}, false, wrap(channel, err)
	}
	out, err = decode(kvs[0][0])
	return out, err == nil, err
}

func wrap(channel string, err error) error {
	if err != nil {
		return fmt.Errorf("rollout of %s: %w", channel, err)
	}
	return nil
}

func decode(e kv.KV) (Rollout, error) {
	var rec record
	if err := json.Unmarshal(e.Value, &rec); err != nil {
		return Rollout{}, fmt.Errorf("%s is damaged: %w", e.Key, err)
	}
	if rec.V != version {
		return Rollout{}, fmt.Errorf("%s has version %d, this program knows %d: update it", e.Key, rec.V, version)
	}
	return rec.Rollout, nil
}

const tries = 100

// Change replaces a channel's rollout; the zero Rollout stands for none.
func (r Rollouts) Change(ctx context.Context, channel string, change func(Rollout) (Rollout, error)) (Rollout, error) {
	return r.change(ctx, channel, nil, func(x Rollout, _ []kv.KV) (Rollout, []kv.Op, error) {
		x, err := change(x)
		return x, nil, err
	})
}

// change reads the rollout and one more key at one revision and writes both under guard.
func (r Rollouts) change(ctx context.Context, channel string, more []string, do func(Rollout, []kv.KV) (Rollout, []kv.Op, error)) (Rollout, error) {
	for range tries {
		kvs, _, err := r.Store.Range(ctx, append([]string{r.key(channel)}, more...)...)
		if err != nil {
			return Rollout{}, wrap(channel, err)
		}
		var cur Rollout
		guard := kv.Guard{Key: r.key(channel), Kind: kv.Missing}
		if len(kvs[0]) > 0 {
			if cur, err = decode(kvs[0][0]); err != nil {
				return Rollout{}, err
			}
			guard.Kind, guard.Rev = kv.ModIs, kvs[0][0].Mod
		}
		var extra []kv.KV
		if len(more) > 0 {
			extra = kvs[1]
		}
		next, ops, err := do(cur, extra)
		if err != nil {
			return cur, err
		}
		if next == cur && len(ops) == 0 {
			return cur, nil
		}
		b, err := json.Marshal(record{version, next})
		if err != nil {
			return cur, err
		}
		// The report's key needs no guard of its own: it is only ever written together with the rollout's.
		_, ok, err := r.Store.Txn(ctx, []kv.Guard{guard}, append(ops, kv.Op{Key: r.key(channel), Value: b}))
		if err != nil {
			return cur, wrap(channel, err)
		}
		if ok {
			return next, nil
		}
	}
	return Rollout{}, wrap(channel, ErrBusy)
}

// Tell counts what a host says of a release. The same word twice counts once; a release that is not being rolled out counts
// nothing.
func (r Rollouts) Tell(ctx context.Context, channel, machine, release string, say Report, canary bool, why string) error {
	_, err := r.change(ctx, channel, []string{r.report(channel, machine)}, func(x Rollout, old []kv.KV) (Rollout, []kv.Op, error) {
		if x.Version != release {
			return x, nil, nil
		}
		var before report
		if len(old) > 0 {
			// A damaged report counts as none: this host is then counted twice, which only makes the rollout more careful.
			_ = json.Unmarshal(old[0].Value, &before)
		}
		if before.Version != release {
			before.Report = ""
		}
		if before.Report == say {
			return x, nil, nil
		}
		b, err := json.Marshal(report{version, release, say, why})
		return x.Count(before.Report, say, canary), []kv.Op{{Key: r.report(channel, machine), Value: b}}, err
	})
	return err
}

// Said is what a host said last of a release; "" = nothing.
func (r Rollouts) Said(ctx context.Context, channel, machine, release string) (Report, error) {
	kvs, _, err := r.Store.Range(ctx, r.report(channel, machine))
	if err != nil || len(kvs[0]) == 0 {
		return "", wrap(channel, err)
	}
	var said report
	if err := json.Unmarshal(kvs[0][0].Value, &said); err != nil || said.Version != release {
		return "", nil // as in Tell: a damaged report counts as none
	}
	return said.Report, nil
}

// Seed is a machine's place in the line, 0 to 1: the same for all releases of a channel would make the same hosts canaries each
// time, so the version is mixed in. A cloned machine gets a new machine ID and with it a place of its own.
func Seed(machine, release string) float64 {
	sum := sha256.Sum256([]byte(machine + "/" + release))
	return float64(binary.BigEndian.Uint64(sum[:])) / math.MaxUint64
}
