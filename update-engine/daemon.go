package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fleet-init/fleet/update-engine/update"
)

// daemon feeds the state machine and carries out what it wants. One goroutine owns the state; at most one action runs beside it.
type daemon struct {
	log  *slog.Logger
	file string // the state
	// do carries out one action; facts on the way (progress) go to tell, the outcome is returned. No kind = no outcome.
	do  func(ctx context.Context, a update.Action, tell func(update.Fact)) update.Fact
	now func() time.Time
	// write replaces a file whole or not at all.
	write func(path string, b []byte) error

	facts chan request
	state update.State
	// changed is told each new state; it must not block.
	changed func(update.State)
}

// request is a fact and who waits for the state after it.
type request struct {
	fact   update.Fact
	answer chan update.State // nil = nobody
}

func newDaemon(log *slog.Logger, file string, do func(context.Context, update.Action, func(update.Fact)) update.Fact, now func() time.Time) *daemon {
	return &daemon{log: log, file: file, do: do, now: now, write: replace, facts: make(chan request), changed: func(update.State) {}}
}

// ask sends a fact and waits for the state after it.
func (d *daemon) ask(ctx context.Context, f update.Fact) (update.State, error) {
	r := request{f, make(chan update.State, 1)}
	select {
	case d.facts <- r:
	case <-ctx.Done():
		return update.State{}, ctx.Err()
	}
	select {
	case s := <-r.answer:
		return s, nil
	case <-ctx.Done():
		return update.State{}, ctx.Err()
	}
}

// look is a fact that changes nothing: its answer is the state.
const look update.Kind = "look"

// heart is how often the machine is told the time.
const heart = 30 * time.Second

// run lives until ctx ends. first is the Started fact.
func (d *daemon) run(ctx context.Context, first update.Fact) error {
	if err := d.load(); err != nil {
		return err
	}
	tick := time.NewTimer(heart)
	defer tick.Stop()
	done := make(chan update.Fact)
	tell := make(chan update.Fact)
	var cancel context.CancelFunc = func() {}
	running := false
	finish := func() {
		cancel()
		if running {
			// What a cancelled action still says is no longer true.
			for {
				select {
				case <-tell:
					continue
				case <-done:
				}
				break
			}
			running = false
		}
	}
	defer func() { finish() }()
	step := func(f update.Fact) {
		a := d.step(f)
		if a.Do == update.Nothing && f.Kind != update.Cancel {
			return
		}
		finish()
		if a.Do == update.Nothing {
			return
		}
		var actx context.Context
		actx, cancel = context.WithCancel(ctx)
		running = true
		go func() { done <- d.do(actx, a, func(f update.Fact) { tell <- f }) }()
	}
	step(first)
	stepped := true
	for {
		if stepped { // who only looks, however often, must not put off what is due
			tick.Reset(d.rest())
		}
		stepped = true
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			step(update.Fact{Kind: update.Tick})
		case f := <-tell:
			step(f)
		case f := <-done:
			running = false
			if f.Kind != "" {
				step(f)
			}
		case r := <-d.facts:
			if stepped = r.fact.Kind != look; stepped {
				step(r.fact)
			}
			if r.answer != nil {
				r.answer <- d.state
			}
		}
	}
}

// rest is how long nothing need be told of the time: until the next moment that the state waits for, and no longer than a heart beat, by
// which a clock that was set is noticed too.
func (d *daemon) rest() time.Duration {
	due := []time.Time{d.state.RetryAt}
	switch d.state.Phase {
	case update.Idle:
		due = []time.Time{d.state.CheckAt}
	case update.Staged:
		due = append(due, d.state.CheckAt)
	case update.Trial, update.Settling, update.Checking, update.Staging, update.Draining:
		return heart // these wait for something else than time
	}
	wait := heart
	for _, t := range due {
		if !t.IsZero() {
			// What is due already had its chance; a second is time enough for the next.
			wait = min(wait, max(t.Sub(d.now()), time.Second))
		}
	}
	return wait
}

// step asks the machine, and keeps what it says before anything is done about it.
func (d *daemon) step(f update.Fact) update.Action {
	if f.At.IsZero() {
		f.At = d.now()
	}
	before := d.state
	next, a := update.Next(d.state, f)
	d.state = next
	if next.Phase != before.Phase || next.Why != before.Why {
		level := slog.LevelInfo
		if next.Why == before.Why && (next.Phase == update.Checking || before.Phase == update.Checking) {
			level = slog.LevelDebug // it looked, and nothing has changed
		}
		d.log.Log(context.Background(), level, "update", "phase", next.Phase, "after", f.Kind, "do", a.Do, "reason", next.Why)
	}
	// Progress is in the payload's journal; it need not wear out the disk here.
	if f.Kind != update.Tick && f.Kind != update.Progressed || a.Do != update.Nothing {
		if err := d.save(); err != nil {
			d.log.Error("keep state", "err", err)
		}
	}
	d.changed(next)
	return a
}

func (d *daemon) load() error {
	b, err := os.ReadFile(d.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(b, &d.state); err != nil {
		// Without it the host proves its slot anew and forgets what failed. A host that does not start would be worse.
		d.log.Error("state is damaged and begun anew", "err", err)
		d.state = update.State{}
	}
	return nil
}

// save replaces the state. Beside it lies a file of the same purpose that takes room: when the disk is full it is given up, so
// that what failed is remembered all the same.
func (d *daemon) save() error {
	b, err := json.Marshal(d.state)
	if err != nil {
		return err
	}
	reserve := d.file + ".reserve"
	if _, err := os.Stat(reserve); errors.Is(err, fs.ErrNotExist) {
		// A full disk has no reserve to make; that is what it is for.
		_ = os.WriteFile(reserve, make([]byte, 64<<10), 0o600)
	}
	if err = d.write(d.file, b); err != nil {
		if err = errors.Join(os.Remove(reserve), d.write(d.file, b)); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
	}
	return nil
}

// replace writes a file whole or not at all.
func replace(p string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(p), filepath.Base(p)+".new*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), p)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
