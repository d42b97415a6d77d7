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

	"github.com/fleet-init/fleet/internal/fleet"
)

// FuzzRoutes sends anything to the handler: whatever it is, the answer is a status, and an error that people can read.
func FuzzRoutes(f *testing.F) {
	for _, s := range [][4]string{
		{"GET", "/fleet/v1/machines", "nextPageToken=x", ""},
		{"PATCH", "/fleet/v1/machines", "", `[{"op":"add","path":"/1f2e3d4c5b6a79881f2e3d4c5b6a7988/metadata/a","value":"b"}]`},
		{"GET", "/fleet/v1/units/a.service", "", ""},
		{"PUT", "/fleet/v1/units/b.service", "", `{"desiredState":"launched","options":[{"section":"Service","name":"ExecStart","value":"/bin/a"}]}`},
		{"DELETE", "/fleet/v1/units/a.service", "", `{}`},
		{"GET", "/fleet/v1/state", "unitName=a.service&machineID=x", ""},
		{"POST", "/fleet/v1/batch", "", `{"set":[{"name":"c.service","desiredState":"inactive"}],"delete":["a.service"]}`},
		{"GET", "/fleet/v1/watch", "since=1&unit=a.service", ""},
		{"GET", "/fleet/v1/explain", "unit=a.service", ""},
		{"GET", "/fleet/v1/journal", "unit=a.service&lines=-5", ""},
		{"POST", "/fleet/v1/restart", "", `{"units":["a.service"]}`},
		{"GET", "/fleet/v1/discovery", "", ""},
		{"GET", "/metrics", "", ""},
		{"BREW", "//fleet/v1/%2e%2e/units/", "a=%zz", "\x00"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		x := newFixture(t)
		x.machine(m1, "10.0.0.1", nil)
		x.submit(fleet.Launched, "a.service")
		// A watch answers until its reader goes.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, "http://fleet/", strings.NewReader(body))
		if err != nil {
			return // no client can send it
		}
		req.URL = &url.URL{Scheme: "http", Host: "fleet", Path: path, RawQuery: query}
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		x.handler.ServeHTTP(w, req)
		switch {
		case w.Code < 200 || w.Code > 599 || w.Code == http.StatusInternalServerError:
			t.Errorf("%s %q?%q: %d %s", method, path, query, w.Code, w.Body)
		case w.Code >= 400 && w.Body.Len() > 0 && strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && !json.Valid(w.Body.Bytes()):
			t.Errorf("%s %q: the error is no JSON: %s", method, path, w.Body)
		}
	})
}
