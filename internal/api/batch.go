package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// batch sets and destroys many units in one request. One unit's refusal does not stop the others; the answer is 200 with a
// result for each.
func (h *handler) batch(w http.ResponseWriter, r *http.Request, _ string) error {
	if err := jsonOnly(r); err != nil {
		return err
	}
	b, err := body(w, r, maxBatchBody)
	if err != nil {
		return err
	}
	var in Batch
	if err := json.Unmarshal(b, &in); err != nil {
		return refuse(http.StatusBadRequest, "unable to decode body: "+err.Error())
	}
	noteBatch(r, in)
	out := BatchResult{Results: make([]UnitResult, len(in.Set)+len(in.Delete))}
	var subs []fleet.Submission
	var at []int // index in Results of each submission
	seen := map[string]bool{}
	for i, u := range in.Set {
		out.Results[i].Name = u.Name
		sub, err := submission(u)
		if err == nil && seen[u.Name] {
			err = twice(u.Name)
		}
		seen[u.Name] = true
		if err != nil {
			out.Results[i].Err = toError(err)
			continue
		}
		subs, at = append(subs, sub), append(at, i)
	}
	if len(subs) > 0 {
		for i, res := range h.Registry.Submit(r.Context(), subs...) {
			if errors.Is(res.Err, kv.ErrForbidden) {
				return res.Err // this host may change nothing: said once, not for each unit
			}
			result := &out.Results[at[i]]
			result.Created, result.Rev, result.Hash = res.Created, res.Rev, string(res.Hash)
			out.Rev = max(out.Rev, res.Rev)
			if res.Err != nil {
				result.Err = toError(fmt.Errorf("submit %s: %w", subs[i].Name, res.Err))
			}
		}
	}
	if err := h.destroyAll(r, in.Delete, seen, out.Results[len(in.Set):]); err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

// noteBatch tells the audit what a batch asks for.
func noteBatch(r *http.Request, in Batch) {
	var units []string
	for _, u := range in.Set {
		units = append(units, u.Name+" "+cmp.Or(u.DesiredState, "submitted"))
	}
	for _, name := range in.Delete {
		units = append(units, name+" destroyed")
	}
	Noted(r.Context(), "batch", units...)
}

func (h *handler) destroyAll(r *http.Request, names []string, seen map[string]bool, results []UnitResult) error {
	var del []unit.Name
	var at []int
	for i, name := range names {
		results[i].Name = name
		if seen[name] {
			results[i].Err = toError(twice(name))
			continue
		}
		seen[name] = true
		del, at = append(del, unit.Name(name)), append(at, i)
	}
	if len(del) == 0 {
		return nil
	}
	for i, err := range h.Registry.Destroy(r.Context(), del...) {
		if errors.Is(err, kv.ErrForbidden) {
			return err
		}
		if errors.Is(err, fleet.ErrNotFound) {
			err = refuse(http.StatusNotFound, "unit does not exist")
		}
		if err != nil {
			results[at[i]].Err = toError(err)
		}
	}
	return nil
}

func twice(name string) error {
	return &fleet.InvalidError{What: "batch", Hint: name + " is named twice"}
}

func unitNames(words []string) []unit.Name {
	names := make([]unit.Name, len(words))
	for i, w := range words {
		names[i] = unit.Name(w)
	}
	return names
}

// explain says what becomes of the units named, or of every unit that wants a machine and has none.
func (h *handler) explain(w http.ResponseWriter, r *http.Request, _ string) error {
	v, err := h.read(r.Context())
	if err != nil {
		return err
	}
	out := explanations{Explanations: h.Explain(v.snap, unitNames(r.URL.Query()["unit"])...)}
	if out.Explanations == nil {
		out.Explanations = []fleet.Explanation{}
	}
	reply(w, http.StatusOK, out)
	return nil
}
