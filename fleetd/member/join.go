package member

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fleet-init/fleet/internal/pause"
)

// seat is what a joining host got: an entry that its member starts with, or none, to stand by.
type seat struct {
	standBy bool
	initial string   // etcd's initial-cluster
	hosts   []string // client addresses of the voters
}

// join asks the hosts for a seat, until it has one or ctx ends (ok=false). Every step can be repeated: what an earlier try, or
// an earlier process, has done already is found in the list of members by this host's peer URL.
func (m *Member) join(ctx context.Context, st *state, self netip.AddrPort, invited bool) (s seat, ok bool) {
	for try := 0; ; try++ {
		s, err := m.joinOnce(ctx, st, self, invited)
		if err == nil {
			return s, true
		}
		m.doing("joining", err)
		if !pause.For(ctx, backoff(try)) {
			return seat{}, false
		}
	}
}

func (m *Member) joinOnce(ctx context.Context, st *state, self netip.AddrPort, invited bool) (seat, error) {
	var errs []error
	for _, host := range m.others(m.cfg.Join, st.Hosts, self) {
		s, err := m.joinBy(ctx, host, st, self, invited)
		if err == nil {
			return s, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", host, explain(err)))
	}
	if len(errs) == 0 {
		return seat{}, errors.New("join names only this host: name a running host of the cluster; on the first host take join out")
	}
	return seat{}, joinErrors(errs)
}

// others are the hosts of join=, then those remembered, without this one.
func (m *Member) others(join, remembered []string, self netip.AddrPort) []string {
	seen := map[string]bool{netip.AddrPortFrom(self.Addr(), m.cfg.ClientPort).String(): true}
	var out []string
	for _, h := range slices.Concat(join, remembered) {
		if h = hostPort(h, m.cfg.ClientPort); !seen[h] {
			seen[h] = true
			out = append(out, h)
		}
	}
	return out
}

// joinBy asks one host. Each request has its own time limit, so that a host that hangs does not keep us from the next. A host that is
// invited has found itself in the list while it stood by: the leader wants it there even beyond the size.
func (m *Member) joinBy(ctx context.Context, host string, st *state, self netip.AddrPort, invited bool) (seat, error) {
	if err := reach(ctx, host); err != nil {
		return seat{}, err
	}
	c, err := m.dial(urls([]string{host}))
	if err != nil {
		return seat{}, err
	}
	defer c.Close()
	list, id, err := memberList(ctx, c)
	if err != nil {
		return seat{}, err
	}
	if st.Cluster != "" && st.Cluster != hex(id) && !m.descends(ctx, c, st.Cluster) {
		return seat{}, fmt.Errorf("is of cluster %x, this host of %s: correct join; to change the cluster remove %s and restart fleetd",
			id, st.Cluster, stateFile(m.cfg.Dir))
	}
	// From here on a restart must go on joining, with or without join= in its configuration.
	st.Cluster, st.Hosts = hex(id), memberHosts(list)
	if err := st.save(m.cfg.Dir); err != nil {
		return seat{}, err
	}
	m.update(func(s *Status) { s.Cluster = st.Cluster })

	url := m.peerURL(self)
	size := m.cfg.Size
	if invited {
		size = len(list)
	}
	e := planEntry(list, url, size)
	if e.Do != stepStandBy && m.cfg.TLS.Seat != nil {
		may, err := m.cfg.TLS.Seat(ctx)
		if err != nil {
			return seat{}, fmt.Errorf("ask for a seat: %w", err)
		}
		if !may {
			return seat{standBy: true, hosts: voterHosts(list)}, nil
		}
		// What shows us from here on is another certificate than the one this connection began with.
		voter, err := m.dial(urls([]string{host}))
		if err != nil {
			return seat{}, err
		}
		defer voter.Close()
		c = voter
	}
	if e.Do == stepReplace {
		m.log.Info("replacing this host's entry, its data is gone", "id", hex(e.ID))
		if list, err = memberRemove(ctx, c, e.ID); err != nil {
			return seat{}, err
		}
		e = planEntry(list, url, size)
	}
	if e.Do == stepAdd {
		if list, err = memberAdd(ctx, c, url); err != nil {
			return seat{}, err
		}
		// The answer is the list as of our own addition, in the one order all members agree on: of two hosts that took the last
		// seat at once exactly one finds too many, and steps back.
		e = planEntry(list, url, size)
	}
	if e.Do == stepStandBy {
		if e.ID != 0 {
			if list, err = memberRemove(ctx, c, e.ID); err != nil {
				return seat{}, err
			}
		}
		return seat{standBy: true, hosts: voterHosts(list)}, nil
	}
	return seat{initial: initialCluster(list, url, m.cfg.Name), hosts: voterHosts(list)}, nil
}

// initialCluster writes the members as etcd wants them. Names must differ there, and host names need not: IDs do.
func initialCluster(list []*pb.Member, self, ownName string) string {
	var parts []string
	for _, mb := range list {
		name := hex(mb.ID)
		if slices.Contains(mb.PeerURLs, self) {
			name = ownName
		}
		for _, u := range mb.PeerURLs {
			parts = append(parts, name+"="+u)
		}
	}
	return strings.Join(parts, ",")
}

// reach finds out quickly and in plain words whether a host can be reached at all; the client library would try until its
// time is up and say only that.
func reach(ctx context.Context, host string) error {
	c, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	return c.Close()
}

func memberList(ctx context.Context, c *clientv3.Client) ([]*pb.Member, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := c.MemberList(ctx)
	if err != nil {
		return nil, 0, err
	}
	return r.Members, r.Header.ClusterId, nil
}

// changeTime is the most one change of the list may take. Raft takes one at a time and drops others without an answer, so a
// longer wait gains nothing: ask again.
const changeTime = 3 * time.Second

func memberAdd(ctx context.Context, c *clientv3.Client, url string) ([]*pb.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	r, err := c.MemberAddAsLearner(ctx, []string{url})
	if err != nil {
		return nil, err
	}
	return r.Members, nil
}

func memberRemove(ctx context.Context, c *clientv3.Client, id uint64) ([]*pb.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	r, err := c.MemberRemove(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.Members, nil
}

// explain adds to the store's errors what a person can do about them.
func explain(err error) error {
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return errors.New("other hosts are joining: waiting for them")
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return errors.New("the cluster must be whole for 5 s before it takes a host: waiting (are all its voters up?)")
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged):
		return errors.New("the cluster has no leader at the moment: waiting (are most of its voters up?)")
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		return errors.New("etcd does not know this user and password: correct etcd_username and etcd_password")
	case errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty):
		return errors.New("etcd wants a user: set etcd_username and etcd_password")
	case errors.As(err, &op), code(err) == codes.Unavailable:
		return fmt.Errorf("no answer (is fleetd up there, with member_ip set?): %w", short(err))
	case errors.Is(err, context.DeadlineExceeded), code(err) == codes.DeadlineExceeded:
		return errors.New("no answer in time (are the host and most of the voters up? is the port open?)")
	}
	return err
}

