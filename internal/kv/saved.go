package kv

import "time"

// Saved is what a Memory held at one revision.
type Saved struct {
	keys   index
	leases map[LeaseID]lease
}

// Save takes a snapshot.
func (m *Memory) Save() *Saved {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	s := &Saved{keys: index{m.keys.tree.Clone()}, leases: map[LeaseID]lease{}}
	for id, l := range m.leases {
		s.leases[id] = l.copy()
	}
	return s
}

// Restore goes back to what was saved, at a revision that must be above all so far, and with no history before it, as an etcd that was restored from
// a backup: keys keep their old revisions, and leases get their whole time again.
func (m *Memory) Restore(s *Saved, rev int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys = index{s.keys.tree.Clone()}
	m.leases, m.due = map[LeaseID]*lease{}, time.Time{}
	for id, l := range s.leases {
		l := l.copy()
		l.ends = m.now().Add(l.ttl)
		m.leases[id] = &l
		if m.due.IsZero() || l.ends.Before(m.due) {
			m.due = l.ends
		}
	}
	m.rev, m.compacted, m.log = rev, rev, nil
	m.wakeAll()
}

func (l *lease) copy() lease {
	c := lease{ttl: l.ttl, ends: l.ends, keys: map[string]struct{}{}}
	for k := range l.keys {
		c.keys[k] = struct{}{}
	}
	return c
}
