package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"

	"github.com/fleet-init/fleet/internal/pause"
)

// embedded brings the member up as what it is or shall be, and serves until ctx ends.
func (m *Member) embedded(ctx context.Context) error {
	release, err := claimDir(m.cfg.Dir)
	for try := 0; errors.Is(err, syscall.ENOSPC); try++ {
		// To end and be started again each second would help nobody. Everything else runs on, and the others replace this voter.
		m.doing("waiting for room", err)
		if !pause.For(ctx, backoff(try)) {
			return nil
		}
		release, err = claimDir(m.cfg.Dir)
	}
	if err != nil {
		return err
	}
	defer release()
	st, err := loadState(m.cfg.Dir)
	if err != nil {
		return err
	}
	addr, ok := m.address(ctx)
	if !ok {
		return nil
	}
	var self, client netip.AddrPort
	if addr.IsValid() {
		self, client = netip.AddrPortFrom(addr, m.cfg.PeerPort), netip.AddrPortFrom(addr, m.cfg.ClientPort)
	}
	d, err := openDoor(m.cfg.Socket, client)
	if err != nil {
		return err
	}
	defer d.close()
	if hasLog(m.cfg.Dir) && !m.awaitOriginal(ctx, st, client) {
		return nil
	}

	for {
		life, end := context.WithCancel(ctx)
		m.mu.Lock()
		m.endLife = end
		m.mu.Unlock()
		err := m.life(life, &st, self, d)
		again := errors.Is(err, errAgain) || err == nil && life.Err() != nil
		end()
		if !again || ctx.Err() != nil {
			return err
		}
	}
}

// errAgain ends a life whose host shall find out anew what it is.
var errAgain = errors.New("begin again")

// life is from finding out what this host is to the store until that has ended.
func (m *Member) life(ctx context.Context, st *state, self netip.AddrPort, d *door) error {
	if err := m.restore(st, self); err != nil {
		return err
	}
	m.update(func(s *Status) { s.Role, s.ID, s.Leads, s.Lost = None, "", false, "" })
	if hasLog(m.cfg.Dir) && st.Cluster != "" {
		if err := m.superseded(ctx, st, self); err != nil {
			return err
		}
	}
	invited := false
	for try := 0; ; try++ {
		var s seat
		if !hasLog(m.cfg.Dir) {
			remembered := m.others(nil, st.Hosts, self)
			if len(remembered) == 0 {
				st.Cluster = "" // if there was one it was ours alone, and its data is gone
			}
			if len(m.cfg.Join) > 0 || len(remembered) > 0 {
				var ok bool
				if s, ok = m.join(ctx, st, self, invited); !ok {
					return nil
				}
			}
		}
		if s.standBy {
			var err error
			if invited, err = m.standBy(ctx, st, self, s, d); err != nil || !invited {
				return err
			}
			continue
		}
		e, err := m.start(s.initial, self)
		if err == nil {
			return m.serve(ctx, e, st, self, d)
		}
		if s.initial == "" || errors.As(err, new(permanent)) {
			return err
		}
		// Another host was added between our look at the list and the start, or the voters are away: look again. What etcd says
		// of it is a page long.
		m.log.Debug("member did not start", "err", err)
		m.doing("joining", errors.New("the list of members changed meanwhile, or its hosts went away"))
		if !pause.For(ctx, backoff(try)) {
			return nil
		}
	}
}

// address finds this host's address in the network of the configuration, waiting for it to appear; the zero Addr if none is
// set. ok=false: ctx ended first.
func (m *Member) address(ctx context.Context) (a netip.Addr, ok bool) {
	if !m.cfg.Net.IsValid() || m.cfg.Net.IsSingleIP() {
		return m.cfg.Net.Addr(), true
	}
	for try := 0; ; try++ {
		addrs, err := net.InterfaceAddrs()
		if err == nil {
			if a, ok := pickAddress(m.cfg.Net, addrs); ok {
				return a, true
			}
			err = fmt.Errorf("this host has no address in %s: correct member_ip, or the network", m.cfg.Net)
		}
		m.doing("finding this host's address", err)
		if !pause.For(ctx, backoff(try)) {
			return netip.Addr{}, false
		}
	}
}

// pickAddress takes the lowest of several, so that it is the same after a restart.
func pickAddress(in netip.Prefix, addrs []net.Addr) (netip.Addr, bool) {
	var best netip.Addr
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && in.Contains(p.Addr().Unmap()) && (!best.IsValid() || p.Addr().Unmap().Less(best)) {
			best = p.Addr().Unmap()
		}
	}
	return best, best.IsValid()
}

// voting is a started member and what is around it.
type voting struct {
	m     *Member
	e     *embed.Etcd
	st    *state
	self  netip.AddrPort
	door  *door
	proxy *proxy // while a learner

	tended tending // while it leads
	told   bool    // the store says which cluster it is
	alone  int     // turns without a leader
	house  housekeeping
}

