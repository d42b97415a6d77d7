package engine

import "github.com/fleet-init/fleet/internal/fleet"

// Plan decides on a whole snapshot: what has to be written so that every unit is where the rules want it. The plan of an
// applied plan is empty. It is State's first turn, so that there is one set of rules.
func Plan(s fleet.Snapshot) []fleet.Decision { return NewState(s).Turn() }
