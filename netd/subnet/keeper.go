package subnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/internal/pause"
)

// Store is what the keeper needs of the cluster's store; see kv.Store.
type Store interface {
	Range(ctx context.Context, prefixes ...string) ([][]kv.KV, int64, error)
	Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (int64, bool, error)
	Watch(ctx context.Context, from int64, prefixes ...string) <-chan kv.Batch
	Grant(ctx context.Context, ttl time.Duration) (kv.LeaseID, time.Duration, error)
	Renew(ctx context.Context, id kv.LeaseID) error
	Revoke(ctx context.Context, id kv.LeaseID) error
}

// Options of a Keeper. Store, Machine and Describe are mandatory.
type Options struct {
	Store   Store
	Prefix  string // of the keys, like /coreos.com/network
	Machine string // machine-id
	// Describe gives the attributes of this machine's lease under a configuration, among the leases of the others: all but
	// the subnets. An error leaves the lease as it is.
	Describe func(network.Config, []network.Lease) (network.Lease, error)
	Previous View          // last known state, from disk
	TTL      time.Duration // of the lease; 24 h as flannel's
	Margin   time.Duration // renew at least this long before the end
	// Grace is how long peers that vanished are still reached, when they vanished right after the store was away, or most of
	// them at once: a store that was wiped or restored must not cut the network.
	Grace time.Duration
	Log   *slog.Logger
}

// View is what is known of the network.
type View struct {
	ConfigText string // as stored
	Config     network.Config
	Own        network.Lease
	Peers      map[string]network.Lease // by name, without Own
}

// Change is what has become different since the last one was taken. With Full, everything: View replaces what the receiver
// has. Otherwise only the leases in Set and Gone.
type Change struct {
	Full bool
	View View
	Set  map[string]network.Lease
	Gone map[string]bool
}

// Status is how the keeper stands with the store, for people and metrics.
type Status struct {
	Contact bool      // the last request to the store went through
	Held    bool      // this machine has its subnet in the store
	Renewed time.Time // when the lease was last renewed
	Until   time.Time // when it ends if it is not
	Rev     int64     // revision seen last
	Err     string    // why there is no lease, or no contact
	Junk    int       // keys that are no leases
	Stale   int       // peers still reached although their lease vanished
	Resyncs int       // whole reads of the tree
}

// Keeper holds this machine's subnet and follows those of the others. One goroutine runs it.
type Keeper struct {
	o     Options
	t     *table
	id    identity
	view  View // written by Run's goroutine alone, under mu
	conf  parsed
	held  map[string]time.Time // vanished peers that are still reached, until when
	hold  time.Time            // peers that vanish before this are held
	until time.Time            // end of our lease

	// mu guards view, pending and status: what Take and Status hand out.
	mu      sync.Mutex
	pending Change
	status  Status

	wake  chan struct{} // there is a Change to take
	again chan struct{} // Describe's answer may have changed
}

// parsed remembers the configuration last read, so that the same text is not parsed and complained about twice.
type parsed struct {
	text string
	c    network.Config
	err  error
}

// NewKeeper returns a keeper that knows what o.Previous says.
func NewKeeper(o Options) *Keeper {
	k := &Keeper{o: o, t: newTable(o.Prefix), view: o.Previous, held: map[string]time.Time{},
		wake: make(chan struct{}, 1), again: make(chan struct{}, 1)}
	k.id = identity{machine: o.Machine, previous: o.Previous.Own}
	if k.view.Peers == nil {
		k.view.Peers = map[string]network.Lease{}
	}
	k.pending = Change{Set: map[string]network.Lease{}, Gone: map[string]bool{}}
	return k
}

// Wake is ready when Take has something to give.
func (k *Keeper) Wake() <-chan struct{} { return k.wake }

// Redescribe makes the keeper ask Describe again soon: the host's address or device has changed.
func (k *Keeper) Redescribe() { poke(k.again) }

// Take gives what changed since the last Take.
func (k *Keeper) Take() Change {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.pending
	if c.Full {
		c.View = k.view
		c.View.Peers = maps.Clone(k.view.Peers)
	}
	k.pending = Change{Set: map[string]network.Lease{}, Gone: map[string]bool{}}
	return c
}