// serve runs a started member until ctx ends or etcd does.
func (m *Member) serve(ctx context.Context, e *embed.Etcd, st *state, self netip.AddrPort, d *door) error {
	v := &voting{m: m, e: e, st: st, self: self, door: d}
	m.setServer(e)
	defer m.end(e)
	defer m.setServer(nil)
	defer d.park() // clients first: a member that stops serves nobody
	defer func() {
		if v.proxy != nil {
			v.proxy.close()
		}
	}()
	id, cluster := uint64(e.Server.MemberID()), uint64(e.Server.Cluster().ID())
	m.update(func(s *Status) {
		s.ID, s.Cluster, s.Peer = hex(id), hex(cluster), ""
		if self.IsValid() {
			s.Peer = m.peerURL(self)
		}
	})
	if n := len(e.Server.Cluster().Members()); n > 1 && !self.IsValid() {
		return fmt.Errorf("this host is one of %d members but member_ip is not set: set it to the address that the others reach", n)
	}
	elsewhere := make(chan error, 1)
	ask, stopAsking := context.WithCancel(ctx)
	asked, known := make(chan struct{}), *st // as it is now: our own goroutine changes it
	go func() {
		defer close(asked)
		if err := m.elsewhere(ask, e, known, self); err != nil {
			elsewhere <- err
		}
	}()
	defer func() { stopAsking(); <-asked }()

	tick := time.NewTicker(turnEvery)
	defer tick.Stop()
	ready := e.Server.ReadyNotify()
	for ticks := 0; ; ticks++ {
		select {
		case <-ctx.Done():
			return nil
		case err := <-elsewhere:
			return err
		case <-e.Server.StopNotify():
			return m.whyStopped(ctx, e, st, self)
		case <-ready:
			ready = nil
		case <-tick.C:
		}
		if e.Server.IsIDRemoved(id) {
			// One that was stopped between its removal and its end would sit there for ever: it speaks to nobody any more.
			return m.whyStopped(ctx, e, st, self)
		}
		if err := v.watchQuorum(ctx); err != nil {
			return err
		}
		if ready != nil { // it has not written its own name yet, which takes a quorum
			if ticks > 5 { // an election takes a second or two
				m.doing("waiting for a quorum of "+strings.Join(peerHosts(v.list()), ", "), nil)
			}
			continue
		}
		if err := v.turn(ctx); err != nil && ctx.Err() == nil {
			m.doing("keeping the members", explain(err))
		}
	}
}

// turnEvery is how often a member looks at the list, which it holds itself, for what there is to do.
const turnEvery = 500 * time.Millisecond

// turn sees to it that the door leads where it should, and, at the leader, that learners become voters.
func (v *voting) turn(ctx context.Context) error {
	list := v.list()
	if err := v.tellAddress(ctx, list); err != nil {
		return err
	}
	v.remember()
	leads := v.e.Server.Leader() == v.e.Server.MemberID()
	if err := v.freshen(ctx); err != nil {
		return err
	}
	if err := v.takeRole(ctx, list); err != nil {
		return err
	}
	v.m.update(func(s *Status) { s.Leads = leads })
	var err error
	if leads && !v.m.holds() {
		if err = v.writeOrigin(ctx); err == nil {
			err = errors.Join(v.tend(ctx, list), v.keepSpace(ctx, list, time.Now()))
		}
	} else {
		v.tended = tending{}
		v.m.update(func(s *Status) { s.Waits = "" })
	}
	v.m.follow(v.st, v.proxy, list, uint64(v.e.Server.Cluster().ID()))
	if err == nil {
		v.m.doing("", nil)
	}
	return err
}

// watchQuorum says when there is no leader any more. After a while it looks whether the cluster goes on elsewhere.
func (v *voting) watchQuorum(ctx context.Context) error {
	led := v.e.Server.Leader() != 0
	learns := v.learns(v.list())
	if learns {
		// A learner takes part in no election, and knows only who led last. One whose door is not open yet (takeRole) asks nobody, and looks
		// around below: it may have joined in the last moment of a cluster that was restored elsewhere.
		if v.alone++; v.alone%4 != 0 && v.m.Status().Lost == "" && v.proxy != nil {
			return nil
		}
		// Who answers may be in another cluster by now.
		led = v.proxy != nil && v.m.ask(ctx) == nil && v.m.Status().Cluster == hex(uint64(v.e.Server.Cluster().ID()))
		v.alone-- // counted below
	}
	if led {
		v.alone = 0
		v.m.update(func(s *Status) { s.Lost = "" })
		return nil
	}
	v.alone++
	if v.alone > 5 && (!learns || v.proxy != nil || v.e.Server.Leader() == 0) { // an election takes a second or two
		v.m.update(func(s *Status) {
			s.Lost = "the store has no quorum: most of its voters (" + strings.Join(peerHosts(v.list()), ", ") + ") must answer; " +
				"units run on, nothing can be changed. If they are lost for good: fleetctl recover"
		})
	}
	if v.alone%10 == 9 {
		return v.m.superseded(ctx, v.st, v.self)
	}
	return nil
}

