package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Registry is what the API needs of the cluster's memory. internal/registry has these methods.
type Registry interface {
	Snapshot(ctx context.Context) (fleet.Snapshot, error)
	Watch(ctx context.Context, s fleet.Snapshot) <-chan fleet.Changes
	Files(ctx context.Context, hashes ...unit.Hash) (map[unit.Hash]*unit.File, error)
	Submit(ctx context.Context, subs ...fleet.Submission) []fleet.SubmitResult
	Destroy(ctx context.Context, names ...unit.Name) []error
	SetMachine(ctx context.Context, id fleet.MachineID, s fleet.Settings) error
}

// Config is what a handler is made of. Registry, Explain and Version must be set.
type Config struct {
	Registry Registry
	// SnapshotOf is Registry.Snapshot of some units and all machines, where that is less work; nil: it is not.
	SnapshotOf func(ctx context.Context, names ...unit.Name) (fleet.Snapshot, error)
	// Explain says, out of one snapshot, what becomes of units: one answer per name, in order, also for unknown ones; without names,
	// of every unit that wants a machine and has none.
	Explain func(s fleet.Snapshot, names ...unit.Name) []fleet.Explanation
	// Restart orders units to be restarted on machines, one result for each, in order; nil: 404.
	Restart func(ctx context.Context, keys ...fleet.Key) []fleet.SubmitResult
	// Ready returns why this fleetd cannot answer yet (not registered, no store); everything but metrics and version is then 503
	// with that reason. nil: always ready.
	Ready   func() error
	Version string      // of fleetd, for the Server header
	Journal ReadJournal // reads any machine's journal; nil: 404
	// Own tells this machine and which of these names are units of the cluster that it has, without asking the store; nil: none.
	Own       func(names []unit.Name) (fleet.Machine, []unit.Name)
	Network   HostNetwork      // asks any machine's netd; nil: 404
	Processes ReadProcesses    // asks any machine's systemd; nil: 404
	Metrics   http.Handler     // serves /metrics; nil: 404
	More      map[string]Route // paths that main brings along
	// Voters are the hosts that may change the store, for people, where this one may not; none: it may, or nobody knows. nil: it may.
	Voters func(ctx context.Context) []string
	// Caller says who makes a request; nil: whoever gets here may do everything. Audit is told every change; nil: nobody.
	Caller     func(r *http.Request) Caller
	Audit      func(Deed)
	TokenLimit uint16       // entries per page of fleet v1's lists; 0: 100
	Log        *slog.Logger // requests that failed on our side; nil: nowhere
}

// Time limits of one request behind the handler. Batches may be thousands of transactions' worth.
const (
	readLimit  = 10 * time.Second
	storeLimit = 3 * time.Second // where there is an answer also without the store
	writeLimit = 2 * time.Minute
)

type handler struct {
	Config
	routes map[string]route

	mu   sync.Mutex // guards last
	last listed
}

// A route is a path below the version prefix; "x/" is an item of the collection x. Its methods return an error instead
// of writing one.
type route map[string]func(w http.ResponseWriter, r *http.Request, item string) error

