package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

const webOptions = `[{"section":"Service","name":"ExecStart","value":"/bin/web"}]`

// What a fleetctl of fleet v1.0.0 sends to start one new unit, and what it must get.
func TestFleetctlV1StartsAUnit(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.2", map[string]string{"role": "web"})
	f.want("GET", "/fleet/v1/units/web.service?alt=json", "", 404, `{"error":{"code":404,"message":"unit does not exist"}}`)
	f.want("PUT", "/fleet/v1/units/web.service?alt=json", `{"name":"web.service","options":`+webOptions+`}`, 201, "")
	f.want("GET", "/fleet/v1/units/web.service?alt=json", "", 200,
		`{"currentState":"inactive","desiredState":"inactive","name":"web.service","options":`+webOptions+`}`)
	f.want("PUT", "/fleet/v1/units/web.service?alt=json", `{"desiredState":"launched","name":"web.service"}`, 204, "")
	f.place("web.service", m1)
	f.want("GET", "/fleet/v1/units/web.service?alt=json", "", 200,
		`{"currentState":"inactive","desiredState":"launched","machineID":"`+string(m1)+`","name":"web.service","options":`+webOptions+`}`)
	f.want("GET", "/fleet/v1/state/web.service", "", 404, `{"error":{"code":404,"message":"no machine reports a state of this unit"}}`)
	f.report("web.service", m1, fleet.Observation{Load: "loaded", Active: "inactive", Sub: "dead"})
	if got := f.unit("web.service").CurrentState; got != "loaded" {
		t.Errorf("loaded there, not started: current state %q", got)
	}
	f.report("web.service", m1, running())
	f.want("GET", "/fleet/v1/units/web.service?alt=json", "", 200,
		`{"currentState":"launched","desiredState":"launched","machineID":"`+string(m1)+`","name":"web.service","options":`+webOptions+`}`)
	f.want("GET", "/fleet/v1/machines?alt=json", "", 200,
		`{"machines":[{"id":"`+string(m1)+`","metadata":{"role":"web"},"primaryIP":"10.0.0.2"}]}`)
	hash := f.unit("web.service").Hash
	state := `{"hash":"` + hash + `","machineID":"` + string(m1) + `","name":"web.service",` +
		`"systemdActiveState":"active","systemdLoadState":"loaded","systemdSubState":"running"}`
	f.want("GET", "/fleet/v1/state/web.service?alt=json", "", 200, state)
	f.want("GET", "/fleet/v1/state?alt=json", "", 200, `{"states":[`+state+`]}`)
	f.want("GET", "/v1-alpha/state?unitName=web.service&machineID="+string(m1), "", 200, `{"states":[`+state+`]}`)
	f.want("GET", "/fleet/v1/state?unitName=other.service", "", 200, `{}`)
	f.want("GET", "/fleet/v1/state?machineID="+string(m2), "", 200, `{}`)
	f.want("DELETE", "/fleet/v1/units/web.service", "", 204, "")
	f.want("DELETE", "/fleet/v1/units/web.service", "", 404, `{"error":{"code":404,"message":"unit does not exist"}}`)
	f.want("GET", "/fleet/v1/state/web.service", "", 200, state) // until the agent has stopped it
}

func (f *fixture) unit(name string) Unit {
	f.Helper()
	var u Unit
	if err := json.Unmarshal(f.do("GET", "/fleet/v1/units/"+name+"?view=whole", "").Body.Bytes(), &u); err != nil {
		f.Fatal(err)
	}
	return u
}

func TestEmptyCollectionsHaveNoKey(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/fleet/v1/units", "/fleet/v1/state", "/fleet/v1/machines", "/fleet/v1/units?view=whole"} {
		f.want("GET", path, "", 200, `{}`)
	}
}

func TestPathsAndMethods(t *testing.T) {
	f := newFixture(t)
	for _, row := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/", 405}, {"GET", "/fleet/v1", 405}, {"GET", "/v1-alpha", 405},
		{"GET", "/fleet", 404}, {"GET", "/fleet/v1/", 404}, {"GET", "/fleet/v1/units/", 404}, {"GET", "/fleet/v1/units/a/b", 404},
		{"GET", "/fleet/v1/jobs", 404}, {"GET", "/fleet/v2/units", 404}, {"GET", "/units", 404}, {"GET", "/fleet/v1/machines/x", 404},
		{"POST", "/fleet/v1/units", 405}, {"PUT", "/fleet/v1/units", 405}, {"POST", "/fleet/v1/units/a.service", 405},
		{"PUT", "/fleet/v1/state", 405}, {"DELETE", "/fleet/v1/state/a.service", 405}, {"PUT", "/fleet/v1/machines", 405},
		{"POST", "/fleet/v1/discovery", 405}, {"GET", "/fleet/v1/batch", 405}, {"POST", "/fleet/v1/watch", 405},
		{"GET", "/metrics", 200}, {"GET", "/fleet/v1/version", 200}, {"GET", "/v1-alpha/units", 200},
	} {
		w := f.do(row.method, row.path, "")
		if w.Code != row.code {
			t.Errorf("%s %s: %d, want %d", row.method, row.path, w.Code, row.code)
		}
		if got := w.Header().Get("Server"); got != "fleetd/1.2.3" {
			t.Errorf("%s %s: Server %q", row.method, row.path, got)
		}
		var e struct{ Error *Error }
		if row.code >= 400 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Error == nil || e.Error.Code != row.code || e.Error.Message == "") {
			t.Errorf("%s %s: error body %s", row.method, row.path, w.Body)
		}
	}
}

