package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

// storeLimitAPI is the most that a restore or a change of the members may take.
const storeLimitAPI = 2 * time.Minute

// storeRoutes are the paths of the API about the store itself. They answer also when there is none.
func (h *host) storeRoutes() map[string]api.Route {
	return map[string]api.Route{
		"members":  {"GET": h.getMembers},
		"members/": {"POST": h.promoteMember, "DELETE": h.removeMember},
		"store/":   {"GET": h.getStore, "POST": h.postStore},
	}
}

func (h *host) getMembers(w http.ResponseWriter, r *http.Request, _ string) error {
	list, err := h.members(r.Context())
	if err == nil {
		api.Reply(w, http.StatusOK, list)
	}
	return err
}

// members are the store's, with what the registry adds: machine, zone, and who stands by.
func (h *host) members(ctx context.Context) (fleet.StoreMembers, error) {
	list, err := h.member.List(ctx)
	if err != nil {
		return list, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	machines, err := h.registry.Machines(ctx)
	if err != nil {
		return list, nil // no quorum: the list says so
	}
	for _, m := range machines {
		at := slices.IndexFunc(list.Members, func(s fleet.StoreMember) bool { return s.ID != "" && s.ID == m.Seat.Member })
		if at < 0 && m.Seat.Role == string(member.StandBy) {
			health := "ok"
			if m.Seat.Peer == "" {
				health = "has no member_ip, so it can have no seat"
			}
			list.Members = append(list.Members, fleet.StoreMember{Role: m.Seat.Role, Peer: m.Seat.Peer, Lag: -1, Health: health})
			at = len(list.Members) - 1
		}
		if at >= 0 {
			s := &list.Members[at]
			s.Name, s.Machine, s.Zone = m.Name, m.ID, m.Metadata[h.cfg.VoterZoneKey]
		}
	}
	slices.SortFunc(list.Members, func(a, b fleet.StoreMember) int {
		return strings.Compare(a.Name+string(a.Machine)+a.ID, b.Name+string(b.Machine)+b.ID)
	})
	return list, nil
}

// findMember takes a name, etcd's ID or the begin of a machine ID.
func (h *host) findMember(ctx context.Context, word string) (fleet.StoreMember, error) {
	list, err := h.members(ctx)
	if err != nil {
		return fleet.StoreMember{}, err
	}
	var found []fleet.StoreMember
	for _, s := range list.Members {
		if s.Name == word || s.ID == word || len(word) >= 4 && strings.HasPrefix(string(s.Machine), word) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return fleet.StoreMember{}, fmt.Errorf("member %q: fleetctl members lists them: %w", word, fleet.ErrNotFound)
	}
	return fleet.StoreMember{}, fmt.Errorf("%d members are called %q: name one by its ID: %w", len(found), word, fleet.ErrConflict)
}

func (h *host) removeMember(w http.ResponseWriter, r *http.Request, word string) error {
	s, err := h.findMember(r.Context(), word)
	if err != nil {
		return err
	}
	if s.ID == "" {
		return api.Refuse(http.StatusConflict, s.Name+" stands by, it has no seat to lose")
	}
	if err := h.member.Remove(r.Context(), s.ID); err != nil {
		return err
	}
	h.log.Info("member removed by order", "machine", s.Name, "id", s.ID, "reason", api.CallerOf(r.Context()).String())
	return h.getMembers(w, r, "")
}

func (h *host) promoteMember(w http.ResponseWriter, r *http.Request, word string) error {
	s, err := h.findMember(r.Context(), word)
	if err != nil {
		return err
	}
	if s.Role == string(member.Voter) {
		return api.Refuse(http.StatusConflict, s.Name+" votes already")
	}
	if s.Peer == "" {
		return api.Refuse(http.StatusConflict, s.Name+" has no member_ip: set it in its fleet.conf")
	}
	if err := h.member.Promote(r.Context(), s.Peer); err != nil {
		return err
	}
	return h.getMembers(w, r, "")
}

func (h *host) getStore(w http.ResponseWriter, r *http.Request, item string) error {
	if item != "backup" {
		return api.Refuse(http.StatusNotFound, "no such path: store/"+item)
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // the error says that w is no connection, as in tests
	w.Header().Set("Content-Type", "application/octet-stream")
	begun := &firstByte{ResponseWriter: w}
	err := h.member.Backup(r.Context(), begun)
	if err != nil && begun.yes {
		// It is too late for an error: end without the hash, which the reader misses.
		h.log.Warn("backup not finished", "err", err)
		return nil
	}
	return err
}

// firstByte tells whether an answer has begun.
type firstByte struct {
	http.ResponseWriter
	yes bool
}

func (f *firstByte) Write(p []byte) (int, error) {
	f.yes = f.yes || len(p) > 0
	return f.ResponseWriter.Write(p)
}

func (h *host) postStore(w http.ResponseWriter, r *http.Request, item string) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // as above
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	ctx, cancel := context.WithTimeoutCause(r.Context(), storeLimitAPI, errors.New("it took too long; fleetd goes on with it"))
	defer cancel()
	switch item {
	case "restore":
		h.log.Warn("restore ordered", "reason", api.CallerOf(ctx).String())
		if err := h.member.Restore(ctx, r.Body, r.URL.Query().Get("force") != ""); err != nil {
			return err
		}
	case "recover":
		h.log.Warn("recovery from a lost quorum ordered", "reason", api.CallerOf(ctx).String())
		if err := h.member.Recover(ctx); err != nil {
			return err
		}
	case "confirm":
		o, err := h.member.Confirm(ctx, api.CallerOf(ctx).String())
		if err != nil {
			return err
		}
		api.Reply(w, http.StatusOK, o)
		return nil
	default:
		return api.Refuse(http.StatusNotFound, "no such path: store/"+item)
	}
	api.Reply(w, http.StatusOK, map[string]string{"cluster": h.member.Status().Cluster})
	return nil
}
