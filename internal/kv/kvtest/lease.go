package kvtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

func testRevoke(t *testing.T, f *fixture) {
	id, _ := f.grant(time.Minute)
	f.put("k/other", "1")
	f.txn(nil, kv.Op{Key: "k/a", Lease: id}, kv.Op{Key: "k/b", Lease: id})
	if got := f.get("k/a").Lease; got != id {
		t.Errorf("key a is on lease %x, want %x", got, id)
	}
	if err := f.Store.Revoke(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	kvs, _, err := f.Store.Range(f.ctx, "k/")
	if err != nil || len(kvs[0]) != 1 || kvs[0][0].Key != "k/other" {
		t.Errorf("left: %v, %v", kvs, err)
	}
	if err := f.Store.Revoke(f.ctx, id); err != nil {
		t.Errorf("revoking a lease twice: %v", err)
	}
}

func testExpiry(t *testing.T, f *fixture) {
	id, ttl := f.grant(time.Second)
	rev := f.txn(nil, kv.Op{Key: "k/a", Lease: id}, kv.Op{Key: "k/b", Lease: id})
	ch := f.Store.Watch(f.ctx, rev+1, "k/")
	if f.Pass != nil {
		f.Pass(ttl)
	}
	f.want("events", []string{fmt.Sprintf("%d del k/a", rev+1), fmt.Sprintf("%d del k/b", rev+1)}, f.events(ch, 2))
	f.wantErr("renew", f.Store.Renew(f.ctx, id), kv.ErrLeaseGone)
}

// testRenew renews over several times the ttl. On real time it only shows that Renew works; the clock of a harness that has
// one shows that it lengthens.
func testRenew(t *testing.T, f *fixture) {
	id, ttl := f.grant(3 * time.Second)
	f.txn(nil, kv.Op{Key: "k/a", Lease: id})
	for range 5 {
		if f.Pass != nil {
			f.Pass(ttl - time.Millisecond)
		}
		if err := f.Store.Renew(f.ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if f.get("k/a") == nil {
		t.Error("the key of a renewed lease is gone")
	}
}

// testLeft asks for more leases than a store asks its server for at once, in an order of its own.
func testLeft(t *testing.T, f *fixture) {
	const many = 150
	ids, want := make([]kv.LeaseID, 2*many), make([]time.Duration, 2*many)
	for i := range many {
		id, ttl := f.grant(time.Hour + time.Duration(i)*time.Minute)
		ids[i], want[i] = id, ttl
		ids[2*many-1-i], want[2*many-1-i] = id, ttl
	}
	if err := f.Store.Revoke(f.ctx, ids[7]); err != nil {
		t.Fatal(err)
	}
	pass := time.Duration(0)
	if f.Pass != nil {
		pass = 10 * time.Second
		f.Pass(pass)
	}
	if err := f.Store.Renew(f.ctx, ids[9]); err != nil {
		t.Fatal(err)
	}
	left, err := f.Store.Left(f.ctx, ids...)
	if err != nil || len(left) != len(ids) {
		t.Fatal(len(left), err)
	}
	for i, l := range left {
		most := want[i] - pass
		switch ids[i] {
		case ids[7]:
			if l >= 0 {
				t.Errorf("lease %d was revoked, and has %s left", i, l)
			}
			continue
		case ids[9]:
			most = want[i]
		}
		if l > most || l < most-time.Minute { // some seconds of them a real store needed
			t.Errorf("lease %d has %s left, want %s", i, l, most)
		}
	}
	if left, err := f.Store.Left(f.ctx); err != nil || len(left) != 0 {
		t.Errorf("of no lease: %v, %v", left, err)
	}
}

func testDeadLease(t *testing.T, f *fixture) {
	id, _ := f.grant(time.Minute)
	if err := f.Store.Revoke(f.ctx, id); err != nil {
		t.Fatal(err)
	}
	_, _, err := f.Store.Txn(f.ctx, nil, []kv.Op{{Key: "k/b"}, {Key: "k/a", Lease: id}})
	f.wantErr("put on a dead lease", err, kv.ErrLeaseGone)
	if f.get("k/b") != nil {
		t.Error("a transaction with a put on a dead lease wrote its other key")
	}
	// The guards come first: whoever lost a race is told so, whatever became of the lease.
	_, ok, err := f.Store.Txn(f.ctx, []kv.Guard{{Key: "k/c", Kind: kv.Exists}}, []kv.Op{{Key: "k/a", Lease: id}})
	if ok || err != nil {
		t.Errorf("failed guard and dead lease: ok=%v err=%v, want neither", ok, err)
	}
	f.wantErr("renew", f.Store.Renew(f.ctx, id), kv.ErrLeaseGone)
}

func testLeaseDetached(t *testing.T, f *fixture) {
	one, _ := f.grant(time.Minute)
	two, _ := f.grant(time.Minute)
	for _, k := range []string{"k/a", "k/b", "k/c"} {
		f.txn(nil, kv.Op{Key: k, Lease: one})
	}
	f.put("k/a", "kept")
	f.txn(nil, kv.Op{Key: "k/b", Lease: two})
	f.del("k/c")
	f.put("k/c", "made anew")
	if err := f.Store.Revoke(f.ctx, one); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]kv.LeaseID{"k/a": 0, "k/b": two, "k/c": 0} {
		if got := f.get(k); got == nil || got.Lease != want {
			t.Errorf("%s: %+v, want lease %x", k, got, want)
		}
	}
}

func testRestart(t *testing.T, f *fixture) {
	if f.Restart == nil {
		return // a store without a server has nothing to restart
	}
	id, _ := f.grant(time.Minute)
	rev := f.txn(nil, kv.Op{Key: "k/a", Value: []byte("1"), Lease: id})
	ch := f.Store.Watch(f.ctx, rev, "k/")
	f.want("before", []string{fmt.Sprintf("%d put k/a=1", rev)}, f.events(ch, 1))
	for i := range 2 {
		f.Restart()
		next := f.put("k/b", fmt.Sprint(i))
		f.want("after restart", []string{fmt.Sprintf("%d put k/b=%d", next, i)}, f.events(ch, 1))
	}
	if err := f.Store.Renew(f.ctx, id); err != nil {
		t.Errorf("renew: %v", err)
	}
	f.want("key", &kv.KV{Key: "k/a", Value: []byte("1"), Create: rev, Mod: rev, Lease: id}, f.get("k/a"))
}
