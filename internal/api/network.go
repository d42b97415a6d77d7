package api

import (
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/fleet-init/fleet/internal/fleet"
)

// HostNetwork asks a machine's netd for its part of the overlay network. With all it names every peer, else those in trouble.
type HostNetwork func(ctx context.Context, m fleet.Machine, all bool) (fleet.HostNetwork, error)

// wholeMatrix is up to how many machines the answer holds every pair of them. Beyond, it would have millions of lines that all say
// that all is well.
const wholeMatrix = 64

// mostAsked bounds how many machines are asked at once.
const mostAsked = 512

// network asks every machine how it reaches the others through the overlay. Nothing is measured unless somebody asks.
func (h *handler) network(w http.ResponseWriter, r *http.Request, _ string) error {
	if h.Network == nil {
		return refuse(http.StatusNotFound, "this fleetd does not ask for networks")
	}
	v, err := h.read(r.Context())
	if err != nil {
		return err
	}
	ids := slices.Sorted(maps.Keys(v.snap.Machines))
	hosts := make([]fleet.HostNetwork, len(ids))
	slots := make(chan struct{}, mostAsked)
	var asking sync.WaitGroup
	for i, id := range ids {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			m := v.snap.Machines[id]
			n, err := h.Network(r.Context(), m, len(ids) <= wholeMatrix)
			if err != nil {
				n = fleet.HostNetwork{Trouble: err.Error()}
			}
			n.Machine = id
			if m.IP.IsValid() {
				n.IP = m.IP.String()
			}
			hosts[i] = n
		})
	}
	asking.Wait()
	reply(w, http.StatusOK, map[string][]fleet.HostNetwork{"hosts": hosts})
	return nil
}

// Network asks all machines how they reach each other through the overlay.
func (c *Client) Network(ctx context.Context) ([]fleet.HostNetwork, error) {
	var out struct{ Hosts []fleet.HostNetwork }
	return out.Hosts, c.get(ctx, "network", &out)
}

// networkPath is beside hostPath.
const networkPath = HostPrefix + "v1/network"

func (c HostConfig) network(w http.ResponseWriter, r *http.Request) error {
	if c.Network == nil {
		return refuse(http.StatusNotFound, "this fleetd does not ask for networks")
	}
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	n, err := c.Network(ctx, r.URL.Query().Has("all"))
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, n)
	return nil
}

// Network asks another host for its part of the overlay network.
func (c *HostClient) Network(ctx context.Context, addr netip.AddrPort, all bool) (fleet.HostNetwork, error) {
	var n fleet.HostNetwork
	query := ""
	if all {
		query = "?all"
	}
	err := c.ask(ctx, addr, networkPath+query, &n)
	return n, err
}
