package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/rollout"
)

// openAPI is docs/openapi.json, as far as it tells of reboots and updates: internal/api does not know their words.
type openAPI struct {
	Paths map[string]map[string]struct {
		Responses map[string]any
	}
	Components struct {
		Schemas map[string]struct {
			Properties map[string]any
			Required   []string
		}
	}
}

func readOpenAPI(t *testing.T) (doc openAPI) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "docs", "openapi.json"))
	if err == nil {
		err = json.Unmarshal(b, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// described fails when the description does not know an answer.
func described(t *testing.T, method, path string, code int) {
	t.Helper()
	if kind, _, ok := strings.Cut(path, "/"); ok {
		path = kind + "/{name}"
	}
	if readOpenAPI(t).Paths["/"+path][strings.ToLower(method)].Responses[strconv.Itoa(code)] == nil {
		t.Errorf("docs/openapi.json does not know %s /%s with answer %d", method, path, code)
	}
}

func TestOpenAPIHasTheFieldsOfRebootsAndUpdates(t *testing.T) {
	doc := readOpenAPI(t)
	for name, v := range map[string]any{
		"PermitGroup": groupState{}, "PermitHolder": reboot.Holder{}, "PermitChange": rebootAsk{}, "UpdateHost": rollout.Host{}, "UpdateEvent": rollout.Event{},
		"UpdateOrder": rollout.Order{}, "Rollout": rollout.Rollout{}, "RolloutChange": rolloutAsk{},
	} {
		fields, required := fieldsOf(reflect.TypeOf(v))
		s := doc.Components.Schemas[name]
		if diff := cmp.Diff(fields, slices.Sorted(maps.Keys(s.Properties))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if diff := cmp.Diff(required, slices.Sorted(slices.Values(s.Required))); diff != "" {
			t.Errorf("%s requires: %s", name, diff)
		}
	}
}

// fieldsOf are the names of a type in JSON, and of these those that are never left out.
func fieldsOf(typ reflect.Type) (fields, required []string) {
	for f := range typ.Fields() {
		tag, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			all, always := fieldsOf(f.Type)
			fields, required = append(fields, all...), append(required, always...)
			continue
		case rest == "":
			required = append(required, tag)
		}
		fields = append(fields, tag)
	}
	slices.Sort(fields)
	slices.Sort(required)
	return fields, required
}