func TestPut(t *testing.T) {
	f := newFixture(t)
	f.submit(fleet.Inactive, "known.service", "known@.service")
	known := `[{"section":"Service","name":"ExecStart","value":"/bin/known.service"}]`
	for _, row := range []struct {
		what, name, body string
		code             int
		message          string // part of it
	}{
		{"new unit", "a.service", `{"options":` + webOptions + `}`, 201, ""},
		{"new unit with a target", "b.service", `{"desiredState":"launched","options":` + webOptions + `}`, 201, ""},
		{"same options and a target", "known.service", `{"desiredState":"loaded","options":` + known + `}`, 204, ""},
		{"target only", "known.service", `{"desiredState":"inactive"}`, 204, ""},
		{"the target it has", "known.service", `{"desiredState":"inactive"}`, 204, ""},
		{"same options and no target", "known.service", `{"options":` + known + `}`, 409, "nothing to do"},
		{"no options and no target", "known.service", `{}`, 409, "nothing to do"},
		{"other options replace", "known.service", `{"options":` + webOptions + `}`, 201, ""},
		{"unknown unit without options", "new.service", `{"desiredState":"launched"}`, 409, "does not exist"},
		{"fields of the answer sent back", "known.service", `{"name":"known.service","desiredState":"loaded","currentState":"inactive","machineID":"x"}`, 204, ""},
		{"not JSON", "a.service", `name: a`, 400, "decode"},
		{"another name in the body", "a.service", `{"name":"b.service"}`, 400, "differs"},
		{"name without a type", "a", `{"options":` + webOptions + `}`, 400, "no type"},
		{"name with a wrong character", "a,b.service", `{"options":` + webOptions + `}`, 400, "character"},
		{"unknown target on create", "c.service", `{"desiredState":"runing","options":` + webOptions + `}`, 400, "use inactive, loaded or launched"},
		{"unknown target on update", "known.service", `{"desiredState":"runing"}`, 400, "use inactive, loaded or launched"},
		{"template launched", "known@.service", `{"desiredState":"launched"}`, 400, "template"},
		{"new template launched", "new@.service", `{"desiredState":"launched","options":` + webOptions + `}`, 400, "template"},
		{"a name in escapes", "a%5Cx2db.mount", `{"name":"a\\x2db.mount","options":` + webOptions + `}`, 201, ""},
		{"new template", "new@.service", `{"options":` + webOptions + `}`, 201, ""},
		{"options against each other on create", "d.service", `{"options":` + clash + `}`, 400, "cannot be used together"},
		{"options against each other on replace", "known.service", `{"options":` + clash + `}`, 400, "cannot be used together"},
		{"a value that smuggles in a line", "e.service", `{"options":[{"section":"Service","name":"ExecStart","value":"/bin/a\nUser=root"}]}`, 400, "newline"},
	} {
		t.Run(row.what, func(t *testing.T) {
			w := f.do("PUT", "/fleet/v1/units/"+row.name, row.body)
			if w.Code != row.code || !strings.Contains(w.Body.String(), row.message) || row.code < 300 && w.Body.Len() > 0 {
				t.Errorf("got %d %s, want %d with %q", w.Code, w.Body, row.code, row.message)
			}
		})
	}
}

const clash = `[{"section":"X-Fleet","name":"Global","value":"true"},{"section":"X-Fleet","name":"MachineOf","value":"a.service"}]`

