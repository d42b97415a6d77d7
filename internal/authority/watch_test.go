package authority

import (
	"context"
	"errors"
	"testing"

	"github.com/fleet-init/fleet/internal/kv"
)

// The record of the CA is as old as the cluster, and the store's history is not: found on hosts whose store had been full.
func TestWatchOfAnOldCA(t *testing.T) {
	r := newRig(t)
	var rev int64
	for range 10 {
		at, _, err := r.store.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/other", Value: []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		rev = at
	}
	r.store.Compact(rev)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan State, 10)
	ended := make(chan error, 1)
	go func() { ended <- r.Watch(ctx, func(s State) { told <- s }) }()
	first := <-told
	if _, err := r.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-told:
		if s.Generation <= first.Generation {
			t.Errorf("generation %d comes after %d", s.Generation, first.Generation)
		}
	case err := <-ended:
		t.Fatalf("the watch ended: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}
