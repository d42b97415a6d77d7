package member

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
)

// ErrElsewhere: the store is an etcd elsewhere, whose members are not ours to look after.
var ErrElsewhere error = refusal("the store is an etcd elsewhere (etcd_servers): its members are looked after there")

// refusal is a fleet.ErrConflict in words of its own.
type refusal string

func refuse(format string, a ...any) error { return refusal(fmt.Sprintf(format, a...)) }

func (r refusal) Error() string { return string(r) }

// Is makes errors.Is(err, fleet.ErrConflict) true.
func (refusal) Is(target error) bool { return target == fleet.ErrConflict }

// List says how the members are, each asked just now. Without a quorum it is the list of the last time, and Lost says so.
func (m *Member) List(ctx context.Context) (fleet.StoreMembers, error) {
	if len(m.cfg.Servers) > 0 {
		return fleet.StoreMembers{}, ErrElsewhere
	}
	st := m.Status()
	out := fleet.StoreMembers{Cluster: st.Cluster, Waits: st.Waits}
	list, _, err := memberList(ctx, m.client)
	if err != nil {
		out.Lost = explain(err).Error()
		for _, i := range st.Members {
			id, _ := strconv.ParseUint(i.ID, 16, 64) // written by infos
			list = append(list, &pb.Member{ID: id, Name: i.Name, PeerURLs: i.Peers, ClientURLs: i.Clients, IsLearner: i.Learner})
		}
	}
	out.Members = make([]fleet.StoreMember, len(list))
	indexes := make([]uint64, len(list))
	var wg sync.WaitGroup
	for i, mb := range list {
		wg.Go(func() { out.Members[i], indexes[i] = m.ask1(ctx, mb) })
	}
	wg.Wait()
	if len(indexes) > 0 {
		most := slices.Max(indexes)
		for i, n := range indexes {
			if n > 0 {
				out.Members[i].Lag = int64(most - n)
			}
		}
	}
	slices.SortFunc(out.Members, func(a, b fleet.StoreMember) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	return out, nil
}

// ask1 asks one member how it is, by its client port; also for the end of its log.
func (m *Member) ask1(ctx context.Context, mb *pb.Member) (fleet.StoreMember, uint64) {
	s := fleet.StoreMember{ID: hex(mb.ID), Name: mb.Name, Role: string(Voter), Lag: -1}
	if mb.IsLearner {
		s.Role = string(Learner)
	}
	if len(mb.PeerURLs) > 0 {
		s.Peer = mb.PeerURLs[0]
	}
	if mb.Name == "" {
		s.Health = "has not started yet"
		return s, 0
	}
	r, err := m.statusOf(ctx, mb)
	switch {
	case err != nil:
		s.Health = "does not answer"
		return s, 0
	case r.Header.MemberId != mb.ID:
		s.Health = "another member answers at its address"
		return s, 0
	}
	s.Size, s.Used, s.Leader, s.Health = r.DbSize, r.DbSizeInUse, r.Leader == mb.ID, "ok"
	if len(r.Errors) > 0 {
		s.Health = strings.Join(r.Errors, ", ")
	}
	return s, r.RaftIndex
}

func (m *Member) statusOf(ctx context.Context, mb *pb.Member) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	endpoint := m.socketURL()
	if hex(mb.ID) != m.Status().ID {
		if len(mb.ClientURLs) == 0 {
			return nil, errors.New("it has no client port")
		}
		u, err := url.Parse(mb.ClientURLs[0])
		if err != nil {
			return nil, err
		}
		endpoint = urls([]string{u.Host})[0]
	}
	c, err := m.dial([]string{endpoint})
	if err != nil {
		return nil, err
	}
	r, err := c.Status(ctx, endpoint)
	return r, errors.Join(err, c.Close())
}

// Remove takes a member out for good. Its host, if it runs, moves the data aside and joins anew: as a stand-by when all seats are taken by then.
func (m *Member) Remove(ctx context.Context, id string) error {
	if len(m.cfg.Servers) > 0 {
		return ErrElsewhere
	}
	n, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return fmt.Errorf("member %q: %w", id, fleet.ErrNotFound)
	}
	list, _, err := memberList(ctx, m.client)
	if err != nil {
		return explain(err)
	}
	at := slices.IndexFunc(list, func(mb *pb.Member) bool { return mb.ID == n })
	if at < 0 {
		return fmt.Errorf("member %s: %w", id, fleet.ErrNotFound)
	}
	if voters := len(list) - learners(list); voters == 1 && !list[at].IsLearner {
		return refuse("member %s is the only one that votes", id)
	}
	_, err = memberRemove(ctx, m.client, n)
	if errors.Is(err, rpctypes.ErrUnhealthy) || errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) {
		return refuse("remove member %s: the others would not be a quorum, or have not all answered for 5 s", id)
	}
	return explain(err)
}

func learners(list []*pb.Member) (n int) {
	for _, mb := range list {
		if mb.IsLearner {
			n++
		}
	}
	return n
}

// Promote makes the host with this peer URL a voter: one that stands by gets a seat first. When there are more voters than cluster_size then,
// one that does not answer goes, else one that does not lead. It returns when that is done.
func (m *Member) Promote(ctx context.Context, peer string) error {
	if len(m.cfg.Servers) > 0 {
		return ErrElsewhere
	}
	list, _, err := memberList(ctx, m.client)
	if err != nil {
		return explain(err)
	}
	find := func() *pb.Member {
		for _, mb := range list {
			if slices.Contains(mb.PeerURLs, peer) {
				return mb
			}
		}
		return nil
	}
	if find() == nil {
		if list, err = memberAdd(ctx, m.client, peer); err != nil {
			return explain(err)
		}
	}
	mb := find()
	if mb == nil || !mb.IsLearner {
		return nil
	}
	for {
		_, err := m.client.MemberPromote(ctx, mb.ID)
		if err == nil || errors.Is(err, rpctypes.ErrMemberNotLearner) {
			break
		}
		if !errors.Is(err, rpctypes.ErrMemberLearnerNotReady) && !errors.Is(err, rpctypes.ErrUnhealthy) && ctx.Err() == nil {
			return explain(err)
		}
		if !pause.For(ctx, 500*time.Millisecond) {
			return fmt.Errorf("member %x did not start, or did not catch up with the others in time; its seat stays: %w", mb.ID, context.Cause(ctx))
		}
	}
	return m.makeRoom(ctx, mb.ID)
}

// makeRoom removes a voter other than this one while there are too many.
func (m *Member) makeRoom(ctx context.Context, stays uint64) error {
	all, err := m.List(ctx)
	if err != nil {
		return err
	}
	var voters []fleet.StoreMember
	for _, s := range all.Members {
		if s.Role == string(Voter) {
			voters = append(voters, s)
		}
	}
	if len(voters) <= m.cfg.Size {
		return nil
	}
	voters = slices.DeleteFunc(voters, func(s fleet.StoreMember) bool { return s.Leader || s.ID == hex(stays) })
	at := max(0, slices.IndexFunc(voters, func(s fleet.StoreMember) bool { return s.Health != "ok" }))
	for {
		err := m.Remove(ctx, voters[at].ID)
		if !errors.Is(err, fleet.ErrConflict) || !pause.For(ctx, 500*time.Millisecond) { // the new voter must have been seen for 5 s
			return err
		}
	}
}
