package host

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pause between two looks: short beside what is waited for, long beside what a look costs.
const pause = 50 * time.Millisecond

// patience is far longer than anything that a test waits for takes on a loaded machine, and short beside the time of a whole run: what never
// comes must not use that up.
const patience = 10 * time.Minute

// WaitFor calls check until it returns nil, ctx ends or nobody has patience any more; then the error holds what was waited for and the last
// answer. An error made by Final ends the wait at once. check gets a ctx that ends then too, and should not wait long by itself.
func WaitFor(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	begin := time.Now()
	for {
		err := check(ctx)
		var final finalError
		if err == nil {
			return nil
		} else if errors.As(err, &final) {
			return fmt.Errorf("wait for %s: %w", what, final.error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w after %s: %w", what, ctx.Err(), time.Since(begin).Round(time.Second), err)
		case <-tick.C:
		}
	}
}

type finalError struct{ error }

// Final marks an error of a check that waiting cannot mend.
func Final(err error) error { return finalError{err} }