func TestPutContentTypes(t *testing.T) {
	f := newFixture(t)
	put := func(types ...string) int {
		req := httptest.NewRequest("PUT", "/fleet/v1/units/a.service", strings.NewReader(`{"desiredState":"loaded","options":`+webOptions+`}`))
		req.Header["Content-Type"] = types
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, req)
		return w.Code
	}
	for _, row := range []struct {
		types []string
		code  int
	}{
		{nil, 415}, {[]string{"text/plain"}, 415}, {[]string{"application/json", "application/json"}, 415},
		{[]string{"application/json"}, 201}, {[]string{"application/json; charset=utf-8"}, 204},
	} {
		if got := put(row.types...); got != row.code {
			t.Errorf("Content-Type %q: %d, want %d", row.types, got, row.code)
		}
	}
	if w := f.do("PATCH", "/fleet/v1/machines", "[]", "Content-Type", "text/plain"); w.Code != 204 {
		t.Errorf("PATCH does not look at the content type: %d", w.Code)
	}
}

func TestPages(t *testing.T) {
	f := newFixture(t)
	f.submit(fleet.Inactive, "a.service", "b.service", "c.service", "d.service", "e.service", "f.service")
	list := func(query string) (names []string, next string) {
		var p page
		if err := json.Unmarshal(f.do("GET", "/fleet/v1/units"+query, "").Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		for _, u := range p.Units {
			names = append(names, u.Name)
			if len(u.Options) == 0 || u.Hash != "" {
				t.Errorf("%s is not as fleet v1 sent it: %+v", u.Name, u)
			}
		}
		return names, p.NextPageToken
	}
	first, next := list("")
	if next != "AwACAA==" {
		t.Errorf("token %q", next)
	}
	f.reg.Destroy(t.Context(), "a.service") // must not shift the second page
	second, end := list("?nextPageToken=" + next)
	got := fmt.Sprint(first, second, end)
	if want := "[a.service b.service c.service] [d.service e.service f.service]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, q := range []string{"?nextPageToken=EwBMLg==", "?nextPageToken=AwAAAA==", "?nextPageToken=x", "?nextPageToken=AwACAA==&nextPageToken=AwACAA=="} {
		for _, path := range []string{"/fleet/v1/units", "/fleet/v1/state", "/fleet/v1/machines"} {
			if w := f.do("GET", path+q, ""); w.Code != 400 {
				t.Errorf("GET %s%s: %d, want 400", path, q, w.Code)
			}
		}
	}
}

func TestPatchMachines(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.2", map[string]string{"role": "web", "disk": "ssd"})
	patch := func(ops string, code int, message string) {
		t.Helper()
		w := f.do("PATCH", "/fleet/v1/machines", ops)
		if w.Code != code || !strings.Contains(w.Body.String(), message) {
			t.Errorf("%s: got %d %s, want %d %s", ops, w.Code, w.Body, code, message)
		}
	}
	at := `"path":"/` + string(m1) + `/metadata/`
	patch(`[{"op":"add",`+at+`rack","value":"7"},{"op":"replace",`+at+`role","value":{"value":"db"}},{"op":"remove",`+at+`disk"}]`, 204, "")
	f.want("GET", "/fleet/v1/machines", "", 200, `{"machines":[{"id":"`+string(m1)+`","metadata":{"rack":"7","role":"db"},"primaryIP":"10.0.0.2"}]}`)
	patch(`[{"op":"remove",`+at+`rack"},{"op":"add",`+at+`rack","value":"8"}]`, 204, "")
	patch(`[{"op":"add","path":"/absent/metadata/rack","value":"8"}]`, 204, "")
	// One wrong operation refuses all.
	patch(`[{"op":"add",`+at+`rack","value":"9"},{"op":"move",`+at+`rack","value":"9"}]`, 400, "operation 2")
	patch(`[{"op":"add",`+at+`rack"}]`, 400, "value missing")
	patch(`[{"op":"add",`+at+`rack","value":{}}]`, 400, "value")
	patch(`[{"op":"add",`+at+`a key","value":"9"}]`, 400, "path")
	patch(`[{"op":"add","path":"metadata/rack","value":"9"}]`, 400, "path")
	patch(`{"op":"add"}`, 400, "decode")
	if got := f.snapshot().Machines[m1].Metadata["rack"]; got != "8" {
		t.Errorf("rack is %q after refused patches, want 8", got)
	}
}

func TestNotReady(t *testing.T) {
	f := newFixture(t)
	f.notYet = errNotYet
	for _, path := range []string{"/fleet/v1/units", "/fleet/v1/machines", "/fleet/v1/discovery", "/fleet/v1/watch"} {
		f.want("GET", path, "", 503, `{"error":{"code":503,"message":"fleetd is not ready: this machine is not registered: etcd has no leader"}}`)
	}
	f.want("GET", "/fleet/v1/version", "", 200, `{"fleetd":"1.2.3"}`)
	if w := f.do("GET", "/metrics", ""); w.Code != 200 {
		t.Errorf("metrics: %d", w.Code)
	}
}

