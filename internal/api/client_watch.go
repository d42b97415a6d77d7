package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// maxFilter is how many bytes of unit names a watch names in its query; with more it takes all units and filters itself.
const maxFilter = 64 << 10

// Stream is an open watch. One goroutine reads it; Close may come from any.
type Stream struct {
	body  io.ReadCloser
	dec   *json.Decoder
	only  map[string]bool // nil: no filter on this side
	stop  func()
	shown string
}

// Watch opens a watch on the units named, or on all. With since = 0 everything as it is comes first and then an event with
// Sync; else what changed after that revision. A revision that is no longer known is kv.ErrCompacted, here or from Next.
func (c *Client) Watch(ctx context.Context, since int64, names ...string) (*Stream, error) {
	if since > 0 {
		return c.open(ctx, "since="+strconv.FormatInt(since, 10), names)
	}
	return c.open(ctx, "", names)
}

// Look reads the units named, or all, as they are: what a watch begins with. Of units that are named fleetd reads nothing else.
func (c *Client) Look(ctx context.Context, names ...string) (*World, error) {
	s, err := c.open(ctx, "once=true", names)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	w := NewWorld()
	for {
		e, err := s.Next()
		if err != nil {
			return nil, err
		}
		if w.Apply(e); e.Sync {
			return w, nil
		}
	}
}

// open opens a watch with one more parameter, if there is one.
func (c *Client) open(ctx context.Context, more string, names []string) (*Stream, error) {
	var only map[string]bool
	path := "watch" + query(names)
	if len(path) > maxFilter {
		path = "watch"
		only = map[string]bool{}
		for _, n := range names {
			only[n] = true
		}
	}
	if more != "" {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + more
	}
	ctx, stop := context.WithCancelCause(ctx)
	if c.timeout > 0 {
		begin := time.AfterFunc(c.timeout, func() { stop(fmt.Errorf("no answer within %v", c.timeout)) })
		defer begin.Stop()
	}
	resp, err := c.send(ctx, "GET", path, nil)
	if err != nil {
		stop(nil)
		return nil, err
	}
	return &Stream{
		body: resp.Body, dec: json.NewDecoder(bufio.NewReaderSize(resp.Body, 64<<10)),
		only: only, stop: func() { stop(nil) }, shown: c.shown,
	}, nil
}

// Next waits for the next event. A stream that has ended, for whatever reason, is an error.
func (s *Stream) Next() (Event, error) {
	for {
		var e Event
		if err := s.dec.Decode(&e); err != nil {
			return Event{}, &ConnectError{Endpoint: s.shown, Err: fmt.Errorf("watch ended: %w", err)}
		}
		if e.Err != nil {
			return Event{}, e.Err
		}
		if s.wanted(e) {
			return e, nil
		}
	}
}

func (s *Stream) wanted(e Event) bool {
	switch {
	case s.only == nil:
		return true
	case e.Unit != nil:
		return s.only[e.Unit.Name]
	case e.State != nil:
		return s.only[e.State.Name]
	}
	return true
}

// Close ends the watch; a Next that waits returns an error.
func (s *Stream) Close() {
	s.stop()
	_ = s.body.Close() // nothing is left to be read
}

// World is what a reader of a watch knows: the entities its events told, by name and ID.
type World struct {
	Rev      int64
	Units    map[string]Unit
	States   map[fleet.MachineID]map[string]UnitState // by machine, then unit
	Machines map[fleet.MachineID]Machine
}

// NewWorld returns an empty one.
func NewWorld() *World {
	return &World{
		Units: map[string]Unit{}, States: map[fleet.MachineID]map[string]UnitState{}, Machines: map[fleet.MachineID]Machine{},
	}
}

// Apply takes one event in.
func (w *World) Apply(e Event) {
	w.Rev = max(w.Rev, e.Rev)
	switch {
	case e.Unit != nil:
		set(w.Units, e.Unit.Name, *e.Unit, e.Deleted)
	case e.Machine != nil:
		set(w.Machines, fleet.MachineID(e.Machine.ID), *e.Machine, e.Deleted)
	case e.State != nil:
		id := fleet.MachineID(e.State.MachineID)
		if w.States[id] == nil {
			w.States[id] = map[string]UnitState{}
		}
		set(w.States[id], e.State.Name, *e.State, e.Deleted)
	}
}