// learns tells whether this member has no vote. etcd's own answer panics in the moment after this member was removed.
func (v *voting) learns(list []*pb.Member) bool {
	id := uint64(v.e.Server.MemberID())
	return slices.ContainsFunc(list, func(mb *pb.Member) bool { return mb.ID == id && mb.IsLearner })
}

func (v *voting) list() []*pb.Member {
	var out []*pb.Member
	for _, mb := range v.e.Server.Cluster().Members() {
		out = append(out, &pb.Member{ID: uint64(mb.ID), Name: mb.Name, PeerURLs: mb.PeerURLs, ClientURLs: mb.ClientURLs, IsLearner: mb.IsLearner})
	}
	return out
}

// tellAddress corrects this member's address in the list: it may have had none at first, or have another now.
func (v *voting) tellAddress(ctx context.Context, list []*pb.Member) error {
	if !v.self.IsValid() {
		return nil
	}
	id, want := v.e.Server.MemberID(), []string{v.m.peerURL(v.self)}
	for _, mb := range list {
		if mb.ID != uint64(id) || slices.Equal(mb.PeerURLs, want) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := v.e.Server.UpdateMember(ctx, membership.Member{ID: id, RaftAttributes: membership.RaftAttributes{PeerURLs: want}})
		if err != nil {
			return fmt.Errorf("tell the members the address %s: %w", v.self, err)
		}
		v.m.log.Info("address of this member changed", "old", mb.PeerURLs, "new", want)
	}
	return nil
}

// takeRole makes the door and the client fit what this member is. etcd refuses nearly everything on a learner, so its
// clients are led to the voters until it is one.
func (v *voting) takeRole(ctx context.Context, list []*pb.Member) error {
	role, m := Voter, v.m
	if v.learns(list) {
		role = Learner
	}
	if m.Status().Role != role {
		old := v.proxy
		if role == Learner {
			hosts := voterHosts(list)
			p, err := m.newProxy(urls(hosts), v.e.Server)
			if err != nil {
				return err
			}
			v.proxy = p
			m.lead(urls(hosts)...)
			v.door.serve(p.server)
		} else {
			v.proxy = nil
			v.door.serve(m.newServer(v.e.Server))
			m.lead(m.socketURL())
		}
		if old != nil {
			old.close()
		}
		m.update(func(s *Status) { s.Role = role })
		m.log.Info("store runs", "role", string(role), "cluster", v.e.Server.Cluster().ID().String(), "members", len(list))
	}
	if m.Status().Ready {
		return nil
	}
	if !m.untilReady(ctx, "waiting for the store's first answer") {
		return ctx.Err()
	}
	return nil
}

// end stops etcd; if it leads, another voter leads first. etcd's own stop would do that too, but waits 7 s for a host that
// is stopping as well.
func (m *Member) end(e *embed.Etcd) {
	s := e.Server
	if s.Leader() == s.MemberID() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		for _, mb := range s.Cluster().Members() {
			if mb.ID == s.MemberID() || mb.IsLearner || !m.alive(ctx, mb.PeerURLs) {
				continue
			}
			err := s.MoveLeader(ctx, uint64(s.MemberID()), uint64(mb.ID))
			if err == nil || ctx.Err() != nil {
				break
			}
		}
		s.HardStop()
	}
	e.Close()
	m.update(func(s *Status) { s.Leads = false })
}

// alive asks a member by the port that its votes would come through.
func (m *Member) alive(ctx context.Context, peerURLs []string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, u := range peerURLs {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u+"/version", nil)
		if err != nil {
			continue
		}
		resp, err := m.http.Do(req)
		if err != nil {
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return true
		}
	}
	return false
}

// elsewhere asks the hosts of join=, if they answer at once, whether they are of this member's cluster.
func (m *Member) elsewhere(ctx context.Context, e *embed.Etcd, st state, self netip.AddrPort) error {
	cluster := uint64(e.Server.Cluster().ID())
	for _, host := range m.others(m.cfg.Join, nil, self) {
		if reach(ctx, host) != nil {
			continue
		}
		c, err := m.dial(urls([]string{host}))
		if err != nil {
			continue
		}
		_, id, err := memberList(ctx, c)
		c.Close()
		if err == nil && id != cluster {
			if n := len(e.Server.Cluster().Members()); n > 1 {
				// The host asked may be the one that is wrong. A member that its cluster needs must not stay away for that.
				m.log.Warn("a host of join is of another cluster", "host", host, "cluster", hex(id), "own", hex(cluster))
				continue
			}
			if slices.Contains(st.From, hex(id)) {
				m.log.Warn("a host of join is of the cluster that this one was restored from", "host", host, "cluster", hex(id))
				continue
			}
			return fmt.Errorf("the data in %s is of cluster %x, but %s (join) is of cluster %x: "+
				"to join that one and give up what this host holds, stop fleetd, remove the directory and start fleetd; to stay, take join out",
				etcdDir(m.cfg.Dir), cluster, host, id)
		}
	}
	return nil
}

func peerHosts(list []*pb.Member) []string {
	var out []string
	for _, mb := range list {
		if !mb.IsLearner {
			out = append(out, mb.PeerURLs...)
		}
	}
	slices.Sort(out)
	return out
}
