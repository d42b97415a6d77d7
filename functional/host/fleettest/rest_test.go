package fleettest

import (
	"fmt"
	"testing"
	"time"
)

// A quiet cluster writes nothing: leases are renewed, which is no write, and nothing is refreshed per unit.
func TestNothingIsWrittenAtRest(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	r := boot(t, 3, "agent_ttl = 2s\n")
	r.write(r.Host(1), map[string]string{"q@.service": service(""), "q-all.service": service("[X-Fleet]\nGlobal=true\n")})
	units := instances("q", 100)
	r.ctl(r.Host(1), append([]string{"start", "q-all.service"}, units...)...)
	at := r.once(units...)
	r.settled()
	// The last report of states may still be on its way when all is placed and running.
	last := r.revision()
	since := time.Now()
	r.wait("five lease periods without a write", func() error {
		if now := r.revision(); now != last {
			last, since = now, time.Now()
			return fmt.Errorf("there was a write: revision %d", now)
		}
		if quiet := time.Since(since); quiet < 5*ttl {
			return fmt.Errorf("%s so far", quiet)
		}
		return nil
	})
	// Nothing has moved meanwhile, and the next command is as prompt as the first.
	for u, h := range r.once(units...) {
		if at[u].Name != h.Name {
			t.Errorf("%s was on %s, is on %s", u, at[u].Name, h.Name)
		}
	}
	r.ctl(r.Host(2), append([]string{"destroy", "q-all.service"}, units...)...)
	for _, h := range r.Hosts() {
		r.leavesNothing(h)
	}
}
