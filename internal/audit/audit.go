// Package audit keeps the newest deeds of a cluster in its store: a ring of pages, each a key with a list of deeds, so that what is kept is bounded and a
// deed costs a part of a write. It knows nothing of what a deed is but that it is JSON. fleetd writes, on every host that holds the store.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// Bounds of what is kept: pages of the ring, deeds and bytes on one page, deeds in memory that wait to be written.
const (
	pages     = 64
	perPage   = 128
	pageBytes = 64 << 10
	waiting   = 1024
	// gather is how long deeds are gathered before they are written together.
	gather = time.Second
	tries  = 10
)

// Log is the ring of one cluster, for deeds of type D.
type Log[D any] struct {
	store  kv.Store
	prefix string // ends in "/"
	log    *slog.Logger
	in     chan D
}

// New returns the ring under prefix.
func New[D any](store kv.Store, prefix string, log *slog.Logger) *Log[D] {
	return &Log[D]{store: store, prefix: prefix, log: log, in: make(chan D, waiting)}
}

// Add takes a deed; it never waits. When the store is away for long the journal alone has what comes then.
func (l *Log[D]) Add(d D) {
	select {
	case l.in <- d:
	default:
	}
}

// Run writes until ctx ends, and then what is left.
func (l *Log[D]) Run(ctx context.Context) error {
	for {
		var batch []D
		select {
		case <-ctx.Done():
			if batch = l.gathered(nil); len(batch) > 0 {
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
				defer cancel()
				l.write(last, batch)
			}
			return nil
		case d := <-l.in:
			batch = append(batch, d)
		}
		wait := time.NewTimer(gather)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		l.write(context.WithoutCancel(ctx), l.gathered(batch))
	}
}

// gathered adds what has come in meanwhile, up to one page.
func (l *Log[D]) gathered(batch []D) []D {
	for len(batch) < perPage {
		select {
		case d := <-l.in:
			batch = append(batch, d)
		default:
			return batch
		}
	}
	return batch
}

func (l *Log[D]) write(ctx context.Context, batch []D) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := l.Write(ctx, batch...); err != nil && !errors.Is(err, kv.ErrForbidden) { // a host without a vote: its journal has it
		l.log.Warn("deeds are not in the cluster's audit, only in this host's journal", "count", len(batch), "err", err)
	}
}

type head struct {
	V    int `json:"v"`
	Page int `json:"page"` // the newest; its key is page modulo pages
}

// valid bounds what a damaged record can make us count to.
func (h head) valid() bool { return h.Page >= 0 && h.Page < 1<<48 }

type page struct {
	V     int               `json:"v"`
	Page  int               `json:"page"`
	Deeds []json.RawMessage `json:"deeds"`
}

func (l *Log[D]) headKey() string       { return l.prefix + "head" }
func (l *Log[D]) pageKey(n int) string  { return fmt.Sprintf("%s%02d", l.prefix, n%pages) }
func full(deeds []json.RawMessage) bool { return len(deeds) >= perPage || size(deeds) >= pageBytes }

func size(deeds []json.RawMessage) (n int) {
	for _, d := range deeds {
		n += len(d)
	}
	return n
}

// Write appends deeds, at most a page full of them. Several hosts may write at once.
func (l *Log[D]) Write(ctx context.Context, batch ...D) error {
	var texts []json.RawMessage
	for _, d := range batch {
		text, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("write the audit: %w", err)
		}
		texts = append(texts, text)
	}
	for range tries {
		kvs, _, err := l.store.Range(ctx, l.headKey())
		if err != nil {
			return fmt.Errorf("write the audit: %w", err)
		}
		h, guard := head{V: 1}, kv.Guard{Key: l.headKey(), Kind: kv.Missing}
		if len(kvs[0]) == 1 {
			err := json.Unmarshal(kvs[0][0].Value, &h)
			if err == nil && !h.valid() {
				err = fmt.Errorf("page %d cannot be: delete the key", h.Page)
			}
			if err != nil {
				return fmt.Errorf("write the audit: %s: %w", l.headKey(), err)
			}
			guard = kv.Guard{Key: l.headKey(), Kind: kv.ModIs, Rev: kvs[0][0].Mod}
		}
		ops, err := l.ops(ctx, h, texts)
		if err != nil {
			return err
		}
		_, ok, err := l.store.Txn(ctx, []kv.Guard{guard}, ops)
		if err != nil {
			return fmt.Errorf("write the audit: %w", err)
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("write the audit: %w", fleet.ErrConflict)
}

// ops appends to the newest page, or begins one that takes the place of the oldest. The head is always written: it is what writers race for.
func (l *Log[D]) ops(ctx context.Context, h head, texts []json.RawMessage) ([]kv.Op, error) {
	kvs, _, err := l.store.Range(ctx, l.pageKey(h.Page))
	if err != nil {
		return nil, fmt.Errorf("write the audit: %w", err)
	}
	p := page{V: 1, Page: h.Page}
	if len(kvs[0]) == 1 {
		var old page
		if json.Unmarshal(kvs[0][0].Value, &old) == nil && old.Page == h.Page {
			p.Deeds = old.Deeds
		}
	}
	if len(p.Deeds) > 0 && full(append(p.Deeds, texts...)) {
		h.Page++
		p = page{V: 1, Page: h.Page}
	}
	p.Deeds = append(p.Deeds, texts...)
	headText, err := json.Marshal(h)
	text, perr := json.Marshal(p)
	if err := errors.Join(err, perr); err != nil {
		return nil, fmt.Errorf("write the audit: %w", err)
	}
	return []kv.Op{{Key: l.headKey(), Value: headText}, {Key: l.pageKey(h.Page), Value: text}}, nil
}

// Newest reads the newest n deeds, oldest first.
func (l *Log[D]) Newest(ctx context.Context, n int) ([]D, error) {
	kvs, _, err := l.store.Range(ctx, l.prefix)
	if err != nil {
		return nil, fmt.Errorf("read the audit: %w", err)
	}
	byNumber := map[int]page{}
	newest, h := 0, head{Page: -1}
	for _, kv := range kvs[0] {
		var p page
		if kv.Key == l.headKey() {
			if json.Unmarshal(kv.Value, &h) != nil || !h.valid() {
				h.Page = -1
			}
			continue
		}
		// A page with another's number, or one that no ring comes to, was not written by us.
		if json.Unmarshal(kv.Value, &p) != nil || !(head{Page: p.Page}).valid() || l.pageKey(p.Page) != kv.Key {
			continue
		}
		byNumber[p.Page] = p
		newest = max(newest, p.Page)
	}
	if h.Page >= 0 {
		newest = h.Page // what the head says counts
	}
	out := []D{}
	for i := max(0, newest-pages+1); i <= newest; i++ {
		for _, text := range byNumber[i].Deeds {
			var d D
			if json.Unmarshal(text, &d) == nil {
				out = append(out, d)
			}
		}
	}
	return out[max(0, len(out)-n):], nil
}
