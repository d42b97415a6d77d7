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

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pause"
)

// continuity keeps a machine from obeying an older plan: it remembers which cluster it last obeyed and at which revision, and does not obey one
// that was restored from that, or has gone back, until somebody confirms it. Units run on meanwhile, as when the store is away.
type continuity struct {
	file   string
	origin func(context.Context) (o *fleet.StoreOrigin, cluster string, rev int64, err error)
	log    *slog.Logger

	mu   sync.Mutex // guards what follows
	seen seen
	held string // why the store is not obeyed; empty: it is
	news chan struct{}
}

// seen is what is kept on disk, in data_dir/seen.json.
type seen struct {
	Cluster   string    `json:"cluster,omitempty"` // etcd's ID, hex
	Rev       int64     `json:"rev,omitempty"`
	Confirmed time.Time `json:"confirmed,omitzero"` // the confirmation that was obeyed last
}

func newContinuity(dir string, origin func(context.Context) (*fleet.StoreOrigin, string, int64, error), log *slog.Logger) (*continuity, error) {
	c := &continuity{file: filepath.Join(dir, "seen.json"), origin: origin, log: log, news: make(chan struct{})}
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

// judge says whether a store is to be obeyed after what was seen, and what to remember then; else why not.
func judge(s seen, o *fleet.StoreOrigin, cluster string, rev int64) (next seen, why string) {
	next = seen{Cluster: cluster, Rev: rev, Confirmed: s.Confirmed}
	if o != nil && o.Cluster == cluster {
		next.Confirmed = o.Confirmed
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
	keep := next.Cluster != c.seen.Cluster || next.Confirmed != c.seen.Confirmed || next.Rev-c.seen.Rev >= 1000
	if !keep {
		return nil
	}
	c.seen = next
	return c.save()
}

func (c *continuity) save() error {
	text, err := json.Marshal(c.seen)
	if err != nil {
		return err
	}
	tmp := c.file + ".new"
	if err := errors.Join(os.MkdirAll(filepath.Dir(c.file), 0o755), os.WriteFile(tmp, text, 0o600), os.Rename(tmp, c.file)); err != nil {
		// A full disk is no reason to stop obeying.
		c.log.Warn("which plan was obeyed is not remembered", "err", err)
	}
	return nil
}

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
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

// await returns once the store is to be obeyed, or ctx ends.
func (c *continuity) await(ctx context.Context) {
	for c.check(ctx) != nil && pause.For(ctx, 2*time.Second) {
	}
}
