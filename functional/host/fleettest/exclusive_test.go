package fleettest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// beats makes a program that writes down all the time that it runs, by the kernel's clock, which the hosts share, and with its token. It lies on
// the host's disk, where the test reads it from outside, whatever becomes of the host.
const beats = `[Service]
ExecStart=/bin/sh -c 'mkdir -p /var/beats; me=$$$$; cred=$$(cat $$CREDENTIALS_DIRECTORY/fleet.fencing-token); \
  while read up rest </proc/uptime; do echo "$$up $$FLEET_FENCING_TOKEN $$cred $$me" >>/var/beats/%n; sleep 0.1; done'
TimeoutStopSec=2
`

// beat is one line of such a program.
type beat struct {
	at    float64 // seconds since the kernel started
	token int64
	host  string
}

// beatsOf reads what a unit wrote on all hosts, by time.
func (r *rig) beatsOf(unit string) (all []beat) {
	r.t.Helper()
	for _, h := range r.Hosts() {
		path, err := h.Path("/var/beats/" + unit)
		if err != nil {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			continue // never ran there
		}
		for line := range strings.Lines(string(text)) {
			w := strings.Fields(line)
			if len(w) != 4 {
				continue // a power loss cut it short
			}
			at, err := strconv.ParseFloat(w[0], 64)
			r.must(err)
			token, err := strconv.ParseInt(w[1], 10, 64)
			if err != nil || w[1] != w[2] {
				r.t.Errorf("%s on %s has the token %s in its environment and %s as a credential", unit, h.Name, w[1], w[2])
			}
			all = append(all, beat{at, token, h.Name})
		}
	}
	slices.SortStableFunc(all, func(a, b beat) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	return all
}

// never twice: once another host has begun, the one before says nothing more, and its token is lower.
func (r *rig) neverTwice(unit string) {
	r.t.Helper()
	over := map[string]beat{} // hosts that were followed by another, and by whose first beat
	last := beat{}
	for _, b := range r.beatsOf(unit) {
		if last.host != "" && b.host != last.host {
			if b.token <= last.token {
				r.t.Errorf("%s on %s has the token %d after %d on %s", unit, b.host, b.token, last.token, last.host)
			}
			if first, was := over[b.host]; was && first.token >= b.token {
				r.t.Errorf("%s ran on %s at %.2f with token %d, when %s had it already at %.2f with %d", unit, b.host, b.at, b.token, first.host, first.at, first.token)
			}
			over[last.host] = b
		}
		last = b
	}
}

// only waits until the unit runs on one of these hosts and on no other that is on.
func (r *rig) only(unit string, on ...*host.Host) *host.Host {
	r.t.Helper()
	var at *host.Host
	r.wait(unit+" on one of "+fmt.Sprint(hostNames(on)), func() error {
		hosts := r.places()[unit]
		if len(hosts) != 1 || !slices.ContainsFunc(on, func(h *host.Host) bool { return h.Name == hosts[0].Name }) {
			return fmt.Errorf("it is on %v", hostNames(hosts))
		}
		at = hosts[0]
		return nil
	})
	return at
}

func TestExclusiveUnitNeverRunsTwice(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	const db = "x-db.service"
	r.write(r.Host(1), map[string]string{db: beats + "[X-Fleet]\nExclusive=yes\n"})
	r.ctl(r.Host(1), "start", db)
	home := r.once(db)[db]

	r.sub("fleetd is restarted and killed beside it", func(r *rig) {
		before := r.running(home)
		home.Must(r.t, "systemctl", "restart", "fleetd.service")
		r.machines(r.Hosts()...)
		r.same(home, before)
		r.must(home.Signal(r.ctx, "fleetd.service", "KILL"))
		r.machines(r.Hosts()...)
		r.same(home, before)
	})
	r.sub("its guard is killed", func(r *rig) {
		before := r.running(home)[db]
		r.must(home.Signal(r.ctx, "fleet-guard.service", "KILL"))
		r.wait("another run", func() error {
			now := r.running(home)[db]
			return need(now != "" && now != before, "it is "+now)
		})
		r.only(db, home)
	})
	r.sub("its host is cut off", func(r *rig) {
		r.must(home.Cut(r.ctx))
		r.wait("it to stop", func() error { return need(r.running(home)[db] == "", "it runs") })
		next := r.only(db, r.others(home)...)
		before := r.running(next)
		r.must(home.Heal(r.ctx))
		r.machines(r.Hosts()...)
		r.settled()
		r.same(next, before)
		home = r.only(db, next)
	})
	r.sub("its fleetd is paused for longer than the lease", func(r *rig) {
		r.must(home.Signal(r.ctx, "fleetd.service", "STOP"))
		next := r.only(db, r.others(home)...)
		r.must(home.Signal(r.ctx, "fleetd.service", "CONT"))
		r.machines(r.Hosts()...)
		r.settled()
		home = r.only(db, next)
	})
	r.sub("its guard hangs, and its host is cut off", func(r *rig) {
		r.must(home.Signal(r.ctx, "fleet-guard.service", "STOP"))
		r.must(home.Cut(r.ctx))
		next := r.only(db, r.others(home)...)
		r.must(home.Heal(r.ctx))
		r.machines(r.Hosts()...)
		r.settled()
		home = r.only(db, next)
	})
	r.sub("its host loses power", func(r *rig) {
		r.must(home.PowerOff(r.ctx))
		next := r.only(db, r.others(home)...)
		r.must(home.Boot(r.ctx))
		r.machines(r.Hosts()...)
		r.settled()
		home = r.only(db, next)
	})
	r.sub("its fleetd is stopped for good", func(r *rig) {
		home.Must(r.t, "systemctl", "stop", "fleetd.service")
		next := r.only(db, r.others(home)...)
		home.Must(r.t, "systemctl", "start", "fleetd.service")
		r.machines(r.Hosts()...)
		home = r.only(db, next)
	})
	r.sub("it cannot be killed in time, and its host is reset", func(r *rig) {
		started := r.property(home, "init.scope", "ActiveEnterTimestampMonotonic")
		// As a process would be that hangs in the kernel.
		r.must(home.WriteFile(r.ctx, "/run/systemd/system/"+db+".d/zzz.conf", "[Service]\nExecStop=\nExecStop=/bin/sleep infinity\nTimeoutStopSec=infinity\n"))
		home.Must(r.t, "systemctl", "daemon-reload")
		r.must(home.Cut(r.ctx))
		r.wait("it to run elsewhere", func() error { // nothing is asked of the host: it may be on its way down
			for _, o := range r.others(home) {
				if r.running(o)[db] != "" {
					return nil
				}
			}
			return errors.New("it does not")
		})
		r.must(home.Heal(r.ctx))
		r.wait("the host to be up", func() error {
			_, err := home.Run(r.ctx, "systemctl", "is-active", "fleetd.service")
			return err
		})
		next := r.only(db, r.others(home)...)
		r.machines(r.Hosts()...)
		if again := r.property(home, "init.scope", "ActiveEnterTimestampMonotonic"); again == started {
			r.t.Errorf("%s was not reset", home.Name)
		}
		r.settled()
		home = r.only(db, next)
	})
	r.neverTwice(db)
	if n := len(r.beatsOf(db)); n == 0 {
		t.Error("it has not written a word")
	}
}
