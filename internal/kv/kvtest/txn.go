package kvtest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/fleet-init/fleet/internal/kv"
)

func testGuards(t *testing.T, f *fixture) {
	r1 := f.put("k/a", "1")
	r2 := f.put("k/a", "2")
	rows := []struct {
		guard kv.Guard
		want  bool
	}{
		{kv.Guard{Key: "k/a", Kind: kv.Missing}, false},
		{kv.Guard{Key: "k/b", Kind: kv.Missing}, true},
		{kv.Guard{Key: "k/a", Kind: kv.Exists}, true},
		{kv.Guard{Key: "k/b", Kind: kv.Exists}, false},
		{kv.Guard{Key: "k/a", Kind: kv.ModIs, Rev: r2}, true},
		{kv.Guard{Key: "k/a", Kind: kv.ModIs, Rev: r1}, false},
		{kv.Guard{Key: "k/b", Kind: kv.ModIs, Rev: 0}, false}, // a missing key has no revision, not revision 0
		{kv.Guard{Key: "k/a", Kind: kv.CreateIs, Rev: r1}, true},
		{kv.Guard{Key: "k/a", Kind: kv.CreateIs, Rev: r2}, false},
		{kv.Guard{Key: "k/b", Kind: kv.CreateIs, Rev: 0}, false},
		{kv.Guard{Key: "k/a", Kind: kv.ValueIs, Val: []byte("2")}, true},
		{kv.Guard{Key: "k/a", Kind: kv.ValueIs, Val: []byte("1")}, false},
		{kv.Guard{Key: "k/b", Kind: kv.ValueIs, Val: nil}, false}, // nor is it a key with an empty value
	}
	for i, row := range rows {
		mark := fmt.Sprintf("marks/%d", i)
		_, ok, err := f.Store.Txn(f.ctx, []kv.Guard{row.guard}, []kv.Op{{Key: mark}})
		if err != nil || ok != row.want {
			t.Errorf("guard %+v: ok=%v err=%v, want ok=%v", row.guard, ok, err, row.want)
		}
		if written := f.get(mark) != nil; written != row.want {
			t.Errorf("guard %+v: written=%v, want %v", row.guard, written, row.want)
		}
		a, b := f.get("k/a"), f.get("k/b")
		if row.guard.Key == "k/b" {
			a = b
		}
		if got := row.guard.Holds(a); got != row.want {
			t.Errorf("guard %+v: Holds says %v, the store %v", row.guard, got, row.want)
		}
	}
}

func testAllOrNothing(t *testing.T, f *fixture) {
	f.put("k/a", "1")
	before := f.get("k/a")
	rev, ok, err := f.Store.Txn(f.ctx,
		[]kv.Guard{{Key: "k/a", Kind: kv.Exists}, {Key: "k/b", Kind: kv.Exists}},
		[]kv.Op{{Key: "k/a", Delete: true}, {Key: "k/b", Value: []byte("2")}})
	if err != nil || ok {
		t.Fatalf("ok=%v err=%v", ok, err)
	}
	f.want("key a", before, f.get("k/a"))
	f.want("key b", (*kv.KV)(nil), f.get("k/b"))
	next := f.put("k/c", "3")
	if rev != before.Mod || next != rev+1 {
		t.Errorf("revision went %d, %d (refused), %d: a refused transaction must make none", before.Mod, rev, next)
	}
}

func testRevisions(t *testing.T, f *fixture) {
	create := f.put("k/a", "1")
	mod := f.txn(nil, kv.Op{Key: "k/a", Value: []byte("2")}, kv.Op{Key: "k/b", Value: []byte("1")})
	f.want("a", &kv.KV{Key: "k/a", Value: []byte("2"), Create: create, Mod: mod}, f.get("k/a"))
	f.want("b", &kv.KV{Key: "k/b", Value: []byte("1"), Create: mod, Mod: mod}, f.get("k/b"))

	gone := f.del("k/a")
	if again := f.del("k/a"); again != gone {
		t.Errorf("deleting an absent key moved the revision from %d to %d", gone, again)
	}
	anew := f.put("k/a", "3")
	f.want("a made anew", &kv.KV{Key: "k/a", Value: []byte("3"), Create: anew, Mod: anew}, f.get("k/a"))
}

