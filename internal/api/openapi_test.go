package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// openAPI is docs/openapi.json, as far as it is held against the handler. Every request that a test of this package makes through
// fixture.do is checked against it.
type openAPI struct {
	Paths      map[string]map[string]operation
	Components struct{ Schemas map[string]*schema }
}

type operation struct {
	Parameters  []struct{ Name, In string }
	RequestBody *struct {
		Content map[string]struct{ Schema *schema }
	}
	Responses map[string]struct {
		Content map[string]struct{ Schema *schema }
	}
}

type schema struct {
	Ref        string `json:"$ref"`
	Type       string
	Enum       []string
	Properties map[string]*schema
	Required   []string
	Items      *schema
	OneOf      []*schema
	Additional json.RawMessage `json:"additionalProperties"`
}

func theOpenAPI(t *testing.T) *openAPI {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc openAPI
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return &doc
}

// check returns what is wrong with a value by its schema.
func (d *openAPI) check(s *schema, v any, at string) (wrong []string) {
	if s == nil {
		return []string{at + ": no schema"}
	}
	if s.Ref != "" {
		return d.check(d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")], v, at)
	}
	if len(s.OneOf) > 0 {
		for _, one := range s.OneOf {
			if len(d.check(one, v, at)) == 0 {
				return nil
			}
		}
		return []string{at + ": is none of those it may be"}
	}
	kind := map[string]func() bool{
		"string":  func() bool { _, ok := v.(string); return ok },
		"boolean": func() bool { _, ok := v.(bool); return ok },
		"integer": func() bool { n, ok := v.(float64); return ok && n == float64(int64(n)) },
		"array":   func() bool { _, ok := v.([]any); return ok },
		"object":  func() bool { _, ok := v.(map[string]any); return ok },
		"":        func() bool { return true },
	}[s.Type]
	if kind == nil || !kind() {
		return []string{fmt.Sprintf("%s: %v is no %s", at, v, s.Type)}
	}
	if text, ok := v.(string); ok && s.Enum != nil && !slices.Contains(s.Enum, text) {
		wrong = append(wrong, fmt.Sprintf("%s: %q is none of %q", at, text, s.Enum))
	}
	if list, ok := v.([]any); ok {
		for i, e := range list {
			wrong = append(wrong, d.check(s.Items, e, fmt.Sprintf("%s[%d]", at, i))...)
		}
	}
	object, ok := v.(map[string]any)
	if !ok {
		return wrong
	}
	for _, name := range s.Required {
		if _, there := object[name]; !there {
			wrong = append(wrong, at+": "+name+" is missing")
		}
	}
	for name, e := range object {
		if p := s.Properties[name]; p != nil {
			wrong = append(wrong, d.check(p, e, at+"."+name)...)
		} else if string(s.Additional) == "false" {
			wrong = append(wrong, at+": "+name+" is not described")
		}
	}
	return wrong
}

// find returns the description of a request.
func (d *openAPI) find(method, path string) (operation, bool) {
	rest, ok := strings.CutPrefix(path, "/fleet/v1")
	if !ok {
		rest, ok = strings.CutPrefix(path, "/v1-alpha")
	}
	if !ok {
		return operation{}, false
	}
	item := d.Paths[rest]
	if before, _, ok := strings.Cut(strings.TrimPrefix(rest, "/"), "/"); ok && item == nil {
		item = d.Paths["/"+before+"/{name}"]
	}
	op, ok := item[strings.ToLower(method)]
	return op, ok
}

// answer holds one answer against the description.
func (d *openAPI) answer(t *testing.T, method, path string, w *httptest.ResponseRecorder) {
	t.Helper()
	op, ok := d.find(method, path)
	if !ok {
		if w.Code != 404 && w.Code != 405 && path != "/metrics" {
			t.Errorf("%s %s is answered with %d, docs/openapi.json does not describe it", method, path, w.Code)
		}
		return
	}
	described, ok := op.Responses[strconv.Itoa(w.Code)]
	if !ok {
		t.Errorf("%s %s is answered with %d, which docs/openapi.json does not describe: %s", method, path, w.Code, w.Body)
		return
	}
	kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	content, ok := described.Content[kind]
	switch {
	case len(described.Content) == 0:
		if w.Body.Len() > 0 {
			t.Errorf("%s %s %d has a body, docs/openapi.json says none", method, path, w.Code)
		}
		return
	case !ok:
		t.Errorf("%s %s %d is %s, which docs/openapi.json does not describe", method, path, w.Code, kind)
		return
	}
	bodies := []string{w.Body.String()}
	switch kind {
	case "application/x-ndjson":
		bodies = strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n")
	case "text/plain":
		return
	}
	for _, b := range bodies {
		var v any
		if json.Unmarshal([]byte(b), &v) != nil {
			continue // the test that asked for it sees to that
		}
		for _, wrong := range d.check(content.Schema, v, "answer") {
			t.Errorf("%s %s %d: docs/openapi.json: %s", method, path, w.Code, wrong)
		}
	}
}

func TestOpenAPIHasTheHandlersRoutes(t *testing.T) {
	var want, got []string
	for path, route := range NewHandler(Config{}).(*handler).routes {
		if strings.HasSuffix(path, "/") {
			path += "{name}"
		}
		for method := range route {
			want = append(want, method+" /"+path)
		}
	}
	// Main brings these along; their words are this package's.
	want = append(want, "POST /join", "POST /certificate", "POST /seat", "GET /ca", "POST /ca", "GET /tokens", "POST /tokens", "DELETE /tokens/{name}",
		"GET /whoami", "GET /audit", "GET /certificates", "DELETE /certificates/{name}")
	// So does it these, and holds their words against the description itself.
	want = append(want, "GET /reboot", "GET /reboot/{name}", "POST /reboot/{name}", "GET /updates", "POST /updates/{name}", "GET /rollouts", "POST /rollouts/{name}")
	for path, item := range theOpenAPI(t).Paths {
		for method := range item {
			got = append(got, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The schemas have the fields of the types on the wire, no more and no less, and require those that are never left out.
func TestOpenAPIHasTheWiresFields(t *testing.T) {
	for name, v := range map[string]any{
		"Option": unit.Option{}, "Unit": Unit{}, "UnitState": UnitState{}, "Machine": Machine{}, "Page": page{}, "Batch": Batch{},
		"BatchResult": BatchResult{}, "UnitResult": UnitResult{}, "Event": Event{}, "ErrorDetail": Error{}, "Explanations": explanations{},
		"RestartRequest": RestartRequest{}, "RestartOrder": RestartOrder{}, "Restarts": Restarts{}, "RestartResult": RestartResult{},
		"JoinRequest": JoinRequest{}, "CertificateRequest": CertificateRequest{}, "Certificate": Certificate{}, "CA": CA{}, "CAChange": CAChange{},
		"TokenRequest": TokenRequest{}, "Token": Token{}, "Tokens": Tokens{}, "Deed": Deed{}, "Deeds": Deeds{}, "WhoAmI": WhoAmI{},
		"IssuedCertificate": IssuedCertificate{}, "Certificates": Certificates{}, "RevokedCertificates": RevokedCertificates{}, "Revocation": Revocation{},
		"Explanation": fleet.Explanation{}, "Refusal": fleet.Refusal{}, "Versions": Versions{},
	} {
		s := theOpenAPI(t).Components.Schemas[name]
		if s == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		var fields, required []string
		for f := range reflect.TypeOf(v).Fields() {
			tag, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
			if tag == "-" {
				continue
			}
			fields = append(fields, tag)
			if rest == "" {
				required = append(required, tag)
			}
		}
		slices.Sort(fields)
		slices.Sort(required)
		if diff := cmp.Diff(fields, slices.Sorted(maps.Keys(s.Properties))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if diff := cmp.Diff(required, slices.Sorted(slices.Values(s.Required))); diff != "" {
			t.Errorf("%s requires: %s", name, diff)
		}
	}
}

// Every code of the table of errors is described somewhere.
func TestOpenAPIKnowsTheErrors(t *testing.T) {
	codes := map[string]bool{}
	for _, item := range theOpenAPI(t).Paths {
		for _, op := range item {
			for code := range op.Responses {
				codes[code] = true
			}
		}
	}
	for _, row := range statuses() {
		if !codes[strconv.Itoa(row.code)] {
			t.Errorf("%d (%v) is described nowhere", row.code, row.err)
		}
	}
}
