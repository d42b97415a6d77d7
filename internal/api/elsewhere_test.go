package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// mute is the registry of a host without a vote: lists, no texts, no writes.
type mute struct{ *registry.Registry }

func (mute) Files(context.Context, ...unit.Hash) (map[unit.Hash]*unit.File, error) {
	return nil, kv.ErrForbidden
}

func (mute) Submit(_ context.Context, subs ...fleet.Submission) []fleet.SubmitResult {
	all := make([]fleet.SubmitResult, len(subs))
	for i := range all {
		all[i].Err = kv.ErrForbidden
	}
	return all
}

func (mute) Destroy(_ context.Context, names ...unit.Name) []error {
	all := make([]error, len(names))
	for i := range all {
		all[i] = kv.ErrForbidden
	}
	return all
}

func (mute) SetMachine(context.Context, fleet.MachineID, fleet.Settings) error {
	return kv.ErrForbidden
}

// A host without a vote says what to type, once, whatever was asked for.
func TestHostWithoutAVoteSaysWhatToType(t *testing.T) {
	f := newFixture(t)
	f.submit("launched", "a.service")
	f.machine(m1, "10.0.0.1", nil)
	f.place("a.service", m1)
	voters := []string{"h1 (10.0.0.1)", "h2 (10.0.0.2)"}
	c := f.handler.(*handler).Config
	c.Registry = mute{f.reg}
	c.Voters = func(context.Context) []string { return voters }
	c.Restart = func(_ context.Context, keys ...fleet.Key) []fleet.SubmitResult {
		return mute{}.Submit(context.Background(), make([]fleet.Submission, len(keys))...)
	}
	c.More = map[string]Route{"tokens": {"POST": func(http.ResponseWriter, *http.Request, string) error { return kv.ErrForbidden }}}
	c.Caller = func(*http.Request) Caller { return Caller{Role: Admin, Name: "uid 7"} }
	h := NewHandler(c)
	ask := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "/fleet/v1/"+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const options = `"options":[{"section":"Service","name":"ExecStart","value":"/bin/x"}]`
	for _, row := range []struct{ method, path, body, role string }{
		{"PUT", "units/b.service", `{` + options + `}`, "operator"},
		{"DELETE", "units/a.service", "", "operator"},
		{"POST", "batch", `{"set":[{"name":"b.service",` + options + `},{"name":"c.service",` + options + `}]}`, "operator"},
		{"POST", "batch", `{"delete":["a.service"]}`, "operator"},
		{"POST", "restart", `{"units":[{"name":"a.service"}]}`, "operator"},
		{"PATCH", "machines", `[{"op":"add","path":"/` + string(m1) + `/metadata/k","value":"v"}]`, "operator"},
		{"GET", "units/a.service", "", "operator"},
		{"POST", "tokens", "{}", "admin"},
	} {
		code, body := ask(row.method, row.path, row.body)
		for _, want := range []string{"this host has no vote", "h1 (10.0.0.1), h2 (10.0.0.2)", `on h1 (10.0.0.1):  fleetctl join-token create --role ` + row.role + " --name uid-7", `here:  fleetctl context add cluster TOKEN`} {
			if code != 403 || strings.Count(body, want) != 1 {
				t.Errorf("%s %s: %d %s, want %q once", row.method, row.path, code, body, want)
			}
		}
	}
	for _, path := range []string{"units?view=whole", "machines", "state"} {
		if code, body := ask("GET", path, ""); code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	// Where the store is an etcd elsewhere there are no voters to name.
	voters = nil
	if code, body := ask("DELETE", "units/a.service", ""); code != 403 || !strings.Contains(body, "the store does not allow") {
		t.Errorf("%d %s", code, body)
	}
}