func code(err error) codes.Code {
	s, ok := status.FromError(err)
	if !ok {
		return codes.OK
	}
	return s.Code()
}

// short takes the wrapping off gRPC's connection errors, which repeat themselves.
func short(err error) error {
	s := err.Error()
	if i := strings.LastIndex(s, "dial "); i >= 0 {
		s = s[i:]
	}
	return errors.New(strings.Trim(s, `"`))
}

// joinErrors makes one line of the errors of several hosts.
func joinErrors(errs []error) error {
	parts := make([]string, len(errs))
	for i, err := range errs {
		parts[i] = err.Error()
	}
	return errors.New(strings.Join(parts, "; "))
}

// standBy serves the socket through the voters until ctx ends, or the leader has given this host a seat (invited).
func (m *Member) standBy(ctx context.Context, st *state, self netip.AddrPort, s seat, d *door) (invited bool, err error) {
	was := m.Status().Role
	m.update(func(s *Status) { s.Role, s.Peer, s.ID, s.Leads = StandBy, m.peerURL(self), "", false })
	p, err := m.newProxy(urls(s.hosts), nil)
	if err != nil {
		return false, err
	}
	defer p.close()
	defer d.park()
	m.lead(urls(s.hosts)...)
	d.serve(p.server)
	if !m.untilReady(ctx, "waiting for the voters "+strings.Join(s.hosts, ", ")) {
		return false, nil
	}
	if was != StandBy {
		m.log.Info("standing by", "voters", s.hosts)
	}
	for ok := true; ok; ok = pause.For(ctx, followEvery) {
		list, id, err := memberList(ctx, m.client)
		if err != nil && ctx.Err() == nil {
			list, id, err = m.listElsewhere(ctx, st, self, err)
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			m.update(func(s *Status) { s.Lost = "the voters do not answer: " + explain(err).Error() })
			m.doing("asking the voters who votes", explain(err))
			continue
		}
		m.update(func(s *Status) { s.Lost = "" })
		m.doing("", nil)
		m.follow(st, p, list, id)
		if slices.ContainsFunc(list, func(mb *pb.Member) bool { return slices.Contains(mb.PeerURLs, m.peerURL(self)) }) {
			m.log.Info("called to the members")
			return true, nil
		}
	}
	return false, nil
}

