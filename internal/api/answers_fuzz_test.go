package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// FuzzAnswers has a server answer every call of the client anything: an answer, or an error that says something.
func FuzzAnswers(f *testing.F) {
	var status int
	var kind string
	var answer []byte // one call at a time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = w.Write(answer) // the client may have hung up
	}))
	f.Cleanup(server.Close)
	calls := []func(context.Context, *Client) error{
		func(ctx context.Context, c *Client) error { _, _, err := c.Units(ctx); return err },
		func(ctx context.Context, c *Client) error { _, _, err := c.States(ctx); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Machines(ctx); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Unit(ctx, "a.service"); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Texts(ctx, "a.service"); return err },
		func(ctx context.Context, c *Client) error {
			_, err := c.Batch(ctx, Batch{Delete: []string{"a.service"}})
			return err
		},
		func(ctx context.Context, c *Client) error { _, err := c.Explain(ctx); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Look(ctx, "a.service"); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Network(ctx); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Processes(ctx, "a.service", ""); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Members(ctx); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Join(ctx, JoinRequest{}); return err },
		func(ctx context.Context, c *Client) error { _, err := c.CA(ctx, "", ""); return err },
		func(ctx context.Context, c *Client) error { _, err := c.ListTokens(ctx); return err },
		func(ctx context.Context, c *Client) error { _, err := c.Audit(ctx, 3); return err },
		func(ctx context.Context, c *Client) error { _, err := c.WhoAmI(ctx); return err },
		func(ctx context.Context, c *Client) error {
			return c.Journal(ctx, fleet.LogQuery{Units: []unit.Name{"a.service"}}, nil, func(fleet.LogEntry) error { return nil }, func(error) {})
		},
	}
	for i := range calls {
		f.Add(uint8(i), uint16(200), true, []byte(`{"revision":3,"units":[null],"states":[{}],"machines":[{"id":""}],"nextPageToken":"x"}`))
		f.Add(uint8(i), uint16(200), true, []byte("{\"revision\":3,\"sync\":true}\n{"))
		f.Add(uint8(i), uint16(404), true, []byte(`{"error":{"code":0,"message":""}}`))
		f.Add(uint8(i), uint16(502), false, []byte("<html>"))
	}
	f.Fuzz(func(t *testing.T, which uint8, code uint16, isJSON bool, b []byte) {
		status, kind, answer = 200+int(code)%400, "text/html", b
		if isJSON {
			kind = "application/json"
		}
		c, err := Dial(server.URL, Options{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // a list whose next page is always the same has no end
		defer cancel()
		if err := calls[int(which)%len(calls)](ctx, c); err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Error("an error without words")
		}
	})
}

// FuzzLogQuery: a question that is taken is asked of another host as itself.
func FuzzLogQuery(f *testing.F) {
	f.Add("unit=a.service&lines=5&since=@12.5&priority=err&follow")
	f.Add("unit=a.service&lines=all&since=2h+ago&after=s%3D1")
	f.Add("since=-99999999999999y&lines=-1&whole=2")
	f.Add("since=1e308y+ago&unit=a.service")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, query string) {
		v, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		q, err := logQuery(v, now)
		if err != nil {
			if code := toError(err).Code; code != http.StatusBadRequest {
				t.Errorf("%q: %d %v", query, code, err)
			}
			return
		}
		again, err := logQuery(logValues(q), now)
		// Only what the wire can say: whole microseconds.
		q.Since, again.Since = q.Since.Truncate(time.Microsecond).UTC(), again.Since.UTC()
		if diff := cmp.Diff(q, again); err != nil || diff != "" && q.Since.Unix() >= 0 && q.Since.Unix() < 1<<40 {
			t.Errorf("%q: %v %s", query, err, diff)
		}
	})
}

// FuzzHostRoutes sends anything to what hosts ask of each other: no journal is read but for units of the cluster.
func FuzzHostRoutes(f *testing.F) {
	f.Add("GET", "/fleet/host/v1/journal", "unit=a.service&lines=3")
	f.Add("GET", "/fleet/host/v1/journal", "unit=sshd.service&unit=a.service")
	f.Add("GET", "/fleet/host/v1/processes", "unit=a.service")
	f.Add("GET", "/fleet/host/v1/network", "all=x")
	f.Add("POST", "/fleet/host/v1/../v1/journal", "%zz")
	f.Fuzz(func(t *testing.T, method, path, query string) {
		h := NewHostHandler(HostConfig{Version: "1",
			Journal: func(_ context.Context, q fleet.LogQuery, each func(fleet.LogEntry) error) error {
				if err := q.Check(); err != nil || len(q.Units) == 0 {
					t.Errorf("%q asks for %v: %v", query, q.Units, err)
				}
				for _, n := range q.Units {
					if n != "a.service" {
						t.Errorf("the journal of %s is read", n)
					}
				}
				return each(fleet.LogEntry{JSON: []byte(`{}`)})
			},
			Unknown: func(_ context.Context, names []unit.Name) (no []unit.Name, err error) {
				for _, n := range names {
					if n != "a.service" {
						no = append(no, n)
					}
				}
				return no, nil
			},
			Network:   func(context.Context, bool) (fleet.HostNetwork, error) { return fleet.HostNetwork{}, nil },
			Processes: func(_ context.Context, n unit.Name) (fleet.Processes, error) { return fleet.Processes{}, nil },
		})
		req, err := http.NewRequest(method, "http://h/", nil)
		if err != nil {
			return // no client can send it
		}
		req.URL = &url.URL{Scheme: "http", Host: "h", Path: path, RawQuery: query}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("%s %q?%q: %d %s", method, path, query, w.Code, w.Body)
		}
		if w.Code >= 400 && strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %q: the error is no JSON: %s", method, path, w.Body)
		}
	})
}

// FuzzEndpoint reads what users and tokens name as a server: an error that says what to write, or a client.
func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"unix:///run/fleet.sock", "https://[::1]:2378/x", "file://x", "http://", "%", "http://a:b@c:d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Dial(s, Options{})
		if err != nil {
			if !strings.Contains(err.Error(), "endpoint") {
				t.Errorf("%v does not say what is wrong", err)
			}
			return
		}
		c.Close()
	})
}
