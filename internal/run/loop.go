package run

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Loop calls Turn again and again: at once, then whenever it is woken, at the latest Every after the turn before. A turn that
// fails is tried again after a back-off that doubles from Min to Max; wakes that come meanwhile wait for its end, so that a
// busy watch cannot hammer a store that is down.
type Loop struct {
	Name  string
	Turn  func(context.Context) error // one Observe, Plan, Do
	Wake  <-chan struct{}             // buffered by one: a wake during a turn is not lost, many are one; may be nil
	Every time.Duration               // tick; 0 = only wakes
	Min   time.Duration               // first back-off; 0 = 100 ms
	Max   time.Duration               // longest back-off; 0 = 10 s
	Log   *slog.Logger
	Pulse *Pulse // told when a turn begins and ends, for the watchdog; may be nil
}

// jitter is how far a wait may be stretched, so that the hosts of a cluster do not all ask the store at the same moment.
const jitter = 0.1

// Run turns until ctx ends; it returns nil then. A turn under way sees the end by its ctx. The first error of a row is
// logged at Warn, with the wait; the same error again at Debug, so that an outage is one line.
func (l Loop) Run(ctx context.Context) error {
	lo, hi := l.Min, l.Max
	if lo <= 0 {
		lo = 100 * time.Millisecond
	}
	if hi <= 0 {
		hi = 10 * time.Second
	}
	hi = max(hi, lo)
	var back time.Duration // 0 while all is well
	var last string
	for ctx.Err() == nil {
		err := l.turn(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			if back > 0 {
				l.Log.Info("works again", "loop", l.Name)
			}
			back, last = 0, ""
			l.wait(ctx)
			continue
		}
		back = min(max(back*2, lo), hi)
		wait := stretch(back)
		level := slog.LevelWarn
		if err.Error() == last {
			level = slog.LevelDebug
		}
		last = err.Error()
		l.Log.Log(ctx, level, "turn failed", "loop", l.Name, "err", err, "wait", wait)
		sleep(ctx, wait)
	}
	return nil
}

func (l Loop) turn(ctx context.Context) error {
	l.Pulse.begin()
	defer l.Pulse.end()
	return l.Turn(ctx)
}

// wait returns at a wake, at the tick, or at the end of ctx.
func (l Loop) wait(ctx context.Context) {
	var tick <-chan time.Time
	if l.Every > 0 {
		t := time.NewTimer(stretch(l.Every))
		defer t.Stop()
		tick = t.C
	}
	select {
	case <-ctx.Done():
	case <-l.Wake:
	case <-tick:
	}
}

func stretch(d time.Duration) time.Duration {
	return d + time.Duration(jitter*rand.Float64()*float64(d))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Wake returns a channel for Loop.Wake and the function that wakes: it never blocks, and wakes that were not yet seen are one.
func Wake() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	return c, func() {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Pulse knows since when a loop has been inside one turn. The zero value is ready; a nil one does nothing.
type Pulse struct {
	since atomic.Pointer[time.Time] // nil between turns
}

func (p *Pulse) begin() {
	if p != nil {
		now := time.Now()
		p.since.Store(&now)
	}
}

func (p *Pulse) end() {
	if p != nil {
		p.since.Store(nil)
	}
}

// Busy is how long the turn under way has lasted; 0 between turns.
func (p *Pulse) Busy() time.Duration {
	if since := p.since.Load(); since != nil {
		return time.Since(*since)
	}
	return 0
}
