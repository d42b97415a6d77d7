package main

import (
	"os"
	"path/filepath"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// ownUnits tells which of these units the agent has written to this host's disk. It asks nobody: while the store is away that is all
// that is known of what belongs to the cluster, and a host's journal holds more than that.
func (h *host) ownUnits(names []unit.Name) (self fleet.Machine, here []unit.Name) {
	for _, n := range names {
		if _, err := os.Stat(filepath.Join(h.cfg.UnitsDirectory, string(n))); err == nil {
			here = append(here, n)
		}
	}
	return fleet.Machine{ID: h.id.machine, IP: h.presence.said().IP}, here
}
