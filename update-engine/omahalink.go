package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/fleet-init/fleet/update-engine/omaha"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// omahaLink lets an Omaha server (Nebraska) decide which release this host takes and when, and tells it how that goes. The bytes
// and their signatures come from the mirrors all the same: of what the server says only the version counts.
type omahaLink struct {
	server string
	host   omaha.Host
	client *http.Client
	log    *slog.Logger
	failed map[string]bool // versions whose return was told
}

// choice is the version that the server wants, or why there is none now.
func (o *omahaLink) choice(ctx context.Context) (version, hold string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := omaha.Post(ctx, o.client, o.server, o.host.Ask(true))
	if err != nil {
		return "", "", err
	}
	a, err := r.Check()
	if err != nil || a.Offer == nil {
		return "", a.Hold, err
	}
	return a.Offer.Version, "", nil
}

// tell sends an event. A server that does not hear it shows an old state of this host, no more.
func (o *omahaLink) tell(ctx context.Context, e omaha.Event) {
	if o == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := omaha.Post(ctx, o.client, o.server, o.host.Ask(false, e)); err != nil {
		o.log.Warn("tell the Omaha server", "err", err)
	}
}

// cameBack tells of a return once in the life of the daemon.
func (o *omahaLink) cameBack(ctx context.Context, version string) {
	if o == nil || o.failed[version] {
		return
	}
	o.failed[version] = true
	o.tell(ctx, omaha.Failed(omaha.RolledBack))
}

// previous is the version in the other slot: after an update, the one that ran before.
func previous(s slot.Slots) string {
	st, err := s.State()
	if err != nil {
		return ""
	}
	return st.Entries[s.Running.Other()].Release.Version
}
