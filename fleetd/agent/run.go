package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/unit"
)

const (
	// busyPause is waited after a signal for each job under way, up to busyLimit, so that a burst of signals is one turn.
	busyPause = time.Millisecond
	busyLimit = 3 * time.Millisecond
	// reportPause is between two reports while jobs are under way. The first goes out at once, and the last when all are done.
	reportPause = 100 * time.Millisecond
	// fetchLimit ends a read of texts that the store does not answer.
	fetchLimit = 30 * time.Second
)

// Run acts on one registration's orders until ctx ends, and leaves the units as they are then: a restarted agent takes them
// over. While the store does not answer, nothing changes. After a new registration Run is called anew, with that
// registration's view.
func (a *Agent) Run(ctx context.Context, reg Registry) error {
	ctx, cancel := context.WithCancel(ctx)
	r := &runner{Agent: a, reg: reg, fetched: make(chan fetched), reported: make(chan reported), recalled: make(chan recalled), let: make(chan letGone)}
	defer r.join()
	defer cancel()
	orders, err := r.begin(ctx)
	if err != nil {
		return nil // ctx ended before the store answered
	}
	a.SetOrders(orders)
	a.checked = time.Time{}
	r.doubt(time.Now())
	updates := reg.WatchOrders(ctx, orders)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(r.turn(ctx))
		r.wait(ctx, updates, timer.C)
	}
	return nil
}

// runner is one Run.
type runner struct {
	*Agent
	reg      Registry
	fetched  chan fetched
	reported chan reported
	fetching bool
	sending  bool
	lastSend time.Time
	sendNot  time.Time // not before, after a report that failed
	failures int       // of Observe in a row
	sendFail int       // of reports in a row

	let     chan letGone
	letting bool
	letNot  time.Time // not before
	letFail int       // in a row

	recalled  chan recalled
	recalling bool
	recallAt  time.Time // when to read what the registry holds; zero: no need
}

type fetched struct {
	asked []unit.Hash
	texts map[unit.Hash]*unit.File
	err   error
}

type reported struct {
	changed []fleet.Observation
	gone    []unit.Name
	err     error
}

// begin reads the orders and what was told before, as often as it takes.
func (r *runner) begin(ctx context.Context) (Orders, error) {
	for try := 0; ; try++ {
		told, err := r.reg.Observed(ctx)
		if err == nil {
			var orders Orders
			if orders, err = r.reg.Orders(ctx); err == nil {
				r.Begin(told)
				return orders, nil
			}
		}
		r.Log.Debug("orders cannot be read", "err", err)
		timer := time.NewTimer(backoff(try))
		select {
		case <-ctx.Done():
			timer.Stop()
			return Orders{}, ctx.Err()
		case d := <-r.dumps:
			d <- r.dump()
			timer.Stop()
		case <-timer.C:
		}
	}
}

// join waits for what Run started.
func (r *runner) join() {
	if r.fetching {
		<-r.fetched
	}
	if r.sending {
		end := <-r.reported
		r.Told(end.changed, end.gone, end.err)
	}
	if r.recalling {
		<-r.recalled
	}
	if r.letting {
		<-r.let
	}
}

// turn observes, plans and does once, and returns after what time to do so again at the latest.
func (r *runner) turn(ctx context.Context) time.Duration {
	now := time.Now()
	seen, err := r.Observe(ctx, now)
	if err != nil {
		if ctx.Err() == nil {
			r.Log.Warn("systemd or the unit files cannot be read", "err", err)
		}
		r.failures++
		return backoff(r.failures)
	}
	r.failures = 0
	r.Do(ctx, now, Plan(r.orders, seen))
	r.startFetch(ctx)
	r.startRecall(ctx, now)
	wait := min(r.startReport(ctx, now), r.startLetGo(ctx, now))
	_, reloadFailed := r.tried[taskID{kind: Reload}]
	// Nobody signals these: a state that is to be read, or a reload, because of what was just done.
	if len(r.unread(now)) > 0 || r.stale && !reloadFailed {
		return 0
	}
	return max(0, min(wait, r.next(time.Now())))
}

// next is when something is to be done though nobody says so.
func (r *runner) next(now time.Time) time.Duration {
	// a tenth of jitter, so that the machines of a cluster do not check at one time
	wait := r.checked.Add(r.Check).Sub(now) + rand.N(r.Check/10+1)
	for _, t := range r.tried {
		if d := t.until.Sub(now); d > 0 {
			wait = min(wait, d)
		}
	}
	for _, j := range r.jobs {
		if d := j.at.Add(slowJob).Sub(now); d > 0 {
			wait = min(wait, d)
		}
	}
	if d := r.recallAt.Sub(now); d > 0 {
		wait = min(wait, d)
	}
	if r.Lease != nil {
		if d := r.Lease.Left(); d > 0 {
			wait = min(wait, d) // then units may have to be frozen
		}
	}
	return wait
}

