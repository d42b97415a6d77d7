package main

import (
	"net/http"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

// brakeState is what the API says of the brake.
type brakeState struct {
	On      bool              `json:"on"`
	Since   string            `json:"since,omitempty"` // RFC 3339, by the leader's clock
	Missing []fleet.MachineID `json:"missing,omitempty"`
	Of      int               `json:"of,omitempty"` // machines that there were
	Resumed bool              `json:"resumed,omitempty"`
}

// brakeRoutes show the brake, which the leader pulls when many machines vanish at once, and let it go.
func (h *host) brakeRoutes() map[string]api.Route {
	return map[string]api.Route{"brake": {"GET": h.getBrake, "DELETE": h.resume}}
}

func (h *host) getBrake(w http.ResponseWriter, r *http.Request, _ string) error {
	b, err := h.registry.Brake(r.Context())
	if err != nil {
		return err
	}
	s := brakeState{On: b.On()}
	if b != nil {
		s.Since, s.Missing, s.Of, s.Resumed = b.Since.UTC().Format("2006-01-02T15:04:05Z"), b.Missing, b.Of, b.Resumed
	}
	api.Reply(w, http.StatusOK, s)
	return nil
}

func (h *host) resume(w http.ResponseWriter, r *http.Request, _ string) error {
	if err := h.registry.Resume(r.Context()); err != nil {
		return err
	}
	h.log.Warn("units of missing machines are moved again, by an operator's word")
	w.WriteHeader(http.StatusNoContent)
	return nil
}
