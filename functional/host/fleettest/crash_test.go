package fleettest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// many is how many units are started while something breaks.
const many = 300

func instances(prefix string, n int) (units []string) {
	for i := 1; i <= n; i++ {
		units = append(units, fmt.Sprintf("%s@%d.service", prefix, i))
	}
	return units
}

func TestLeaderIsLostWhileManyUnitsStart(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	r.sub("its fleetd is killed", func(r *rig) {
		lead := r.leader()
		r.whileStarting("k", lead, func() { r.must(lead.Signal(r.ctx, "fleetd.service", "KILL")) })
		for _, h := range r.Hosts() {
			for u, n := range r.starts(h) {
				if strings.HasPrefix(u, "k@") && n != 1 {
					r.t.Errorf("%s was started %d times on %s", u, n, h.Name)
				}
			}
		}
		r.ctl(r.Host(1), append([]string{"destroy"}, instances("k", many)...)...)
		for _, h := range r.Hosts() {
			r.leavesNothing(h)
		}
	})
	r.sub("its host loses power", func(r *rig) {
		lead := r.leader()
		r.whileStarting("p", lead, func() { r.must(lead.PowerOff(r.ctx)) })
		for _, h := range r.others(lead) {
			for u, n := range r.starts(h) {
				if strings.HasPrefix(u, "p@") && n != 1 {
					r.t.Errorf("%s was started %d times on %s", u, n, h.Name)
				}
			}
		}
	})
}

// whileStarting starts many units from a host that is not the leader, does harm when some of them run, and waits until all run once
// and fleetctl has said so.
func (r *rig) whileStarting(prefix string, lead *host.Host, harm func()) {
	r.t.Helper()
	from := r.others(lead)[0]
	// Starting takes each some time, so that much is under way.
	r.write(from, map[string]string{prefix + "@.service": service("ExecStartPre=/bin/sleep 1\n")})
	units := instances(prefix, many)
	var out, text string
	var code int
	var running sync.WaitGroup
	running.Go(func() { out, text, code = r.tryCtl(from, append([]string{"start"}, units...)...) })
	r.wait("a first part of them", func() error {
		out, err := from.Run(r.ctx, "ls", "/run/fleet/units")
		return orElse(err, need(out != "", "there is none"))
	})
	n := 0
	for _, on := range r.places() {
		n += len(on)
	}
	r.t.Logf("%d of %d were running", n, many)
	harm()
	running.Wait()
	if code != 0 {
		r.t.Errorf("fleetctl start: exit code %d: %s %s", code, host.Tail(out, 3), text)
	}
	r.once(units...)
	r.settled()
}

// A fleetd that sleeps for longer than its lease wakes up in a world that has moved on.
func TestPausedFleetdConverges(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	r.write(r.Host(1), map[string]string{"p@.service": service(""), "p-tied.service": service(fixed(r.Host(2)))})
	units := instances("p", 6)
	r.ctl(r.Host(1), append([]string{"start", "p-tied.service"}, units...)...)
	r.once(append(units, "p-tied.service")...)
	pause := func(r *rig, h *host.Host) {
		before := map[*host.Host]map[string]string{}
		for _, o := range r.Hosts() {
			before[o] = r.running(o)
		}
		r.must(h.Signal(r.ctx, "fleetd.service", "STOP"))
		r.machines(r.others(h)...)
		r.wait("its units elsewhere, too", func() error {
			at := r.places()
			for u := range before[h] {
				if u != "p-tied.service" && len(at[u]) != 2 {
					return fmt.Errorf("%s is on %v", u, hostNames(at[u]))
				}
			}
			return nil
		})
		r.same(h, before[h])
		r.must(h.Signal(r.ctx, "fleetd.service", "CONT"))
		r.machines(r.Hosts()...)
		r.once(append(units, "p-tied.service")...)
		r.settled()
		for o, runs := range before {
			if o.Name != h.Name {
				r.same(o, runs)
			}
		}
	}
	r.sub("one that does not lead", func(r *rig) {
		pause(r, r.others(r.leader())[0])
	})
	// What the first pause moved away is of no use to the second.
	r.sub("the leader", func(r *rig) {
		lead := r.leader()
		for i := 7; len(r.running(lead)) == 0; i++ {
			units = append(units, fmt.Sprintf("p@%d.service", i))
			r.ctl(r.Host(1), "start", units[len(units)-1])
		}
		pause(r, lead)
		if again := r.leader(); again.Name == lead.Name {
			r.t.Logf("%s leads again", lead.Name)
		}
	})
}

// A power failure of everything ends as it began, without anybody's help.
func TestAllHostsComeBackFromAPowerFailure(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	r.write(r.Host(1), map[string]string{"b@.service": service(""), "b-all.service": service("[X-Fleet]\nGlobal=true\n"), "b-loaded.service": service("")})
	units := instances("b", 30)
	r.ctl(r.Host(1), append([]string{"start", "b-all.service"}, units...)...)
	r.ctl(r.Host(1), "load", "b-loaded.service")
	at := r.once(units...)
	var all sync.WaitGroup
	errs := make([]error, 3)
	for i, h := range r.Hosts() {
		all.Go(func() { errs[i] = h.PowerOff(r.ctx) })
	}
	all.Wait()
	for _, err := range errs {
		r.must(err)
	}
	for i, h := range r.Hosts() {
		all.Go(func() { errs[i] = h.Boot(r.ctx) })
	}
	all.Wait()
	for _, err := range errs {
		r.must(err)
	}
	again := r.once(units...)
	r.everywhere("b-all.service")
	r.machines(r.Hosts()...)
	var moved []string
	for _, u := range units {
		if again[u].Name != at[u].Name {
			moved = append(moved, u)
		}
	}
	slices.Sort(moved)
	if len(moved) > 0 {
		t.Errorf("%d of %d units moved: %v", len(moved), len(units), moved)
	}
	if r.places()["b-loaded.service"] != nil {
		t.Error("the unit that was only loaded runs")
	}
	for _, h := range r.Hosts() {
		for u, n := range r.starts(h) {
			if strings.HasPrefix(u, "b") && strings.Contains(u, "@") && n > 2 {
				t.Errorf("%s was started %d times on %s, in two boots", u, n, h.Name)
			}
		}
	}
	r.settled()
}
