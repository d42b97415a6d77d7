package fleettest

import (
	"fmt"
	"strings"
	"testing"
)

// Logs when they are needed most: of a unit that runs nowhere any more, and while the store cannot be asked.
func TestLogsOfUnitsThatAreNowhereAndWithoutTheStore(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	h := r.Host(1)
	say := func(at string) string {
		return "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo said by %p'\n" + at
	}
	r.write(h, map[string]string{"gone.service": say(fixed(r.Host(2))), "here.service": say(fixed(h)), "there.service": say(fixed(r.Host(2)))})
	r.ctl(h, "start", "gone.service", "here.service", "there.service")
	tells := func(r *rig, unit string, code int, words ...string) {
		r.t.Helper()
		r.wait("the log of "+unit, func() error {
			out, text, got := r.tryCtl(h, "journal", "-n", "20", unit)
			for _, w := range words {
				if !strings.Contains(out+text, w) {
					return fmt.Errorf("%q is not in %s%s", w, out, text)
				}
			}
			return need(got == code, fmt.Sprintf("exit code %d: %s", got, text))
		})
	}
	r.sub("unit that was unloaded", func(r *rig) {
		r.ctl(h, "unload", "gone.service")
		tells(r, "gone.service", 0, "said by gone", "Stopped gone.service")
	})
	r.sub("unit that has never run", func(r *rig) {
		r.write(h, map[string]string{"never.service": service("")})
		r.ctl(h, "submit", "never.service")
		tells(r, "never.service", 1, "never.service", "on no machine")
		r.refused(h, 1, []string{"nothing.service", "does not exist"}, "journal", "nothing.service")
	})
	r.sub("without the store", func(r *rig) {
		for _, other := range r.others(h) {
			r.must(other.PowerOff(r.ctx))
		}
		tells(r, "here.service", 1, "said by here", "only the log of machine "+short(h))
		r.refused(h, 1, []string{"store"}, "journal", "there.service")
		// What is no unit of the cluster is not shown either.
		if out, _, code := r.tryCtl(h, "journal", "dbus.service"); code == 0 || strings.Contains(out, "D-Bus") {
			r.t.Errorf("the log of another unit: %d %s", code, out)
		}
		// A stop is a success also now, and takes the units down; the others learn of it when they are there again.
		h.Must(r.t, "systemctl", "stop", "fleetd.service")
		if result := r.property(h, "fleetd.service", "Result"); result != "success" {
			r.t.Errorf("fleetd ended with %s", result)
		}
		r.leavesNothing(h)
		h.Must(r.t, "systemctl", "start", "--no-block", "fleetd.service")
		for _, other := range r.others(h) {
			r.must(other.Boot(r.ctx))
		}
		r.machines(r.Hosts()...)
		r.settled()
		tells(r, "here.service", 0, "said by here")
	})
}