// Status tells how the keeper stands.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// Run keeps the lease until ctx ends. It returns an error only as long as this machine has never had a subnet, and only for
// what waiting does not cure: a wrong configuration, no free subnet, an address that another machine has.
func (k *Keeper) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for ctx.Err() == nil {
		started := time.Now()
		err := k.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if k.fatal(err) {
			return err
		}
		if time.Since(started) > time.Minute {
			wait = 0
		}
		// Every machine of the cluster lost the store at the same moment: spread their return.
		wait = min(max(2*wait, 100*time.Millisecond), 10*time.Second)
		k.setErr(err)
		if !pause.For(ctx, wait/2+rand.N(wait)) {
			return nil
		}
	}
	return nil
}

// fatal tells what ends a start: a machine that has had a subnet goes on with it, whatever the store says now.
func (k *Keeper) fatal(err error) bool {
	return !k.view.Own.V4.IsValid() && !k.view.Own.V6.IsValid() &&
		(errors.Is(err, fleet.ErrInvalid) || errors.Is(err, ErrExhausted) || errors.Is(err, ErrDuplicate))
}

// session reads everything, gets the lease and follows the store until something breaks.
func (k *Keeper) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := k.read(ctx); err != nil {
		return err
	}
	problem := k.settle(ctx)
	if isStore(problem) || k.fatal(problem) {
		return problem
	}
	k.setErr(problem)
	watch := k.o.Store.Watch(ctx, k.t.rev+1, k.t.configKey(), k.t.subnetsPrefix())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(k.nextTimer(problem))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, ok := <-watch:
			if !ok {
				return fmt.Errorf("watch %s: ended", k.o.Prefix)
			}
			if b.Err != nil {
				return fmt.Errorf("watch %s: %w", k.o.Prefix, b.Err)
			}
			if !k.take(b) {
				continue // only peers changed: our own lease stands as it did
			}
		case <-k.again:
		case <-timer.C:
			k.expireHeld()
			if err := k.renewIfDue(ctx); err != nil {
				return err
			}
			// A watch does not tell when the store is away: ask for one small key, so that status does, and so that what
			// vanishes right after an outage is known for what it is.
			if _, _, err := k.o.Store.Range(ctx, k.t.configKey()); err != nil {
				return fmt.Errorf("reach the store: %w", err)
			}
		}
		if problem = k.settle(ctx); isStore(problem) || k.fatal(problem) {
			return problem
		}
		k.setErr(problem)
	}
}

// isStore tells trouble with the store, after which all is read anew, from trouble with what it says.
func isStore(err error) bool {
	return err != nil && !errors.Is(err, fleet.ErrInvalid) && !errors.Is(err, ErrExhausted) && !errors.Is(err, ErrDuplicate) &&
		!errors.Is(err, errDescribe) && !errors.Is(err, errNoConfig)
}

var (
	errDescribe = errors.New("describe this machine")
	errNoConfig = errors.New("no network configuration")
)

// read takes the whole tree at one revision.
func (k *Keeper) read(ctx context.Context) error {
	kvs, rev, err := k.o.Store.Range(ctx, k.t.configKey(), k.t.subnetsPrefix())
	if err != nil {
		return fmt.Errorf("read %s: %w", k.o.Prefix, err)
	}
	before := k.t.leases
	k.t.leases = map[string]entry{}
	k.t.load(kvs, rev)
	names := map[string]bool{}
	for n := range k.view.Peers {
		names[n] = true
	}
	for n := range k.t.leases {
		names[n] = true
	}
	for n, why := range k.t.junk {
		k.o.Log.Warn("key is no lease", "key", k.t.key(n), "err", why)
		// Its value cannot be read now, but it was there: keep what we knew.
		if e, ok := before[n]; ok {
			k.t.leases[n] = e
		}
	}
	k.mu.Lock()
	out := k.status.Resyncs > 0 && !k.status.Contact
	k.status.Resyncs++
	k.status.Contact = true
	k.mu.Unlock()
	if out {
		k.holdFor("store was away")
	}
	k.follow(names)
	return nil
}

