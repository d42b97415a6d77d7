package faults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// fault is something that befalls one host, and how it ends.
type fault struct {
	name string
	// do returns what undoes it.
	do func(r *rig, h *host.Host) (undo func() error)
}

// day is what clocks are wrong by, one way or the other.
const day = 24 * time.Hour

// faults are all that a host of the mixed run may meet.
func faults() []fault {
	return []fault{
		{"fleetd is killed", func(r *rig, h *host.Host) func() error {
			r.must(h.Signal(r.ctx, "fleetd.service", "KILL"))
			return nothing
		}},
		{"fleetd is restarted", func(r *rig, h *host.Host) func() error {
			_, err := h.Run(r.ctx, "systemctl", "--no-block", "restart", "fleetd.service")
			r.must(err)
			return nothing
		}},
		{"fleetd is paused", func(r *rig, h *host.Host) func() error {
			r.must(h.Signal(r.ctx, "fleetd.service", "STOP"))
			return func() error { return r.goOn(h) }
		}},
		{"fleetd is stopped in good order", stopFleetd},
		{"the guard is killed", func(r *rig, h *host.Host) func() error {
			_, _ = h.Run(r.ctx, "systemctl", "kill", "--signal=SIGKILL", "fleet-guard.service") // none runs where nothing needs it
			return nothing
		}},
		{"the host is cut off", func(r *rig, h *host.Host) func() error {
			r.must(h.Cut(r.ctx))
			return func() error { return h.Heal(r.ctx) }
		}},
		{"the host is not heard", func(r *rig, h *host.Host) func() error {
			r.must(h.CutTo(r.ctx))
			return func() error { return h.Heal(r.ctx) }
		}},
		{"the host hears nobody", func(r *rig, h *host.Host) func() error {
			for _, o := range r.Hosts() {
				if o != h {
					r.must(o.CutTo(r.ctx, h))
				}
			}
			return func() error { return h.Heal(r.ctx) }
		}},
		{"the host's cable is loose", func(r *rig, h *host.Host) func() error {
			for range 5 {
				r.must(errors.Join(h.Cut(r.ctx), h.Heal(r.ctx)))
			}
			r.must(h.Cut(r.ctx))
			return func() error { return h.Heal(r.ctx) }
		}},
		{"the disk is slow", func(r *rig, h *host.Host) func() error { return r.slow(h) }},
		{"the clock is a day ahead", func(r *rig, h *host.Host) func() error { return r.clock(h, day) }},
		{"the clock is a day behind", func(r *rig, h *host.Host) func() error { return r.clock(h, -day) }},
		{"the host loses power", func(r *rig, h *host.Host) func() error {
			r.down([]*host.Host{h}, func() {})
			return func() error { return h.Boot(r.ctx) }
		}},
	}
}

func nothing() error { return nil }

// goOn ends a pause. One that was so long that systemd has put an end to fleetd is over.
func (r *rig) goOn(h *host.Host) error {
	if err := h.Signal(r.ctx, "fleetd.service", "CONT"); err != nil {
		r.t.Logf("%s: %v", h.Name, err)
	}
	return nil
}

func stopFleetd(r *rig, h *host.Host) func() error {
	i := len(r.hist.Acts)
	r.hist.Acts = append(r.hist.Acts, Act{Kind: Down, Machine: h.MachineID, From: Now()}) // units that are tied to it stop, too
	_, err := h.Run(r.ctx, "systemctl", "stop", "fleetd.service")
	r.must(err)
	r.hist.Acts[i].To = Now()
	return func() error { _, err := h.Run(r.ctx, "systemctl", "start", "fleetd.service"); return err }
}

// fleetd waits until there is a process of it.
func (r *rig) fleetd(h *host.Host) (pid int) {
	r.t.Helper()
	r.wait("a fleetd on "+h.Name, func() (err error) {
		pid, err = FleetdPID(h)
		return err
	})
	return pid
}

// cannot tells whether this machine has no means for a fault. Any other error ends the test.
func (r *rig) cannot(err error) bool {
	r.t.Helper()
	if errors.Is(err, errors.ErrUnsupported) {
		r.t.Logf("not broken: %v", err)
		return true
	}
	r.must(err)
	return false
}

// clock puts a host's fleetd wrong, until it is undone or restarted.
func (r *rig) clock(h *host.Host, by time.Duration) (undo func() error) {
	r.t.Helper()
	pid := r.fleetd(h)
	if err := Clock(pid, by); r.cannot(err) {
		return nothing
	}
	return func() error {
		if now, err := FleetdPID(h); err != nil || now != pid {
			return nil // a new one has the right time
		}
		return Clock(pid, 0)
	}
}

