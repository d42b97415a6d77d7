package main

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A host that gets another address listens there, and not until its restart where nobody finds it.
func TestListenerIsLeftWithItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, other := netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("10.0.0.8/24")
		begin, looks := time.Now(), 0
		awaitAway(t.Context(), old.Addr(), func() []netip.Prefix {
			if looks++; looks < 3 {
				return []netip.Prefix{other, old}
			}
			return []netip.Prefix{other}
		})
		if took := time.Since(begin); looks != 3 || took != 3*lookAgain {
			t.Errorf("it was left after %d looks, %v", looks, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		awaitAway(ctx, old.Addr(), func() []netip.Prefix { return []netip.Prefix{old} })
		if ctx.Err() == nil {
			t.Error("it was left with its address there")
		}
	})
}
