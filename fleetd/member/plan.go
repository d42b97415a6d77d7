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

// voterHosts are the client addresses of the voters, host:port, sorted.
func voterHosts(members []*pb.Member) []string {
	return memberHosts(slices.DeleteFunc(slices.Clone(members), func(m *pb.Member) bool { return m.IsLearner }))
}

// memberHosts are those of all members. A learner's door leads to the voters, and it may be one of them tomorrow.
func memberHosts(members []*pb.Member) []string {
	var hosts []string
	for _, m := range members {
		for _, c := range m.ClientURLs {
			if u, err := url.Parse(c); err == nil && m.Name != "" {
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

// urls are endpoints for clients. They say http also where TLS is on: that is the dialer's affair (see conns.dial), for one client goes to the
// plain unix socket today and to other hosts tomorrow, and the library decides once.
func urls(hosts []string) []string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		out[i] = "http://" + h
	}
	return out
}
