package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// RestartRequest is the body of POST restart.
type RestartRequest struct {
	Units []RestartOrder `json:"units"`
}

// RestartOrder names a unit to restart on the machines that have it, or on some of them.
type RestartOrder struct {
	Name     string   `json:"name"`
	Machines []string `json:"machines,omitempty"` // machine IDs; none: all that have it
}

// Restarts is the answer: one result for each unit on each machine, by the request's order, then by machine. A unit that cannot be restarted
// anywhere has one without a machine.
type Restarts struct {
	Results []RestartResult `json:"results"`
}

// RestartResult is one order that was given, or why it was not.
type RestartResult struct {
	Name      string `json:"name"`
	MachineID string `json:"machineID,omitempty"`
	Rev       int64  `json:"revision,omitempty"` // the order's number: a state with restarted of at least that is of after it
	Err       *Error `json:"error,omitempty"`
}

// restart orders launched units to be restarted where they are. Target states stay as they are, so whoever is cut off meanwhile leaves
// nothing half done.
func (h *handler) restart(w http.ResponseWriter, r *http.Request, _ string) error {
	if h.Restart == nil {
		return refuse(http.StatusNotFound, "this fleetd restarts nothing")
	}
	if err := jsonOnly(r); err != nil {
		return err
	}
	b, err := body(w, r, maxUnitBody)
	if err != nil {
		return err
	}
	var in RestartRequest
	if err := json.Unmarshal(b, &in); err != nil {
		return refuse(http.StatusBadRequest, "unable to decode body: "+err.Error())
	}
	names := make([]unit.Name, len(in.Units))
	for i, o := range in.Units {
		names[i] = unit.Name(o.Name)
	}
	v, err := h.readOf(r.Context(), names...)
	if err != nil {
		return err
	}
	out := Restarts{Results: []RestartResult{}}
	var keys []fleet.Key
	var at []int // index in Results of each key
	var noted []string
	for _, o := range in.Units {
		noted = append(noted, o.Name)
		where, err := v.restartable(o)
		if err != nil {
			out.Results = append(out.Results, RestartResult{Name: o.Name, Err: toError(err)})
		}
		for _, m := range where {
			at = append(at, len(out.Results))
			keys = append(keys, fleet.Key{Machine: m, Unit: unit.Name(o.Name)})
			out.Results = append(out.Results, RestartResult{Name: o.Name, MachineID: string(m)})
		}
	}
	Noted(r.Context(), "restart", noted...)
	for i, res := range h.Restart(r.Context(), keys...) {
		if errors.Is(res.Err, kv.ErrForbidden) {
			return res.Err
		}
		out.Results[at[i]].Rev = res.Rev
		if res.Err != nil {
			out.Results[at[i]].Err = toError(res.Err)
		}
	}
	reply(w, http.StatusOK, out)
	return nil
}

// restartable are the machines on which a unit can be restarted as asked.
func (v *view) restartable(o RestartOrder) ([]fleet.MachineID, error) {
	u, ok := v.snap.Units[unit.Name(o.Name)]
	if !ok {
		return nil, refuse(http.StatusNotFound, "unit does not exist")
	}
	if u.Target != fleet.Launched {
		return nil, refuse(http.StatusConflict, fmt.Sprintf("%s is %s: start it", o.Name, u.Target))
	}
	var where []fleet.MachineID
	for _, m := range v.placed[u.Name] {
		_, here := v.snap.Machines[m]
		if here && !v.snap.Placements[fleet.Key{Machine: m, Unit: u.Name}].Handover && (len(o.Machines) == 0 || slices.Contains(o.Machines, string(m))) {
			where = append(where, m)
		}
	}
	switch {
	case len(where) > 0:
		slices.Sort(where)
		return where, nil
	case len(o.Machines) > 0:
		return nil, refuse(http.StatusConflict, o.Name+" is on none of these machines")
	}
	return nil, refuse(http.StatusConflict, o.Name+" is on no machine: it starts when one takes it")
}