func TestBatch(t *testing.T) {
	f := newFixture(t)
	f.submit(fleet.Inactive, "old.service", "gone.service")
	c := f.serve()
	got, err := c.Batch(t.Context(), Batch{
		Set: []Unit{
			{Name: "a.service", DesiredState: "launched", Options: []unit.Option{{Section: "Service", Name: "ExecStart", Value: "/bin/a"}}},
			{Name: "old.service", DesiredState: "loaded"},
			{Name: "none.service", DesiredState: "loaded"},
			{Name: "bad.service", DesiredState: "runing"},
			{Name: "a.service", DesiredState: "inactive"},
			{Name: "old@.service", DesiredState: "loaded"},
		},
		Delete: []string{"gone.service", "none", "a.service", "gone.service"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range got.Results {
		line := fmt.Sprintf("%s created=%v", r.Name, r.Created)
		if r.Err != nil {
			line = fmt.Sprintf("%s %d", r.Name, r.Err.Code)
		}
		lines = append(lines, line)
	}
	want := []string{
		"a.service created=true", "old.service created=false", "none.service 404", "bad.service 400", "a.service 400", "old@.service 400",
		"gone.service created=false", "none 404", "a.service 400", "gone.service 400",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	s := f.snapshot()
	if len(s.Units) != 2 || s.Units["old.service"].Target != fleet.Loaded || got.Rev != s.Units["a.service"].Rev {
		t.Errorf("afterwards: %+v, batch revision %d", s.Units, got.Rev)
	}
}

func TestExplain(t *testing.T) {
	f := newFixture(t)
	f.submit(fleet.Launched, "web.service")
	f.want("GET", "/fleet/v1/explain?unit=web.service&unit=none.service", "", 200,
		`{"explanations":[{"unit":"web.service","placed":false,"reason":"wants launched"},{"unit":"none.service","placed":false,"reason":"wants "}]}`)
	f.want("GET", "/fleet/v1/explain", "", 200, `{"explanations":[{"unit":"homeless.service","placed":false,"reason":"wants "}]}`)
}

// Every path of the discovery document is served, with the method it says.
func TestDiscoveryDescribesTheRoutes(t *testing.T) {
	f := newFixture(t)
	w := f.do("GET", "/fleet/v1/discovery", "")
	var doc struct {
		ID, Name, BasePath, RootURL string
		Schemas                     map[string]any
		Resources                   map[string]struct {
			Methods map[string]struct{ Path, HTTPMethod string }
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.ID != "fleet:v1" || doc.Name != "schema" || doc.BasePath != "/fleet/v1/" || doc.RootURL != "$ENDPOINT/" || len(doc.Schemas) != 7 {
		t.Errorf("%+v", doc)
	}
	n := 0
	for _, r := range doc.Resources {
		for name, m := range r.Methods {
			n++
			w := f.do(m.HTTPMethod, doc.BasePath+strings.ReplaceAll(m.Path, "{unitName}", "a.service"), "{}")
			if w.Code == http.StatusMethodNotAllowed || strings.Contains(w.Body.String(), "no such path") {
				t.Errorf("%s %s: %d", name, m.Path, w.Code)
			}
		}
	}
	if n != 7 {
		t.Errorf("%d methods", n)
	}
}

// An old copy that a handover keeps running is shown among the states; the unit itself is where it is going.
func TestHandover(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.2", nil)
	f.machine(m2, "10.0.0.3", nil)
	f.submit(fleet.Launched, "web.service")
	f.place("web.service", m1)
	f.report("web.service", m1, running())
	s := f.snapshot()
	u := s.Units["web.service"]
	d := fleet.Decision{Kind: fleet.Place, Unit: u.Name, Machine: m2, Hash: u.Hash, Target: u.Target, UnitRev: u.Rev, MachineRev: s.Machines[m2].Rev}
	old := d
	old.Kind, old.Machine, old.MachineRev, old.Rev = fleet.Handover, m1, s.Machines[m1].Rev, s.Placements[fleet.Key{Machine: m1, Unit: u.Name}].Rev
	if _, lost, err := f.reg.Commit(t.Context(), f.term, []fleet.Decision{d, old}); err != nil || len(lost) > 0 {
		t.Fatal(lost, err)
	}
	if got := f.unit("web.service"); got.MachineID != string(m2) || got.CurrentState != "inactive" {
		t.Errorf("%+v", got)
	}
	f.report("web.service", m2, running())
	var p page
	if err := json.Unmarshal(f.do("GET", "/fleet/v1/state", "").Body.Bytes(), &p); err != nil || len(p.States) != 2 {
		t.Errorf("states: %+v, %v", p.States, err)
	}
	w := f.do("GET", "/fleet/v1/state/web.service", "")
	if !strings.Contains(w.Body.String(), string(m2)) {
		t.Errorf("the state is that of the machine it is placed on: %s", w.Body)
	}
}
