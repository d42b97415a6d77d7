package main

import (
	"context"
	"net/http"

	"github.com/fleet-init/fleet/internal/unit"
)

// brakeState is what the API says of the brake.
type brakeState struct {
	On      bool     `json:"on"`
	Since   string   `json:"since"`
	Missing []string `json:"missing"`
	Of      int      `json:"of"`
}

func resumeCommand() command {
	return command{name: "resume", summary: "Move units away from missing machines again", run: resume,
		about: "When three or more machines, and a third of all (reschedule_brake in fleet.conf), vanish at once, nothing is\n" +
			"moved away from them: the network or the store is more likely at fault than the machines. list-machines says\n" +
			"so. It ends by itself when enough of them are back; this command ends it at once.",
		example: "fleetctl resume"}
}

func resume(ctx context.Context, a *app, _ []string) int {
	var b brakeState
	if err := a.client.Do(ctx, http.MethodGet, "brake", nil, &b); err != nil {
		return a.refused("Error asking for the alarm", err)
	}
	if !b.On {
		a.printf("Units are moved as ever: nothing is to be resumed.\n")
		return exitOK
	}
	if err := a.client.Do(ctx, http.MethodDelete, "brake", nil, nil); err != nil {
		return a.refused("Error resuming", err)
	}
	a.printf("Units of %d missing machines are moved away from now on.\n", len(b.Missing))
	return exitOK
}

// alarm says on stderr that nothing is moved away from missing machines. A fleetd that knows of no brake has none.
func (a *app) alarm(ctx context.Context) {
	var b brakeState
	if err := a.client.Do(ctx, http.MethodGet, "brake", nil, &b); err != nil || !b.On {
		return
	}
	a.warn("Alarm: %d of %d machines vanished at once, at %s. Their units stay where they are until enough machines are back; "+
		"to move them now: fleetctl resume", len(b.Missing), b.Of, b.Since)
}

// failover says, for an exclusive unit, after what time it starts elsewhere.
func (a *app) failover(ctx context.Context, name string, options []unit.Option) {
	needs, err := unit.NeedsOf(options, unit.Name(name))
	if err != nil || !needs.Exclusive {
		return
	}
	xs, err := a.client.Explain(ctx, name)
	if err != nil {
		return // the rest of the status is worth more
	}
	for _, x := range xs {
		if x.Failover > 0 {
			a.printf("  Exclusive: starts elsewhere %.0fs after its machine's lease has ended\n", x.Failover)
		}
	}
}