// NewHandler returns the API. It answers on /fleet/v1 and /v1-alpha (fleet's first name for it) and on /metrics.
func NewHandler(c Config) http.Handler {
	if c.TokenLimit == 0 {
		c.TokenLimit = 100
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	h := &handler{Config: c}
	h.routes = map[string]route{
		"units":      {"GET": h.listUnits},
		"units/":     {"GET": h.getUnit, "PUT": h.putUnit, "DELETE": h.deleteUnit},
		"state":      {"GET": h.listStates},
		"state/":     {"GET": h.getState},
		"machines":   {"GET": h.listMachines, "PATCH": h.patchMachines},
		"discovery":  {"GET": h.discovery},
		"batch":      {"POST": h.batch},
		"restart":    {"POST": h.restart},
		"watch":      {"GET": h.watch},
		"explain":    {"GET": h.explain},
		"journal":    {"GET": h.journal},
		"network":    {"GET": h.network},
		"processes/": {"GET": h.processes},
		"version":    {"GET": h.version},
	}
	maps.Copy(h.routes, c.More)
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "fleetd/"+h.Version)
	r, n := h.begin(r)
	if r.URL.Path == "/metrics" && h.Metrics != nil {
		if err := h.authorize(r, n.who, "metrics"); err != nil {
			h.fail(w, r, err)
			return
		}
		h.Metrics.ServeHTTP(w, r)
		return
	}
	route, name, item, err := h.find(r.URL.Path)
	if err == nil {
		err = h.authorize(r, n.who, name)
	} else if n.who.Role == Nobody {
		err = h.authorize(r, n.who, "units") // which paths there are is not for everybody either
	}
	if err == nil {
		err = h.serve(w, r, route, item)
	}
	if err != nil {
		err = h.elsewhere(r.Context(), err, r.Method, name, n.who)
		h.fail(w, r, err)
	}
	h.end(r, n, name, item, err)
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, route route, item string) error {
	do := route[r.Method]
	if do == nil {
		return refuse(http.StatusMethodNotAllowed, fmt.Sprintf("%s is not possible here", r.Method))
	}
	// The journal asks by itself: it has something to say also without the store.
	if h.Ready != nil && !withoutStore(r.URL.Path) {
		if err := h.Ready(); err != nil {
			return refuse(http.StatusServiceUnavailable, "fleetd is not ready: "+err.Error())
		}
	}
	limit := readLimit
	if r.Method != http.MethodGet {
		limit = writeLimit
	}
	// A client that reads slower than this is gone. Streams set their own limits, line by line.
	// The error says that w is no network connection, as in tests.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit + time.Minute))
	if !streams(r.URL.Path) {
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		r = r.WithContext(ctx)
	}
	return do(w, r, item)
}

// streams tells the requests that may go on for as long as the client likes.
func streams(path string) bool {
	return strings.HasSuffix(path, "/watch") || strings.HasSuffix(path, "/journal") || strings.HasSuffix(path, "/ca") ||
		strings.HasSuffix(path, "/store/backup") || strings.HasSuffix(path, "/store/restore") || strings.HasSuffix(path, "/store/recover")
}

// withoutStore tells the requests that are answered also while there is no store: they are about that.
func withoutStore(path string) bool {
	return strings.HasSuffix(path, "/version") || strings.HasSuffix(path, "/journal") || strings.Contains(path, "/v1/members") || strings.Contains(path, "/v1/store/")
}

// find maps a path to its route and item name. As in fleet: the prefixes themselves are 405, and a trailing slash is 404.
func (h *handler) find(path string) (do route, name, item string, err error) {
	switch path {
	case "/", "/fleet/v1", "/v1-alpha":
		return nil, "", "", refuse(http.StatusMethodNotAllowed, "the API is at /fleet/v1/units, /fleet/v1/state, /fleet/v1/machines and /fleet/v1/discovery")
	}
	rest, ok := strings.CutPrefix(path, "/fleet/v1/")
	if !ok {
		rest, ok = strings.CutPrefix(path, "/v1-alpha/")
	}
	name, item, isItem := strings.Cut(rest, "/")
	if isItem {
		name += "/"
	}
	route := h.routes[name]
	if !ok || route == nil || isItem && (item == "" || strings.Contains(item, "/")) {
		return nil, "", "", refuse(http.StatusNotFound, "no such path: "+path)
	}
	return route, name, item, nil
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // the client is gone: nobody to tell
	}
	e := toError(err)
	switch {
	case e.Code == http.StatusServiceUnavailable: // an outage has been logged by whoever noticed it; clients ask again and again
		h.Log.Debug("api request not served now", "method", r.Method, "path", r.URL.Path, "err", err)
	case e.Code >= 500:
		h.Log.Warn("api request refused", "method", r.Method, "path", r.URL.Path, "code", e.Code, "err", err)
	}
	reply(w, e.Code, map[string]*Error{"error": e})
}

// reply writes one JSON answer. A failure to write it means that the client is gone.
func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (h *handler) version(w http.ResponseWriter, _ *http.Request, _ string) error {
	reply(w, http.StatusOK, Versions{Fleetd: h.Version})
	return nil
}

// body reads a request's body up to limit bytes. After that the connection may be silent for as long as the request takes.
func body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	tooLarge := refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("request body too large: at most %d MiB are taken here", limit>>20))
	if r.ContentLength > limit {
		// What is still to come will not be read. Hitting a limit is how net/http learns that: it then leaves the connection open for a moment,
		// so that also a client that wants it closed gets to the answer.
		_, _ = http.MaxBytesReader(w, r.Body, 0).Read(make([]byte, 1))
		return nil, tooLarge
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
		return nil, tooLarge
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "body not received: "+err.Error())
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return b, nil
}
