package main

import (
	"context"

	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/registry"
)

// seats adds to the store's configuration what its leader needs to give seats.
func (h *host) seats(c *member.Config) {
	c.Grace, c.Hosts, c.OriginKey = h.cfg.VoterGrace, h.storeHosts, h.cfg.EtcdKeyPrefix+"origin"
	c.Stale, c.Calm = registry.Leased(h.cfg.EtcdKeyPrefix), h.calm
}

// storeHosts is the registry as the store's leader needs it.
func (h *host) storeHosts(ctx context.Context) ([]member.Host, error) {
	ms, err := h.registry.Machines(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]member.Host, 0, len(ms))
	for _, m := range ms {
		if m.Seat.Role == "" || m.Leaving && m.Seat.Role == string(member.StandBy) {
			continue // a host that goes down takes no seat
		}
		list = append(list, member.Host{
			Name: m.Name, Zone: m.Metadata[h.cfg.VoterZoneKey], Role: member.Role(m.Seat.Role), Member: m.Seat.Member, Peer: m.Seat.Peer,
		})
	}
	return list, nil
}

// followSeat publishes this host's part in the store.
func (h *host) followSeat(ctx context.Context) error {
	var last fleet.StoreSeat
	for ctx.Err() == nil {
		st, changed := h.member.Watch()
		seat := fleet.StoreSeat{Role: string(st.Role), Member: st.ID, Peer: st.Peer}
		if st.Role == member.External || st.Role == member.None {
			seat = fleet.StoreSeat{}
		}
		if seat != last {
			last = seat
			h.presence.Say(func(hello *registry.Hello) { hello.Seat = seat })
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}
