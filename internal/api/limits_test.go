package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// big is a unit of about n bytes of text, as JSON.
func big(n int) string {
	return fmt.Sprintf(`{"desiredState":"inactive","options":[{"section":"Service","name":"ExecStart","value":"/bin/echo %s"}]}`, strings.Repeat("x", n))
}

func TestBodyLimits(t *testing.T) {
	f := newFixture(t)
	c := f.serve()
	for _, row := range []struct {
		what    string
		method  string
		path    string
		body    io.Reader
		code    int
		message string
	}{
		{"a unit just under 1 MiB", "PUT", "units/a.service", strings.NewReader(big(1<<20 - 100)), 201, ""},
		{"a unit over 1 MiB", "PUT", "units/b.service", strings.NewReader(big(1 << 20)), 413, "b.service has more than 1 MiB of text"},
		{"10 MB with their length", "PUT", "units/c.service", strings.NewReader(big(10_000_000)), 413, "at most 3 MiB"},
		{"10 MB without", "PUT", "units/c.service", io.MultiReader(strings.NewReader(big(10_000_000))), 413, "at most 3 MiB"},
		{"10 MB of patches", "PATCH", "machines", strings.NewReader(strings.Repeat(" ", 10_000_000)), 413, "at most 3 MiB"},
		{"a batch of 10 MB", "POST", "batch", strings.NewReader(`{"set":[` + strings.Repeat(" ", 10_000_000) + `]}`), 200, ""},
	} {
		t.Run(row.what, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), row.method, c.base+"/fleet/v1/"+row.path, row.body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			answer, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != row.code || !strings.Contains(string(answer), row.message) {
				t.Errorf("got %d %.200s, want %d %s", resp.StatusCode, answer, row.code, row.message)
			}
		})
	}
	// A client that wants the connection closed gets the answer too, before that happens under its write.
	alone := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range 10 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, c.base+"/fleet/v1/units/c.service", strings.NewReader(big(10_000_000)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := alone.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("10 MB on a connection of their own: %d", resp.StatusCode)
		}
	}
	req := httptest.NewRequest("POST", "/fleet/v1/batch", nil)
	req.Header.Set("Content-Type", "application/json")
	req.ContentLength = maxBatchBody + 1 // is believed before anything is read
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, req)
	if w.Code != 413 || !strings.Contains(w.Body.String(), "at most 64 MiB") {
		t.Errorf("a batch over the limit: %d %s", w.Code, w.Body)
	}
}

// pipes is a listener whose connections are made in memory, so that a test's time is not the clock's.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p pipes) Close() error   { close(p.done); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// A client that sends its header or its body too slowly is hung up on; one that watches is not.
func TestSlowClients(t *testing.T) {
	for _, row := range []struct {
		what, sent string
		stays      bool
	}{
		{"nothing sent", "", false},
		{"half a header", "GET /fleet/v1/units HTTP/1.1\r\nHost:", false},
		{"half a body", "PUT /fleet/v1/units/a.service HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", false},
		{"a watch", "GET /fleet/v1/watch HTTP/1.1\r\nHost: x\r\n\r\n", true},
	} {
		t.Run(row.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				h := NewHandler(Config{Registry: quiet{}, Version: "1"})
				srv := NewServer(ctx, h, slog.New(slog.DiscardHandler))
				p := pipes{make(chan net.Conn), make(chan struct{})}
				go func() { _ = srv.Serve(p) }()
				ours, theirs := net.Pipe()
				p.conns <- theirs
				if _, err := io.WriteString(ours, row.sent); err != nil {
					t.Fatal(err)
				}
				hungUp := make(chan struct{})
				go func() {
					_, _ = io.Copy(io.Discard, ours) // ends when they hang up
					close(hungUp)
				}()
				select {
				case <-hungUp:
					if row.stays {
						t.Error("hung up")
					}
				case <-time.After(time.Hour):
					if !row.stays {
						t.Error("still connected after an hour")
					}
				}
				cancel()
				if err := srv.Close(); err != nil {
					t.Error(err)
				}
				_ = ours.Close() // may be closed from the other end
				<-hungUp
			})
		})
	}
}

// quiet is a registry in which nothing is and nothing happens.
type quiet struct{ Registry }

func (quiet) Snapshot(context.Context) (fleet.Snapshot, error) { return fleet.NewSnapshot(), nil }
func (quiet) Watch(ctx context.Context, _ fleet.Snapshot) <-chan fleet.Changes {
	ch := make(chan fleet.Changes)
	context.AfterFunc(ctx, func() { close(ch) })
	return ch
}

// failing is a registry whose store answers everything with one error.
type failing struct {
	quiet
	err error
}

func (f failing) Snapshot(context.Context) (fleet.Snapshot, error) { return fleet.Snapshot{}, f.err }
func (f failing) Submit(_ context.Context, subs ...fleet.Submission) []fleet.SubmitResult {
	return []fleet.SubmitResult{{Err: f.err}}
}

