package api

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// askAgain is how long a machine whose stream has ended is left alone.
const askAgain = 2 * time.Second

// live is what comes from one machine while a client follows: an entry, the end of its stream, or that it may be asked again.
type live struct {
	from  *place
	entry *fleet.LogEntry
	err   error
	again bool
}

// follower is the following part of one answer. All of it but in belongs to run's loop.
type follower struct {
	*logs
	in       chan live
	tasks    sync.WaitGroup
	followed map[fleet.Key]bool
	away     []*place                   // their machine is gone; followed again when it is back
	told     map[fleet.MachineID]string // the last problem with each machine
}

// follow sends entries as they come, until ctx ends. A unit that comes to another machine is followed there, and a machine that was away
// is asked for what was missed. Entries of one machine come in order; those of several as they arrive.
func (l *logs) follow(ctx context.Context, places []*place, changes <-chan fleet.Changes) {
	f := &follower{logs: l, in: make(chan live, 64), followed: map[fleet.Key]bool{}, told: map[fleet.MachineID]string{}}
	ctx, stop := context.WithCancel(ctx)
	defer f.tasks.Wait()
	defer stop()
	for _, p := range places {
		f.start(ctx, p, true)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case item := <-f.in:
			if f.take(ctx, item) != nil {
				return // the client is gone
			}
		case c, more := <-changes:
			if !more || c.Err != nil {
				changes = nil // without word of moves the machines known by now are followed on
				continue
			}
			f.moved(ctx, c.Changes)
		}
		if len(f.in) == 0 {
			l.out.flush()
		}
	}
}

// start follows a place in a goroutine of its own. first: right after its history was read.
func (f *follower) start(ctx context.Context, p *place, first bool) {
	for _, n := range p.units {
		f.followed[fleet.Key{Machine: p.machine, Unit: n}] = true
	}
	m, q := f.view.snap.Machines[p.machine], f.from(p, first)
	f.tasks.Go(func() { f.tail(ctx, m, p, q) })
}

// from is where the following of a place begins.
func (f *follower) from(p *place, first bool) fleet.LogQuery {
	q := f.q
	q.Units, q.Lines, q.After = p.units, fleet.AllLines, p.after
	switch {
	case p.after != "":
	case first && f.q.Lines == 0:
		q.Lines = 0
	case !first || p.failed:
		// Nothing is known of it but when the client came. A unit that comes there later is shown from its beginning.
		q.Since = f.begin
	}
	// Else its history was empty: all there is has come since then.
	return q
}

// tail follows one machine until its stream ends, says why, and after a while that it may be asked again.
func (f *follower) tail(ctx context.Context, m fleet.Machine, p *place, q fleet.LogQuery) {
	send := func(item live) {
		item.from = p
		select {
		case f.in <- item:
		case <-ctx.Done():
		}
	}
	err := f.read(ctx, m, q, func(e fleet.LogEntry) error {
		send(live{entry: &e})
		return ctx.Err()
	})
	send(live{err: err})
	timer := time.NewTimer(askAgain)
	defer timer.Stop()
	select {
	case <-timer.C:
		send(live{again: true})
	case <-ctx.Done():
	}
}

// take handles what came from a machine. An error says that the client is gone.
func (f *follower) take(ctx context.Context, item live) error {
	p := item.from
	switch {
	case item.entry != nil:
		p.after = cmp.Or(item.entry.Cursor, p.after)
		delete(f.told, p.machine)
		return f.out.entry(*item.entry)
	case item.again && f.here(p):
		f.start(ctx, p, false)
	case item.again:
		f.away = append(f.away, p)
	case item.err != nil && f.told[p.machine] != item.err.Error():
		f.told[p.machine] = item.err.Error()
		return f.out.problem(f.named(p.machine, item.err))
	}
	return nil
}

func (f *follower) here(p *place) bool {
	_, ok := f.view.snap.Machines[p.machine]
	return ok
}

// moved takes changes of the cluster in and follows what is new.
func (f *follower) moved(ctx context.Context, changes []fleet.Change) {
	for _, c := range changes {
		f.view.apply(c)
	}
	gone := f.away
	f.away = nil
	for _, p := range gone {
		if f.here(p) {
			f.start(ctx, p, false)
		} else {
			f.away = append(f.away, p)
		}
	}
	for _, p := range f.places() {
		units := p.units[:0]
		for _, n := range p.units {
			if !f.followed[fleet.Key{Machine: p.machine, Unit: n}] {
				units = append(units, n)
			}
		}
		if p.units = units; len(units) > 0 && f.here(p) {
			f.start(ctx, p, false)
		}
	}
}
