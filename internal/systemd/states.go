package systemd

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// listed is one row of ListUnitsByNames.
type listed struct {
	ID, Description, Load, Active, Sub, Following string
	Path                                          dbus.ObjectPath
	JobID                                         uint32
	JobType                                       string
	JobPath                                       dbus.ObjectPath
}

// States reads the status of units: one call for all, one more for a unit that ended since (its result), and three for one that
// is seen for the first time. A name without a file is "not-found". Templates are refused: systemd has no status of them.
func (s *Systemd) States(ctx context.Context, names []unit.Name) (map[unit.Name]fleet.UnitStatus, error) {
	if len(names) == 0 {
		return nil, nil
	}
	for _, n := range names {
		// one such name would make systemd refuse the whole call
		if n.IsTemplate() {
			return nil, fmt.Errorf("list units: %s is a template", n)
		}
	}
	c, err := s.connected()
	if err != nil {
		return nil, err
	}
	var rows []listed
	if err := c.call(ctx, "ListUnitsByNames", []any{&rows}, strs(names)); err != nil {
		return nil, fmt.Errorf("list units: %w", err)
	}
	if len(rows) != len(names) {
		return nil, fmt.Errorf("list units: asked for %d, got %d", len(names), len(rows))
	}
	found := make(map[unit.Name]fleet.UnitStatus, len(rows))
	var asks []ask
	for i, r := range rows { // in the order asked for; an alias is listed under its unit's own name
		st, a := s.status(names[i], r)
		found[names[i]] = st
		asks = append(asks, a...)
	}
	s.answer(ctx, c, asks)
	for _, a := range asks {
		found[a.unit] = a.put(found[a.unit])
	}
	s.remember(found)
	return found, nil
}

// status makes a row a status, and says which properties must be asked for.
func (s *Systemd) status(name unit.Name, r listed) (fleet.UnitStatus, []ask) {
	s.mu.Lock()
	k, seen := s.known[name]
	s.mu.Unlock()
	st := fleet.UnitStatus{Load: r.Load, Active: r.Active, Sub: r.Sub, Result: "success", Job: r.JobType}
	var asks []ask
	switch {
	case !seen && r.Load != "not-found":
		asks = append(asks, ask{unit: name, path: r.Path, iface: unitIface, property: "StateChangeTimestamp"},
			ask{unit: name, path: r.Path, iface: unitIface, property: "NeedDaemonReload"})
	case seen && k.active == r.Active:
		st.Since, st.Result = k.since, k.result
		if k.again {
			asks = append(asks, ask{unit: name, path: r.Path, iface: unitIface, property: "StateChangeTimestamp"})
		}
	case seen && !k.moved.IsZero():
		st.Since = k.moved
	case seen:
		st.Since = time.Now() // changed, and the signal is still on its way
	}
	over := r.Active == "failed" || r.Active == "inactive"
	// a unit in memory that is over may have ended again since, with another result
	if iface := resultIface(name); iface != "" && over && r.Load == "loaded" && (!seen || !k.moved.IsZero() || k.active != r.Active) {
		asks = append(asks, ask{unit: name, path: r.Path, iface: iface, property: "Result"})
	}
	return st, asks
}

// resultIface is the interface that has a unit's Result; empty for types without one.
func resultIface(name unit.Name) string {
	switch t := name.Type(); t {
	case "service", "socket", "timer", "path", "mount", "automount", "swap", "scope":
		return busName + "." + strings.ToUpper(t[:1]) + t[1:]
	}
	return ""
}

func (s *Systemd) remember(found map[unit.Name]fleet.UnitStatus) {
	// A change that is signalled from now on comes after what was read: known without moved. One that was signalled during the read is in
	// s.changed still, and will be read again.
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, st := range found {
		s.known[n] = known{active: st.Active, result: st.Result, since: st.Since}
	}
}

// ask is one property of one unit to be read.
type ask struct {
	unit            unit.Name
	path            dbus.ObjectPath
	iface, property string
	value           any // nil when it could not be read: the unit went away meanwhile
}

// put writes what was read into a status.
func (a ask) put(st fleet.UnitStatus) fleet.UnitStatus {
	switch v := a.value.(type) {
	case string:
		st.Result = v
	case bool:
		st.Stale = v
	case uint64:
		if v > 0 {
			st.Since = time.UnixMicro(int64(v))
		}
	}
	return st
}

// answer reads the asked properties, many at a time.
func (s *Systemd) answer(ctx context.Context, c *conn, asks []ask) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for start := 0; start < len(asks); start += maxPending {
		part := asks[start:min(start+maxPending, len(asks))]
		calls := make([]*dbus.Call, len(part))
		for i, a := range part {
			calls[i] = c.bus.Object(busName, a.path).GoWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, nil, a.iface, a.property)
		}
		for i, call := range calls {
			var v dbus.Variant
			if (<-call.Done).Store(&v) == nil {
				part[i].value = v.Value()
			}
		}
	}
}

// objectOf is a unit's object path: bytes but letters and digits (a leading digit too) become _ and two hex digits.
func objectOf(name unit.Name) dbus.ObjectPath {
	var b strings.Builder
	b.WriteString(unitRoot)
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if letter || i > 0 && c >= '0' && c <= '9' {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "_%02x", c)
	}
	return dbus.ObjectPath(b.String())
}

// unitOf is the reverse of objectOf. What is no unit's path gives a name that no unit has.
func unitOf(object string) unit.Name {
	in := strings.TrimPrefix(object, unitRoot)
	out := make([]byte, 0, len(in))
	for i := 0; i < len(in); i++ {
		if in[i] == '_' && i+2 < len(in) {
			if c, err := hex.DecodeString(in[i+1 : i+3]); err == nil {
				out = append(out, c[0])
				i += 2
				continue
			}
		}
		out = append(out, in[i])
	}
	return unit.Name(out)
}

func strs(names []unit.Name) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return out
}
