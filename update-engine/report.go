package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// reporter keeps what has happened on this host, and tells the cluster how its updates stand, so that fleetctl can show it from anywhere.
type reporter struct {
	log     *slog.Logger
	file    string // the history
	slots   slot.Slots
	now     func() time.Time
	publish func(context.Context, rollout.Host) error
	journal func(update.State, string) // nil: nowhere

	wake chan struct{}

	mu      sync.Mutex   // guards what follows
	self    rollout.Host // what does not come from the state
	state   update.State
	history []rollout.Event
}

// historyLength is how many events are kept.
const historyLength = 30

func newReporter(log *slog.Logger, file string, s slot.Slots, self rollout.Host, now func() time.Time) *reporter {
	r := &reporter{log: log, file: file, slots: s, self: self, now: now, wake: make(chan struct{}, 1)}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &r.history)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the history is damaged and begun anew", "err", err)
	}
	return r
}

// changed takes the newest state; it is called for each, in order.
func (r *reporter) changed(s update.State) {
	r.mu.Lock()
	text := happened(r.state, s)
	if n := len(s.Failed); r.state.Phase == "" && n > 0 && (len(r.history) == 0 || r.history[len(r.history)-1].At.Before(s.Failed[n-1].At)) {
		// The start itself found it out.
		text = s.Failed[n-1].Version + ": " + s.Failed[n-1].Reason
	}
	r.state = s
	if text != "" {
		if r.journal != nil {
			r.journal(s, text)
		}
		r.history = append(r.history, rollout.Event{At: r.now().UTC(), Text: text})
		r.history = r.history[max(0, len(r.history)-historyLength):]
		b, err := json.Marshal(r.history)
		if err == nil {
			err = replace(r.file, b)
		}
		if err != nil {
			r.log.Warn("keep the history", "err", err)
		}
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// shares takes where this host hands frames on.
func (r *reporter) shares(address string) {
	r.mu.Lock()
	r.self.Peer = address
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// happened says what is worth remembering of a change; "" = nothing. The first state of a process is compared with none: what it
// brings along was noted by the one before.
func happened(before, s update.State) string {
	switch {
	case before.Phase == "":
		return ""
	case len(s.Failed) > 0 && (len(before.Failed) == 0 || s.Failed[len(s.Failed)-1] != before.Failed[len(before.Failed)-1]):
		f := s.Failed[len(s.Failed)-1]
		return f.Version + ": " + f.Reason
	case before.Phase != s.Phase && s.Phase == update.Staged && before.Phase == update.Staging:
		return s.Target.Version + " staged"
	case before.Phase != s.Phase && s.Phase == update.Rebooting:
		return s.Why
	case before.Phase == update.Blessing && s.Phase == update.Releasing:
		return s.Running + " has proven itself"
	case before.Phase != update.Idle && s.Phase == update.Idle && s.Why == "cancelled":
		return "cancelled"
	}
	return ""
}

// events are the history, oldest first.
func (r *reporter) events() []rollout.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]rollout.Event(nil), r.history...)
}

// host is the report of now.
func (r *reporter) host() rollout.Host {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	h := r.self
	h.Running, h.Good, h.Phase, h.Target, h.Done, h.Frames, h.Why = s.Running, s.Good, string(s.Phase), s.Target.Version, s.Done, s.Frames, s.Why
	h.Checked = s.LastGood
	for _, f := range s.Failed {
		if h.Refused == nil {
			h.Refused = map[string]string{}
		}
		h.Refused[f.Version] = f.Reason
	}
	h.History = append([]rollout.Event(nil), r.history...)
	return h
}

// least is the shortest time between two reports: progress need not be told frame by frame.
const least = time.Second

// run reports each change until ctx ends. A store that is away hears the newest state when it is back.
func (r *reporter) run(ctx context.Context) error {
	wait := least
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		if st, err := r.slots.State(); err == nil {
			r.mu.Lock()
			r.self.Slots = slotTexts(st)
			r.mu.Unlock()
		}
		h := r.host()
		text := fmt.Sprintf("%+v", h)
		if text == last {
			continue
		}
		h.At = r.now().UTC()
		pctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := r.publish(pctx, h)
		cancel()
		wait = least
		if err == nil {
			last = text
		} else {
			r.log.Debug("report to the cluster", "err", err)
			wait = 15 * time.Second
			select {
			case r.wake <- struct{}{}:
			default:
			}
		}
		pause.For(ctx, wait)
	}
}

// slotTexts says for people what each slot holds.
func slotTexts(st slot.State) map[string]string {
	out := map[string]string{}
	for _, n := range []slot.Name{slot.A, slot.B} {
		out[string(n)] = slotText(st, n)
	}
	return out
}

func slotText(st slot.State, n slot.Name) string {
	e, ok := st.Entries[n]
	if !ok {
		return "cannot boot"
	}
	text := e.Release.Version + ", good"
	if e.Left != slot.Good {
		text = fmt.Sprintf("%s, %d starts left to prove itself", e.Release.Version, e.Left)
	}
	if st.Next == n {
		text += ", boots next"
	}
	return text
}
