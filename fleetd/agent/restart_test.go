package agent

import (
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

// restart orders a unit to be restarted and returns the order's number.
func (r *rig) restart(n unit.Name) int64 {
	r.mu.Lock()
	if r.orders.Restarts == nil {
		r.orders.Restarts = map[unit.Name]int64{}
	}
	number := r.orders.Rev + 1
	r.orders.Restarts[n] = number
	r.push()
	return number
}

func (r *rig) restarted(n unit.Name) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.observed[n].Restarted
}

// restarting is a world whose agent takes orders to restart.
func restarting(t *testing.T, test func(r *rig)) {
	world(t, func(r *rig) {
		r.more = func(c *Config) { c.Restart = r.sys.Restart }
		r.stop()
		r.start()
		test(r)
	})
}

func TestRestartIsCarriedOutOnce(t *testing.T) {
	restarting(t, func(r *rig) {
		r.order(sleeper, "a.service launched", "b.service launched", "c.service loaded")
		r.pass(time.Second)
		r.forget()
		n := r.restart("a.service")
		r.restart("c.service") // does not run by the user's wish
		r.pass(time.Second)
		r.did("restart a.service")
		r.expect("a.service loaded active running launched", "b.service loaded active running launched", "c.service loaded inactive dead")
		if got := r.restarted("a.service"); got != n {
			r.Errorf("order %d is told as %d", n, got)
		}
		// Neither a later order of something else nor another fleetd restarts it again, and at rest nothing is written.
		r.order(sleeper, "d.service launched")
		r.pass(time.Second)
		r.stop()
		r.start()
		r.pass(time.Second)
		r.did("start d.service")
		r.forget()
		r.pass(10 * time.Minute)
		if r.reports != 0 {
			r.Errorf("%d reports at rest", r.reports)
		}
	})
}

// An order is told as carried out when the unit is up again, not when systemd has taken the job: whoever waits would see the old run.
func TestRestartIsToldWhenItIsOver(t *testing.T) {
	restarting(t, func(r *rig) {
		r.order(slow, "a.service launched")
		r.pass(time.Second)
		n := r.restart("a.service")
		r.pass(10 * time.Second) // its ExecStop takes 20
		if got := r.restarted("a.service"); got != 0 {
			r.Errorf("order %d is told as carried out while the unit is being stopped", got)
		}
		r.pass(11 * time.Second)
		r.expect("a.service loaded active running launched")
		if got := r.restarted("a.service"); got != n {
			r.Errorf("order %d is told as %d", n, got)
		}
	})
}

// A fleetd that ends meanwhile leaves nothing half done, and does nothing twice.
func TestRestartSurvivesFleetd(t *testing.T) {
	restarting(t, func(r *rig) {
		r.order(slow, "a.service launched")
		r.pass(time.Second)
		n := r.restart("a.service")
		r.pass(time.Second)
		r.stop()
		r.start()
		r.pass(30 * time.Second)
		r.expect("a.service loaded active running launched")
		if got := r.restarted("a.service"); got != n {
			r.Errorf("order %d is told as %d", n, got)
		}
		r.did("start a.service", "restart a.service")
	})
}

// What ended by itself, failed, or was stopped by hand runs again; a start of another text is of after the orders.
func TestRestartStartsWhatDoesNotRun(t *testing.T) {
	restarting(t, func(r *rig) {
		r.order(failing, "f.service launched")
		r.pass(time.Second)
		r.expect("f.service loaded failed failed launched: start job: failed (journalctl -u f.service says more)")
		r.order(sleeper, "f.service launched")
		r.pass(time.Second)
		r.expect("f.service loaded active running launched")
		r.sys.Exit("f.service", true)
		r.pass(time.Second)
		r.expect("f.service loaded inactive dead launched")
		r.restart("f.service")
		r.pass(2 * time.Second)
		r.expect("f.service loaded active running launched")
		n := r.restart("f.service")
		r.order(oneshot, "f.service launched")
		r.pass(10 * time.Second)
		r.forget()
		r.pass(time.Minute)
		r.did()
		if got := r.restarted("f.service"); got != n {
			r.Errorf("order %d is told as %d", n, got)
		}
	})
}

func TestRestartThatIsRefusedIsTriedAgain(t *testing.T) {
	restarting(t, func(r *rig) {
		r.order(sleeper, "a.service launched")
		r.pass(time.Second)
		r.deny("Restart")
		n := r.restart("a.service")
		r.pass(5 * time.Second)
		if r.restarted("a.service") == n {
			r.Error("it is told as carried out")
		}
		r.deny("")
		r.pass(time.Minute)
		r.expect("a.service loaded active running launched")
		if got := r.restarted("a.service"); got != n {
			r.Errorf("order %d is told as %d", n, got)
		}
	})
}
