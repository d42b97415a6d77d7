package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// version is the format that this fleetd writes and the newest it reads. A field that an older fleetd may overlook needs no new
// version; a change of what a field means does.
const version = 1

// stamp is the version field that every record begins with.
type stamp struct {
	V int `json:"v"`
}

func (s *stamp) stamped() *stamp { return s }

// record is a pointer to one of the structs below.
type record[T any] interface {
	*T
	stamped() *stamp
}

type machineRecord struct {
	stamp
	Name     string            `json:"name,omitempty"`
	IP       netip.Addr        `json:"ip,omitzero"`
	HostAddr netip.AddrPort    `json:"hostAddr,omitzero"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Version  string            `json:"version,omitempty"`
	Seat     fleet.StoreSeat   `json:"seat,omitzero"`
	Instance string            `json:"instance"`
	Boot     string            `json:"boot,omitempty"`
	Leaving  bool              `json:"leaving,omitempty"` // it is going down by itself; settings may say so too
	TTL      int64             `json:"ttl"`               // milliseconds asked for
	Granted  int64             `json:"granted"`           // milliseconds granted by the store
}

type settingsRecord struct {
	stamp
	Metadata map[string]*string `json:"metadata,omitempty"` // null hides the key
	Cordon   bool               `json:"cordon,omitempty"`
	Leaving  bool               `json:"leaving,omitempty"`
}

type admittedRecord struct {
	stamp
	Rev int64 `json:"rev"` // create revision of the registration
}

type unitRecord struct {
	stamp
	Hash        unit.Hash         `json:"hash"`
	Main        unit.Hash         `json:"main,omitempty"` // of the text without its drop-ins, if it has any
	Target      fleet.TargetState `json:"target"`
	Fleet       [][2]string       `json:"fleet,omitempty"` // raw [X-Fleet] options, name and value
	Description string            `json:"description,omitempty"`
	Stop        int64             `json:"stop,omitempty"` // milliseconds that stopping an exclusive unit takes at most
	Aliases     []unit.Name       `json:"aliases,omitempty"`
}

type placementRecord struct {
	stamp
	Hash     unit.Hash         `json:"hash"`
	Target   fleet.TargetState `json:"target"`
	Handover bool              `json:"handover,omitempty"`
}

type observedRecord struct {
	stamp
	Load     string    `json:"load"`
	Active   string    `json:"active"`
	Sub      string    `json:"sub"`
	Result   string    `json:"result,omitempty"`
	Hash     unit.Hash `json:"hash,omitempty"`
	Launched bool      `json:"launched,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	Order    int64     `json:"order,omitempty"` // mod revision of the placement acted on

	Restarted int64 `json:"restarted,omitempty"` // mod revision of the order to restart that was carried out

	IP  netip.Addr `json:"ip,omitzero"`
	IP6 netip.Addr `json:"ip6,omitzero"`
}

type leaderRecord struct {
	stamp
	Machine fleet.MachineID `json:"machine"`
	Version string          `json:"version,omitempty"`
	Pause   bool            `json:"pause,omitempty"` // nobody plans in this term: see HoldPlans
}

// errNewer: the record was written by a fleetd of a newer format. It is not ours to touch.
var errNewer = errors.New("written by a newer version of fleet: upgrade this machine")

// encode stamps and prints a record. All its types can be printed, so an error is a fault of this file.
func encode[T any, R record[T]](rec T) []byte {
	R(&rec).stamped().V = version
	b, err := json.Marshal(rec)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", rec, err))
	}
	return b
}

// decode reads a record; errNewer, or an error that says what is damaged.
func decode[T any, R record[T]](value []byte) (T, error) {
	var rec T
	err := json.Unmarshal(value, &rec)
	v := R(&rec).stamped().V
	if err != nil {
		// A newer format may not even fit into ours: look at its version alone.
		var s stamp
		if json.Unmarshal(value, &s) == nil {
			v = s.V
		}
	}
	switch {
	case v > version:
		return rec, fmt.Errorf("format %d: %w", v, errNewer)
	case err != nil:
		return rec, err
	case v < 1:
		return rec, errors.New("no version field")
	}
	return rec, nil
}

// unreadable logs a record that is left out: once per version of the record, as snapshots are many.
func (r *Registry) unreadable(kv kv.KV, err error) {
	r.mu.Lock()
	known := r.logged[kv.Key] == kv.Mod
	if len(r.logged) > 10000 { // a bound on memory, not on the log: so many unreadable records are worth a second line
		clear(r.logged)
	}
	r.logged[kv.Key] = kv.Mod
	r.mu.Unlock()
	if !known {
		r.log.Warn("record cannot be read and is left out", "rev", kv.Mod, "err", fmt.Errorf("%s: %w", kv.Key, err))
	}
}

func observationRecord(o fleet.Observation) observedRecord {
	since := o.Since
	if !since.IsZero() {
		since = since.UTC() // one moment has one record, wherever the host is
	}
	return observedRecord{
		Load: o.Load, Active: o.Active, Sub: o.Sub, Result: o.Result, Hash: o.Hash, Launched: o.Launched, Since: since, Reason: o.Reason,
		Order: o.Order, Restarted: o.Restarted,
		IP: o.IP, IP6: o.IP6,
	}
}
