package run

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Signals are the wakes that a daemon gets from outside besides its end.
type Signals struct {
	Reload <-chan os.Signal // SIGHUP: read the configuration anew
	Dump   <-chan os.Signal // SIGUSR1: print the state
}

// Terminated is the cause of a context that ended by a signal: context.Cause(ctx).
type Terminated struct{ Signal os.Signal }

func (t Terminated) Error() string { return fmt.Sprintf("got signal %s", t.Signal) }

// Listen returns a context that ends at the first SIGTERM or SIGINT with the cause Terminated, and the other signals. A second
// SIGTERM or SIGINT kills the process as it would without us: an operator who is in a hurry is obeyed. stop ends the
// listening.
func Listen(parent context.Context) (ctx context.Context, s Signals, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	end := make(chan os.Signal, 1)
	reload := make(chan os.Signal, 1)
	dump := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT)
	signal.Notify(reload, unix.SIGHUP)
	signal.Notify(dump, unix.SIGUSR1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case sig := <-end:
			cancel(Terminated{sig})
		case <-ctx.Done():
		}
		signal.Stop(end)
	}()
	return ctx, Signals{Reload: reload, Dump: dump}, func() {
		cancel(context.Canceled)
		<-done
		signal.Stop(reload)
		signal.Stop(dump)
	}
}
