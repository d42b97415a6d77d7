// Package guard keeps the promise that an exclusive unit is dead before its host's lease can have ended. Run is the whole of the process
// fleet-guard: systemd ends it, and with it all units bound to it, when nobody has moved the deadline on; systemd does so, too, when the process
// hangs or is killed. Feeder is how fleetd moves the deadline on. The two share a file and nothing else, so that either can be
// replaced while units run. It knows neither units nor the store.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Unit is what exclusive units are bound to.
const Unit = "fleet-guard.service"

// File is where the deadline is. It is gone after a reboot, as is what it was about.
const File = "/run/fleet/guard"

// Now is the time since the kernel booted, sleep included: what a lease is counted by. No clock that anybody can set comes in.
func Now() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 1 << 62 // every deadline has passed
	}
	return time.Duration(now.Nano())
}

// read returns the deadline, by Now.
func read(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return parse(text)
}

// parse reads "until NANOSECONDS".
func parse(text []byte) (time.Duration, error) {
	word, rest, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), " ")
	ns, err := strconv.ParseUint(rest, 10, 62)
	if err != nil || word != "until" {
		return 0, fmt.Errorf("deadline %q is not understood", text)
	}
	return time.Duration(ns), nil
}

// write replaces the file in one step. It is in memory: there is nothing to sync.
func write(path string, until time.Duration) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte("until "+strconv.FormatInt(int64(until), 10)+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// Config is a guard's surroundings; the zero value of a function is the real one.
type Config struct {
	Path   string
	Notify func(state string) error // sd_notify
	Now    func() time.Duration
}

// ErrLapsed: nobody has moved the deadline on in time.
var ErrLapsed = errors.New("the lease of this host was not renewed in time: exclusive units are stopped")

const (
	longest  = time.Second // between two looks: after a suspend, no timer of the process is right, and it looks at most so late
	shortest = 20 * time.Millisecond
)

// Run is ready at once, or fails at once: a unit that waited for its guard could start when it is wanted elsewhere already. Then it tells
// systemd each new deadline, and returns ErrLapsed when one passes; systemd, told of it, ends the process then if it does not. nil: ctx ended.
func Run(ctx context.Context, c Config) error {
	ready := "READY=1\n"
	var told time.Duration
	for {
		until, err := read(c.Path)
		if err != nil && told == 0 {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("this host has no lease yet: %w", ErrLapsed)
			}
			return err
		}
		// What cannot be read for a moment changes nothing: the deadline told before stands, with systemd, too.
		until = max(until, told)
		left := until - c.Now()
		if left <= 0 {
			return ErrLapsed
		}
		if until != told {
			// A watchdog of no time would be none.
			if err := c.Notify(fmt.Sprintf("%sWATCHDOG=1\nWATCHDOG_USEC=%d\nSTATUS=Exclusive units may run", ready, max(left.Microseconds(), 1))); err != nil {
				return err
			}
			ready, told = "", until
		}
		timer := time.NewTimer(min(max(left/2, shortest), left, longest))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// Feeder moves the deadline on. A keep-alive that was answered counts from when it was sent: the store may have got it at once, and the answer
// may have taken its time.
type Feeder struct {
	save func(until time.Duration) error
	now  func() time.Duration

	mu       sync.Mutex // guards what follows
	sent     time.Duration
	ttl      time.Duration
	of       int64 // registration that sent is of
	admitted int64 // registration under whose orders the agent works
	until    time.Duration
	held     time.Duration // nothing is fed before
	wake     chan struct{}
}

// NewFeeder goes on from where an earlier process of fleetd was.
func NewFeeder(path string, now func() time.Duration) (*Feeder, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	until, err := read(path)
	if err != nil {
		until = 0 // none yet
	}
	return NewFeederOver(until, func(until time.Duration) error { return write(path, until) }, now), nil
}

// NewFeederOver is a Feeder whose deadline is somewhere else than in a file, and is until so far.
func NewFeederOver(until time.Duration, save func(time.Duration) error, now func() time.Duration) *Feeder {
	return &Feeder{until: until, save: save, now: now, wake: make(chan struct{}, 1)}
}

// Renewed tells of a lease that was granted or renewed by a request that was sent at sent, for a registration (its create revision).
func (f *Feeder) Renewed(registration int64, sent, ttl time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.of, f.sent, f.ttl = registration, sent, ttl
	return f.feed()
}

// Admitted tells that the agent knows orders that were planned for a registration while it lived. Before that nothing is fed: a host that was
// lost and is back must first hear what it is not to run any more.
func (f *Feeder) Admitted(registration int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.admitted == registration {
		return nil
	}
	f.admitted = registration
	return f.feed()
}

// Hold has nothing fed for so long from now on, whatever is told meanwhile: where exclusive units run now is not known.
func (f *Feeder) Hold(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = max(f.held, f.now()+d)
}

func (f *Feeder) feed() error {
	until := f.sent + f.ttl
	if f.now() < f.held {
		return nil
	}
	if f.of != f.admitted || f.ttl == 0 || until <= f.until {
		return nil
	}
	was := f.until > f.now()
	if err := f.save(until); err != nil {
		return fmt.Errorf("move the deadline of exclusive units on: %w", err)
	}
	f.until = until
	if !was {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// Fed tells whether exclusive units may start: the deadline lies ahead, and nothing is held. What runs while it is held may run on to the deadline.
func (f *Feeder) Fed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now() < f.until && f.now() >= f.held
}

// Left is the time until the deadline; not positive: it has passed.
func (f *Feeder) Left() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.until - f.now()
}

// Wake is signalled when the deadline lies ahead again after it had passed.
func (f *Feeder) Wake() <-chan struct{} { return f.wake }