func testRefusals(t *testing.T, f *fixture) {
	if _, _, err := f.Store.Txn(f.ctx, nil, []kv.Op{{Key: "k/a"}, {Key: "k/a", Delete: true}}); err == nil {
		t.Error("a key in two ops was taken")
	}
	if _, _, err := f.Store.Txn(f.ctx, nil, []kv.Op{{Key: ""}}); err == nil {
		t.Error("an empty key was taken")
	}
	ops := make([]kv.Op, kv.MaxOps+1)
	for i := range ops {
		ops[i].Key = fmt.Sprintf("k/%d", i)
	}
	_, _, err := f.Store.Txn(f.ctx, nil, ops)
	f.wantErr("one op too many", err, kv.ErrTooLarge)

	guards := make([]kv.Guard, kv.MaxOps)
	for i := range guards {
		guards[i] = kv.Guard{Key: fmt.Sprintf("k/%d", i), Kind: kv.Missing}
	}
	if _, ok, err := f.Store.Txn(f.ctx, guards, ops[:kv.MaxOps]); err != nil || !ok {
		t.Errorf("MaxOps guards and ops: ok=%v err=%v", ok, err)
	}
}

func testTooLarge(t *testing.T, f *fixture) {
	for _, size := range []int{1600 << 10, 4 << 20} { // over the server's limit; over the client's own
		_, _, err := f.Store.Txn(f.ctx, nil, []kv.Op{{Key: "k/a", Value: make([]byte, size)}})
		f.wantErr(fmt.Sprintf("a value of %d bytes", size), err, kv.ErrTooLarge)
	}
	f.txn(nil, kv.Op{Key: "k/a", Value: make([]byte, kv.MaxBytes)})
}

func testRange(t *testing.T, f *fixture) {
	for _, k := range []string{"a/2", "a/1", "ab", "a", "a/1/x", "b/1", "a0"} {
		f.put(k, "v")
	}
	last := f.put("c", "v")
	got, rev, err := f.Store.Range(f.ctx, "a/", "a", "b/", "none/", "none", "c")
	if err != nil {
		t.Fatal(err)
	}
	var keys [][]string
	for _, kvs := range got {
		names := []string{}
		for _, kv := range kvs {
			names = append(names, kv.Key)
		}
		keys = append(keys, names)
	}
	f.want("keys", [][]string{{"a/1", "a/1/x", "a/2"}, {"a"}, {"b/1"}, {}, {}, {"c"}}, keys)
	f.want("revision", last, rev)
}

func testLargeRange(t *testing.T, f *fixture) {
	const n, prefixes = 3000, 300 // more keys than a page, more prefixes than a transaction has room for
	ops := make([]kv.Op, 0, n)
	for i := range n {
		ops = append(ops, kv.Op{Key: fmt.Sprintf("k/%05d", i), Value: []byte("v")})
	}
	for len(ops) > 0 {
		m := min(len(ops), kv.MaxOps)
		f.txn(nil, ops[:m]...)
		ops = ops[m:]
	}
	asked := []string{"k/"}
	for i := range prefixes {
		asked = append(asked, fmt.Sprintf("k/%05d", i))
	}
	got, _, err := f.Store.Range(f.ctx, asked...)
	if err != nil {
		t.Fatal(err)
	}
	if len(got[0]) != n {
		t.Fatalf("%d keys, want %d", len(got[0]), n)
	}
	for i, kv := range got[0] {
		if want := fmt.Sprintf("k/%05d", i); kv.Key != want {
			t.Fatalf("key %d is %s, want %s", i, kv.Key, want)
		}
	}
	for i := range prefixes {
		f.want(asked[i+1], got[0][i:i+1], got[i+1])
	}
}

// testContention lets writers count up one key by read, guard and write: every success must be in the sum.
func testContention(t *testing.T, f *fixture) {
	const writers, each = 4, 20
	f.put("k/n", "")
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				kvs, _, err := f.Store.Range(f.ctx, "k/n")
				if err != nil {
					errs <- err
					return
				}
				cur := kvs[0][0]
				_, ok, err := f.Store.Txn(f.ctx, []kv.Guard{{Key: "k/n", Kind: kv.ModIs, Rev: cur.Mod}},
					[]kv.Op{{Key: "k/n", Value: append(cur.Value[:len(cur.Value):len(cur.Value)], 'x')}})
				if err != nil {
					errs <- err
					return
				}
				if ok {
					done++
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(errors.Join(errors.New("writer"), err))
	}
	if got := len(f.get("k/n").Value); got != writers*each {
		t.Errorf("%d updates are in the key, %d were made", got, writers*each)
	}
}
