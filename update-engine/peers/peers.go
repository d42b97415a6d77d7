// Package peers lets hosts that take the same release get its frames from each other, so that the origin sends each frame about once and
// not once per host. Each frame has a home among the hosts, chosen by hash: who needs it asks the home, and the home fetches it from the
// origin when it does not have it yet. A home that does not answer is passed by: the origin is always there.
//
// It knows frames by their hash alone and hands out nothing else; whoever takes one checks it again. Who may ask is the listener's affair.
// Called by update-engine's main.
package peers

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fleet-init/fleet/update-engine/payload"
)

// Host is one of the hosts that share.
type Host struct {
	ID  string
	URL string // of its Handler; "" for the host itself
}

// Share is a payload.Source over other hosts, and over the origin where they do not help.
type Share struct {
	Origin payload.Source
	Hosts  func() []Host // all that share, this one too
	Self   string        // ID
	Client *http.Client
	Cache  Cache
	// Patience is how long a peer may take for one frame, its own fetch included; 0 is 2 minutes: behind it may be a slow line to the origin. One
	// that is off is found out by the dialer, much earlier.
	Patience time.Duration
	Count    Count

	mu  sync.Mutex           // guards bad
	bad map[string]time.Time // peers that failed, and until when they are left alone
	one keyed                // one fetch of a frame from the origin at a time
}

// Count is how many bytes of frames went which way since the start.
type Count struct{ Origin, Peers, Given atomic.Int64 }

// home is the host where a frame is at home: each host comes to the same one from the same list.
func home(list []Host, sum payload.Hash) (best Host, ok bool) {
	var most uint64
	for _, h := range list {
		x := sha256.Sum256(append([]byte(h.ID+"/"), sum[:]...))
		if n := binary.BigEndian.Uint64(x[:]); !ok || n > most {
			best, most, ok = h, n, true
		}
	}
	return best, ok
}

// width is how many frames are under way at once; each may take 1 MiB.
const width = 4

// Fetch implements payload.Source.
func (s *Share) Fetch(ctx context.Context, file string, spans []payload.Span, take func(int, []byte) error) error {
	type got struct {
		b   []byte
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	room := make(chan struct{}, width)
	results := make([]chan got, len(spans))
	for i := range results {
		results[i] = make(chan got, 1)
	}
	wg.Go(func() {
		for i := range spans {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				b, err := s.span(ctx, file, spans[i])
				results[i] <- got{b, err}
			})
		}
	})
	for i := range spans {
		select {
		case g := <-results[i]:
			<-room
			if g.err != nil {
				return g.err
			}
			if err := take(i, g.b); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// span gets one frame: from the cache, from its home, from the origin.
func (s *Share) span(ctx context.Context, file string, span payload.Span) ([]byte, error) {
	if b, err := s.Cache.Get(span); err == nil {
		return b, nil
	}
	if h, ok := home(s.able(), span.Sum); ok && h.ID != s.Self {
		// It is not kept: whoever needs it asks its home too.
		b, err := s.ask(ctx, h, file, span)
		if err == nil {
			s.Count.Peers.Add(span.Len)
			return b, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.leave(h.ID)
	}
	return s.fetch(ctx, file, span)
}

// able are the hosts that have not failed lately.
func (s *Share) able() []Host {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return slices.DeleteFunc(slices.Clone(s.Hosts()), func(h Host) bool { return h.URL == "" && h.ID != s.Self || now.Before(s.bad[h.ID]) })
}

func (s *Share) leave(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bad == nil {
		s.bad = map[string]time.Time{}
	}
	s.bad[id] = time.Now().Add(10 * time.Minute)
}

// keep puts a frame into the cache. A full disk only means that others ask in vain.
func (s *Share) keep(span payload.Span, b []byte) { _ = s.Cache.Put(span, b) }

func (s *Share) ask(ctx context.Context, h Host, file string, span payload.Span) ([]byte, error) {
	wait := s.Patience
	if wait == 0 {
		wait = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	u, err := url.Parse(h.URL)
	if err != nil {
		return nil, err
	}
	u = u.JoinPath("frames", span.Sum.String())
	u.RawQuery = url.Values{"file": {file}, "off": {strconv.FormatInt(span.Off, 10)}, "len": {strconv.FormatInt(span.Len, 10)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", h.ID, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, span.Len+1))
	if err != nil {
		return nil, err
	}
	if payload.Sum(b) != span.Sum {
		return nil, fmt.Errorf("%s: %w", h.ID, payload.ErrContent)
	}
	return b, nil
}

// fetch gets a frame from the origin, for whoever wants it just now only once.
func (s *Share) fetch(ctx context.Context, file string, span payload.Span) ([]byte, error) {
	unlock := s.one.lock(span.Sum)
	defer unlock()
	if b, err := s.Cache.Get(span); err == nil {
		return b, nil
	}
	var out []byte
	err := s.Origin.Fetch(ctx, file, []payload.Span{span}, func(_ int, b []byte) error {
		if payload.Sum(b) != span.Sum {
			return fmt.Errorf("frame of %s: %w", file, payload.ErrContent)
		}
		out = b
		return nil
	})
	if err == nil {
		s.Count.Origin.Add(span.Len)
		s.keep(span, out)
	}
	return out, err
}

// keyed is a lock for each frame.
type keyed struct {
	mu   sync.Mutex // guards held
	held map[payload.Hash]*entry
}

type entry struct {
	sync.Mutex
	users int
}

func (k *keyed) lock(sum payload.Hash) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[payload.Hash]*entry{}
	}
	e := k.held[sum]
	if e == nil {
		e = &entry{}
		k.held[sum] = e
	}
	e.users++
	k.mu.Unlock()
	e.Lock()
	return func() {
		e.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(k.held, sum)
		}
	}
}

// maxFrame is more than any frame takes on the wire.
const maxFrame = payload.FrameSize + payload.FrameSize/4

// Handler answers other hosts: GET /frames/<sha256>?file=&off=&len= gives the frame, fetched from the origin when it is not here yet.
func (s *Share) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /frames/{sum}", func(w http.ResponseWriter, r *http.Request) {
		span, file, err := asked(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		b, err := s.Cache.Get(span)
		if err != nil {
			// From the origin, never from another peer: two that each think the other is at home must not wait for each other.
			b, err = s.fetch(r.Context(), file, span)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		n, _ := w.Write(b) // a peer that is gone does not need it
		s.Count.Given.Add(int64(n))
	})
	return mux
}

func asked(r *http.Request) (payload.Span, string, error) {
	var s payload.Span
	q := r.URL.Query()
	off, err1 := strconv.ParseInt(q.Get("off"), 10, 64)
	length, err2 := strconv.ParseInt(q.Get("len"), 10, 64)
	err := errors.Join(s.Sum.UnmarshalText([]byte(r.PathValue("sum"))), err1, err2)
	file := q.Get("file")
	if err == nil && (s.Sum.IsZero() || off < 0 || length <= 0 || length > maxFrame || !filepath.IsLocal(filepath.FromSlash(file))) {
		err = errors.New("no such frame can be")
	}
	s.Off, s.Len = off, length
	return s, file, err
}
