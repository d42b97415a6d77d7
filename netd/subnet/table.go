package subnet

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/network"
)

// entry is one lease with how it stands in the store.
type entry struct {
	network.Lease
	kv kv.KV
}

// table is the store's network tree at one revision.
type table struct {
	prefix string // without slash at the end
	config []byte // nil: no configuration is there
	leases map[string]entry
	junk   map[string]string // keys that are no leases, with why; never a reason to drop a peer
	rev    int64
}

// The keys are flannel's: one for the configuration, below subnets/ one for each lease. The prefix ends with a slash, which flannel's does not: its reads
// also match a neighbour like subnets-old.
func (t *table) configKey() string      { return t.prefix + "/config" }
func (t *table) subnetsPrefix() string  { return t.prefix + "/subnets/" }
func (t *table) key(name string) string { return t.subnetsPrefix() + name }
func (t *table) name(key string) string { return strings.TrimPrefix(key, t.subnetsPrefix()) }

// newTable is the tree before anything is read.
func newTable(prefix string) *table {
	return &table{prefix: prefix, leases: map[string]entry{}, junk: map[string]string{}}
}

// A reservation is a key that hangs on no lease, and so never ends. Of two, the one that was created at the lower revision is older: revisions are the only
// clock that all machines share.
func (e entry) value() []byte      { return e.kv.Value }
func (e entry) reserved() bool     { return e.kv.Lease == 0 }
func (e entry) older(o entry) bool { return e.kv.Create < o.kv.Create }

// prefixes is a lease's subnet of one family, invalid if it has none.
func prefixes(l network.Lease, v6 bool) netip.Prefix {
	if v6 {
		return l.V6
	}
	return l.V4
}

// load fills the table from a whole read: the configuration's key, then the subnets.
func (t *table) load(kvs [][]kv.KV, rev int64) {
	t.config, t.rev = nil, rev
	clear(t.leases)
	clear(t.junk)
	for _, group := range kvs {
		for _, e := range group {
			t.put(e)
		}
	}
}

// apply takes over what a watch brought and gives the names of the leases it touched, and whether the configuration was
// among it. Events that a later read already showed are passed over.
func (t *table) apply(b kv.Batch) (names []string, config bool) {
	for _, e := range b.Events {
		if e.Mod <= t.rev {
			continue
		}
		switch {
		case e.Key == t.configKey():
			config = true
			t.config = e.Value
			if e.Delete {
				t.config = nil
			}
		case e.Delete:
			delete(t.leases, t.name(e.Key))
			delete(t.junk, t.name(e.Key))
			names = append(names, t.name(e.Key))
		default:
			t.put(e.KV)
			names = append(names, t.name(e.Key))
		}
	}
	t.rev = max(t.rev, b.Rev)
	return names, config
}

// put takes over one key.
func (t *table) put(e kv.KV) {
	if e.Key == t.configKey() {
		t.config = e.Value
		return
	}
	name := t.name(e.Key)
	l, err := parseLease(name, e.Value)
	if err != nil {
		// Somebody's stray key, or a value from a newer version. What we knew of this subnet stays as it was.
		t.junk[name] = err.Error()
		return
	}
	delete(t.junk, name)
	t.leases[name] = entry{l, e}
}

// identity is how a machine finds its own lease again.
type identity struct {
	machine  string
	previous network.Lease // the subnet it had last, from its disk
	lease    kv.LeaseID    // that its key hangs on; 0: none yet
}

// mine reports whether a lease is this machine's: by machine-id, or, where a flanneld or an operator wrote it, by address.
func (id identity) mine(e entry, attrs network.Lease) bool {
	if m := e.Machine(); m != "" {
		return m == id.machine
	}
	if attrs.PublicIP.IsValid() {
		return e.PublicIP == attrs.PublicIP
	}
	return attrs.PublicIPv6.IsValid() && e.PublicIPv6 == attrs.PublicIPv6
}

// ErrDuplicate: another machine publishes this machine's address.
var ErrDuplicate = errors.New("address published by another machine")

// move is what to write to get or keep a subnet.
type move struct {
	name   string // of the lease to hold
	guards []kv.Guard
	ops    []kv.Op
	reason string
	keep   bool // everything is as it must be: nothing to write
	fresh  bool // the subnet is not the one that was held before
}

