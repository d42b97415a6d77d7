package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// fixture is a handler over the real registry on a memory store, with the engine's and two agents' hands on it.
type fixture struct {
	*testing.T
	handler http.Handler
	mem     *kv.Memory
	reg     *registry.Registry
	term    fleet.Term
	agents  map[fleet.MachineID]registry.Presence
	notYet  error // why the handler is not ready
}

const (
	m1 = fleet.MachineID("1f2e3d4c5b6a79881f2e3d4c5b6a7988")
	m2 = fleet.MachineID("2f2e3d4c5b6a79881f2e3d4c5b6a7988")
)

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, agents: map[fleet.MachineID]registry.Presence{}}
	f.mem = kv.NewMemory(time.Now)
	f.reg = registry.New(f.mem, "/fleet/", slog.New(slog.DiscardHandler))
	f.handler = NewHandler(Config{
		Registry: f.reg, Version: "1.2.3", TokenLimit: 3,
		Ready: func() error { return f.notYet }, Restart: f.reg.Restart, SnapshotOf: f.reg.SnapshotOf,
		Explain: func(s fleet.Snapshot, names ...unit.Name) []fleet.Explanation {
			var out []fleet.Explanation
			if len(names) == 0 {
				names = []unit.Name{"homeless.service"}
			}
			for _, n := range names {
				out = append(out, fleet.Explanation{Unit: n, Reason: string("wants " + s.Units[n].Target)})
			}
			return out
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") }),
	})
	var ok bool
	var err error
	if f.term, ok, err = f.reg.Campaign(t.Context(), m1, "1.2.3", time.Hour); err != nil || !ok {
		t.Fatal("campaign:", err)
	}
	return f
}

func (f *fixture) machine(id fleet.MachineID, ip string, metadata map[string]string) {
	f.Helper()
	p, err := f.reg.Register(f.Context(), registry.Hello{
		Machine:  fleet.Machine{ID: id, Name: "host-" + id.Short(), IP: netip.MustParseAddr(ip), Metadata: metadata, Version: "1.2.3"},
		Instance: string(id),
	}, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.agents[id] = p
}

// submit puts units with a text of their own.
func (f *fixture) submit(target fleet.TargetState, names ...unit.Name) {
	f.Helper()
	for _, n := range names {
		file, err := unit.Parse([]byte("[Service]\nExecStart=/bin/" + string(n) + "\n"))
		if err != nil {
			f.Fatal(err)
		}
		if r := f.reg.Submit(f.Context(), fleet.Submission{Name: n, File: file, Target: &target})[0]; r.Err != nil {
			f.Fatal(r.Err)
		}
	}
}

// place is the engine placing a unit as it is.
func (f *fixture) place(name unit.Name, on fleet.MachineID) {
	f.Helper()
	s := f.snapshot()
	u := s.Units[name]
	_, lost, err := f.reg.Commit(f.Context(), f.term, []fleet.Decision{{
		Kind: fleet.Place, Unit: name, Machine: on, Hash: u.Hash, Target: u.Target, UnitRev: u.Rev, MachineRev: s.Machines[on].Rev,
		Rev: s.Placements[fleet.Key{Machine: on, Unit: name}].Rev,
	}})
	if err != nil || len(lost) > 0 {
		f.Fatal("place", name, lost, err)
	}
}

func (f *fixture) snapshot() fleet.Snapshot {
	f.Helper()
	s, err := f.reg.Snapshot(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	return s
}

// report is the agent of a machine reporting a unit that runs there with the hash of its record.
func (f *fixture) report(name unit.Name, on fleet.MachineID, o fleet.Observation) {
	f.Helper()
	o.Unit, o.Machine = name, on
	if o.Hash == "" {
		o.Hash = f.snapshot().Units[name].Hash
	}
	if err := f.reg.Report(f.Context(), f.agents[on], []fleet.Observation{o}, nil); err != nil {
		f.Fatal(err)
	}
}

func running() fleet.Observation {
	return fleet.Observation{Load: "loaded", Active: "active", Sub: "running", Result: "success", Launched: true}
}

// do makes one request. A body without a content type in the headers is sent as JSON.
func (f *fixture) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	f.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequestWithContext(f.Context(), method, path, r)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, req)
	theOpenAPI(f.T).answer(f.T, method, req.URL.Path, w)
	return w
}

// want makes one request and checks the answer's status and body, which is compared as compact JSON.
func (f *fixture) want(method, path, body string, code int, answer string) {
	f.Helper()
	w := f.do(method, path, body)
	got := compact(w.Body.Bytes())
	if w.Code != code || got != answer {
		f.Errorf("%s %s %s:\n got %d %s\nwant %d %s", method, path, body, w.Code, got, code, answer)
	}
}

func compact(b []byte) string {
	var buf bytes.Buffer
	if json.Compact(&buf, b) != nil {
		return string(b)
	}
	return buf.String()
}

// serve runs the handler on a loopback port and returns a client of it.
func (f *fixture) serve() *Client {
	f.Helper()
	ctx, cancel := context.WithCancel(f.Context())
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = NewServer(ctx, f.handler, slog.New(slog.DiscardHandler))
	srv.Start()
	c, err := Dial(srv.URL, Options{Timeout: time.Minute})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		cancel()
		c.Close()
		srv.Close()
	})
	return c
}

var errNotYet = errors.New("this machine is not registered: etcd has no leader")
