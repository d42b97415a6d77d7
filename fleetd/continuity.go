package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fleet-init/fleet/fleetd/agent"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/unit"
)

// continuity keeps a machine from obeying an older plan: it remembers which cluster it last obeyed and at which revision, and does not obey one
// that was restored from that, or has gone back, until somebody confirms it. Units run on meanwhile, as when the store is away.
type continuity struct {
	file   string
	origin func(context.Context) (o *fleet.StoreOrigin, cluster string, rev int64, err error)
	log    *slog.Logger
	// hold keeps this host's exclusive units down for so long (guard.Feeder's), settle is how long, see strange.
	hold   func(time.Duration)
	settle time.Duration

	mu   sync.Mutex // guards what follows
	seen seen
	held string // why the store is not obeyed; empty: it is
	met  string // the strange cluster that exclusive units are held for
	news chan struct{}
}

// seen is what is kept on disk, in data_dir/seen.json.
type seen struct {
	Cluster   string    `json:"cluster,omitempty"` // etcd's ID, hex
	Rev       int64     `json:"rev,omitempty"`
	Confirmed time.Time `json:"confirmed,omitzero"` // the confirmation that was obeyed last
	// Settling: exclusive units are held down, or were when fleetd ended.
	Settling bool `json:"settling,omitempty"`
	// Floor is the revision from which on the cluster is what it is; all that was written before is of one that it was restored from.
	Floor int64 `json:"floor,omitempty"`
}

func newContinuity(dir string, origin func(context.Context) (*fleet.StoreOrigin, string, int64, error), log *slog.Logger) (*continuity, error) {
	c := &continuity{file: filepath.Join(dir, "seen.json"), origin: origin, log: log, news: make(chan struct{}), hold: func(time.Duration) {}}
	text, err := os.ReadFile(c.file)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &c.seen)
	}
	if err != nil {
		return nil, fmt.Errorf("read which plan was obeyed last: %w: remove %s", err, c.file)
	}
	return c, nil
}

// keep says who holds exclusive units down, and for how long. Where an earlier process had not done with that, it begins anew.
func (c *continuity) keep(hold func(time.Duration), settle time.Duration) {
	c.hold, c.settle = hold, settle
	if c.seen.Settling {
		hold(settle)
	}
}

// settleTime is after what time nothing runs any more on any host under a lease of before.
func settleTime(ttl time.Duration) time.Duration {
	return fleet.Failover(ttl, unit.Stop{Class: slices.Max(unit.StopClasses())}.Budget())
}

// strange tells whether a store is another one than was obeyed last, or has gone back. What it says of exclusive units is of an earlier time: one may run
// where it knows nothing of it, until the lease of that host and a stop have passed. That host does not feed its guard under this store, for the same
// reason, so it is enough that all wait.
func strange(s seen, o *fleet.StoreOrigin, cluster string, rev int64) bool {
	if s.Cluster == "" {
		return o != nil && o.Cluster == cluster && len(o.From) > 0 // a new host in a restored cluster
	}
	return s.Cluster != cluster || rev < s.Rev
}

// judge says whether a store is to be obeyed after what was seen, and what to remember then; else why not.
func judge(s seen, o *fleet.StoreOrigin, cluster string, rev int64) (next seen, why string) {
	next = seen{Cluster: cluster, Rev: rev, Confirmed: s.Confirmed, Settling: s.Settling}
	if o != nil && o.Cluster == cluster {
		next.Confirmed = o.Confirmed
		if len(o.From) > 0 {
			next.Floor = o.Rev
		}
	}
	switch {
	case s.Cluster == "":
		return next, ""
	case o == nil || o.Cluster != cluster:
		if s.Cluster == cluster && o == nil && rev >= s.Rev {
			return next, "" // written by nobody yet, and nothing new
		}
		return s, "the store is another cluster than before, and has not said yet which it was made of: if that lasts and is meant, fleetctl backup confirm"
	case s.Cluster == cluster && rev >= s.Rev:
		return next, ""
	case !o.Confirmed.IsZero() && !o.Confirmed.Equal(s.Confirmed):
		return next, ""
	case s.Cluster == cluster:
		return s, fmt.Sprintf("the store has gone back from revision %d to %d: if it was restored on purpose, fleetctl backup confirm", s.Rev, rev)
	case slices.Contains(o.From, s.Cluster):
		return s, fmt.Sprintf("cluster %s was restored from a backup of cluster %s, as of %s: units run on as they are until somebody runs fleetctl backup confirm",
			cluster, s.Cluster, o.At.Format(time.RFC3339))
	}
	return next, "" // another cluster, which this host was made to join
}

