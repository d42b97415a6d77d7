package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// lineLimit is how long a client of a watch may take to receive what is sent. One that has stopped reading would otherwise
// keep its events in our memory.
const lineLimit = 30 * time.Second

// compactedWithin is how long a watch from a past revision waits for the store's "compacted" before it begins its answer.
const compactedWithin = 200 * time.Millisecond

// stream is one client's watch: the view as that client has been told it, and where its lines go.
type stream struct {
	*view
	only map[unit.Name]bool // nil: all units
	w    http.ResponseWriter
	buf  *bufio.Writer
	enc  *json.Encoder
}

// watch streams events, one JSON object a line, until the client goes. Events carry whole entities, so a client that applies them
// to what it has is right after each one, whatever was skipped in between.
func (h *handler) watch(w http.ResponseWriter, r *http.Request, _ string) error {
	q := r.URL.Query()
	since, err := int64(0), error(nil)
	if q.Has("since") {
		if since, err = strconv.ParseInt(q.Get("since"), 10, 64); err != nil || since < 1 {
			return refuse(http.StatusBadRequest, fmt.Sprintf("invalid since %q: give a revision from an earlier answer", q.Get("since")))
		}
	}
	names, once := unitNames(q["unit"]), q.Has("once")
	ctx, cancel := context.WithTimeout(r.Context(), readLimit) // for the reading; the stream has no end
	var v *view
	if once && len(names) > 0 {
		v, err = h.readOf(ctx, names...) // nothing is followed from there, so that states may be newer
	} else {
		v, err = h.read(ctx)
	}
	cancel()
	if err != nil {
		return err
	}
	s := &stream{view: v, w: w, buf: bufio.NewWriterSize(w, 64<<10)}
	s.enc = json.NewEncoder(s.buf)
	for _, name := range names {
		if s.only == nil {
			s.only = map[unit.Name]bool{}
		}
		s.only[name] = true
	}
	if once {
		s.header()
		s.tellAll()
		_ = s.flush() // its error: the client is gone
		return nil
	}
	// The registry reads the machines while it watches, and this view changes: they must not share the map.
	from := fleet.Snapshot{Rev: v.snap.Rev, Machines: maps.Clone(v.snap.Machines)}
	if since > 0 {
		from.Rev = since
	}
	changes := h.Registry.Watch(r.Context(), from)
	if since > 0 {
		return s.follow(r.Context(), changes, false)
	}
	s.header()
	s.tellAll()
	if err := s.flush(); err != nil {
		return nil // the client is gone
	}
	return s.follow(r.Context(), changes, true)
}

func (s *stream) header() {
	// The deadlines of ordinary requests do not hold for a stream. The errors say that w is no network connection.
	_ = http.NewResponseController(s.w).SetReadDeadline(time.Time{})
	s.w.Header().Set("Content-Type", "application/x-ndjson")
	s.w.WriteHeader(http.StatusOK)
}

// follow sends what changes. A watch from a past revision first hears of changes that the view already contains: it then tells of
// the things they touched as they are now.
func (s *stream) follow(ctx context.Context, changes <-chan fleet.Changes, begun bool) error {
	known := s.snap.Rev
	// A store says at once that a revision is compacted. Until this has passed without word, the answer may still be 410.
	decided := time.NewTimer(compactedWithin)
	defer decided.Stop()
	for {
		var c fleet.Changes
		var more bool
		select {
		case <-ctx.Done():
			return nil
		case c, more = <-changes:
			if !more {
				return nil
			}
			if c.Err != nil && !begun {
				return fmt.Errorf("watch from that revision: %w", c.Err)
			}
		case <-decided.C:
		}
		if !begun {
			s.header()
			begun = true
		}
		for _, change := range c.Changes {
			s.tell(change, c.Rev, c.Rev <= known)
		}
		if c.Err != nil {
			s.send(Event{Rev: c.Rev, Err: toError(c.Err)})
		}
		if err := s.flush(); err != nil || c.Err != nil {
			return nil // the client is gone, or has been told to begin anew
		}
	}
}

