package audit

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

type deed struct {
	N    int    `json:"n"`
	Text string `json:"text,omitempty"`
}

func newLog(store kv.Store) *Log[deed] {
	return New[deed](store, "/fleet/audit/", slog.New(slog.DiscardHandler))
}

func TestTheNewestDeedsAreKept(t *testing.T) {
	store := kv.NewMemory(time.Now)
	l := newLog(store)
	const all = pages*perPage + 500
	for n := 0; n < all; n += 50 {
		var batch []deed
		for i := range 50 {
			batch = append(batch, deed{N: n + i})
		}
		if err := l.Write(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := l.Newest(t.Context(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) > pages*perPage || len(kept) < (pages-1)*perPage/2 {
		t.Errorf("%d are kept", len(kept))
	}
	for i, d := range kept {
		if d.N != kept[0].N+i {
			t.Fatalf("after %d comes %d", kept[i-1].N, d.N)
		}
	}
	if last := kept[len(kept)-1].N; last < all-50 {
		t.Errorf("the last is %d of %d", last, all)
	}
	kvs, _, err := store.Range(t.Context(), "/fleet/audit/")
	if err != nil || len(kvs[0]) != pages+1 {
		t.Errorf("%d keys, %v", len(kvs[0]), err)
	}
	if few, err := l.Newest(t.Context(), 3); err != nil || len(few) != 3 || few[2] != kept[len(kept)-1] {
		t.Errorf("%v %v", few, err)
	}
}

func TestLargeDeedsDoNotMakeLargePages(t *testing.T) {
	store := kv.NewMemory(time.Now)
	l := newLog(store)
	for n := range 20 {
		if err := l.Write(t.Context(), deed{N: n, Text: strings.Repeat("x", pageBytes/3)}); err != nil {
			t.Fatal(err)
		}
	}
	kvs, _, err := store.Range(t.Context(), "/fleet/audit/")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs[0] {
		if len(kv.Value) > pageBytes*4/3 {
			t.Errorf("%s has %d bytes", kv.Key, len(kv.Value))
		}
	}
	if kept, err := l.Newest(t.Context(), 100); err != nil || len(kept) != 20 {
		t.Errorf("%d kept, %v", len(kept), err)
	}
}

func TestHostsWriteAtOnce(t *testing.T) {
	store := kv.NewMemory(time.Now)
	var wg sync.WaitGroup
	for host := range 4 {
		wg.Go(func() {
			l := newLog(store)
			for n := range 20 {
				for l.Write(t.Context(), deed{N: host*100 + n}) != nil {
					// Another was faster ten times: the loop is the test's patience, not the log's.
				}
			}
		})
	}
	wg.Wait()
	kept, err := newLog(store).Newest(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]int{}
	for _, d := range kept {
		seen[d.N]++
	}
	if len(kept) != 80 || len(seen) != 80 {
		t.Errorf("%d deeds, %d different", len(kept), len(seen))
	}
}

func TestManyDeedsAreOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kv.NewMemory(time.Now)
		l := newLog(store)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		for n := range 100 {
			l.Add(deed{N: n})
		}
		time.Sleep(2 * gather)
		synctest.Wait()
		if rev := store.Rev(); rev > 3 {
			t.Errorf("%d writes", rev)
		}
		l.Add(deed{N: 100})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		kept, err := l.Newest(t.Context(), 1000)
		if err != nil || len(kept) != 101 {
			t.Errorf("%d kept, %v: what came last is lost when fleetd ends", len(kept), err)
		}
	})
}

func TestAStoreThatIsAwayHoldsNobodyUp(t *testing.T) {
	l := newLog(away{kv.NewMemory(time.Now)})
	for n := range waiting + 100 {
		l.Add(deed{N: n})
	}
	if err := l.Write(t.Context(), deed{}); err == nil {
		t.Error("written to a store that is away")
	}
	if len(l.in) != waiting {
		t.Errorf("%d wait", len(l.in))
	}
}

// away is a store that cannot be reached.
type away struct{ kv.Store }

func (away) Range(context.Context, ...string) ([][]kv.KV, int64, error) {
	return nil, 0, fmt.Errorf("range: %w", kv.ErrUnavailable)
}
