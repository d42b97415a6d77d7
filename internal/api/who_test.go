package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// asRole makes the fixture's handler anew with a caller of that role, and an audit.
func asRole(f *fixture, role Role, deeds *[]Deed) http.Handler {
	h := f.handler.(*handler)
	c := h.Config
	c.Caller = func(*http.Request) Caller { return Caller{Role: role, Name: "ann", From: "10.0.0.9"} }
	c.Audit = func(d Deed) { *deeds = append(*deeds, d) }
	return NewHandler(c)
}

// Every route has a row in the table of roles: one that was forgotten is for admins.
func TestEachRouteHasItsLeastRole(t *testing.T) {
	f := newFixture(t)
	for name, r := range f.handler.(*handler).routes {
		for method := range r {
			if least(method, name) == Admin {
				t.Errorf("%s %s is for admins: add it to the table in who.go", method, name)
			}
		}
	}
}

func TestRolesOpenTheirRoutes(t *testing.T) {
	f := newFixture(t)
	f.submit("inactive", "a.service")
	const text = `{"desiredState":"launched"}`
	for _, row := range []struct {
		method, path, body string
		want               map[Role]int // 0: anything but 401 and 403
	}{
		{"GET", "/fleet/v1/units", "", map[Role]int{Nobody: 401, AsHost: 403, Viewer: 200, Operator: 200, Admin: 200, Voter: 200}},
		{"GET", "/fleet/v1/units?view=whole", "", map[Role]int{Nobody: 401, AsHost: 200, Viewer: 200}},
		{"GET", "/fleet/v1/units?view=text&unit=a.service", "", map[Role]int{AsHost: 403}},
		{"GET", "/fleet/v1/units/a.service", "", map[Role]int{Nobody: 401, AsHost: 403, Viewer: 200}},
		{"GET", "/v1-alpha/units/a.service", "", map[Role]int{Nobody: 401, AsHost: 403, Viewer: 200}},
		{"GET", "/fleet/v1/machines", "", map[Role]int{Nobody: 401, AsHost: 200}},
		{"GET", "/metrics", "", map[Role]int{Nobody: 401, AsHost: 403, Viewer: 200}},
		{"GET", "/fleet/v1/nothing", "", map[Role]int{Nobody: 401, Viewer: 404}},
		{"GET", "/fleet/v1/units/../machines", "", map[Role]int{Nobody: 401}},
		{"PUT", "/fleet/v1/units/a.service", text, map[Role]int{Nobody: 401, AsHost: 403, Viewer: 403, Operator: 204}},
		{"DELETE", "/fleet/v1/units/gone.service", "", map[Role]int{Nobody: 401, AsHost: 403, Viewer: 403, Operator: 404}},
		{"POST", "/fleet/v1/batch", `{"set":[]}`, map[Role]int{Nobody: 401, AsHost: 403, Viewer: 403, Operator: 200}},
		{"PATCH", "/fleet/v1/machines", `[]`, map[Role]int{Viewer: 403}},
		{"TRACE", "/fleet/v1/units", "", map[Role]int{Nobody: 401, Viewer: 403, Admin: 405}},
	} {
		for role, want := range row.want {
			var deeds []Deed
			w := httptest.NewRecorder()
			r := httptest.NewRequest(row.method, row.path, strings.NewReader(row.body))
			r.Header.Set("Content-Type", "application/json")
			asRole(f, role, &deeds).ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s %s as %q: %d, want %d: %s", row.method, row.path, role, w.Code, want, w.Body)
			}
		}
	}
}

func TestChangesAndRefusalsAreAudited(t *testing.T) {
	f := newFixture(t)
	f.submit("inactive", "a.service", "b.service")
	var deeds []Deed
	do := func(role Role, method, path string, body any) {
		t.Helper()
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(method, path, strings.NewReader(string(b)))
		r.Header.Set("Content-Type", "application/json")
		asRole(f, role, &deeds).ServeHTTP(httptest.NewRecorder(), r)
	}
	do(Operator, "PUT", "/fleet/v1/units/a.service", Unit{DesiredState: "launched"})
	do(Viewer, "DELETE", "/fleet/v1/units/a.service", nil)
	do(Operator, "POST", "/fleet/v1/batch", Batch{Set: []Unit{{Name: "a.service", DesiredState: "loaded"}}, Delete: []string{"b.service"}})
	do(Viewer, "GET", "/fleet/v1/machines", nil)
	do(AsHost, "GET", "/fleet/v1/units/a.service", nil)
	var got []string
	for _, d := range deeds {
		got = append(got, strings.Join(append([]string{d.Who, d.From, d.Did}, d.Units...), "|")+"|"+http.StatusText(d.Code))
	}
	want := []string{
		"operator ann|10.0.0.9|launched|a.service|OK",
		"viewer ann|10.0.0.9|DELETE units/a.service|Forbidden",
		"operator ann|10.0.0.9|batch|a.service loaded|b.service destroyed|OK",
		"host ann|10.0.0.9|GET units/a.service|Forbidden",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
