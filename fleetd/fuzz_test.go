package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/authority"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/registry"
)

// roles are all that a request may come from.
func roles() []api.Role {
	return []api.Role{api.Nobody, api.AsHost, api.Viewer, api.Operator, api.Admin, api.Voter}
}

// FuzzRoutes sends anything to what fleetd adds to the API (certificates, tokens, members, backups, permits, updates, the brake), as anybody: the
// answer is a status with an error that people can read, and who may only look changes nothing in the store.
func FuzzRoutes(f *testing.F) {
	log := slog.New(slog.DiscardHandler)
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	m, err := member.New(member.Config{Dir: f.TempDir(), Socket: filepath.Join(f.TempDir(), "s"), Size: 3}, log)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = m.Client().Close() })
	handler := func(t *testing.T, store kv.Store, who *api.Caller) (http.Handler, []string) {
		c := Config{ClusterSize: 3, EtcdKeyPrefix: "/fleet/", DataDir: t.TempDir(), AgentTTL: 10 * time.Second}
		trust, err := newTrust(c, idA, "", time.Now, log)
		if err != nil {
			t.Fatal(err)
		}
		trust.authority = authority.New(store, "/fleet/pki/", time.Now)
		if _, err := trust.authority.Publish(t.Context(), ca, string(idA), "10.0.0.1"); err != nil {
			t.Fatal(err)
		}
		h := &host{cfg: c, log: log, member: m, store: store, registry: registry.New(store, "/fleet/", log), trust: trust}
		routes := h.moreRoutes()
		var names []string
		for name, methods := range routes {
			for method := range methods {
				names = append(names, method+" "+name)
			}
		}
		return api.NewHandler(api.Config{Registry: h.registry, SnapshotOf: h.registry.SnapshotOf, Version: "1", Caller: func(*http.Request) api.Caller { return *who }, More: routes}), names
	}
	f.Add(uint8(4), "POST", "tokens", "", `{"role":"host","uses":1,"ttl":60}`)
	f.Add(uint8(0), "POST", "join", "", `{"id":"a","secret":"b","request":"","machine":"x"}`)
	f.Add(uint8(3), "POST", "rollouts/fleet.amd64.stable", "", `{"version":"1.0.0","strategy":"fast"}`)
	f.Add(uint8(3), "POST", "reboot/default", "", `{"do":"max","max":-1}`)
	f.Add(uint8(3), "POST", "updates/m1", "", `{"kind":"check now"}`)
	f.Add(uint8(4), "POST", "store/restore", "force=true", "\x00")
	f.Fuzz(func(t *testing.T, role uint8, method, path, query, body string) {
		store := kv.NewMemory(time.Now)
		who := api.Caller{Role: roles()[int(role)%len(roles())], Name: "x"}
		h, names := handler(t, store, &who)
		// Half of all requests go where there is something.
		if n := int(role) / len(roles()); role >= 128 && len(names) > 0 {
			at, name, _ := strings.Cut(names[n%len(names)], " ")
			method, path = at, name+strings.TrimLeft(path, "/")
		}
		before, _, err := store.Range(t.Context(), "/")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // the store's own routes wait for a member that is not there
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, "http://fleet/", strings.NewReader(body))
		if err != nil {
			return // no client can send it
		}
		req.URL = &url.URL{Scheme: "http", Host: "fleet", Path: "/fleet/v1/" + path, RawQuery: query}
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code < 200 || w.Code > 599 || w.Code == http.StatusInternalServerError && ctx.Err() == nil {
			t.Errorf("%s %s %q?%q: %d %s", who, method, path, query, w.Code, w.Body)
		}
		if w.Code >= 400 && w.Body.Len() > 0 && strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: the error is no JSON: %s", method, path, w.Body)
		}
		after, _, err := store.Range(t.Context(), "/")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" && (who.Role == api.Nobody || who.Role == api.AsHost || who.Role == api.Viewer) {
			t.Errorf("%s %s %q changed the store: %s", who, method, path, diff)
		}
	})
}

// FuzzConfig reads a configuration file and variables of fleetd: an error names a key, a line or a value, and what is taken is taken again.
func FuzzConfig(f *testing.F) {
	f.Add("member_ip=10.0.0.0/24\ncluster_size=3\nmetadata=\"a=b\"\n", "FLEET_VERBOSITY=1")
	f.Add("etcd_servers=[\"unix:///x\"]\nagent_ttl=0\njoin_token=x\n", "FLEET_AGENT_TTL=-1s")
	f.Add("insecure=yes\nbackup_keep=-1\n[a]\n", "FLEETD_X")
	f.Fuzz(func(t *testing.T, text, env string) {
		read := func(name string) ([]byte, error) {
			if strings.HasSuffix(name, "fleet.conf") {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}
		c, _, err := parseConfig(nil, []string{env}, read)
		_, _, err2 := parseConfig(nil, []string{env}, read)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%v, then %v", err, err2)
		}
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without words")
			}
			return
		}
		if c.ClusterSize < 1 || c.ClusterSize%2 == 0 || c.AgentTTL < time.Second || c.DataDir == "" {
			t.Errorf("%+v", c)
		}
	})
}

// FuzzTrustFiles reads the files beside a host's certificate, which a full disk or anybody has spoiled: fleetd starts with what they say, or says which
// of them is damaged.
func FuzzTrustFiles(f *testing.F) {
	dir := f.TempDir()
	first, err := newTrust(Config{DataDir: dir}, idA, "", time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	first.addr = func() string { return "" }
	if err := first.beFirst(); err != nil {
		f.Fatal(err)
	}
	names := []string{"cluster.json", "seed.json", "ca.json", "host.crt", "host.key", "ca.crt", "revoked.json"}
	for i, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, "pki", name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
		f.Add(uint8(i), b[:len(b)/2])
	}
	f.Add(uint8(0), []byte(`{"v":1,"voters":[""],"stores":null}`))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		now := t.TempDir()
		if err := os.CopyFS(now, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		name := names[int(which)%len(names)]
		if err := os.WriteFile(filepath.Join(now, "pki", name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := newTrust(Config{DataDir: now}, idA, "", time.Now, slog.New(slog.DiscardHandler))
		if err == nil {
			x.addr = func() string { return "" }
			_, err = x.admit(t.Context())
			_ = x.renewAlone()
		}
		if err != nil && !strings.Contains(err.Error(), filepath.Join(now, "pki")) && !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s = %q: %v names neither the file nor the certificate", name, b, err)
		}
	})
}
