package api

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

func TestRestartOrdersUnitsWhereTheyAre(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.1", nil)
	f.machine(m2, "10.0.0.2", nil)
	f.submit(fleet.Launched, "web.service", "all.service", "homeless.service")
	f.submit(fleet.Loaded, "loaded.service")
	f.place("web.service", m1)
	f.place("all.service", m1)
	f.place("all.service", m2)
	f.place("loaded.service", m1)
	c := f.serve()
	ask := func(orders ...RestartOrder) (got []string) {
		t.Helper()
		list, err := c.Restart(t.Context(), orders...)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			line := r.Name + " " + fleet.MachineID(r.MachineID).Short()
			if r.Err != nil {
				line += fmt.Sprintf(" %d %s", r.Err.Code, r.Err.Message)
			} else if r.Rev == 0 {
				line += " without a number"
			}
			got = append(got, line)
		}
		return got
	}
	got := ask(RestartOrder{Name: "all.service"}, RestartOrder{Name: "web.service"}, RestartOrder{Name: "loaded.service"},
		RestartOrder{Name: "homeless.service"}, RestartOrder{Name: "no.service"})
	if diff := cmp.Diff([]string{
		"all.service 1f2e3d4c", "all.service 2f2e3d4c", "web.service 1f2e3d4c", "loaded.service  409 loaded.service is loaded: start it",
		"homeless.service  409 homeless.service is on no machine: it starts when one takes it", "no.service  404 unit does not exist",
	}, got); diff != "" {
		t.Error(diff)
	}
	got = ask(RestartOrder{Name: "all.service", Machines: []string{string(m2)}}, RestartOrder{Name: "web.service", Machines: []string{string(m2)}})
	if diff := cmp.Diff([]string{"all.service 2f2e3d4c", "web.service  409 web.service is on none of these machines"}, got); diff != "" {
		t.Error(diff)
	}
	if u := f.snapshot().Units["web.service"]; u.Target != fleet.Launched {
		t.Errorf("the target state is %s", u.Target)
	}

	// What was done is in the states of who asks for all of them.
	o := running()
	o.Restarted = 7
	f.report("web.service", m1, o)
	states, _, err := c.States(t.Context())
	if err != nil || len(states) != 1 || states[0].Restarted != 7 {
		t.Error(states, err)
	}
	f.want("POST", "/fleet/v1/restart", `{"units":`, 400, `{"error":{"code":400,"message":"unable to decode body: unexpected end of JSON input"}}`)
	f.want("POST", "/fleet/v1/restart", `{"units":[]}`, 200, `{"results":[]}`)
	if _, err := c.Restart(t.Context(), RestartOrder{Name: string(unit.Name("x"))}); err != nil || errors.Is(err, fleet.ErrNotFound) {
		t.Error(err)
	}
}