// decide says what this machine must write so that it holds a subnet with the given attributes. It changes nothing.
func (t *table) decide(c network.Config, id identity, attrs network.Lease) (move, error) {
	own, stale, err := t.own(c, id, attrs)
	if err != nil {
		return move{}, err
	}
	m := move{reason: "new subnet", fresh: true}
	for _, s := range stale {
		// A reservation that no longer fits the configuration is the operator's to remove.
		if !s.reserved() {
			m.guards = append(m.guards, kv.Guard{Key: s.kv.Key, Kind: kv.ModIs, Rev: s.kv.Mod})
			m.ops = append(m.ops, kv.Op{Key: s.kv.Key, Delete: true})
		}
	}
	want := attrs
	lease := id.lease
	if own != nil {
		want.V4, want.V6, m.fresh = own.V4, own.V6, false
		m.reason = "changed attributes"
		if own.reserved() {
			lease = 0 // a reservation stays one: it never ends
		}
		value := encodeLease(want)
		if own.kv.Lease == lease && bytes.Equal(own.value(), value) && len(m.ops) == 0 {
			return move{name: own.Name(), keep: true}, nil
		}
		m.guards = append(m.guards, kv.Guard{Key: own.kv.Key, Kind: kv.ModIs, Rev: own.kv.Mod})
	} else {
		if want.V4, err = t.choose(c.V4, id, stale, false); err == nil {
			want.V6, err = t.choose(c.V6, id, stale, true)
		}
		if err != nil {
			return move{}, err
		}
		m.guards = append(m.guards, kv.Guard{Key: t.key(want.Name()), Kind: kv.Missing})
	}
	m.name = want.Name()
	m.ops = append(m.ops, kv.Op{Key: t.key(m.name), Value: encodeLease(want), Lease: lease})
	return m, nil
}

// own finds the lease this machine shall go on with, and those of its own that it must give back. Of several that fit it
// prefers a reservation, then the previous subnet, then the oldest.
func (t *table) own(c network.Config, id identity, attrs network.Lease) (best *entry, stale []entry, err error) {
	var all []entry
	for _, e := range t.leases {
		if id.mine(e, attrs) {
			all = append(all, e)
		} else if e.PublicIP.IsValid() && e.PublicIP == attrs.PublicIP || e.PublicIPv6.IsValid() && e.PublicIPv6 == attrs.PublicIPv6 {
			return nil, nil, fmt.Errorf("%w: %s has %s in lease %s: give this host another address (--public-ip, --iface), or delete key %s if that machine is gone",
				ErrDuplicate, e.Machine(), firstValid(attrs.PublicIP, attrs.PublicIPv6), e.Name(), e.kv.Key)
		}
	}
	rank := func(e entry) int {
		switch {
		case e.reserved():
			return 0
		case e.Name() == id.previous.Name():
			return 1
		}
		return 2
	}
	slices.SortFunc(all, func(a, b entry) int {
		if r := rank(a) - rank(b); r != 0 {
			return r
		}
		return int(a.kv.Create - b.kv.Create)
	})
	for _, e := range all {
		if best == nil && fits(c, e.Lease) && !t.beaten(e) {
			best = &e
		} else {
			stale = append(stale, e)
		}
	}
	return best, stale, nil
}

// beaten reports whether an older lease holds part of this one's subnet. Two machines can get so far when their keys
// differ but their subnets overlap: the same IPv6 subnet beside another IPv4 one, or lengths of two configurations. Both
// look again after writing, and the younger gives way.
func (t *table) beaten(e entry) bool {
	for _, o := range t.leases {
		if o.kv.Key != e.kv.Key && o.older(e) && o.Overlaps(e.Lease) {
			return true
		}
	}
	return false
}

// choose picks a subnet of one family. What this machine gives back in the same write is free for it: one family's subnet
// stays when only the other's must change.
func (t *table) choose(p network.Pool, id identity, stale []entry, v6 bool) (netip.Prefix, error) {
	if !p.On() {
		return netip.Prefix{}, nil
	}
	var taken []netip.Prefix
	back := map[string]bool{}
	for _, e := range stale {
		back[e.kv.Key] = !e.reserved()
	}
	for _, e := range t.leases {
		if s := prefixes(e.Lease, v6); s.IsValid() && !back[e.kv.Key] {
			taken = append(taken, s)
		}
	}
	// A key that cannot be read may still be somebody's subnet.
	for name := range t.junk {
		if l, err := parseName(name); err == nil {
			if s := prefixes(l, v6); s.IsValid() {
				taken = append(taken, s)
			}
		}
	}
	return Choose(p, taken, prefixes(id.previous, v6), id.machine)
}

// fits tells whether a lease is one that the configuration would give out: of each family that is on one subnet, of no other any.
func fits(c network.Config, l network.Lease) bool {
	return fitsPool(c.V4, l.V4) && fitsPool(c.V6, l.V6)
}

// fitsPool is fits for one family.
func fitsPool(p network.Pool, s netip.Prefix) bool {
	if !p.On() {
		return !s.IsValid()
	}
	return p.Fits(s)
}

// firstValid is for texts that name one address.
func firstValid(addrs ...netip.Addr) netip.Addr {
	for _, a := range addrs {
		if a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}
