package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Group runs tasks side by side and ends them together: the first that fails, or the end of the parent context, ends the
// others. Base tasks are what the others stand on (the store): they are told to end only when every other task has returned,
// so that a daemon can still write its good-byes.
type Group struct {
	ctx     context.Context // of the tasks
	cancel  context.CancelCauseFunc
	base    context.Context // of the base tasks; outlives ctx
	endBase context.CancelFunc

	tasks, bases sync.WaitGroup

	mu  sync.Mutex // guards err
	err error
}

// NewGroup returns a group whose tasks end when parent does.
func NewGroup(parent context.Context) *Group {
	g := &Group{}
	g.ctx, g.cancel = context.WithCancelCause(parent)
	g.base, g.endBase = context.WithCancel(context.WithoutCancel(parent))
	return g
}

// Go starts a task. It shall return soon after its context ends; an error it returns before that ends the group and is what
// Wait returns, with the task's name before it. A task that returns nil early is simply done.
func (g *Group) Go(name string, task func(context.Context) error) {
	g.tasks.Go(func() { g.done(g.ctx, name, task(g.ctx)) })
}

// Base starts a task that the others stand on. Its context ends after all of theirs. Start it before them, from one goroutine.
func (g *Group) Base(name string, task func(context.Context) error) {
	g.bases.Go(func() { g.done(g.base, name, task(g.base)) })
}

// done notes the first error and ends the group. What a task returns because its own context ended is no error.
func (g *Group) done(ctx context.Context, name string, err error) {
	if err == nil || ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return
	}
	err = fmt.Errorf("%s: %w", name, err)
	g.mu.Lock()
	if g.err == nil {
		g.err = err
	}
	g.mu.Unlock()
	g.cancel(err)
}

// Context is the tasks' context: it ends with the parent, with the first failure, or with Stop.
func (g *Group) Context() context.Context { return g.ctx }

// Stop tells all tasks to end, as the end of the parent does.
func (g *Group) Stop() { g.cancel(context.Canceled) }

// Wait returns when every task has returned and after them every base task: the first error, or nil when the group ended
// because it was told to. Without Stop, a failure or the end of the parent it waits as long as any task (not base) runs.
func (g *Group) Wait() error {
	g.tasks.Wait()
	g.cancel(context.Canceled)
	g.endBase()
	g.bases.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}
