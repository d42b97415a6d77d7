package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// Presence is one machine's registration.
type Presence struct {
	Machine fleet.MachineID
	Lease   kv.LeaseID
	TTL     time.Duration // as granted, which may be longer than asked for
	Rev     int64         // create revision of machines/<id>
}

// Hello is what a machine says of itself. Instance and Boot tell hosts with the same machine ID apart: Instance is made once
// per installation, and a copied disk shares it; Boot is another one after each boot, and on each copy. A copy has another IP, too.
type Hello struct {
	fleet.Machine        // ID, Name, IP, Metadata (static), Version, Leaving
	Instance      string // this installation
	Boot          string // this boot of it
	// Again says that this process was registered before and lost that. Then a record of another boot is a copy of this
	// host that is alive; at the first registration it is what this host itself left behind when it went down.
	Again bool
}

// DuplicateError: another host is registered under this machine ID.
type DuplicateError struct {
	Machine fleet.MachineID
	Name    string // the other host's name
	IP      string // and address
}

func (e *DuplicateError) Error() string {
	return "machine ID " + string(e.Machine) + " is already registered by host " + e.Name + " (" + e.IP +
		"): if that is another host, make a new ID on one of them (rm /etc/machine-id && systemd-machine-id-setup) and restart fleetd there; " +
		"if it was this host before, its entry ends with its lease"
}

// Register makes the machine's lease and record. The own record of an earlier process of this Instance is taken over with its
// observations (same create revision, so the units stay as they are), by renewing its lease; nothing is written unless h or ttl
// changed. So is what the same Instance with the same IP left from another Boot, without its observations: a host that was down for a
// moment is as good as one that was not, and keeps its units. Another Instance's live record, or another Boot's when h.Again or
// from another IP: *DuplicateError.
func (r *Registry) Register(ctx context.Context, h Hello, ttl time.Duration) (Presence, error) {
	what := "register " + h.ID.Short()
	for range tries {
		found, err := r.read(ctx, []string{r.machineKey(h.ID)})
		if err != nil {
			return Presence{}, storeErr(what, err)
		}
		var p Presence
		var ok bool
		if cur := found[r.machineKey(h.ID)]; cur != nil {
			p, ok, err = r.takeOver(ctx, h, ttl, *cur)
		} else {
			p, ok, err = r.registerNew(ctx, h, ttl)
		}
		if err != nil {
			return Presence{}, storeErr(what, err)
		}
		if ok {
			return p, nil
		}
		// The record came or went in between: look again.
	}
	return Presence{}, fmt.Errorf("%s: its record comes and goes: %w", what, fleet.ErrConflict)
}

func (r *Registry) registerNew(ctx context.Context, h Hello, ttl time.Duration) (Presence, bool, error) {
	lease, granted, err := r.store.Grant(ctx, ttl)
	if err != nil {
		return Presence{}, false, err
	}
	key := r.machineKey(h.ID)
	rev, ok, err := r.store.Txn(ctx, []kv.Guard{{Key: key, Kind: kv.Missing}},
		[]kv.Op{{Key: key, Value: encode(helloRecord(h, ttl, granted)), Lease: lease}})
	if err != nil || !ok {
		r.giveBack(ctx, lease)
		return Presence{}, false, err
	}
	return Presence{Machine: h.ID, Lease: lease, TTL: granted, Rev: rev}, true, nil
}

func helloRecord(h Hello, ttl, granted time.Duration) machineRecord {
	return machineRecord{
		Name: h.Name, IP: h.IP, HostAddr: h.HostAddr, Metadata: h.Metadata, Version: h.Version, Seat: h.Seat, Instance: h.Instance, Boot: h.Boot, Leaving: h.Leaving,
		TTL: ttl.Milliseconds(), Granted: granted.Milliseconds(),
	}
}

