package sim

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// Ports of hosts are what units compete for: no two on one host publish one, and a unit without a host is told who has its port on each.
func TestSeedsOfUnitsThatPublish(t *testing.T) {
	to := uint64(150)
	if testing.Short() {
		to = 30
	}
	var bads atomic.Int64
	each(1, to, func(seed uint64) bool {
		s, bad := makeScript(seed, Options{Ports: true})
		if bad == nil {
			return true
		}
		t.Errorf("seed %d is bad after %d steps: %v\n%s", seed, len(s.steps), bad, explain(t, s, bad))
		return bads.Add(1) < 3
	})
}

// As many units of one port as there are hosts have one each; one more is refused, and gets the host whose unit goes.
func TestAPortIsARefusal(t *testing.T) {
	w := newWorld(Options{Hosts: 2})
	defer w.end()
	ask := func(args ...string) {
		t.Helper()
		if err := w.host("h1").submit(args); err != nil {
			t.Fatal(err)
		}
		w.runFor(8 * time.Second)
	}
	snapshot := func() fleet.Snapshot {
		t.Helper()
		snap, err := registry.New(w.mem, prefix, w.log).Snapshot(context.Background())
		if err != nil || w.bad != nil {
			t.Fatal(err, w.bad)
		}
		return snap
	}
	const text = "run,Network=overlay,Publish=80:80"
	ask("n1.service", "launched", text, "n2.service", "launched", text+" 443:443")
	ask("n3.service", "launched", "run,Network=overlay,Publish=81:1 80:2")
	snap := snapshot()
	e := engine.Explain(snap, "n3.service")[0]
	if len(snap.Placements) != 2 || len(e.Refusals) != 2 {
		t.Fatalf("%v, %+v", snap.Placements, e)
	}
	for _, r := range e.Refusals {
		var there unit.Name
		for k := range snap.Placements {
			if k.Machine == r.Machine {
				there = k.Unit
			}
		}
		if r.Reason != "port 80/tcp is published there by "+string(there) {
			t.Errorf("%s has %s: %s", w.name(r.Machine), there, r.Reason)
		}
	}
	// The rules that seeds are held against see it, too.
	var said []string
	at := e.Refusals[0].Machine
	snap.Placements[fleet.Key{Machine: at, Unit: "n3.service"}] = fleet.Placement{Machine: at, Unit: "n3.service", Target: fleet.Launched}
	w.wrongPlace(snap, snap.Units["n3.service"], at, func(format string, _ ...any) { said = append(said, format) })
	if !strings.Contains(strings.Join(said, "\n"), "publish") {
		t.Errorf("two with one port on one machine: %q", said)
	}
	w.host("h1").destroy([]string{"n1.service"})
	w.runFor(8 * time.Second)
	if snap := snapshot(); len(snap.Placements) != 2 {
		t.Errorf("after one is gone: %v", snap.Placements)
	}
}
