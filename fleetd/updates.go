package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/rollout"
)

// moreRoutes are the paths of the API beside those of units and machines.
func (h *host) moreRoutes() map[string]api.Route {
	routes := newReboots(h).routes()
	u := &updates{rollouts: rollout.Rollouts{Store: h.store, Prefix: h.cfg.EtcdKeyPrefix}, now: time.Now}
	maps.Copy(routes, u.routes())
	maps.Copy(routes, h.storeRoutes())
	maps.Copy(routes, h.brakeRoutes())
	if h.trust != nil {
		maps.Copy(routes, office{h, h.trust.authority}.routes())
	}
	return routes
}

// updates shows what hosts say of their updates, and passes orders and rollouts on through the store: update-engine on each host obeys
// and decides, this only writes down.
type updates struct {
	rollouts rollout.Rollouts
	now      func() time.Time
}

func (u *updates) routes() map[string]api.Route {
	return map[string]api.Route{
		"updates":   {"GET": u.list},
		"updates/":  {"POST": u.order},
		"rollouts":  {"GET": u.all},
		"rollouts/": {"POST": u.change},
	}
}

func (u *updates) list(w http.ResponseWriter, req *http.Request, _ string) error {
	hosts, err := u.rollouts.Hosts(req.Context())
	if err != nil {
		return err
	}
	api.Reply(w, http.StatusOK, map[string]any{"hosts": hosts})
	return nil
}

// order passes an order on to one machine. Which kinds there are is update-engine's affair; those that reach it here are listed, so that a
// mistake is an error at once.
func (u *updates) order(w http.ResponseWriter, req *http.Request, machine string) error {
	var o rollout.Order
	if err := readJSON(w, req, &o); err != nil {
		return err
	}
	if !slices.Contains([]string{"check now", "reboot now", "rollback now", "cancel", "forget"}, o.Kind) {
		return api.Refuse(http.StatusBadRequest, fmt.Sprintf("unknown order %q", o.Kind))
	}
	o.At = u.now()
	if err := u.rollouts.Send(req.Context(), machine, o); err != nil {
		return err
	}
	api.Reply(w, http.StatusAccepted, o)
	return nil
}

func readJSON(w http.ResponseWriter, req *http.Request, out any) error {
	b, err := api.Body(w, req, 64<<10)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return api.Refuse(http.StatusBadRequest, "body: "+err.Error())
	}
	return nil
}

func (u *updates) all(w http.ResponseWriter, req *http.Request, _ string) error {
	list, err := u.rollouts.All(req.Context())
	if err != nil {
		return err
	}
	api.Reply(w, http.StatusOK, map[string]any{"rollouts": list})
	return nil
}

// rolloutAsk is what shall become of a channel's rollout.
type rolloutAsk struct {
	Do         string       `json:"do"` // start, pause, resume, percent, end
	Version    string       `json:"version,omitempty"`
	Pace       rollout.Pace `json:"pace,omitempty"`
	Hosts      int          `json:"hosts,omitempty"`
	Percent    float64      `json:"percent,omitempty"`
	Canary     string       `json:"canary,omitempty"`
	CanaryGood int          `json:"canary_good,omitempty"`
	Why        string       `json:"why,omitempty"`
}

func (u *updates) change(w http.ResponseWriter, req *http.Request, channel string) error {
	var ask rolloutAsk
	if err := readJSON(w, req, &ask); err != nil {
		return err
	}
	if ask.Do == "start" && ask.Hosts == 0 {
		hosts, err := u.rollouts.Hosts(req.Context())
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if h.Channel == channel {
				ask.Hosts++
			}
		}
	}
	r, err := u.rollouts.Change(req.Context(), channel, func(r rollout.Rollout) (rollout.Rollout, error) { return ask.apply(r, u.now()) })
	switch {
	case errors.Is(err, rollout.ErrInvalid):
		return api.Refuse(http.StatusBadRequest, err.Error())
	case errors.Is(err, rollout.ErrBusy):
		return api.Refuse(http.StatusConflict, err.Error())
	case err != nil:
		return err
	}
	api.Reply(w, http.StatusOK, r)
	return nil
}

// apply is the rollout after what was asked.
func (ask rolloutAsk) apply(r rollout.Rollout, at time.Time) (rollout.Rollout, error) {
	if ask.Do != "start" && r.Version == "" {
		return r, fmt.Errorf("%w: this channel has none: begin one with fleetctl update rollout start", rollout.ErrInvalid)
	}
	switch ask.Do {
	case "start":
		if r.Version == ask.Version && r.Stopped == "" && r.Version != "" {
			return r, fmt.Errorf("%w: %s is being rolled out already", rollout.ErrInvalid, r.Version)
		}
		n, err := rollout.New(ask.Version, ask.Pace, ask.Hosts, at)
		if err != nil {
			return r, err
		}
		n.AtLeast, n.Canary, n.CanaryGood = ask.Percent, ask.Canary, ask.CanaryGood
		if n.Canary != "" && n.CanaryGood == 0 {
			n.CanaryGood = 1
		}
		return r.Replace(n), nil
	case "pause":
		r.Paused = ask.Why
		if r.Paused == "" {
			r.Paused = "by an operator"
		}
		return r, nil
	case "resume":
		return r.Resume(), nil
	case "percent":
		if ask.Percent < 0 || ask.Percent > 100 {
			return r, fmt.Errorf("%w: %v percent: want 0 to 100", rollout.ErrInvalid, ask.Percent)
		}
		r.AtLeast = ask.Percent
		return r, nil
	case "end":
		return rollout.Rollout{Refused: r.Refused}, nil
	}
	return r, fmt.Errorf("%w: cannot %q a rollout", rollout.ErrInvalid, ask.Do)
}

// forgetAfter is how long a machine that is not up is still shown among the updates.
const forgetAfter = 7 * 24 * time.Hour

// sweepUpdates forgets what machines said of their updates that are gone. The host whose engine leads does it, now and then.
func (h *host) sweepUpdates(ctx context.Context) error {
	r := rollout.Rollouts{Store: h.store, Prefix: h.cfg.EtcdKeyPrefix}
	for pause.For(ctx, time.Hour) {
		if h.leader == nil || !h.leader.Counters().Leading {
			continue
		}
		up, err := h.registry.Machines(ctx)
		if err != nil {
			continue // the outage is told by others
		}
		n, err := r.Sweep(ctx, func(m string) bool { _, ok := up[fleet.MachineID(m)]; return ok }, time.Now().Add(-forgetAfter))
		if n > 0 || err != nil {
			h.log.Info("updates of machines that are gone are forgotten", "machines", n, "err", err)
		}
	}
	return nil
}
