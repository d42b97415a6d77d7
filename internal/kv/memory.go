package kv

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"
)

// Memory is a whole store in memory, with etcd's semantics: revisions, history until compacted, watches, leases. It works
// without a goroutine of its own: leases end when a call or Tick finds their time up, so a test or a simulation that
// brings its own clock decides when. Faults are not its business; a simulation wraps it.
//
// Values that come out are shared and must not be changed; values that go in are copied.
type Memory struct {
	now func() time.Time

	mu        sync.Mutex // guards all below
	keys      index
	rev       int64      // last revision written; 1 when empty, as in etcd
	log       []revision // history from compacted on, ascending
	compacted int64      // watches from before it end with ErrCompacted
	leases    map[LeaseID]*lease
	nextLease LeaseID
	due       time.Time // no lease ends before; zero: no lease
	watches   map[string]map[*watch]struct{}
}

// revision is one transaction's events.
type revision struct {
	rev    int64
	events []Event
}

type lease struct {
	ttl  time.Duration
	ends time.Time
	keys map[string]struct{}
}

// maxRequest is etcd's default limit of one request.
const maxRequest = 1536 << 10

// NewMemory returns an empty store whose leases run by now; nil means time.Now.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now, keys: newIndex(), rev: 1, compacted: 1, leases: map[LeaseID]*lease{}, watches: map[string]map[*watch]struct{}{}}
}

// Range implements Store.
func (m *Memory) Range(ctx context.Context, prefixes ...string) ([][]KV, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	out := make([][]KV, len(prefixes))
	for i, p := range prefixes {
		out[i] = m.keys.under(p)
	}
	return out, m.rev, nil
}

// Txn implements Store.
func (m *Memory) Txn(ctx context.Context, guards []Guard, ops []Op) (int64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	if err := CheckTxn(guards, ops); err != nil {
		return 0, false, err
	}
	if n := size(guards, ops); n > maxRequest {
		return 0, false, fmt.Errorf("transaction of %d bytes: %w", n, ErrTooLarge)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	for _, g := range guards {
		if !g.Holds(m.keys.get(g.Key)) {
			return m.rev, false, nil
		}
	}
	for _, op := range ops {
		if op.Lease != 0 && !op.Delete && m.leases[op.Lease] == nil {
			return 0, false, fmt.Errorf("put %s on lease %x: %w", op.Key, op.Lease, ErrLeaseGone)
		}
	}
	m.apply(ops)
	return m.rev, true, nil
}

func size(guards []Guard, ops []Op) int {
	n := 0
	for _, g := range guards {
		n += len(g.Key) + len(g.Val)
	}
	for _, op := range ops {
		n += len(op.Key) + len(op.Value)
	}
	return n
}

// apply does ops as one revision. Like etcd's, a revision that changes nothing (only deletes of absent keys) is none.
func (m *Memory) apply(ops []Op) {
	rev := m.rev + 1
	var events []Event
	for _, op := range ops {
		old := m.keys.get(op.Key)
		if old != nil && old.Lease != 0 {
			if l := m.leases[old.Lease]; l != nil {
				delete(l.keys, op.Key)
			}
		}
		if op.Delete {
			if old != nil {
				m.keys.delete(op.Key)
				events = append(events, Event{KV: KV{Key: op.Key, Mod: rev}, Delete: true})
			}
			continue
		}
		// A value is never nil in the store: an empty one reads back like etcd's, with length 0.
		kv := &KV{Key: op.Key, Value: append([]byte{}, op.Value...), Create: rev, Mod: rev, Lease: op.Lease}
		if old != nil {
			kv.Create = old.Create
		}
		if op.Lease != 0 {
			m.leases[op.Lease].keys[op.Key] = struct{}{}
		}
		m.keys.put(kv)
		events = append(events, Event{KV: *kv})
	}
	if len(events) == 0 {
		return
	}
	m.rev = rev
	r := revision{rev: rev, events: events}
	m.log = append(m.log, r)
	m.notify(r)
}

// Rev is the last revision written.
func (m *Memory) Rev() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rev
}

// Compact forgets the history before rev; a watch that has not yet delivered that far ends with ErrCompacted.
func (m *Memory) Compact(rev int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	rev = min(rev, m.rev)
	if rev <= m.compacted {
		return
	}
	m.compacted = rev
	at := m.logIndex(rev)
	m.log = append([]revision(nil), m.log[at:]...) // a copy, so that what was forgotten is freed
	m.wakeAll()
}

