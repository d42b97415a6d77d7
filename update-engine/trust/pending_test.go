package trust

import (
	"errors"
	"testing"
	"time"
)

// three people with a key each, of whom two must agree; and an online key.
func people(t *testing.T) (Repo, Roles) {
	t.Helper()
	var k []Key
	for range 4 {
		x, err := NewKey()
		if err != nil {
			t.Fatal(err)
		}
		k = append(k, x)
	}
	r := Repo{Dir: t.TempDir(), Expiry: DefaultExpiry()}
	roles := Roles{Root: k[:3], RootThreshold: 2, Targets: k[:3], TargetsThreshold: 2, Online: k[3:]}
	if err := r.Init(roles, time.Now()); err != nil {
		t.Fatal(err)
	}
	return r, roles
}

// bare are the public halves.
func bare(keys []Key) []Key {
	var out []Key
	for _, k := range keys {
		out = append(out, Key{Public: k.Public})
	}
	return out
}

func TestReleaseIsSignedStepByStep(t *testing.T) {
	r, roles := people(t)
	now := time.Now()
	if _, err := r.Pending(); !errors.Is(err, ErrPending) {
		t.Errorf("nothing is proposed: %v", err)
	}
	if err := r.Propose(map[string][]byte{"a.json": []byte("a")}, roles.Root[:1], now); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read("a.json"); err == nil {
		t.Error("a proposed file is there already")
	}
	if err := r.Commit(roles.Online, now); !errors.Is(err, ErrThreshold) {
		t.Errorf("one signature was enough: %v", err)
	}
	if err := r.Sign(roles.Online); !errors.Is(err, ErrThreshold) {
		t.Errorf("a key without a say: %v", err)
	}
	if err := r.Sign(roles.Root[:1]); err != nil { // again is fine, and counts once
		t.Fatal(err)
	}
	w, err := r.Pending()
	if err != nil || len(w) != 1 || w[0].Enough() || len(w[0].Signed) != 1 || len(w[0].Changes) != 1 || w[0].Changes[0] != "a.json" {
		t.Errorf("%+v, %v", w, err)
	}
	if err := r.Sign(roles.Root[2:3]); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(roles.Root[:1], now); err == nil {
		t.Error("put in place without the online key")
	}
	if err := r.Commit(roles.Online, now); err != nil {
		t.Fatal(err)
	}
	if b, err := r.Read("a.json"); err != nil || string(b) != "a" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := r.Pending(); !errors.Is(err, ErrPending) {
		t.Errorf("still pending: %v", err)
	}
}

func TestKeysAreReplacedStepByStep(t *testing.T) {
	r, old := people(t)
	now := time.Now()
	_, fresh := people(t)
	next := Roles{Root: bare(fresh.Root), RootThreshold: 2, Targets: bare(fresh.Targets), TargetsThreshold: 2, Online: bare(fresh.Online)}
	if err := r.ProposeRotate(next, nil, now); err != nil {
		t.Fatal(err)
	}
	for _, k := range append(append([]Key(nil), old.Root[:2]...), fresh.Root[:2]...) {
		if err := r.Commit(fresh.Online, now); !errors.Is(err, ErrThreshold) {
			t.Fatalf("too few signatures: %v", err)
		}
		if err := r.Sign([]Key{k}); err != nil {
			t.Fatal(err)
		}
	}
	if w, err := r.Pending(); err != nil || len(w) != 3 || !w[0].Enough() || !w[1].Enough() || !w[2].Enough() {
		t.Errorf("%+v, %v", w, err)
	}
	if err := r.Commit(fresh.Online, now); err != nil {
		t.Fatal(err)
	}
	if err := r.Publish(map[string][]byte{"b.json": []byte("b")}, append(append([]Key(nil), fresh.Targets[:2]...), fresh.Online...), now); err != nil {
		t.Errorf("the new keys: %v", err)
	}
	if err := r.Publish(map[string][]byte{"c.json": []byte("c")}, append(append([]Key(nil), old.Targets...), old.Online...), now); err == nil {
		t.Error("the old keys still count")
	}
}

func TestProposalThatWasOvertaken(t *testing.T) {
	r, roles := people(t)
	now := time.Now()
	if err := r.Propose(map[string][]byte{"a.json": []byte("a")}, nil, now); err != nil {
		t.Fatal(err)
	}
	if err := r.Publish(map[string][]byte{"b.json": []byte("b")}, append(append([]Key(nil), roles.Root[:2]...), roles.Online...), now); err != nil {
		t.Fatal(err)
	}
	if err := r.Sign(roles.Root[:1]); !errors.Is(err, ErrPending) {
		t.Errorf("it would undo what came first: %v", err)
	}
}
