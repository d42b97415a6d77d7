package member

import "testing"

// What was opened while this host was a learner went through another host. As a voter it asks itself: the loss of the other must not
// stop its watches.
func TestVoterKeepsNoConnectionToOthers(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, 3)
	for _, h := range hosts {
		h.put("k", "v")
		h.m.conns.mu.Lock()
		for _, addr := range h.m.conns.open {
			if addr != h.cfg.Socket {
				t.Errorf("%s still speaks to %s", h.client(), addr)
			}
		}
		h.m.conns.mu.Unlock()
	}
}
