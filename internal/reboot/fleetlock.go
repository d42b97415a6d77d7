package reboot

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// FleetLock serves the FleetLock protocol: POST /v1/pre-reboot takes a permit, /v1/steady-state gives it back; both may be
// repeated. 200 means done; anything else is a refusal with {"kind","value"}: 400 what the client sent, 409 not now, 503 the
// store cannot be reached.
func FleetLock(p Permits, facts Facts) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/pre-reboot", func(w http.ResponseWriter, r *http.Request) {
		if c, ok := client(w, r); ok {
			answer(w, p.Take(r.Context(), c.Group, Holder{ID: c.ID, Reason: "FleetLock pre-reboot"}, facts))
		}
	})
	mux.HandleFunc("POST /v1/steady-state", func(w http.ResponseWriter, r *http.Request) {
		if c, ok := client(w, r); ok {
			// A client that asked has no boot ID: it is back when it says so.
			answer(w, p.Steady(r.Context(), c.Group, c.ID, ""))
		}
	})
	return mux
}

type params struct {
	ID    string `json:"id"`
	Group string `json:"group"`
}

// client reads who asks; ok=false: the answer is sent.
func client(w http.ResponseWriter, r *http.Request) (params, bool) {
	if r.Header.Get("fleet-lock-protocol") != "true" {
		refuse(w, http.StatusBadRequest, "missing_header", "the header fleet-lock-protocol: true is missing")
		return params{}, false
	}
	var body struct {
		Params params `json:"client_params"`
	}
	const most = 64 << 10
	if err := json.NewDecoder(io.LimitReader(r.Body, most)).Decode(&body); err != nil {
		refuse(w, http.StatusBadRequest, "invalid_body", "body: "+err.Error())
		return params{}, false
	}
	if body.Params.ID == "" || len(body.Params.ID) > 128 {
		refuse(w, http.StatusBadRequest, "invalid_client_identity", "client_params.id is empty or too long")
		return params{}, false
	}
	return body.Params, true
}

func answer(w http.ResponseWriter, err error) {
	var refusal *Refusal
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case errors.As(err, &refusal):
		refuse(w, http.StatusConflict, refusal.Kind, refusal.Reason)
	case errors.Is(err, ErrGroup):
		refuse(w, http.StatusBadRequest, "unknown_group", err.Error())
	case errors.Is(err, ErrSameBoot):
		refuse(w, http.StatusConflict, "same_boot", err.Error())
	default:
		refuse(w, http.StatusServiceUnavailable, "failed_lock", err.Error())
	}
}

func refuse(w http.ResponseWriter, code int, kind, value string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A client that is gone does not need the answer.
	_ = json.NewEncoder(w).Encode(map[string]string{"kind": kind, "value": value})
}
