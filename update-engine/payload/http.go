package payload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// Mirrors is a Source over several places that hold the same files: http, https and file URLs of the folder of the manifest, in
// the order of preference. One that fails, stalls, lies about ranges or sends wrong bytes is left for the next; the run goes
// on with the span it was at. It is the caller's to try again later when all have failed.
type Mirrors struct {
	Base []*url.URL
	// Client does the requests; its transport decides about proxies (http.ProxyFromEnvironment is the usual one) and trust.
	Client *http.Client
	// Stall is how long a mirror may send nothing before it is left; 0 is a minute.
	Stall time.Duration
	// Limit holds the download to bytes per second; nil does not.
	Limit *rate.Limiter
	// Left is told which mirror was left and why; nil tells nobody.
	Left func(mirror *url.URL, err error)
}

var (
	errRange = errors.New("the answer is for another range than was asked for")
	errStall = errors.New("the server sends nothing")
)

// Fetch implements Source.
func (m Mirrors) Fetch(ctx context.Context, file string, spans []Span, take func(int, []byte) error) error {
	var all error
	at := 0
	for _, base := range m.Base {
		// Each span that came in whole gives this mirror a new chance at the next: a long download over a line that breaks
		// now and then must end.
		for tried := -1; at > tried; {
			tried = at
			n, err := m.from(ctx, base, file, spans[at:], func(i int, b []byte) error { return take(at+i, b) })
			if at += n; at == len(spans) {
				return nil
			}
			var stop stopError
			switch {
			case errors.As(err, &stop):
				return stop.err
			case ctx.Err() != nil:
				return ctx.Err()
			}
			all = errors.Join(all, fmt.Errorf("%s: %w", base.Redacted(), err))
			if m.Left != nil {
				m.Left(base, err)
			}
		}
	}
	if len(m.Base) == 0 {
		return errors.New("no mirror is configured")
	}
	return all
}

// stopError is an error of take that is not the mirror's fault.
type stopError struct{ err error }

func (e stopError) Error() string { return e.err.Error() }

// from takes spans from one mirror until it fails; n is how many were taken.
func (m Mirrors) from(ctx context.Context, base *url.URL, file string, spans []Span, take func(int, []byte) error) (n int, err error) {
	for n < len(spans) {
		// Spans that follow each other are one request.
		end := n + 1
		for end < len(spans) && spans[end].Off == spans[end-1].Off+spans[end-1].Len {
			end++
		}
		first, last := spans[n].Off, spans[end-1].Off+spans[end-1].Len
		r, err := m.open(ctx, base, file, first, last-first)
		if err != nil {
			return n, err
		}
		for ; n < end; n++ {
			b := make([]byte, spans[n].Len)
			if _, err = io.ReadFull(r, b); err != nil {
				break
			}
			if err = take(n, b); err != nil {
				if !errors.Is(err, ErrContent) {
					err = stopError{err}
				}
				break
			}
		}
		if cerr := r.Close(); err != nil || cerr != nil {
			return n, errors.Join(err, cerr)
		}
	}
	return n, nil
}

func (m Mirrors) open(ctx context.Context, base *url.URL, file string, off, n int64) (io.ReadCloser, error) {
	if base.Scheme == "file" {
		f, err := os.Open(filepath.Join(base.Path, filepath.FromSlash(file)))
		if err != nil {
			return nil, err
		}
		return &limited{ctx: ctx, r: io.NewSectionReader(f, off, n), close: f.Close, limit: m.Limit}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	wait := m.Stall
	if wait == 0 {
		wait = time.Minute
	}
	timer := time.AfterFunc(wait, func() { cancel(errStall) })
	done := func() { timer.Stop(); cancel(nil) }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath(file).String(), nil)
	if err != nil {
		done()
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	// A proxy that compresses on the way would give ranges of something else.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := m.Client.Do(req)
	if err != nil {
		err = because(ctx, err)
		done()
		return nil, err
	}
	r := &limited{ctx: ctx, r: resp.Body, limit: m.Limit, wait: wait, timer: timer,
		close: func() error { done(); return resp.Body.Close() }}
	if err := r.start(resp, off, n); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// start checks that the answer is what was asked for. A server without ranges sends the whole file: what comes before is passed
// over, which is dear but works.
func (l *limited) start(resp *http.Response, off, n int64) error {
	switch resp.StatusCode {
	case http.StatusPartialContent:
		span, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "/")
		from, to, _ := strings.Cut(span, "-")
		lo, err1 := strconv.ParseInt(from, 10, 64)
		hi, err2 := strconv.ParseInt(to, 10, 64)
		if err1 != nil || err2 != nil || lo != off || hi != off+n-1 {
			return fmt.Errorf("%w: %q for %d-%d", errRange, resp.Header.Get("Content-Range"), off, off+n-1)
		}
		return nil
	case http.StatusOK:
		_, err := io.CopyN(io.Discard, l, off)
		return err
	}
	return fmt.Errorf("%s answered %s", resp.Request.URL.Redacted(), resp.Status)
}

// limited reads no faster than the limit and gives up when a read takes longer than wait.
type limited struct {
	ctx   context.Context
	r     io.Reader
	close func() error
	limit *rate.Limiter
	timer *time.Timer
	wait  time.Duration
}

func (l *limited) Read(b []byte) (int, error) {
	if l.limit != nil {
		b = b[:min(len(b), l.limit.Burst())]
	}
	// The clock runs only while we wait for the server: a slow disk or our own limit is not its fault.
	if l.timer != nil {
		l.timer.Reset(l.wait)
	}
	n, err := l.r.Read(b)
	if l.timer != nil {
		l.timer.Stop()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return n, because(l.ctx, err)
	}
	if l.limit != nil && n > 0 {
		if werr := l.limit.WaitN(l.ctx, n); werr != nil {
			return n, werr
		}
	}
	return n, err
}

func (l *limited) Close() error { return l.close() }

// because gives the stall as the reason instead of "context canceled".
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStall) {
		return cause
	}
	return err
}

// ReadIndex fetches and checks the index of a payload file.
func ReadIndex(ctx context.Context, from Source, im Image, f File) (Index, error) {
	var x Index
	err := from.Fetch(ctx, f.Name, []Span{f.Index}, func(_ int, b []byte) (err error) {
		x, err = ParseIndex(b, im, f)
		return err
	})
	if err != nil {
		return Index{}, fmt.Errorf("fetch index of %s: %w", f.Name, err)
	}
	return x, nil
}
