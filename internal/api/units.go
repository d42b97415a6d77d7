package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// one reads the view and the named unit in it.
func (h *handler) one(ctx context.Context, item string) (*view, Unit, error) {
	v, err := h.readOf(ctx, unit.Name(item))
	if err != nil {
		return nil, Unit{}, err
	}
	u, ok := v.unit(unit.Name(item))
	if !ok {
		return v, u, refuse(http.StatusNotFound, "unit does not exist")
	}
	return v, u, nil
}

// getUnit answers with one unit and its text; with ?view=whole with the additive fields too.
func (h *handler) getUnit(w http.ResponseWriter, r *http.Request, item string) error {
	_, u, err := h.one(r.Context(), item)
	if err != nil {
		return err
	}
	list := []Unit{u}
	if err := h.addTexts(r.Context(), list); err != nil {
		return err
	}
	if !whole(r) {
		list[0] = trimUnit(list[0])
	}
	reply(w, http.StatusOK, list[0])
	return nil
}

// getState answers with the state of a unit on one machine: where it is placed, else the first that reports one.
func (h *handler) getState(w http.ResponseWriter, r *http.Request, item string) error {
	v, u, err := h.one(r.Context(), item)
	if v == nil {
		return err
	}
	states := v1States(v.states("", unit.Name(item)))
	for _, s := range states {
		if s.MachineID == u.MachineID {
			reply(w, http.StatusOK, s)
			return nil
		}
	}
	if len(states) == 0 {
		return refuse(http.StatusNotFound, "no machine reports a state of this unit")
	}
	reply(w, http.StatusOK, states[0])
	return nil
}

func (h *handler) putUnit(w http.ResponseWriter, r *http.Request, item string) error {
	if err := jsonOnly(r); err != nil {
		return err
	}
	b, err := body(w, r, maxUnitBody)
	if err != nil {
		return err
	}
	var u Unit
	if err := json.Unmarshal(b, &u); err != nil {
		return refuse(http.StatusBadRequest, "unable to decode body: "+err.Error())
	}
	if u.Name == "" {
		u.Name = item
	}
	if u.Name != item {
		return refuse(http.StatusBadRequest, fmt.Sprintf("name in URL %q differs from unit name in request body %q", item, u.Name))
	}
	Noted(r.Context(), cmp.Or(u.DesiredState, "submitted"), item)
	created, err := h.submitOne(r.Context(), u)
	if err != nil {
		return err
	}
	if created {
		w.WriteHeader(http.StatusCreated)
	} else {
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

// submitOne does what PUT asks. What asks for nothing is fleet's 409: no such unit and no options, or a unit as it is already
// without a target state to set.
func (h *handler) submitOne(ctx context.Context, u Unit) (created bool, err error) {
	sub, err := submission(u)
	if err != nil {
		return false, err
	}
	nothing := refuse(http.StatusConflict, "nothing to do: give options that differ, or a desiredState")
	if sub.File == nil && sub.Target == nil {
		return false, nothing
	}
	res := h.Registry.Submit(ctx, sub)[0]
	if errors.Is(res.Err, fleet.ErrNotFound) {
		return false, refuse(http.StatusConflict, "unit does not exist and options field empty")
	}
	if res.Err != nil {
		return false, fmt.Errorf("submit %s: %w", sub.Name, res.Err)
	}
	if !res.Created && sub.Target == nil {
		return false, nothing
	}
	return res.Created, nil
}

func (h *handler) deleteUnit(w http.ResponseWriter, r *http.Request, item string) error {
	Noted(r.Context(), "destroyed", item)
	err := h.Registry.Destroy(r.Context(), unit.Name(item))[0]
	if errors.Is(err, fleet.ErrNotFound) {
		return refuse(http.StatusNotFound, "unit does not exist")
	}
	if err != nil {
		return fmt.Errorf("destroy %s: %w", item, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// jsonOnly wants exactly one Content-Type, application/json, with any parameters.
func jsonOnly(r *http.Request) error {
	types := r.Header.Values("Content-Type")
	if len(types) == 1 {
		if t, _, err := mime.ParseMediaType(types[0]); err == nil && t == "application/json" {
			return nil
		}
	}
	return refuse(http.StatusUnsupportedMediaType, "only one Content-Type is taken here: application/json")
}

// patchMachines sets metadata of machines at run time. The body is checked as a whole, then applied machine by machine.
func (h *handler) patchMachines(w http.ResponseWriter, r *http.Request, _ string) error {
	b, err := body(w, r, maxUnitBody)
	if err != nil {
		return err
	}
	patches, err := parsePatches(b)
	if err != nil {
		return err
	}
	order, all := settings(patches)
	for _, id := range order {
		if err := h.Registry.SetMachine(r.Context(), id, all[id]); err != nil {
			return fmt.Errorf("set metadata of machine %s: %w", id.Short(), err)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNoContent)
	return nil
}
