package sim

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

// task is something a fleetd does beside others: what is a goroutine there is a coroutine here. It runs only inside of resume.
type task struct {
	w    *world
	p    *process
	name string // h2.agent
	kind string // agent
	run  func(*task)

	next   func() (struct{}, bool)
	stop   func()
	yield  func(struct{}) bool
	killed bool
	done   bool

	// What it waits for. All unset: nothing, it may go on at once.
	due  time.Time   // this moment
	cond func() bool // or this
	call *call       // or the answer to this

	with goOn // how it was resumed last
	left int  // words to the host's systemd and disk until it is stopped between two of them; 0: it is not
}

// call is a request to the store on its way there.
type call struct {
	what string
	at   time.Time
}

// goOn is how a task is let go on.
type goOn struct {
	outcome outcome
	n       int // engine's watch: revisions to take in; agent: stop before the n-th word to systemd or disk; 0: no limit
}

// outcome is what becomes of a request to the store.
type outcome string

const (
	ok   outcome = ""     // done and answered
	fail outcome = "fail" // not done
	lost outcome = "lost" // done, but the answer is that the store cannot be reached
	late outcome = "late" // likewise, and it is done at some later time
	held outcome = "held" // done; the task has the answer when it goes on once more
)

// killed unwinds a task whose process has ended.
type killed struct{}

// spawn makes a task. It runs when it is resumed.
func (p *process) spawn(kind string, run func(*task)) *task {
	t := &task{w: p.h.w, p: p, kind: kind, name: p.h.name + "." + kind, run: run}
	t.next, t.stop = iter.Pull(t.body)
	p.tasks = append(p.tasks, t)
	return t
}

func (t *task) body(yield func(struct{}) bool) {
	defer func() {
		t.done = true
		if r := recover(); r != nil {
			if _, is := r.(killed); !is {
				panic(r)
			}
		}
	}()
	t.yield = yield
	t.run(t)
}

// kill ends a task where it is.
func (t *task) kill() {
	t.killed = true
	t.stop()
	t.done = true
}

// pause hands over to whoever resumed the task.
func (t *task) pause() {
	if t.killed || !t.yield(struct{}{}) {
		panic(killed{}) // also when deferred calls come here on the way out
	}
}

// ready tells whether a task would do anything if it were resumed.
func (t *task) ready() bool {
	switch {
	case t.done || t.p.h.frozen:
		return false
	case t.call != nil:
		return true
	case t.cond != nil && t.cond():
		return true
	case !t.due.IsZero():
		return !t.w.now.Before(t.due)
	}
	return t.cond == nil
}

// resume lets a task run to its next pause.
func (t *task) resume(g goOn) {
	t.with, t.left = g, 0
	if t.call == nil && t.kind == "agent" {
		t.left = g.n
	}
	if _, more := t.next(); !more {
		t.done = true
	}
}

// sleep waits for time to pass.
func (t *task) sleep(d time.Duration) { t.await(d, nil) }

// await waits until cond holds, or for d if that is not 0.
func (t *task) await(d time.Duration, cond func() bool) {
	t.cond = cond
	if d > 0 {
		// In whole milliseconds, as transcripts are: what is written down and read again must be the same run.
		t.due = t.w.now.Add(d + time.Millisecond - 1).Truncate(time.Millisecond)
	}
	t.pause()
	t.cond, t.due = nil, time.Time{}
}

// point is passed before each word to systemd or the disk: a process can end between any two of them.
func (t *task) point() {
	if t.left > 0 {
		if t.left--; t.left == 0 {
			t.pause()
		}
	}
}

// request waits in a call of the store, whose effect is what do has. do is run at once, or never, or later.
func (t *task) request(ctx context.Context, what string, do func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.call = &call{what: what, at: t.w.now}
	t.pause()
	issued := t.call.at
	t.call = nil
	out := t.with.outcome
	h := t.p.h
	if h.cut && (out == ok || out == held || issued.After(h.cutAt)) {
		out = fail // what was on its way when the cut came may have arrived
	}
	if t.w.storeOff {
		out = fail
	} else if h.deaf && (out == ok || out == held) {
		out = lost
	}
	if err := ctx.Err(); err != nil && (out == ok || out == held) {
		out = fail
	}
	t.w.note("%s %s", what, out)
	switch out {
	case fail:
		return fmt.Errorf("simulated: %w", kv.ErrUnavailable)
	case late:
		t.w.onItsWay(t.name+" "+what, do)
		return fmt.Errorf("simulated: %w", kv.ErrUnavailable)
	}
	do()
	switch out {
	case lost:
		return fmt.Errorf("simulated: %w", kv.ErrUnavailable)
	case held:
		t.pause()
	}
	return nil
}
