package member

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// entry is what a host that wants to join does about its entry in the list of members.
type entry struct {
	Do entryStep
	ID uint64 // of the entry to use or to replace
}

type entryStep string

const (
	stepAdd     entryStep = "add"      // there is room: become a learner
	stepUse     entryStep = "use"      // added before, never started: a crash came between
	stepReplace entryStep = "replace"  // added and started before, its data is lost: remove it first
	stepStandBy entryStep = "stand by" // there are enough
)

// planEntry decides for the host with peer URL self that has no data.
//
// A started entry must not be started again without its data: it may have voted, and would not know. A host that wiped its
// disk therefore takes a new entry.
func planEntry(members []*pb.Member, self string, size int) entry {
	for _, m := range members {
		if !slices.Contains(m.PeerURLs, self) {
			continue
		}
		switch {
		case m.Name != "":
			return entry{stepReplace, m.ID}
		case m.IsLearner && len(members) > size:
			return entry{stepStandBy, m.ID} // more hosts were added at once than there is room for
		default:
			return entry{stepUse, m.ID}
		}
	}
	if len(members) >= size {
		return entry{Do: stepStandBy}
	}
	return entry{Do: stepAdd}
}

// peer is one member as the voter that leads sees it.
type peer struct {
	ID      uint64
	Learner bool
	Started bool // it has told its name
	Alive   bool // it answered just now
}

// planPromotions names the learners to make voters, in order. Voters come in odd numbers, since an even one survives no
// more losses than one less and is lost more often: two hosts are a voter and a learner, the third makes three voters. Only
// what is alive is promoted: with a dead voter among two there would be no quorum.
func planPromotions(peers []peer, size int) []uint64 {
	voters := 0
	var can []uint64
	for _, p := range peers {
		switch {
		case !p.Learner:
			voters++
		case p.Started && p.Alive:
			can = append(can, p.ID)
		}
	}
	slices.Sort(can)
	target := min(size, voters+len(can))
	if target%2 == 0 {
		target--
	}
	if target <= voters {
		return nil
	}
	return can[:target-voters]
}

// voterHosts are the client addresses of the voters, host:port, sorted.
func voterHosts(members []*pb.Member) []string {
	var hosts []string
	for _, m := range members {
		for _, c := range m.ClientURLs {
			if u, err := url.Parse(c); err == nil && !m.IsLearner && m.Name != "" {
				hosts = append(hosts, u.Host)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// hostPort completes an address of join= with the port where clients are served.
func hostPort(s string, port uint16) string {
	if _, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(s, strconv.Itoa(int(port)))
	}
	if strings.Contains(s, ":") {
		return s
	}
	return net.JoinHostPort(s, strconv.Itoa(int(port)))
}

func urls(hosts []string) []string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		out[i] = "http://" + h
	}
	return out
}
