package kv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/kv/kvtest"
)

func TestMemory(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kvtest.Harness {
		now := time.Unix(0, 0)
		m := kv.NewMemory(func() time.Time { return now })
		return kvtest.Harness{
			Store:   m,
			Compact: m.Compact,
			Pass:    func(d time.Duration) { now = now.Add(d); m.Tick() },
		}
	})
}

// The index keeps many keys in order under puts and deletes in any order; a map is the model.
func TestMemoryAgainstAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := kv.NewMemory(nil)
		model := map[string]string{}
		n := rapid.IntRange(0, 3000).Draw(t, "fill")
		step := rapid.SampledFrom([]int{1, 7, 2999}).Draw(t, "step") // ascending, or scattered
		for i := range n {
			k := fmt.Sprintf("k/%04d", i*step%3001)
			write(t, m, kv.Op{Key: k, Value: []byte("f")})
			model[k] = "f"
		}
		for range rapid.IntRange(0, 50).Draw(t, "edits") {
			k := fmt.Sprintf("k/%04d", rapid.IntRange(0, 3001).Draw(t, "key"))
			if rapid.Bool().Draw(t, "delete") {
				write(t, m, kv.Op{Key: k, Delete: true})
				delete(model, k)
			} else {
				write(t, m, kv.Op{Key: k, Value: []byte("e")})
				model[k] = "e"
			}
		}
		kvs, _, err := m.Range(context.Background(), "k/")
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		var keys []string
		for _, kv := range kvs[0] {
			got[kv.Key] = string(kv.Value)
			keys = append(keys, kv.Key)
		}
		if d := cmp.Diff(model, got); d != "" {
			t.Fatal(d)
		}
		if !slices.IsSorted(keys) {
			t.Fatal("keys out of order")
		}
	})
}

func write(t interface{ Fatal(...any) }, m *kv.Memory, ops ...kv.Op) {
	if _, ok, err := m.Txn(context.Background(), nil, ops); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func TestRunEndsLeasesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := kv.NewMemory(nil)
		stopped := make(chan error, 1)
		go func() { stopped <- m.Run(ctx) }()
		id, ttl, err := m.Grant(ctx, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		write(t, m, kv.Op{Key: "a", Lease: id})
		start := time.Now()
		ch := m.Watch(ctx, m.Rev()+1, "a")
		if b := <-ch; len(b.Events) != 1 || !b.Events[0].Delete {
			t.Errorf("%+v", b)
		}
		if took := time.Since(start); took != ttl {
			t.Errorf("the lease ended after %v, want %v", took, ttl)
		}
		cancel()
		if err := <-stopped; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestSinceIsAWatchWithoutWaiting(t *testing.T) {
	m := kv.NewMemory(nil)
	from := m.Rev() + 1
	if b := m.Since(from, "k/"); len(b.Events) != 0 || b.Err != nil {
		t.Errorf("%+v", b)
	}
	write(t, m, kv.Op{Key: "k/a"})
	write(t, m, kv.Op{Key: "k/b"})
	b := m.Since(from, "k/")
	if len(b.Events) != 2 || b.Rev != from+1 {
		t.Errorf("%+v", b)
	}
	m.Compact(m.Rev())
	if b := m.Since(from, "k/"); !errors.Is(b.Err, kv.ErrCompacted) {
		t.Errorf("%+v", b)
	}
}

// Two stores with the same calls and clock have the same content: nothing depends on map order.
func TestMemoryIsDeterministic(t *testing.T) {
	run := func() string {
		now := time.Unix(0, 0)
		m := kv.NewMemory(func() time.Time { return now })
		for i := range 20 {
			id, _, _ := m.Grant(context.Background(), time.Duration(1+i%3)*time.Second)
			for j := range 5 {
				write(t, m, kv.Op{Key: fmt.Sprintf("k/%d/%d", i, j), Lease: id})
			}
		}
		now = now.Add(10 * time.Second)
		out := ""
		for _, e := range m.Since(1, "k/").Events {
			out += fmt.Sprintln(e.Mod, e.Key, e.Delete)
		}
		return out
	}
	if d := cmp.Diff(run(), run()); d != "" {
		t.Error(d)
	}
}

func BenchmarkMemoryMillionKeys(b *testing.B) {
	m := kv.NewMemory(nil)
	const n = 1_000_000
	for i := range n {
		write(b, m, kv.Op{Key: fmt.Sprintf("k/%07d", i*7919%n), Value: []byte("v")})
	}
	m.Compact(m.Rev())
	b.Run("put", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			write(b, m, kv.Op{Key: fmt.Sprintf("k/%07d", i*104729%n), Value: []byte("w")})
		}
	})
	b.Run("range all", func(b *testing.B) {
		for b.Loop() {
			if kvs, _, _ := m.Range(b.Context(), "k/"); len(kvs[0]) != n {
				b.Fatal(len(kvs[0]))
			}
		}
	})
}
