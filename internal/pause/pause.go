// Package pause is for pauses that the end of a task cuts short, and for how long they are after failures.
package pause

import (
	"context"
	"time"
)

// For waits for d; it returns false, at once, if ctx ends before.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Backoff is how long to wait before retry number n, from 0: least, then twice as long each time, at most most. It holds no chance, so that a
// simulation can be replayed; who shares a store with many adds some.
func Backoff(n int, least, most time.Duration) time.Duration {
	const enough = 20 // doublings: from a millisecond to a quarter of an hour
	return min(least<<min(n, enough), most)
}
