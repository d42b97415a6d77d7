package agent

import (
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

func TestReportThatArrivesLateIsPutRight(t *testing.T) {
	world(t, func(r *rig) {
		r.order(slow, "a.service launched")
		r.pass(time.Second)
		r.setAway(true)
		r.sys.Exit("a.service", false)
		r.pass(time.Second) // this report gets no answer, and is on its way
		r.setAway(false)
		r.pass(10 * time.Second)
		r.expect("a.service loaded failed failed launched")
		r.mu.Lock()
		r.observed["a.service"] = fleet.Observation{Unit: "a.service", Load: "loaded", Active: "active", Sub: "running"}
		r.mu.Unlock()
		r.pass(time.Minute)
		r.expect("a.service loaded failed failed launched")
	})
}

func TestWhatAnEarlierProcessReportsLateIsPutRight(t *testing.T) {
	world(t, func(r *rig) {
		r.order(slow, "a.service launched")
		r.pass(time.Second)
		r.stop()
		r.start()
		r.mu.Lock()
		delete(r.observed, "a.service")
		r.mu.Unlock()
		r.pass(time.Minute)
		r.expect("a.service loaded active running launched")
	})
}

func TestUnitThatIsPlacedAnewIsReportedAnew(t *testing.T) {
	world(t, func(r *rig) {
		r.order(slow, "a.service launched")
		r.pass(time.Second)
		r.forget()
		r.mu.Lock()
		p := r.orders.Placements["a.service"]
		p.Rev = 7
		r.orders.Placements["a.service"] = p
		r.push()
		r.pass(time.Second)
		r.did()
		r.mu.Lock()
		defer r.mu.Unlock()
		if o := r.observed["a.service"]; o.Order != 7 || r.reports != 1 {
			t.Errorf("%d reports, the last of order %d", r.reports, o.Order)
		}
	})
}

// setAway makes the store answer nothing, or answer again.
func (r *rig) setAway(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}
