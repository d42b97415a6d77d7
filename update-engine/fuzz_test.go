package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// kinds are all that can happen to a host.
func kinds() []update.Kind {
	return []update.Kind{update.Started, update.Tick, update.Offered, update.CheckFailed, update.Progressed, update.StagedOK, update.StageFailed, update.Granted,
		update.Denied, update.Drained, update.DrainFailed, update.Finalized, update.FinalizeFailed, update.GatePassed, update.GateFailed, update.Blessed,
		update.Released, update.CheckNow, update.RebootNow, update.Cancel, update.RollbackNow, update.Forget}
}

// FuzzState reads the files of a daemon before this one, which a full disk or anybody has spoiled: it starts with them or anew, whatever happens
// next leads to a state, and that is read back as it was written.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"phase":"staged","target":{"version":"2.0.0"},"failed":[{"version":"1","reason":"x"}]}`), []byte(`[{"at":"2026-01-01T00:00:00Z","text":"x"}]`), []byte(`{"units":["a"]}`), uint64(0x010203))
	f.Add([]byte(`{"phase":"nonsense","spent":{"x":-1},"policy":null}`), []byte(`{`), []byte(`[]`), ^uint64(0))
	f.Add([]byte(`{"phase":"trial","attempts":9223372036854775807}`), []byte(`[null]`), []byte(nil), uint64(13))
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, state, history, ran []byte, events uint64) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"state.json": state, "history.json": history, "before.json": ran} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d := newDaemon(log, filepath.Join(dir, "state.json"), nil, time.Now)
		if err := d.load(); err != nil {
			t.Fatal(err)
		}
		h := &host{cfg: Config{StateDir: dir}, log: log}
		_ = h.before()
		r := newReporter(log, filepath.Join(dir, "history.json"), slot.Slots{}, rollout.Host{Machine: "m1"}, time.Now)
		s := d.state
		for range 8 {
			k := kinds()[int(events%uint64(len(kinds())))]
			events /= uint64(len(kinds()))
			next, _ := update.Next(s, update.Fact{Kind: k, At: time.Unix(1e9, 0), Version: "2.0.0", Why: "x"})
			r.changed(next)
			s = next
		}
		_ = r.host()
		if len(r.events()) > max(historyLength, strings.Count(string(history), "{")) {
			t.Errorf("%d events are kept", len(r.events()))
		}
		d.state = s
		if err := d.save(); err != nil {
			return // a time that JSON cannot write
		}
		again := newDaemon(log, d.file, nil, time.Now)
		if err := again.load(); err != nil || again.state.Phase != s.Phase || again.state.Target.Version != s.Target.Version {
			t.Errorf("%+v was read back as %+v, %v", s, again.state, err)
		}
	})
}

// FuzzControl sends anything to the socket for commands: a status, and never a fact that is not a command.
func FuzzControl(f *testing.F) {
	f.Add("POST", "/command", `{"kind":"check now","version":"2.0.0"}`)
	f.Add("POST", "/command", `{"kind":"granted"}`)
	f.Add("POST", "/command", `{"kind":"check now","from":"file://../x"}`)
	f.Add("GET", "/status", "")
	f.Add("GET", "/history", "")
	f.Add("GET", "/metrics", "")
	f.Add("GET", "/watch", "")
	dir := slot.Dir{Root: f.TempDir()}
	if err := dir.Init(4096); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, body string) {
		d := newDaemon(slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "state.json"), nil, time.Now)
		c := newControl(d, slot.Slots{Boot: dir, Images: dir, Running: slot.A}, func(at string) {
			if checkMirror(at) != nil {
				t.Errorf("%q is taken for a mirror", at)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			for {
				select {
				case <-ctx.Done():
					return
				case q := <-d.facts:
					switch q.fact.Kind {
					case look, update.CheckNow, update.RebootNow, update.Cancel, update.RollbackNow, update.Forget, update.GatePassed:
					default:
						t.Errorf("%s %s %q is fact %q", method, path, body, q.fact.Kind)
					}
					q.answer <- update.State{Phase: update.Idle}
				}
			}
		}()
		defer func() { cancel(); <-answered }()
		asked, end := context.WithTimeout(ctx, 20*time.Millisecond) // a watch has no end
		defer end()
		req, err := http.NewRequestWithContext(asked, method, "http://u/", strings.NewReader(body))
		if err != nil {
			return // no client can send it
		}
		req.URL = &url.URL{Scheme: "http", Host: "u", Path: path}
		w := httptest.NewRecorder()
		c.handler().ServeHTTP(w, req)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s %q %q: %d %s", method, path, body, w.Code, w.Body)
		}
		if w.Code == http.StatusOK && path == "/status" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("the status is no JSON: %s", w.Body)
		}
	})
}

// FuzzForeign reads the list of releases for Omaha clients, and the line that says what runs: an error names the file or what is missing.
func FuzzForeign(f *testing.F) {
	f.Add([]byte(`[{"app":"a","arch":"amd64","track":"stable","version":"1.0.0","codebases":["x"],"file":"f","size":1,"sha256":"x"}]`), "fleet.slot=a fleet.version=1.0.0")
	f.Add([]byte(`[null]`), "fleet.slot=c")
	f.Add([]byte(`{}`), "")
	file := filepath.Join(f.TempDir(), "omaha.json")
	f.Fuzz(func(t *testing.T, b []byte, line string) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := readForeign(file)()
		if err != nil && !strings.Contains(err.Error(), file) {
			t.Errorf("%v does not name the file", err)
		}
		for _, r := range list {
			_ = newer(r.Version, "1.0.0")
			if r.Size <= 0 || len(r.CodeBases) == 0 {
				t.Errorf("%+v", r)
			}
		}
		n, v, err := runningOf(Config{}, line)
		if err == nil && (n != slot.A && n != slot.B || v == "") || err != nil && !strings.Contains(err.Error(), "command line") {
			t.Errorf("%q: slot %q, version %q, %v", line, n, v, err)
		}
	})
}

// FuzzConfig reads update.conf and variables: an error in words, and what is taken is taken again.
func FuzzConfig(f *testing.F) {
	f.Add("mirrors=[\"https://a\"]\nwindow=[\"Sat 02:00 +2h\"]\nstrategy=reboot\n", "UPDATE_ENGINE_CHANNEL=beta")
	f.Add("interval=-1s\npeer_cache=0\nmax_attempts=0\nslots=\n", "X")
	f.Fuzz(func(t *testing.T, text, env string) {
		read := func(string) ([]byte, error) { return []byte(text), nil }
		c, _, err := parseConfig(nil, []string{env}, read)
		_, _, err2 := parseConfig(nil, []string{env}, read)
		if (err == nil) != (err2 == nil) || err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Fatalf("%v, then %v", err, err2)
		}
		if err == nil && (c.MaxAttempts < 1 || c.Tries < 1 || c.Interval < 0) {
			t.Errorf("%+v", c)
		}
	})
}