// check reads the store. An error says why it is not to be obeyed, or that it does not answer.
func (c *continuity) check(ctx context.Context) error {
	o, cluster, rev, err := c.origin(ctx)
	if err != nil {
		return fmt.Errorf("ask which cluster this is: %w: %w", kv.ErrUnavailable, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.met != cluster && strange(c.seen, o, cluster, rev) {
		c.met = cluster
		c.log.Warn("the store is not the one of before: exclusive units are held down", "cluster", cluster, "wait", c.settle)
		c.hold(c.settle)
		if c.seen.Settling = true; c.seen.Cluster != "" {
			c.save()
		}
	}
	next, why := judge(c.seen, o, cluster, rev)
	if why != c.held {
		if why != "" {
			c.log.Warn("the store's plan is not carried out", "reason", why)
		} else {
			c.log.Info("the store's plan is carried out again", "cluster", cluster, "rev", rev)
		}
		c.held = why
		close(c.news)
		c.news = make(chan struct{})
	}
	if why != "" {
		return fmt.Errorf("%w: %s", kv.ErrUnavailable, why)
	}
	// The revision is for a store that goes back by much: it need not be the last one.
	keep := next.Cluster != c.seen.Cluster || next.Confirmed != c.seen.Confirmed || next.Floor != c.seen.Floor || next.Rev-c.seen.Rev >= 1000
	if keep {
		c.seen = next
		c.save()
	}
	return nil
}

func (c *continuity) save() {
	text, err := json.Marshal(c.seen)
	tmp := c.file + ".new"
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(c.file), 0o755), os.WriteFile(tmp, text, 0o600), os.Rename(tmp, c.file))
	}
	if err != nil {
		// A full disk is no reason to stop obeying.
		c.log.Warn("which plan was obeyed is not remembered", "err", err)
	}
}

// floor is a revision that is above all fencing tokens of clusters that this one was restored from; 0: it was not.
func (c *continuity) floor() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.Floor
}

// settled notes that exclusive units were held down for long enough, if so.
func (c *continuity) settled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen.Settling && c.held == "" {
		c.seen.Settling = false
		c.save()
	}
}

// tokens is the agent's disk: a fencing token is never lower than those that a cluster gave which this one was restored from. Its placements are as old
// as the backup, and what ran meanwhile had higher ones.
type tokens struct {
	*agent.Dir
	floor func() int64
}

// Token writes a unit's fencing token.
func (t tokens) Token(n unit.Name, token int64) error { return t.Dir.Token(n, max(token, t.floor())) }

// why is the reason for not obeying, or ""; the channel is closed when that changes.
func (c *continuity) why() (string, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held, c.news
}

// run looks when the store is another cluster than before, also if it orders nothing: the host shall say so.
func (c *continuity) run(ctx context.Context, watch func() (cluster string, changed <-chan struct{})) error {
	last := ""
	for ctx.Err() == nil {
		cluster, changed := watch()
		if cluster != last && cluster != "" {
			c.await(ctx)
			last = cluster
		}
		// Only for the memory of it: one that is cleared too late makes a later start wait once more.
		over := time.NewTimer(2 * c.settle)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-over.C:
			c.settled()
		}
		over.Stop()
	}
	return nil
}

// await returns once the store is to be obeyed, or ctx ends.
func (c *continuity) await(ctx context.Context) {
	for c.check(ctx) != nil && pause.For(ctx, 2*time.Second) {
	}
}
