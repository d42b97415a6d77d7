package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/fleet-init/fleet/update-engine/bus"
	"github.com/fleet-init/fleet/update-engine/update"
)

// onBus puts the updater on the message bus, for programs that know CoreOS's. Without a bus it works as well; changed is told each state.
func onBus(ctx context.Context, address string, d *daemon, log *slog.Logger, size func() int64) (changed func(update.State), err error) {
	latest := make(chan update.State, 1)
	now := func() bus.Status {
		// The daemon's loop may be the one that waits for us: what it said last is told, it is not asked.
		select {
		case s := <-latest:
			latest <- s
			return busStatus(s, size())
		default:
			return busStatus(update.State{}, 0)
		}
	}
	ask := func(ctx context.Context, f update.Fact, may func(update.State) bool) error {
		before, err := d.ask(ctx, update.Fact{Kind: look})
		if err == nil && !may(before) {
			err = errors.New("not possible now: " + line(before))
		}
		if err == nil {
			_, err = d.ask(ctx, f)
		}
		return err
	}
	s, err := bus.Serve(ctx, address, bus.Calls{
		Attempt: func(ctx context.Context) error {
			return ask(ctx, update.Fact{Kind: update.CheckNow}, func(s update.State) bool { return s.Phase == update.Idle })
		},
		Reset: func(ctx context.Context) error {
			return ask(ctx, update.Fact{Kind: update.Cancel}, func(s update.State) bool { return s.Phase == update.Idle || s.Phase == update.Staged })
		},
	}, now)
	if err != nil {
		return nil, err
	}
	return func(st update.State) {
		select {
		case <-latest:
		default:
		}
		latest <- st
		if err := s.Changed(busStatus(st, size())); err != nil {
			log.Debug("tell the bus", "err", err)
		}
	}, nil
}

// busStatus says a state in the old interface's words.
func busStatus(s update.State, size int64) bus.Status {
	out := bus.Status{Operation: bus.Idle, Version: "0.0.0", Running: s.Running, Good: s.Good, Reason: s.Why}
	if !s.LastGood.IsZero() {
		out.Checked = s.LastGood.Unix()
	}
	switch s.Phase {
	case update.Checking:
		out.Operation = bus.Checking
	case update.Staging:
		out.Operation = bus.Loading
		if s.Done == 0 {
			out.Operation = bus.Available
		}
		if s.Frames > 0 {
			out.Progress = float64(s.Done) / float64(s.Frames)
		}
	case update.Staged, update.Draining, update.Rebooting:
		out.Operation, out.Progress = bus.NeedReboot, 1
	case update.Finalizing:
		out.Operation, out.Progress = bus.Finalizing, 1
	}
	if s.Target.Version != "" {
		out.Version, out.Size = s.Target.Version, size
	}
	return out
}

// The IDs of our journal entries, as journalctl MESSAGE_ID=… finds them. docs/update.md lists them.
const (
	idStaged    = "5c1b7f3f2a6c4d0e9f0b6f6f3f0a7d11"
	idRebooting = "0f5a0c9e7b5e4b6e8d3c1a2b4c5d6e22"
	idProven    = "9d8e7c6b5a494f3e8d2c1b0a9f8e7d33"
	idFailed    = "3a2b1c0d9e8f47a6b5c4d3e2f1a0b944"
	idCancelled = "7e6d5c4b3a2948f7a6b5c4d3e2f1a055"
)

// messageID is the ID of what happened says.
func messageID(s update.State, text string) string {
	switch {
	case text == "cancelled":
		return idCancelled
	case s.Phase == update.Staged:
		return idStaged
	case s.Phase == update.Rebooting:
		return idRebooting
	case s.Phase == update.Releasing && text == s.Running+" has proven itself":
		return idProven
	}
	return idFailed
}

// toJournal writes an entry that programs can find. Without a journal the log has it all the same.
func toJournal(s update.State, text string) {
	pri := journal.PriNotice
	id := messageID(s, text)
	if id == idFailed {
		pri = journal.PriErr
	}
	_ = journal.Send(text, pri, map[string]string{"MESSAGE_ID": id, "FLEET_RUNNING": s.Running, "FLEET_RELEASE": s.Target.Version, "FLEET_PHASE": string(s.Phase)})
}
