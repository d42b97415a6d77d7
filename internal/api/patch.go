package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
)

// patch is one operation of PATCH machines, checked: set or hide one metadata key of one machine.
type patch struct {
	machine fleet.MachineID
	key     string
	value   *string // nil: remove
}

// patchValue is a value in either of its forms: "x" as fleet documented it, {"value":"x"} as fleet wanted it.
type patchValue string

func (v *patchValue) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*v = patchValue(s)
		return nil
	}
	var o struct {
		Value *string `json:"value"`
	}
	if err := json.Unmarshal(b, &o); err != nil || o.Value == nil {
		return errors.New(`value must be a text or {"value": a text}`)
	}
	*v = patchValue(*o.Value)
	return nil
}

// parsePatches reads the whole body before anything is applied: one wrong operation refuses all.
func parsePatches(body []byte) ([]patch, error) {
	var ops []struct {
		Op    string     `json:"op"`
		Path  string     `json:"path"`
		Value patchValue `json:"value"`
	}
	if err := json.Unmarshal(body, &ops); err != nil {
		return nil, refuse(http.StatusBadRequest, "unable to decode body: "+err.Error())
	}
	patches := make([]patch, 0, len(ops))
	for i, op := range ops {
		p, err := checkPatch(op.Op, op.Path, string(op.Value))
		if err != nil {
			return nil, refuse(http.StatusBadRequest, fmt.Sprintf("operation %d: %v", i+1, err))
		}
		patches = append(patches, p)
	}
	return patches, nil
}

var errPatchPath = errors.New("invalid path: use /<machineID>/metadata/<key>, with a key of letters, digits, _ . -")

func checkPatch(op, path, value string) (patch, error) {
	rest, ok := strings.CutPrefix(path, "/")
	id, key, ok2 := strings.Cut(rest, "/metadata/")
	if !ok || !ok2 || id == "" || strings.Contains(id, "/") || !validKey(key) {
		return patch{}, errPatchPath
	}
	p := patch{machine: fleet.MachineID(id), key: key}
	switch op {
	case "remove":
		return p, nil
	case "add", "replace":
		if value == "" {
			return patch{}, errors.New("value missing: use the operation remove to take a key away")
		}
		p.value = &value
		return p, nil
	}
	return patch{}, fmt.Errorf("invalid op %q: use add, remove or replace", op)
}

func validKey(key string) bool {
	return key != "" && !strings.ContainsFunc(key, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == '-')
	})
}

// settings joins the operations into one change per machine, later ones over earlier ones, in the order in which the machines
// were first named.
func settings(patches []patch) ([]fleet.MachineID, map[fleet.MachineID]fleet.Settings) {
	var order []fleet.MachineID
	all := map[fleet.MachineID]fleet.Settings{}
	for _, p := range patches {
		s, seen := all[p.machine]
		if !seen {
			order = append(order, p.machine)
			s.Metadata = map[string]*string{}
		}
		s.Metadata[p.key] = p.value
		all[p.machine] = s
	}
	return order, all
}
