package pause

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if !For(t.Context(), time.Minute) || time.Since(begin) != time.Minute {
			t.Errorf("a minute took %s", time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if For(ctx, time.Minute) || time.Since(begin) != time.Second {
			t.Errorf("its task ended after 1s, and the wait after %s", time.Since(begin))
		}
	})
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 100, 1: 200, 5: 3200, 6: 5000, 20: 5000, 1 << 40: 5000} {
		if got := Backoff(n, 100*time.Millisecond, 5*time.Second); got != want*time.Millisecond {
			t.Errorf("before retry %d: %s, want %s", n, got, want*time.Millisecond)
		}
	}
}
