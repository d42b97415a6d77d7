package payload

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"
)

func serve(t *testing.T, h http.HandlerFunc) *url.URL {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL + "/releases")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// good serves b with ranges and counts the requests.
func good(b []byte, n *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

func TestMirrors(t *testing.T) {
	rel := small(t)
	other := build(t, bytes.Repeat([]byte("newer"), len(rel.image)/5), rel.base)
	for _, tt := range []struct {
		name string
		bad  func(w http.ResponseWriter, r *http.Request, n int)
		left bool // the bad mirror is given up
	}{
		{"all is well", func(w http.ResponseWriter, r *http.Request, _ int) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(rel.file))
		}, false},
		{"a server without ranges sends everything", func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = w.Write(rel.file) }, false},
		{"not found", func(w http.ResponseWriter, r *http.Request, _ int) { http.NotFound(w, r) }, true},
		{"a server lies about ranges", func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Content-Range", "bytes 0-99/1000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(rel.file)
		}, true},
		{"a server says the right range and sends another", func(w http.ResponseWriter, r *http.Request, _ int) {
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+"/*")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(rel.file[7:])
		}, true},
		{"the line breaks in the middle", func(w http.ResponseWriter, r *http.Request, n int) {
			b := rel.file
			if n == 0 {
				b = b[:rel.index.Frames[1].WireLen+20]
				w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+"/*")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(b)
				return
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		}, false},
		{"a newer release takes its place half way", func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 0 {
				// The first frame on the wire is still the right one.
				b := slices.Concat(rel.file[:rel.index.Frames[1].WireLen], other.file)
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b[:len(rel.file)]))
				return
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(other.file))
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, second := 0, atomic.Int32{}
			bad := serve(t, func(w http.ResponseWriter, r *http.Request) { tt.bad(w, r, n); n++ })
			j := rel.job()
			j.From = Mirrors{Base: []*url.URL{bad, serve(t, good(rel.file, &second))}, Client: http.DefaultClient}
			if err := j.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			rel.holds(t, j)
			if left := second.Load() > 0; left != tt.left {
				t.Errorf("second mirror asked: %v, want %v", left, tt.left)
			}
		})
	}
}

func TestAllMirrorsFailed(t *testing.T) {
	rel := small(t)
	j := rel.job()
	a, b := serve(t, http.NotFound), serve(t, http.NotFound)
	var left []string
	j.From = Mirrors{Base: []*url.URL{a, b}, Client: http.DefaultClient, Left: func(u *url.URL, _ error) { left = append(left, u.Host) }}
	err := j.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), a.Host) || !strings.Contains(err.Error(), b.Host) {
		t.Errorf("%v should name both", err)
	}
	if diff := cmp.Diff([]string{a.Host, b.Host}, left); diff != "" {
		t.Error(diff)
	}
	if err := (Job{Index: rel.index, From: Mirrors{}, To: j.To, Journal: &memJournal{}, Base: j.Base}).Run(t.Context()); err == nil {
		t.Error("no mirror, no error")
	}
}

func TestFileMirror(t *testing.T) {
	rel := small(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "usr.zst"), rel.file, 0o644); err != nil {
		t.Fatal(err)
	}
	j := rel.job()
	j.From = Mirrors{Base: []*url.URL{{Scheme: "file", Path: dir}}}
	if err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	rel.holds(t, j)
}

// stalling sends the first bytes of the answer and then nothing until the request ends.
type stalling struct{ b []byte }

func (s stalling) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Host == "good" {
		rec := httptest.NewRecorder()
		http.ServeContent(rec, r, "", time.Time{}, bytes.NewReader(s.b))
		return rec.Result(), nil
	}
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(s.b[:100])
		<-r.Context().Done()
		_ = pw.CloseWithError(r.Context().Err())
	}()
	return &http.Response{StatusCode: http.StatusOK, Body: pr, Request: r, Header: http.Header{}}, nil
}

func TestServerThatStallsIsLeft(t *testing.T) {
	rel := small(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		j := rel.job()
		var why error
		j.From = Mirrors{Base: []*url.URL{{Scheme: "http", Host: "slow"}, {Scheme: "http", Host: "good"}},
			Client: &http.Client{Transport: stalling{rel.file}}, Stall: 30 * time.Second, Left: func(_ *url.URL, err error) { why = err }}
		if err := j.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(why, errStall) || time.Since(start) != 30*time.Second {
			t.Errorf("left after %v because %v", time.Since(start), why)
		}
	})
}

func TestRateLimit(t *testing.T) {
	rel := small(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		j := rel.job()
		const speed = 10_000
		j.From = Mirrors{Base: []*url.URL{{Scheme: "http", Host: "good"}}, Client: &http.Client{Transport: stalling{rel.file}},
			Limit: rate.NewLimiter(speed, speed)}
		if err := j.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := time.Duration(wireBytes(rel.index)-speed) * time.Second / speed
		if d := (time.Since(start) - want).Abs(); d > time.Second {
			t.Errorf("took %v, want %v", time.Since(start), want)
		}
	})
}

func TestEndOfContextEndsTheFetch(t *testing.T) {
	rel := small(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		j := rel.job()
		j.From = Mirrors{Base: []*url.URL{{Scheme: "http", Host: "slow"}}, Client: &http.Client{Transport: stalling{rel.file}}}
		if err := j.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFileJournal(t *testing.T) {
	j := FileJournal{filepath.Join(t.TempDir(), "journal")}
	if m, err := j.Load(); err != nil || !m.Payload.IsZero() {
		t.Errorf("no file: %v, %v", m, err)
	}
	for _, want := range []Mark{{Sum(nil), []byte{1}}, {Sum([]byte{1}), []byte{3, 4}}} {
		if err := j.Save(want); err != nil {
			t.Fatal(err)
		}
		got, err := j.Load()
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	if err := os.WriteFile(j.Path, []byte("{half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if m, err := j.Load(); err != nil || !m.Payload.IsZero() {
		t.Errorf("damaged file: %v, %v", m, err)
	}
	for range 2 {
		if err := j.Forget(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(j.Path)); err != nil || len(left) != 0 {
		t.Errorf("%v left behind, %v", left, err)
	}
}
