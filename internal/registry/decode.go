package registry

import (
	"bytes"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// decoder turns keys into fleet's types. It remembers what equal values decode to: the units of one template, their placements and
// their observations have equal records (but for the time of the latter), so that of a million records most cost one look-up
// and share one Needs.
type decoder struct {
	r          *Registry
	units      map[string]unitKind
	placements map[string]placementRecord
	observed   map[string]observedRecord // by the record without its time
	rest       []byte                    // scratch of observation
}

// unitKind is what a unit's record says whatever the unit's name is.
type unitKind struct {
	unit    fleet.Unit    // Name and Rev are unset, and Needs if there are options
	options []unit.Option // set when a specifier makes Needs depend on the name
}

// remembered bounds a decoder's memory when records do not repeat.
const remembered = 1 << 14

func (r *Registry) newDecoder() *decoder {
	return &decoder{
		r: r, units: map[string]unitKind{}, placements: map[string]placementRecord{}, observed: map[string]observedRecord{},
	}
}

func (d *decoder) unit(name unit.Name, kv kv.KV) (fleet.Unit, bool) {
	kind, known := d.units[string(kv.Value)]
	if !known {
		var err error
		if kind, err = kindOf(name, kv.Value); err != nil {
			d.r.unreadable(kv, err)
			return fleet.Unit{}, false
		}
		if len(d.units) < remembered {
			d.units[string(kv.Value)] = kind
		}
	}
	u, err := kind.named(name, kv.Mod)
	if err != nil {
		d.r.unreadable(kv, err)
		return fleet.Unit{}, false
	}
	return u, true
}

// unitOf decodes one unit's record.
func unitOf(name unit.Name, kv kv.KV) (fleet.Unit, error) {
	kind, err := kindOf(name, kv.Value)
	if err != nil {
		return fleet.Unit{}, err
	}
	return kind.named(name, kv.Mod)
}

// kindOf decodes a record; name is one of the units that have it.
func kindOf(name unit.Name, value []byte) (unitKind, error) {
	rec, err := decode[unitRecord](value)
	if err != nil {
		return unitKind{}, err
	}
	k := unitKind{unit: fleet.Unit{Hash: rec.Hash, Main: rec.Main, Target: rec.Target, Description: rec.Description,
		Stop: time.Duration(rec.Stop) * time.Millisecond}}
	options := make([]unit.Option, len(rec.Fleet))
	specifier := false
	for i, o := range rec.Fleet {
		options[i] = unit.Option{Section: unit.FleetSection, Name: o[0], Value: o[1]}
		specifier = specifier || strings.Contains(o[1], "%")
	}
	if specifier {
		k.options = options
		return k, nil
	}
	k.unit.Needs, err = unit.NeedsOf(options, name)
	return k, err
}

// named makes the unit of a name. Units of one kind may share their Needs, which nobody who reads them changes.
func (k unitKind) named(name unit.Name, rev int64) (fleet.Unit, error) {
	u := k.unit
	u.Name, u.Rev = name, rev
	if k.options == nil {
		return u, nil
	}
	var err error
	u.Needs, err = unit.NeedsOf(k.options, name)
	return u, err
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
	rec, known := d.sameObserved(kv.Value)
	if !known {
		var err error
		if rec, err = decode[observedRecord](kv.Value); err != nil {
			d.r.unreadable(kv, err)
			return fleet.Observation{}, false
		}
		if d.cut(kv.Value) != "" && len(d.observed) < remembered {
			d.observed[string(d.rest)] = rec
		}
	}
	return fleet.Observation{
		Unit: key.Unit, Machine: key.Machine, Load: rec.Load, Active: rec.Active, Sub: rec.Sub, Result: rec.Result,
		Hash: rec.Hash, Launched: rec.Launched, Since: rec.Since, Reason: rec.Reason,
		IP: rec.IP, IP6: rec.IP6,
		Order: rec.Order, Restarted: rec.Restarted,
	}, true
}

// sameObserved decodes a record that differs from one seen before in its time only.
func (d *decoder) sameObserved(value []byte) (observedRecord, bool) {
	since := d.cut(value)
	if since == "" {
		return observedRecord{}, false
	}
	rec, known := d.observed[string(d.rest)]
	if !known {
		return rec, false
	}
	t, err := time.Parse(time.RFC3339Nano, since)
	rec.Since = t
	return rec, err == nil
}

// cut leaves a record without its time in rest and returns the time, "" if it has none as encode prints it. The bytes it looks for
// cannot stand inside a string of the record, where a quote comes with a backslash before it.
func (d *decoder) cut(value []byte) (since string) {
	field := []byte(`,"since":"`)
	at := bytes.Index(value, field)
	if at < 0 {
		return ""
	}
	tail := value[at+len(field):]
	end := bytes.IndexByte(tail, '"')
	if end < 0 {
		return ""
	}
	d.rest = append(append(d.rest[:0], value[:at]...), tail[end+1:]...)
	return string(tail[:end])
}
