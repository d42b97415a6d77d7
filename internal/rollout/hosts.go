package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pause"
)

// Host is what a host last said of its own updates, for people: nothing is decided on it.
type Host struct {
	Machine string    `json:"machineID"`
	At      time.Time `json:"at"` // by that host's clock
	Channel string    `json:"channel"`
	Group   string    `json:"group"`
	Running string    `json:"running"`
	Good    bool      `json:"good"`
	Slot    string    `json:"slot"`
	// Slots says what each slot holds: "2.0.0, good, boots next", "cannot boot".
	Slots  map[string]string `json:"slots,omitempty"`
	Phase  string            `json:"phase"`
	Target string            `json:"target,omitempty"`
	Done   int               `json:"done,omitempty"` // frames of Target
	Frames int               `json:"frames,omitempty"`
	Why    string            `json:"why,omitempty"` // what is waited for, or what happened last
	// Checked is when it last read its channel's signed state.
	Checked time.Time `json:"checked,omitzero"`
	// Refused are releases that failed there and are not taken again: version → reason.
	Refused map[string]string `json:"refused,omitempty"`
	History []Event           `json:"history,omitempty"` // oldest first
	// Peer is the address:port where it hands frames on to other hosts; "" = it does not.
	Peer string `json:"peer,omitempty"`
}

// Event is one thing that happened in a host's updates.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Order is a command for one host's update-engine, sent through the store.
type Order struct {
	Kind    string    `json:"kind"` // check now, reboot now, rollback now, cancel, forget
	Version string    `json:"version,omitempty"`
	Why     string    `json:"why,omitempty"`
	At      time.Time `json:"at,omitzero"`
}

type hostRecord struct {
	V int `json:"v"`
	Host
}

type orderRecord struct {
	V int `json:"v"`
	Order
}

func (r Rollouts) hosts() string                 { return r.Prefix + "updates/" }
func (r Rollouts) orders(machine string) string  { return r.Prefix + "update-orders/" + machine }
func (r Rollouts) hostKey(machine string) string { return r.hosts() + machine }

// Publish replaces what the host says of itself.
func (r Rollouts) Publish(ctx context.Context, h Host) error {
	b, err := json.Marshal(hostRecord{version, h})
	if err != nil {
		return err
	}
	if _, _, err := r.Store.Txn(ctx, nil, []kv.Op{{Key: r.hostKey(h.Machine), Value: b}}); err != nil {
		return fmt.Errorf("publish the state of updates: %w", err)
	}
	return nil
}

// Hosts reads what all hosts say, by machine ID. Records that cannot be read are left out: they are of a newer release, and replaced soon.
func (r Rollouts) Hosts(ctx context.Context) ([]Host, error) {
	kvs, _, err := r.Store.Range(ctx, r.hosts())
	if err != nil {
		return nil, fmt.Errorf("read the state of updates: %w", err)
	}
	out := []Host{} // never null in the API
	for _, e := range kvs[0] {
		var rec hostRecord
		if json.Unmarshal(e.Value, &rec) == nil && rec.V == version {
			out = append(out, rec.Host)
		}
	}
	return out, nil
}

// All reads the rollouts of all channels.
func (r Rollouts) All(ctx context.Context) (map[string]Rollout, error) {
	kvs, _, err := r.Store.Range(ctx, r.Prefix+"rollouts/")
	if err != nil {
		return nil, fmt.Errorf("read rollouts: %w", err)
	}
	out := map[string]Rollout{}
	for _, e := range kvs[0] {
		x, err := decode(e)
		if err != nil {
			return nil, err
		}
		if x.Version != "" { // one that was ended
			out[strings.TrimPrefix(e.Key, r.Prefix+"rollouts/")] = x
		}
	}
	return out, nil
}

// Send orders something of a host. A host that is off obeys when it is back; a later order replaces one that was not obeyed yet.
func (r Rollouts) Send(ctx context.Context, machine string, o Order) error {
	b, err := json.Marshal(orderRecord{version, o})
	if err != nil {
		return err
	}
	if _, _, err := r.Store.Txn(ctx, nil, []kv.Op{{Key: r.orders(machine), Value: b}}); err != nil {
		return fmt.Errorf("send the order: %w", err)
	}
	return nil
}

// Obey gives this host's orders to obey, one after the other, until ctx ends. An order is taken away before it is obeyed: one that
// makes the host crash must not wait for it at its next start. Errors of the store go to lost.
func (r Rollouts) Obey(ctx context.Context, machine string, obey func(context.Context, Order), lost func(error)) {
	key := r.orders(machine)
	take := func(e kv.KV) {
		_, ok, err := r.Store.Txn(ctx, []kv.Guard{{Key: key, Kind: kv.ModIs, Rev: e.Mod}}, []kv.Op{{Key: key, Delete: true}})
		if err != nil {
			lost(err)
			return
		}
		var rec orderRecord
		if ok && json.Unmarshal(e.Value, &rec) == nil && rec.V == version {
			obey(ctx, rec.Order)
		}
	}
	for ctx.Err() == nil {
		kvs, rev, err := r.Store.Range(ctx, key)
		if err != nil {
			lost(err)
			if !pause.For(ctx, 10*time.Second) {
				return
			}
			continue
		}
		for _, e := range kvs[0] {
			take(e)
		}
		for batch := range r.Store.Watch(ctx, rev+1, key) {
			for _, e := range batch.Events {
				if !e.Delete {
					take(e.KV)
				}
			}
			if batch.Err != nil && !errors.Is(batch.Err, kv.ErrCompacted) {
				lost(batch.Err)
			}
		}
	}
}