// startFetch reads the texts that the plan asked for, one read at a time.
func (r *runner) startFetch(ctx context.Context) {
	if r.fetching || len(r.Missing()) == 0 {
		return
	}
	r.fetching = true
	// in a goroutine: a slow store must not keep the agent from its signals. join waits for it.
	asked := slices.Clone(r.Missing())
	go func() {
		ctx, cancel := context.WithTimeout(ctx, fetchLimit)
		defer cancel()
		texts, err := r.Files.Files(ctx, asked...)
		r.fetched <- fetched{asked, texts, err}
	}()
}

// startReport sends what changed, one report at a time, and returns when to look again.
func (r *runner) startReport(ctx context.Context, now time.Time) time.Duration {
	if r.sending || r.recalling {
		return r.Check
	}
	changed, gone := r.Pending()
	if len(changed)+len(gone) == 0 {
		return r.Check
	}
	// Whatever changes meanwhile joins the next report: its size grows with the load, its number does not.
	if d := r.sendNot.Sub(now); d > 0 {
		return d
	}
	if d := r.lastSend.Add(reportPause).Sub(now); d > 0 && len(r.jobs) > 0 {
		return d
	}
	r.sending, r.lastSend = true, now
	go func() {
		r.reported <- reported{changed, gone, r.reg.Report(ctx, changed, gone)}
	}()
	return r.Check
}

func (r *runner) sent(end reported) {
	r.sending = false
	r.Told(end.changed, end.gone, end.err)
	if end.err == nil {
		r.sendFail = 0
		return
	}
	r.sendFail++
	r.doubt(time.Now())
	r.sendNot = time.Now().Add(backoff(r.sendFail))
	r.Log.Debug("states were not reported", "err", end.err)
}

// wait waits for a reason for the next turn.
func (r *runner) wait(ctx context.Context, updates <-chan Orders, timer <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-timer:
	case o, ok := <-updates:
		if !ok {
			<-ctx.Done() // a watch ends with its context
			return
		}
		r.SetOrders(o)
	case end := <-r.fetched:
		r.fetching = false
		r.Fetched(time.Now(), end.asked, end.texts, end.err)
	case end := <-r.reported:
		r.sent(end)
	case end := <-r.recalled:
		r.recall(time.Now(), end)
	case end := <-r.let:
		r.hasLetGo(time.Now(), end)
	case <-r.leaseWake():
		r.LeaseIsBack()
	case d := <-r.dumps:
		d <- r.dump()
	case <-r.Signals.Wake():
		r.gather(ctx)
	}
}

// gather lets a burst of signals pass when one is likely: while jobs are under way, each has several.
func (r *runner) gather(ctx context.Context) {
	if len(r.jobs) == 0 {
		return
	}
	timer := time.NewTimer(min(busyPause*time.Duration(len(r.jobs)), busyLimit))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func backoff(failures int) time.Duration {
	return pause.Backoff(failures, 100*time.Millisecond, 10*time.Second)
}

// Release stops and unloads all units, for a fleetd that is stopped for good. It runs after Run has ended, until nothing is left or
// ctx ends; then the error names what is left, whose stops go on without us.
func (a *Agent) Release(ctx context.Context) error {
	a.SetOrders(Orders{Rev: a.orders.Rev, Admitted: true})
	a.checked = time.Time{}
	for failures := 0; ; {
		now := time.Now()
		seen, err := a.Observe(ctx, now)
		if err == nil && len(a.disk) == 0 {
			return nil
		}
		wait := 100 * time.Millisecond // ends of jobs wake; this is for tasks that are held
		if err == nil {
			a.Do(ctx, now, Plan(a.orders, seen))
		} else {
			failures++
			wait = backoff(failures)
		}
		if err == nil && (len(a.unread(now)) > 0 || len(a.disk) == 0) {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return a.left(ctx, err)
		case <-a.Signals.Wake():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (a *Agent) left(ctx context.Context, err error) error {
	var names []string
	for n := range maps.Keys(a.disk) {
		names = append(names, string(n))
	}
	slices.Sort(names)
	return errors.Join(fmt.Errorf("units left behind: %s: %w", strings.Join(names, " "), context.Cause(ctx)), err)
}