// Every error of the table means the same at the other end, and each status has one meaning or a documented few.
func TestErrorsCrossTheWire(t *testing.T) {
	rows := append(statuses(), status{errors.New("something of ours"), http.StatusInternalServerError})
	for _, row := range rows {
		srv := httptest.NewServer(NewHandler(Config{Registry: failing{err: fmt.Errorf("read the disk: %w", row.err)}, Version: "1"}))
		c, err := Dial(srv.URL, Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Unit(t.Context(), "a.service")
		var e *Error
		if !errors.As(err, &e) || e.Code != row.code || !strings.Contains(e.Message, "read the disk") {
			t.Errorf("%v came as %v", row.err, err)
		}
		if row.code != http.StatusInternalServerError && !errors.Is(err, row.err) {
			t.Errorf("%v is not %v any more", err, row.err)
		}
		if errors.Is(err, fleet.ErrNotFound) != (row.err == fleet.ErrNotFound) {
			t.Errorf("%v is taken for not found", err)
		}
		c.Close()
		srv.Close()
	}
}

func TestDial(t *testing.T) {
	for _, row := range []struct{ endpoint, hint string }{
		{"", "begin it with"}, {"localhost:49153", "begin it with"}, {"ftp://host", "begin it with"}, {"unix://host/path", "three slashes"},
		{"file://path", "three slashes"}, {"unix://", "three slashes"}, {"http://", "host and port"}, {"http:// a", "use unix"},
	} {
		if _, err := Dial(row.endpoint, Options{}); !errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), row.hint) {
			t.Errorf("%q: %v, want a hint with %q", row.endpoint, err, row.hint)
		}
	}
	for _, ok := range []string{"unix:///run/fleet.sock", "file:///run/fleet.sock", "http://host:80", "https://host/"} {
		if _, err := Dial(ok, Options{}); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	c, err := Dial("unix:///nonexistent/fleet.sock", Options{})
	if err != nil {
		t.Fatal(err)
	}
	var conn *ConnectError
	if _, err := c.Machines(t.Context()); !errors.As(err, &conn) {
		t.Errorf("no socket there: %v", err)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if c, err = Dial(other.URL, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Machines(t.Context()); err == nil || !strings.Contains(err.Error(), "not fleetd") {
		t.Errorf("another server there: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add("AwACAA==", uint16(3))
	f.Add("EwBMLg==", uint16(100))
	f.Add("", uint16(0))
	f.Fuzz(func(t *testing.T, token string, limit uint16) {
		n, err := decodeToken(token, limit)
		if err != nil {
			if toError(err).Code != http.StatusBadRequest {
				t.Errorf("%q: %v", token, err)
			}
			return
		}
		if again, err := decodeToken(encodeToken(limit, n), limit); n == 0 || again != n || err != nil {
			t.Errorf("%q: page %d, again %d %v", token, n, again, err)
		}
		if limit > 0 {
			all := make([]int, 10)
			if p, next := cut(all, n, limit); len(p) > int(limit) || len(p) == 0 && next != "" {
				t.Errorf("page %d of %d: %d entries, next %q", n, limit, len(p), next)
			}
		}
	})
}

func FuzzPatches(f *testing.F) {
	f.Add([]byte(`[{"op":"add","path":"/m/metadata/k","value":"v"},{"op":"remove","path":"/m/metadata/k"}]`))
	f.Add([]byte(`[{"op":"replace","path":"/m/metadata/k.a-b_c","value":{"value":"v"}}]`))
	f.Add([]byte(`[{"op":"add","path":"/m/metadata//metadata/k","value":null}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		patches, err := parsePatches(b)
		if err != nil {
			if toError(err).Code != http.StatusBadRequest {
				t.Errorf("%s: %v", b, err)
			}
			return
		}
		order, all := settings(patches)
		if len(order) != len(all) || len(all) > len(patches) {
			t.Errorf("%s: %v %v", b, order, all)
		}
		for _, p := range patches {
			if p.machine == "" || !validKey(p.key) || bytes.ContainsRune([]byte(p.machine), '/') || p.value != nil && *p.value == "" {
				t.Errorf("%s: %+v", b, p)
			}
		}
	})
}

// FuzzSubmission: what is taken prints and reads back as itself.
func FuzzSubmission(f *testing.F) {
	f.Add("a.service", "launched", "Service", "ExecStart", "/bin/a")
	f.Add("a@.service", "inactive", "X-Fleet", "MachineOf", "b.service\nGlobal=true")
	f.Fuzz(func(t *testing.T, name, state, section, key, value string) {
		sub, err := submission(Unit{Name: name, DesiredState: state, Options: []unit.Option{{Section: section, Name: key, Value: value}}})
		if err != nil {
			if c := toError(err).Code; c != http.StatusBadRequest && c != http.StatusRequestEntityTooLarge {
				t.Errorf("%v: %d", err, c)
			}
			return
		}
		back, err := unit.Parse([]byte(sub.File.String()))
		if err != nil || len(back.Options) != 1 || back.Hash() != sub.File.Hash() {
			t.Errorf("%q reads back as %v, %v", sub.File, back, err)
		}
	})
}
