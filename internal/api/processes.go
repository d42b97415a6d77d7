package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// ReadProcesses asks a machine what runs of a unit there.
type ReadProcesses func(ctx context.Context, m fleet.Machine, n unit.Name) (fleet.Processes, error)

// processes answers for one unit on one machine: ?machine=ID, which may be left out where only one has it.
func (h *handler) processes(w http.ResponseWriter, r *http.Request, item string) error {
	if h.Processes == nil {
		return refuse(http.StatusNotFound, "this fleetd does not ask for processes")
	}
	n, err := unit.ParseName(item)
	if err != nil {
		return err
	}
	v, err := h.readOf(r.Context(), n)
	if err != nil {
		return err
	}
	have := v.have(n)
	id := fleet.MachineID(r.URL.Query().Get("machine"))
	switch _, known := v.snap.Units[n]; {
	case !known && len(have) == 0:
		return refuse(http.StatusNotFound, "unit "+item+" does not exist")
	case len(have) == 0:
		return refuse(http.StatusConflict, item+" is on no machine")
	case id == "" && len(have) > 1:
		return refuse(http.StatusBadRequest, fmt.Sprintf("%s is on %d machines: say which, with machine=ID", item, len(have)))
	case id == "":
		id = have[0]
	case !slices.Contains(have, id):
		return refuse(http.StatusNotFound, "machine "+string(id)+" does not have "+item)
	}
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	p, err := h.Processes(ctx, v.snap.Machines[id], n)
	if refusal := (*Error)(nil); errors.As(err, &refusal) && refusal.Code == http.StatusForbidden {
		return err // this host has no vote, so that another tells it nothing
	}
	if err != nil {
		return refuse(http.StatusBadGateway, "machine "+id.Short()+": "+err.Error())
	}
	reply(w, http.StatusOK, p)
	return nil
}

// Processes asks what runs of a unit on a machine.
func (c *Client) Processes(ctx context.Context, n unit.Name, machine string) (fleet.Processes, error) {
	var p fleet.Processes
	err := c.get(ctx, "processes/"+url.PathEscape(string(n))+"?"+url.Values{"machine": {machine}}.Encode(), &p)
	return p, err
}

// processesPath is beside hostPath.
const processesPath = HostPrefix + "v1/processes"

func (c HostConfig) processes(w http.ResponseWriter, r *http.Request) error {
	n, err := unit.ParseName(r.URL.Query().Get("unit"))
	if err != nil {
		return err
	}
	// As for logs: what is not the cluster's is not the other hosts' either.
	unknown, err := c.Unknown(r.Context(), []unit.Name{n})
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return refuse(http.StatusNotFound, string(n)+": no unit of this cluster")
	}
	p, err := c.Processes(r.Context(), n)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, p)
	return nil
}

// Processes asks another host what runs of a unit there.
func (c *HostClient) Processes(ctx context.Context, addr netip.AddrPort, n unit.Name) (fleet.Processes, error) {
	var p fleet.Processes
	err := c.ask(ctx, addr, processesPath+"?"+url.Values{"unit": {string(n)}}.Encode(), &p)
	return p, err
}
