package registry

import (
	"context"
	"slices"
	"sync"
)

// submitQueue lets calls of Submit at the same time share transactions: while one call's goroutine writes, the others wait, and
// the first of them then writes for all. There is no goroutine of its own, and a call that is alone waits for nothing.
type submitQueue struct {
	mu      sync.Mutex // guards the fields below, and submitCall.leads
	busy    bool       // a call writes, or was told to
	waiting []*submitCall
}

type submitCall struct {
	ctx     context.Context
	subs    []Submission
	results []SubmitResult
	done    chan struct{} // closed when results stand
	lead    chan struct{} // closed when this call is to write
	leads   bool
}

// perBatch bounds the submissions of one batch; what is over waits for the next.
const perBatch = 1024

// do has write called with subs, alone or among those of other calls, and returns their results.
func (q *submitQueue) do(ctx context.Context, subs []Submission, write func(context.Context, []Submission) []SubmitResult) []SubmitResult {
	c := &submitCall{ctx: ctx, subs: subs, done: make(chan struct{}), lead: make(chan struct{})}
	q.enter(c)
	select {
	case <-c.done:
		return c.results
	case <-ctx.Done():
		// If others write for us at this moment, it is not known whether they will: the same as for any write that is cut off.
		q.leave(c)
		return failed(subs, ctx.Err())
	case <-c.lead:
	}
	batch := q.take(c)
	writeBatch(batch, write)
	q.next()
	return c.results
}

// writeBatch writes for all calls of a batch. One caller's end must not fail the others, so it goes on until all have ended.
func writeBatch(batch []*submitCall, write func(context.Context, []Submission) []SubmitResult) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(batch[0].ctx))
	defer cancel()
	var mu sync.Mutex // guards left
	left := len(batch)
	var all []Submission
	for _, c := range batch {
		all = append(all, c.subs...)
		stop := context.AfterFunc(c.ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				cancel()
			}
		})
		defer stop()
	}
	results := write(ctx, all)
	for _, c := range batch {
		n := len(c.subs)
		c.results, results = results[:n:n], results[n:]
		close(c.done)
	}
}

func failed(subs []Submission, err error) []SubmitResult {
	out := make([]SubmitResult, len(subs))
	for i := range out {
		out[i].Err = storeErr("submit "+string(subs[i].Name), err)
	}
	return out
}

func (q *submitQueue) enter(c *submitCall) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, c)
	if !q.busy {
		q.appoint()
	}
}

// appoint tells the first waiting call to write, if there is one.
func (q *submitQueue) appoint() {
	q.busy = len(q.waiting) > 0
	if q.busy {
		q.waiting[0].leads = true
		close(q.waiting[0].lead)
	}
}

// leave takes out a call whose context has ended. If it was just told to write, another one is.
func (q *submitQueue) leave(c *submitCall) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, c); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		if c.leads {
			q.appoint()
		}
	}
}

// take returns the calls to write now, the leading call c and as many of those behind it as fit a batch.
func (q *submitQueue) take(c *submitCall) []*submitCall {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, subs := 0, 0
	for n < len(q.waiting) && (n == 0 || subs+len(q.waiting[n].subs) <= perBatch) {
		subs += len(q.waiting[n].subs)
		n++
	}
	batch := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	if batch[0] != c {
		panic("submitQueue: the call that writes is not the first")
	}
	return batch
}

// next ends a batch.
func (q *submitQueue) next() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.appoint()
}
