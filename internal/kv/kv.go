// Package kv is the vocabulary of the store under the registry: raw keys with revisions, guarded transactions, watches
// and leases, as etcd v3 has them. kv.Memory is a whole store in memory; kv/etcd speaks to etcd; kvtest holds the suite
// that both pass.
package kv

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrCompacted: the revision asked for is no longer in the history. Range again and watch from there.
	ErrCompacted = errors.New("revision compacted")
	// ErrLeaseGone: the lease has ended or was revoked.
	ErrLeaseGone = errors.New("lease gone")
	// ErrUnavailable: the store could not be reached, has no leader or no quorum. The write may or may not have happened.
	ErrUnavailable = errors.New("store unavailable")
	// ErrTooLarge: the request is over one of the store's limits.
	ErrTooLarge = errors.New("request too large")
	// ErrForbidden: the store does not let this host do that: it has no vote, or its user at an etcd elsewhere no right.
	ErrForbidden = errors.New("the store does not allow this host to do that; where the host has no vote, do it on one that has")
	// ErrNoSpace: the store's space quota is used up.
	ErrNoSpace = errors.New("store out of space")
)

// LeaseID names a lease; 0 is none.
type LeaseID int64

// KV is one key as stored.
type KV struct {
	Key    string
	Value  []byte
	Create int64 // revision that created it
	Mod    int64 // revision that last wrote it
	Lease  LeaseID
}

// Guard is a condition of a transaction on one key.
type Guard struct {
	Key  string
	Kind GuardKind
	Rev  int64  // for ModIs, CreateIs
	Val  []byte // for ValueIs
}

// GuardKind says what a Guard compares.
type GuardKind int

const (
	Missing  GuardKind = iota // the key does not exist
	Exists                    // it does
	ModIs                     // it exists and was last written at Rev
	CreateIs                  // it exists and was created at Rev
	ValueIs                   // it exists with value Val
)

// Op is one write of a transaction: a put, or with Delete a delete of the key (absent is fine).
type Op struct {
	Key    string
	Value  []byte
	Lease  LeaseID
	Delete bool
}

// Event is one change of one key. A deletion has Delete set, the key, and Mod = the revision of the deletion.
type Event struct {
	KV
	Delete bool
}

// Batch is what a watch delivers: all events of one or more whole revisions, in order; Rev is the last of them.
// When Err is set it is the last batch: ErrCompacted, or the context's error.
type Batch struct {
	Events []Event
	Rev    int64
	Err    error
}

// Store is what the registry needs of a store. All methods may be called at the same time. Errors that mean "not reached"
// wrap ErrUnavailable.
type Store interface {
	// Range reads the keys under each prefix, all at one revision, which it returns, in key order within a prefix. A "prefix" that
	// does not end in "/" is one exact key.
	Range(ctx context.Context, prefixes ...string) (kvs [][]KV, rev int64, err error)
	// Txn does all ops at one revision if all guards hold. ok=false: some guard did not hold, nothing was written. A key may stand in
	// one op only. A put with a lease that is gone: ErrLeaseGone.
	Txn(ctx context.Context, guards []Guard, ops []Op) (rev int64, ok bool, err error)
	// Watch delivers the changes under the prefixes from revision from on (inclusive), without gap or repetition, across reconnects,
	// until ctx ends (the channel is then closed). Slow receivers are not lost: their events wait, or end with ErrCompacted.
	Watch(ctx context.Context, from int64, prefixes ...string) <-chan Batch
	// Grant makes a lease. The store may lengthen a very short ttl; the time granted is returned.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error)
	// Renew starts the lease's time anew. ErrLeaseGone when it has ended.
	Renew(ctx context.Context, id LeaseID) error
	// Revoke ends the lease now and deletes its keys; a lease already gone is no error.
	Revoke(ctx context.Context, id LeaseID) error
	// Left tells how long each lease lives on if nobody renews it, in the order of ids; up to a second less than that, for etcd counts whole
	// ones. Negative: it has ended, though its keys may be there for a moment longer. It costs etcd's leader a request for each.
	Left(ctx context.Context, ids ...LeaseID) ([]time.Duration, error)
}

// MaxOps is the most guards or ops one Txn may hold: etcd's default, which an external cluster will have.
const MaxOps = 128