// take applies a watch's batch and reports whether it touches this machine's own lease or the configuration.
func (k *Keeper) take(b kv.Batch) bool {
	names, config := k.t.apply(b)
	touched := map[string]bool{}
	for _, n := range names {
		touched[n] = true
	}
	own := touched[k.view.Own.Name()]
	for n := range touched {
		// An operator's reservation for this machine, by its address or its ID.
		e, there := k.t.leases[n]
		own = own || there && k.id.mine(e, k.view.Own)
	}
	if _, there := k.t.leases[k.view.Own.Name()]; own && !there {
		// Ours went first: the store may be losing everybody's.
		k.holdFor("own lease removed")
	}
	k.follow(touched)
	// Without a configured type the machines agree on one by what all of them can do: every change may matter.
	return own || config || k.view.Config.Backend.Type == ""
}

// follow brings the peers in the view up to the table, for the leases named, and hands on what changed.
func (k *Keeper) follow(names map[string]bool) {
	set, gone := map[string]network.Lease{}, map[string]bool{}
	for n := range names {
		if n == k.view.Own.Name() {
			continue
		}
		e, there := k.t.leases[n]
		old, had := k.view.Peers[n]
		switch {
		case there && e.Machine() == k.o.Machine:
			// Our own under another name: settle gives it back.
			if had {
				gone[n] = true
			}
		case there:
			delete(k.held, n)
			if !had || string(encodeLease(old)) != string(encodeLease(e.Lease)) {
				set[n] = e.Lease
			}
		case had && k.t.junk[n] == "":
			gone[n] = true
		}
	}
	if len(gone) >= 3 && 2*len(gone) > len(k.view.Peers) {
		k.holdFor(fmt.Sprintf("%d of %d leases vanished at once", len(gone), len(k.view.Peers)))
	}
	if now := time.Now(); now.Before(k.hold) {
		for n := range gone {
			if _, there := k.t.leases[n]; !there {
				k.held[n] = k.hold
				delete(gone, n)
			}
		}
	}
	// A held peer whose subnet somebody else now has must go at once.
	for n := range k.held {
		for _, e := range k.t.leases {
			if e.Overlaps(k.view.Peers[n]) {
				gone[n] = true
				delete(k.held, n)
				break
			}
		}
	}
	k.hand(set, gone)
}

// holdFor has peers that vanish from now on reached for a while longer.
func (k *Keeper) holdFor(reason string) {
	if k.o.Grace <= 0 || len(k.view.Peers) == 0 {
		return
	}
	k.hold = time.Now().Add(k.o.Grace)
	k.o.Log.Warn("peers that vanish are still reached for a while", "reason", reason, "wait", k.o.Grace)
}

// expireHeld lets go of those whose time is over.
func (k *Keeper) expireHeld() {
	gone := map[string]bool{}
	for n, until := range k.held {
		if !time.Now().Before(until) {
			gone[n] = true
			delete(k.held, n)
		}
	}
	k.hand(nil, gone)
}

// hand adds a change of peers to what Take will give.
func (k *Keeper) hand(set map[string]network.Lease, gone map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.Copy(k.view.Peers, set)
	for n := range gone {
		delete(k.view.Peers, n)
	}
	k.status.Rev, k.status.Junk, k.status.Stale = k.t.rev, len(k.t.junk), len(k.held)
	if len(set)+len(gone) == 0 || k.pending.Full {
		return // a full change takes the peers as they are when it is taken
	}
	for n, l := range set {
		k.pending.Set[n] = l
		delete(k.pending.Gone, n)
	}
	for n := range gone {
		k.pending.Gone[n] = true
		delete(k.pending.Set, n)
	}
	if k.view.Own.Name() != "" {
		poke(k.wake)
	}
}

// setErr keeps what is wrong for status and tells of it when it is new.
func (k *Keeper) setErr(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != k.status.Err {
		k.o.Log.Error("cannot keep the subnet lease in order", "err", err)
	}
	k.status.Err = text
	k.status.Contact = !isStore(err)
	if errors.Is(err, kv.ErrCompacted) {
		k.status.Contact = true // it answered; only our place in its history is gone
	}
}

// poke wakes whoever waits on c; one wake that is not yet taken is enough.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
