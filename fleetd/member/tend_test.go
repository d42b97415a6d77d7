package member

import (
	"fmt"
	"testing"
	"time"
)

// roles waits until the hosts are what they shall be, whichever is what.
func roles(t *testing.T, hosts []*host, want map[Role]int) {
	t.Helper()
	late := time.After(limit)
	for {
		got := map[Role]int{}
		var changes []<-chan struct{}
		for _, h := range hosts {
			select {
			case <-h.done:
				t.Fatalf("%s: Run returned %v\n%s", h.client(), h.err, h.log)
			default:
			}
			s, changed := h.m.Watch()
			if s.Ready {
				got[s.Role]++
			}
			changes = append(changes, changed)
		}
		if fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		any := make(chan struct{}, len(changes))
		for _, c := range changes {
			go func() {
				select {
				case <-c:
					any <- struct{}{}
				case <-t.Context().Done():
				}
			}()
		}
		select {
		case <-any:
		case <-late:
			for _, h := range hosts {
				t.Logf("%s: %+v\n%s", h.client(), h.m.Status(), h.log)
			}
			t.Fatalf("roles %v, want %v", got, want)
		}
	}
}

func TestStandByTakesTheSeatOfALostVoter(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 4)
	for _, h := range hosts {
		h.cfg.Grace = 20 * time.Second // far longer than a start takes on a busy machine; one that is replaced wrongly comes back all the same
	}
	startAll(hosts)
	roles(t, hosts, map[Role]int{Voter: 3, StandBy: 1})
	hosts[0].put("k", "1")
	var lost *host
	var rest []*host
	for _, h := range hosts {
		if lost == nil && h.m.Status().Leads { // the worst one
			lost = h
			continue
		}
		rest = append(rest, h)
	}
	lost.stop()
	roles(t, rest, map[Role]int{Voter: 3})
	rest[0].awaitVoters(3)
	rest[2].wantKey("k", "1")
	rest[0].put("k", "2")
	lost.start()
	lost.awaitRole(StandBy)
	lost.wantKey("k", "2")

	// And the next.
	lost, rest[0] = rest[0], lost
	lost.stop()
	roles(t, rest, map[Role]int{Voter: 3})
	rest[0].wantKey("k", "2")
}

// startAll starts the first, then all others at once.
func startAll(hosts []*host) {
	hosts[0].start()
	hosts[0].awaitRole(Voter)
	for _, h := range hosts[1:] {
		h.start(hosts[0])
	}
}

func TestOneThreeFive(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 5)
	for _, h := range hosts {
		h.cfg.Size = 5
	}
	startAll(hosts[:2])
	roles(t, hosts[:2], map[Role]int{Voter: 1, Learner: 1})
	hosts[2].start(hosts[0])
	roles(t, hosts[:3], map[Role]int{Voter: 3})
	hosts[3].start(hosts[1])
	hosts[3].awaitRole(Learner)
	hosts[4].start(hosts[2])
	roles(t, hosts, map[Role]int{Voter: 5})
	hosts[4].put("k", "v")
	hosts[3].wantKey("k", "v")
}

func TestVotersAreSpreadOverZones(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 4)
	for i, h := range hosts {
		h.zone = []string{"a", "a", "a", "b"}[i]
	}
	startAll(hosts[:3])
	roles(t, hosts[:3], map[Role]int{Voter: 3})
	hosts[0].put("k", "v")
	hosts[3].start(hosts[0])
	hosts[3].awaitRole(Voter)
	roles(t, hosts, map[Role]int{Voter: 3, StandBy: 1})
	hosts[3].wantKey("k", "v")
}

func TestHostSetUpAnewUnderItsNameIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 4)
	for _, h := range hosts {
		h.cfg.Grace, h.cfg.Name = time.Hour, h.client()
	}
	startAll(hosts[:3])
	roles(t, hosts[:3], map[Role]int{Voter: 3})
	hosts[2].stop()
	hosts[3].name = hosts[2].client() // its name in the list, see town
	hosts[3].cfg.Name = hosts[2].client()
	hosts[3].start(hosts[0])
	hosts[3].awaitRole(Voter)
	hosts[0].awaitVoters(3)
}