// takeOver goes on with a record that is there. ok=false: it went away meanwhile.
func (r *Registry) takeOver(ctx context.Context, h Hello, ttl time.Duration, cur kv.KV) (p Presence, ok bool, err error) {
	rec, err := decode[machineRecord](cur.Value)
	if errors.Is(err, errNewer) {
		// The format tells that it is not ours: a downgraded fleetd waits until the lease of the newer one has ended.
		return p, false, fmt.Errorf("%s: %w", cur.Key, err)
	}
	if h.rebooted(rec) && cur.Lease != 0 {
		return r.replace(ctx, h, ttl, cur)
	}
	if rec.Instance != h.Instance || rec.Boot != h.Boot || cur.Lease == 0 {
		return p, false, &DuplicateError{Machine: h.ID, Name: rec.Name, IP: rec.IP.String()}
	}
	if err := r.store.Renew(ctx, cur.Lease); err != nil {
		if errors.Is(err, kv.ErrLeaseGone) {
			return p, false, nil
		}
		return p, false, err
	}
	p = Presence{Machine: h.ID, Lease: cur.Lease, TTL: time.Duration(rec.Granted) * time.Millisecond, Rev: cur.Create}
	if rec.TTL != ttl.Milliseconds() {
		return r.moveLease(ctx, p, h, ttl)
	}
	ok, err = r.update(ctx, p, h, cur, rec)
	return p, ok, err
}

// rebooted tells that a record is what this host left when it went down. A copy of this host's disk says the same, but from another
// address; two hosts with one address would not get this far. A host without any address reaches no store but its own.
func (h Hello) rebooted(rec machineRecord) bool {
	return rec.Instance == h.Instance && rec.Boot != h.Boot && !h.Again && (rec.IP == h.IP || !h.IP.IsValid())
}

// replace puts this boot in the place of the one before. The record stays there all the time: a moment without it would have the
// leader move everything away. The old boot's observations go first, so that none is taken for one of this boot.
func (r *Registry) replace(ctx context.Context, h Hello, ttl time.Duration, cur kv.KV) (p Presence, ok bool, err error) {
	kvs, _, err := r.store.Range(ctx, r.of(observed, h.ID))
	if err != nil {
		return p, false, err
	}
	atoms := make([]atom, len(kvs[0]))
	for i, o := range kvs[0] {
		atoms[i] = atom{ops: []kv.Op{{Key: o.Key, Delete: true}}}
	}
	unchanged := []kv.Guard{{Key: cur.Key, Kind: kv.ModIs, Rev: cur.Mod}}
	if _, _, err := r.write(ctx, unchanged, atoms); errors.Is(err, errShared) {
		return p, false, nil // look again
	} else if err != nil {
		return p, false, err
	}
	lease, granted, err := r.store.Grant(ctx, ttl)
	if err != nil {
		return p, false, err
	}
	_, ok, err = r.store.Txn(ctx, unchanged, []kv.Op{{Key: cur.Key, Value: encode(helloRecord(h, ttl, granted)), Lease: lease}})
	if err != nil || !ok {
		r.giveBack(ctx, lease)
		return p, false, err
	}
	r.giveBack(ctx, cur.Lease)
	return Presence{Machine: h.ID, Lease: lease, TTL: granted, Rev: cur.Create}, true, nil
}

// moveLease gives a registration a lease of another ttl: the record first, which alone counts, then the observations.
func (r *Registry) moveLease(ctx context.Context, p Presence, h Hello, ttl time.Duration) (Presence, bool, error) {
	lease, granted, err := r.store.Grant(ctx, ttl)
	if err != nil {
		return p, false, err
	}
	old := p.Lease
	p.Lease, p.TTL = lease, granted
	key := r.machineKey(p.Machine)
	self := []kv.Guard{{Key: key, Kind: kv.CreateIs, Rev: p.Rev}}
	_, ok, err := r.store.Txn(ctx, self, []kv.Op{{Key: key, Value: encode(helloRecord(h, ttl, granted)), Lease: lease}})
	if err != nil || !ok {
		r.giveBack(ctx, lease)
		return p, false, err
	}
	kvs, _, err := r.store.Range(ctx, r.of(observed, p.Machine))
	if err != nil {
		return p, false, err
	}
	atoms := make([]atom, len(kvs[0]))
	for i, o := range kvs[0] {
		atoms[i] = atom{
			guards: []kv.Guard{{Key: o.Key, Kind: kv.ModIs, Rev: o.Mod}},
			ops:    []kv.Op{{Key: o.Key, Value: o.Value, Lease: lease}},
		}
	}
	if _, _, err := r.write(ctx, self, atoms); err != nil {
		return p, false, err
	}
	return p, true, r.store.Revoke(ctx, old)
}