// listElsewhere asks all hosts that were ever named or seen for the members, when the voters of the last time do not answer: they may all be others by
// now.
func (m *Member) listElsewhere(ctx context.Context, st *state, self netip.AddrPort, err error) ([]*pb.Member, uint64, error) {
	for _, host := range m.others(m.cfg.Join, st.Hosts, self) {
		if reach(ctx, host) != nil {
			continue
		}
		c, dialErr := m.dial(urls([]string{host}))
		if dialErr != nil {
			continue
		}
		list, id, listErr := memberList(ctx, c)
		_ = c.Close() // it was asked
		if listErr == nil && hex(id) == st.Cluster && len(voterHosts(list)) > 0 {
			return list, id, nil
		}
	}
	return nil, 0, err
}

// followEvery is how often a host that does not vote asks who does, and whether it shall: any one of the known voters can answer.
const followEvery = 2 * time.Second

// follow points clients and memory at the voters of today.
func (m *Member) follow(st *state, p *proxy, list []*pb.Member, cluster uint64) {
	m.update(func(s *Status) { s.Members = infos(list); s.Cluster = hex(cluster) })
	hosts := voterHosts(list)
	if len(hosts) == 0 {
		return
	}
	if p != nil && !slices.Equal(m.client.Endpoints(), urls(hosts)) {
		m.lead(urls(hosts)...)
		p.client.SetEndpoints(urls(hosts)...)
	}
	known := memberHosts(list)
	if slices.Equal(known, st.Hosts) && st.Cluster == hex(cluster) {
		return
	}
	next := *st
	next.Hosts, next.Cluster = known, hex(cluster)
	if err := next.save(m.cfg.Dir); err != nil {
		m.forgetful("the voters", err)
		return
	}
	m.forgot = ""
	*st = next
}

// forgetful says that something cannot be remembered, once: the next round tries again, twice a second.
func (m *Member) forgetful(what string, err error) {
	if m.forgot != err.Error() {
		m.forgot = err.Error()
		m.log.Warn("cannot remember "+what, "err", err)
	}
}

func infos(list []*pb.Member) []Info {
	out := make([]Info, len(list))
	for i, mb := range list {
		out[i] = Info{ID: hex(mb.ID), Name: mb.Name, Peers: mb.PeerURLs, Clients: mb.ClientURLs, Learner: mb.IsLearner}
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.ID, b.ID) })
	return out
}
