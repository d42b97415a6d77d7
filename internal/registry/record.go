package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
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
	Metadata map[string]string `json:"metadata,omitempty"`
	Version  string            `json:"version,omitempty"`
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
	Target      fleet.TargetState `json:"target"`
	Fleet       [][2]string       `json:"fleet,omitempty"` // raw [X-Fleet] options, name and value
	Description string            `json:"description,omitempty"`
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
}

type leaderRecord struct {
	stamp
	Machine fleet.MachineID `json:"machine"`
	Version string          `json:"version,omitempty"`
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

// decoder turns keys into fleet's types. It remembers what equal values decode to: the units of one template and their placements
// have equal records, so that of a million records most cost one look-up and share one Needs.
type decoder struct {
	r          *Registry
	units      map[string]*fleet.Unit // Name and Rev unset; absent when the needs depend on the name
	placements map[string]placementRecord
}

// remembered bounds a decoder's memory when records do not repeat.
const remembered = 1 << 14

func (r *Registry) newDecoder() *decoder {
	return &decoder{r: r, units: map[string]*fleet.Unit{}, placements: map[string]placementRecord{}}
}

func (d *decoder) unit(name unit.Name, kv kv.KV) (fleet.Unit, bool) {
	if known := d.units[string(kv.Value)]; known != nil {
		u := *known
		u.Name, u.Rev = name, kv.Mod
		return u, true
	}
	u, shared, err := unitOf(name, kv)
	if err != nil {
		d.r.unreadable(kv, err)
		return u, false
	}
	if shared && len(d.units) < remembered {
		d.units[string(kv.Value)] = &u
	}
	return u, true
}

// unitOf decodes a unit's record. shared tells that another unit with an equal record has the same Needs, which is so unless a
// specifier stands in an option. Needs are never changed by those who read them.
func unitOf(name unit.Name, kv kv.KV) (u fleet.Unit, shared bool, err error) {
	rec, err := decode[unitRecord](kv.Value)
	if err != nil {
		return u, false, err
	}
	shared = true
	options := make([]unit.Option, len(rec.Fleet))
	for i, o := range rec.Fleet {
		options[i] = unit.Option{Section: unit.FleetSection, Name: o[0], Value: o[1]}
		shared = shared && !strings.Contains(o[1], "%")
	}
	needs, err := unit.NeedsOf(options, name)
	if err != nil {
		return u, false, err
	}
	return fleet.Unit{Name: name, Hash: rec.Hash, Target: rec.Target, Needs: needs, Description: rec.Description, Rev: kv.Mod}, shared, nil
}

func (d *decoder) placement(key fleet.Key, kv kv.KV) (fleet.Placement, bool) {
	rec, known := d.placements[string(kv.Value)]
	if !known {
		var err error
		if rec, err = decode[placementRecord](kv.Value); err != nil {
			d.r.unreadable(kv, err)
			return fleet.Placement{}, false
		}
		if len(d.placements) < remembered {
			d.placements[string(kv.Value)] = rec
		}
	}
	return fleet.Placement{
		Unit: key.Unit, Machine: key.Machine, Hash: rec.Hash, Target: rec.Target, Handover: rec.Handover, Rev: kv.Mod,
	}, true
}

func (d *decoder) observation(key fleet.Key, kv kv.KV) (fleet.Observation, bool) {
	rec, err := decode[observedRecord](kv.Value)
	if err != nil {
		d.r.unreadable(kv, err)
		return fleet.Observation{}, false
	}
	return fleet.Observation{
		Unit: key.Unit, Machine: key.Machine, Load: rec.Load, Active: rec.Active, Sub: rec.Sub, Result: rec.Result,
		Hash: rec.Hash, Launched: rec.Launched, Since: rec.Since, Reason: rec.Reason,
	}, true
}

func observationRecord(o fleet.Observation) observedRecord {
	since := o.Since
	if !since.IsZero() {
		since = since.UTC() // one moment has one record, wherever the host is
	}
	return observedRecord{
		Load: o.Load, Active: o.Active, Sub: o.Sub, Result: o.Result, Hash: o.Hash, Launched: o.Launched, Since: since, Reason: o.Reason,
	}
}

// roster holds what is known of machines, in the three records that make one fleet.Machine.
type roster struct {
	r        *Registry
	own      map[fleet.MachineID]ownRecord
	settings map[fleet.MachineID]settingsRecord
	admitted map[fleet.MachineID]int64
}

type ownRecord struct {
	machineRecord
	rev int64 // create revision
}

func (r *Registry) newRoster() *roster {
	return &roster{
		r:        r,
		own:      map[fleet.MachineID]ownRecord{},
		settings: map[fleet.MachineID]settingsRecord{},
		admitted: map[fleet.MachineID]int64{},
	}
}

// put takes one of the three records in. One that cannot be read counts as absent.
func (ro *roster) put(kind string, id fleet.MachineID, kv kv.KV) {
	ro.drop(kind, id)
	var err error
	switch kind {
	case machines:
		var rec machineRecord
		if rec, err = decode[machineRecord](kv.Value); err == nil {
			ro.own[id] = ownRecord{rec, kv.Create}
		}
	case settings:
		var rec settingsRecord
		if rec, err = decode[settingsRecord](kv.Value); err == nil {
			ro.settings[id] = rec
		}
	case admitted:
		var rec admittedRecord
		if rec, err = decode[admittedRecord](kv.Value); err == nil {
			ro.admitted[id] = rec.Rev
		}
	}
	if err != nil {
		ro.r.unreadable(kv, err)
	}
}

func (ro *roster) drop(kind string, id fleet.MachineID) {
	switch kind {
	case machines:
		delete(ro.own, id)
	case settings:
		delete(ro.settings, id)
	case admitted:
		delete(ro.admitted, id)
	}
}

// machine joins the records; ok=false when the machine is not registered.
func (ro *roster) machine(id fleet.MachineID) (m fleet.Machine, ok bool) {
	own, ok := ro.own[id]
	if !ok {
		return fleet.Machine{}, false
	}
	set := ro.settings[id]
	m = fleet.Machine{
		ID: id, Name: own.Name, IP: own.IP, Version: own.Version, Leaving: own.Leaving || set.Leaving, Cordon: set.Cordon,
		Rev: own.rev, Admitted: ro.admitted[id], Metadata: maps.Clone(own.Metadata),
	}
	for k, v := range set.Metadata {
		switch {
		case v == nil:
			delete(m.Metadata, k)
		case m.Metadata == nil:
			m.Metadata = map[string]string{k: *v}
		default:
			m.Metadata[k] = *v
		}
	}
	if len(m.Metadata) == 0 {
		m.Metadata = nil
	}
	return m, true
}