// KeepAlive renews the presence; kv.ErrLeaseGone: register again.
func (r *Registry) KeepAlive(ctx context.Context, p Presence) error {
	if err := r.store.Renew(ctx, p.Lease); err != nil {
		return storeErr("renew registration", err)
	}
	return nil
}

// AwaitLoss returns nil when the registration is gone, and otherwise when ctx ends. Renewing would tell too, but later.
func (r *Registry) AwaitLoss(ctx context.Context, p Presence) error {
	key := r.machineKey(p.Machine)
	for {
		var there bool
		var rev int64
		err := r.insist(ctx, "watch registration", func() error {
			kvs, at, err := r.store.Range(ctx, key)
			if err == nil {
				rev, there = at, len(kvs[0]) == 1 && kvs[0][0].Create == p.Rev && kvs[0][0].Lease == p.Lease
			}
			return err
		})
		if err != nil {
			return err
		}
		if !there {
			return nil
		}
		if r.watchLoss(ctx, key, rev+1, p) {
			return nil
		}
		// Compacted, or ctx has ended: begin again from the newest revision.
	}
}

func (r *Registry) watchLoss(ctx context.Context, key string, from int64, p Presence) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for b := range r.store.Watch(ctx, from, key) {
		for _, e := range b.Events {
			if e.Delete || e.Lease != p.Lease {
				return true
			}
		}
	}
	return false
}

// Leave ends the presence at once: machine record and observations go.
func (r *Registry) Leave(ctx context.Context, p Presence) error {
	if err := r.store.Revoke(ctx, p.Lease); err != nil {
		return storeErr("leave", err)
	}
	return nil
}

// Update rewrites the machine's own record (metadata or address changed), keeping the registration; the same h writes
// nothing. kv.ErrLeaseGone: register again.
func (r *Registry) Update(ctx context.Context, p Presence, h Hello) error {
	for range tries {
		found, err := r.read(ctx, []string{r.machineKey(p.Machine)})
		if err != nil {
			return storeErr("update machine", err)
		}
		cur := found[r.machineKey(p.Machine)]
		if cur == nil || cur.Create != p.Rev {
			return fmt.Errorf("update machine: %w", kv.ErrLeaseGone)
		}
		rec, err := decode[machineRecord](cur.Value)
		if err != nil {
			return fmt.Errorf("update machine: %s: %w", cur.Key, err)
		}
		ok, err := r.update(ctx, p, h, *cur, rec)
		if err != nil {
			return storeErr("update machine", err)
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("update machine: %w", fleet.ErrConflict)
}

// update writes what h changes in the record cur, which decodes to rec.
func (r *Registry) update(ctx context.Context, p Presence, h Hello, cur kv.KV, rec machineRecord) (bool, error) {
	value := encode(helloRecord(h, time.Duration(rec.TTL)*time.Millisecond, time.Duration(rec.Granted)*time.Millisecond))
	if string(value) == string(cur.Value) {
		return true, nil
	}
	_, ok, err := r.store.Txn(ctx, []kv.Guard{{Key: cur.Key, Kind: kv.ModIs, Rev: cur.Mod}},
		[]kv.Op{{Key: cur.Key, Value: value, Lease: p.Lease}})
	return ok, err
}