// slow lets a host's fleetd write to its disk eight times a second, which is three or four commits of the store.
func (r *rig) slow(h *host.Host) (undo func() error) {
	r.t.Helper()
	r.fleetd(h)
	restore, err := SlowDisk(h, 8)
	if r.cannot(err) {
		return nothing
	}
	over := false
	undo = func() error {
		if over {
			return nil
		}
		over = true
		return restore()
	}
	r.t.Cleanup(func() { _ = undo() }) // a test that ends early leaves no control group
	return undo
}

// mixed lets random faults befall one or two hosts at a time, and after each waits for rest. It ends when the time is over, and after at least two rounds.
func (r *rig) mixed(luck *rand.Rand, most time.Duration) {
	r.t.Helper()
	list := faults()
	for round, end := 0, time.Now().Add(most); round < 2 || time.Now().Before(end); round++ {
		switch luck.IntN(20) {
		case 0:
			r.t.Log("all hosts lose power")
			r.blackout()
			continue
		case 1:
			r.t.Log("most voters are paused")
			r.noQuorum()
			continue
		}
		hosts := r.living()
		luck.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
		var names []string
		var undo []func() error
		for _, h := range hosts[:1+luck.IntN(2)] {
			f := list[luck.IntN(len(list))]
			names = append(names, h.Name+": "+f.name)
			undo = append(undo, f.do(r, h))
			pause(r, luck.IntN(2000))
		}
		what := strings.Join(names, ", ")
		// Shorter and longer than a lease; what comes of it is the same whatever the machine does meanwhile.
		hold := luck.IntN(12000)
		r.t.Logf("round %d: %s, for %d ms", round, what, hold)
		pause(r, hold)
		for i, f := range undo {
			r.must(errors.Join(f(), nil))
			if i < len(undo)-1 {
				pause(r, luck.IntN(3000))
			}
		}
		r.rest(what)
	}
}

// pause holds a fault for a while. Nothing depends on how long it was.
func pause(r *rig, ms int) {
	select {
	case <-r.ctx.Done():
	case <-time.After(time.Duration(ms) * time.Millisecond):
	}
}

// blackout takes the power from all hosts and gives it back.
func (r *rig) blackout() {
	r.t.Helper()
	r.down(r.living(), func() {
		r.all(r.living(), func(h *host.Host) error { return h.Boot(r.ctx) })
	})
	r.rest("all hosts lose power")
}

// noQuorum pauses all voters but two until the others know that they are too few. Nothing is unscheduled by that.
func (r *rig) noQuorum() {
	r.t.Helper()
	list := r.roster(r.living()[0])
	var voters []*host.Host
	for _, m := range list.Members {
		if m.Role == "voter" {
			voters = append(voters, r.byID(m.Machine))
		}
	}
	few, most := voters[:2], voters[2:]
	r.all(most, func(h *host.Host) error { return h.Signal(r.ctx, "fleetd.service", "STOP") })
	r.wait("word that there is no quorum", func() error {
		_, text, err := r.tryCtl(few[0], "list-machines")
		return need(err != nil && strings.Contains(text, "no quorum"), text)
	})
	r.all(most, r.goOn)
	r.rest("most voters are paused")
}

// instances are names of a template's instances.
func instances(prefix string, n int) (units []string) {
	for i := 1; i <= n; i++ {
		units = append(units, fmt.Sprintf("%s@%d.service", prefix, i))
	}
	return units
}

// filled writes until the store has no room for more, and waits until it has made some by itself.
func (r *rig) filled() {
	r.t.Helper()
	h := r.living()[1]
	fill := func(n int) error {
		// Texts that differ in every line: each is stored anew, and history grows by all of it.
		line := strings.Repeat(fmt.Sprintf("# %d\\n", n), 10)
		return writeRecord(r.ctx, h, "fill.service", fmt.Sprintf("%d %s, %s", n, strings.Repeat(line, 400<<10/len(line)), fleet.Inactive))
	}
	n := 0
	r.wait("the store to be full", func() error {
		for {
			n++
			if err := fill(n); errors.Is(err, kv.ErrNoSpace) {
				return nil
			} else if err != nil {
				return err // a busy moment
			}
		}
	})
	r.t.Logf("full after %d texts", n)
	r.wait("writes to be taken again", func() error { return fill(n) })
	r.ctl(h, "destroy", "fill.service")
	r.rest("the store was full")
}
