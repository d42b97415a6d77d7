package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fleet-init/fleet/internal/kv"
)

// elsewhere turns the store's refusal of a host without a vote into what its user can type: where it works, and how it comes to work here.
// Nothing is asked before the store has refused: whether a host votes may change at any time, and the store is who knows.
func (h *handler) elsewhere(ctx context.Context, err error, method, route string, who Caller) error {
	if h.Voters == nil || !errors.Is(err, kv.ErrForbidden) {
		return err
	}
	voters := h.Voters(ctx)
	if len(voters) == 0 {
		return err // it votes, or the store is an etcd elsewhere with rights of its own
	}
	role := least(method, route)
	if role.rank() < Operator.rank() {
		role = Operator // who may only look has it all to do again for the next command
	}
	name := strings.ReplaceAll(cmp.Or(who.Name, "root"), " ", "-")
	return refuse(http.StatusForbidden, fmt.Sprintf("this host has no vote in the cluster: here one can look, but change nothing and see no texts.\n"+
		"Do it on a host that has one: %s. Or, to do it from here from now on:\n"+
		"  on %s:  fleetctl join-token create --role %s --name %s\n"+
		"  here:  fleetctl context add cluster TOKEN", strings.Join(voters, ", "), voters[0], role, name))
}