// logIndex is where the history from rev on begins.
func (m *Memory) logIndex(rev int64) int {
	return sort.Search(len(m.log), func(i int) bool { return m.log[i].rev >= rev })
}

// Grant implements Store. The ttl is granted as asked, but for one that is not positive: a second then.
func (m *Memory) Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	if ttl <= 0 {
		ttl = time.Second
	}
	m.nextLease++
	l := &lease{ttl: ttl, ends: m.now().Add(ttl), keys: map[string]struct{}{}}
	m.leases[m.nextLease] = l
	if m.due.IsZero() || l.ends.Before(m.due) {
		m.due = l.ends
	}
	return m.nextLease, ttl, nil
}

// Renew implements Store.
func (m *Memory) Renew(ctx context.Context, id LeaseID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	l := m.leases[id]
	if l == nil {
		return fmt.Errorf("renew lease %x: %w", id, ErrLeaseGone)
	}
	l.ends = m.now().Add(l.ttl)
	return nil
}

// Revoke implements Store.
func (m *Memory) Revoke(ctx context.Context, id LeaseID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	m.revoke(id)
	return nil
}

// Left implements Store, to the nanosecond.
func (m *Memory) Left(ctx context.Context, ids ...LeaseID) ([]time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	left := make([]time.Duration, len(ids))
	for i, id := range ids {
		left[i] = -1
		if l := m.leases[id]; l != nil {
			left[i] = l.ends.Sub(m.now())
		}
	}
	return left, nil
}

// revoke ends a lease and deletes its keys, in key order and in one revision, as etcd does.
func (m *Memory) revoke(id LeaseID) {
	l := m.leases[id]
	if l == nil {
		return
	}
	ops := make([]Op, 0, len(l.keys))
	for k := range l.keys {
		ops = append(ops, Op{Key: k, Delete: true})
	}
	sort.Slice(ops, func(i, j int) bool { return ops[i].Key < ops[j].Key })
	delete(m.leases, id)
	m.apply(ops)
}

// Extend gives every lease its whole time again, as a new leader of etcd's does: what passes while there is none counts for no lease.
func (m *Memory) Extend() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.due = time.Time{}
	for _, l := range m.leases {
		l.ends = m.now().Add(l.ttl)
		if m.due.IsZero() || l.ends.Before(m.due) {
			m.due = l.ends
		}
	}
}

// Tick ends the leases whose time is up. Every other call does so too; Tick is for when watches should hear of it and nobody calls.
func (m *Memory) Tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
}

// expire ends leases that are due, the longest due first. due is only a lower bound (a Renew does not move it), which keeps
// the usual call at one comparison and a look at all leases rare.
func (m *Memory) expire() {
	if m.due.IsZero() {
		return
	}
	now := m.now()
	if now.Before(m.due) {
		return
	}
	var over []LeaseID
	m.due = time.Time{}
	for id, l := range m.leases {
		switch {
		case !l.ends.After(now):
			over = append(over, id)
		case m.due.IsZero() || l.ends.Before(m.due):
			m.due = l.ends
		}
	}
	sort.Slice(over, func(i, j int) bool {
		a, b := m.leases[over[i]], m.leases[over[j]]
		if !a.ends.Equal(b.ends) {
			return a.ends.Before(b.ends)
		}
		return over[i] < over[j]
	})
	for _, id := range over {
		m.revoke(id)
	}
}

// Run ticks whenever the next lease is due, until ctx ends, for processes that use Memory as a real store. It needs now to be
// time.Now (fake in a synctest bubble).
func (m *Memory) Run(ctx context.Context) error {
	const idle = 100 * time.Millisecond // a lease granted meanwhile is seen at most this late; etcd is later than that
	for {
		wait := idle
		m.mu.Lock()
		m.expire()
		if !m.due.IsZero() {
			wait = min(wait, max(m.due.Sub(m.now()), time.Millisecond))
		}
		m.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// Dump prints all keys, one "key value" a line in key order, for a test's message or a transcript.
func (m *Memory) Dump() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	m.keys.tree.Ascend(func(kv *KV) bool {
		fmt.Fprintf(&b, "%s %s\n", kv.Key, kv.Value)
		return true
	})
	return b.String()
}