// tell takes one change in, unless the view has it already, and sends what it changed: the thing itself, and the unit when its
// current state or machine follow from it.
func (s *stream) tell(c fleet.Change, rev int64, old bool) {
	if c.Machine != nil {
		s.tellMachine(c, rev, old)
		return
	}
	name := touched(c)
	if s.only != nil && !s.only[name] {
		if !old {
			s.apply(c)
		}
		return
	}
	before, _ := s.unit(name)
	if !old {
		s.apply(c)
	}
	if c.Observation != nil {
		s.sendState(fleet.Key{Machine: c.Observation.Machine, Unit: name}, rev)
	}
	after, there := s.unit(name)
	moved := before.CurrentState != after.CurrentState || before.MachineID != after.MachineID || before.Machines != after.Machines
	switch {
	case c.Unit != nil && !there:
		s.send(Event{Rev: rev, Deleted: true, Unit: &Unit{Name: string(name)}})
	case there && (c.Unit != nil || old || moved):
		s.send(Event{Rev: rev, Unit: &after})
	}
}

// tellMachine sends a machine and, when it came or went, the global units placed on it: they count machines.
func (s *stream) tellMachine(c fleet.Change, rev int64, old bool) {
	id := c.Machine.ID
	_, before := s.snap.Machines[id]
	if !old {
		s.apply(c)
	}
	_, after := s.snap.Machines[id]
	s.sendMachine(id, rev)
	if before == after && !old {
		return
	}
	var names []unit.Name
	for k := range s.snap.Placements {
		if k.Machine == id && s.snap.Units[k.Unit].Needs.Global && (s.only == nil || s.only[k.Unit]) {
			names = append(names, k.Unit)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if u, ok := s.unit(name); ok {
			s.send(Event{Rev: rev, Unit: &u})
		}
	}
}

func touched(c fleet.Change) unit.Name {
	switch {
	case c.Unit != nil:
		return c.Unit.Name
	case c.Placement != nil:
		return c.Placement.Unit
	case c.Observation != nil:
		return c.Observation.Unit
	}
	return ""
}

// tellAll sends everything as it is, machines first so that a reader can name them, then the mark that this was all.
func (s *stream) tellAll() {
	rev := s.snap.Rev
	for _, m := range s.machines() {
		s.send(Event{Rev: rev, Machine: &m})
	}
	for _, u := range s.units() {
		if s.only == nil || s.only[unit.Name(u.Name)] {
			s.send(Event{Rev: rev, Unit: &u})
		}
	}
	for _, o := range s.states("", "") {
		if s.only == nil || s.only[unit.Name(o.Name)] {
			s.send(Event{Rev: rev, State: &o})
		}
	}
	s.send(Event{Rev: rev, Sync: true})
}

func (s *stream) sendMachine(id fleet.MachineID, rev int64) {
	m, ok := s.snap.Machines[id]
	w := Machine{ID: string(id)}
	if ok {
		w = wireMachine(m)
	}
	s.send(Event{Rev: rev, Deleted: !ok, Machine: &w})
}

func (s *stream) sendState(k fleet.Key, rev int64) {
	o, ok := s.snap.Observed[k]
	w := UnitState{Name: string(k.Unit), MachineID: string(k.Machine)}
	if ok {
		w = wireState(o)
	}
	s.send(Event{Rev: rev, Deleted: !ok, State: &w})
}

// send queues one line. The buffer keeps the first write error for flush.
func (s *stream) send(e Event) { _ = s.enc.Encode(e) }

func (s *stream) flush() error {
	rc := http.NewResponseController(s.w)
	_ = rc.SetWriteDeadline(time.Now().Add(lineLimit)) // the error says that w is no network connection
	if err := s.buf.Flush(); err != nil {
		return err
	}
	return rc.Flush()
}
