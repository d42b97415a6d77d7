package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"

	"github.com/fleet-init/fleet/internal/pause"
)

// Host is what the cluster knows of a registered host, as far as seats go.
type Host struct {
	Name   string
	Zone   string
	Role   Role
	Member string // etcd's member ID, hex, of a voter or learner
	Peer   string // where its peer port is or would be; empty: it cannot have a seat
}

// tending is what the leader remembers between its turns. A new leader begins anew: grace periods count from then.
type tending struct {
	list    []uint64             // of the last turn
	asked   time.Time            // when all members were asked
	seen    map[uint64]time.Time // when each last answered, or was first missed
	alive   map[uint64]bool
	hosts   []Host
	hostsAt time.Time
	surplus time.Time // since when there are too many voters; zero: there are not
	left    map[string]time.Time
	stuck   string // the last reason of a refusal that was logged
}

const (
	// askEvery is how often the leader asks all members while nothing is to be done.
	askEvery = 2 * time.Second
	// hostsEvery is how often it looks for better voters then, hostsSoon how often when a seat is to be filled.
	hostsEvery = 10 * time.Second
	hostsSoon  = 2 * time.Second
	// leftFor is for how long one that was taken out is not preferred for the next seat.
	leftFor = 10 * time.Minute
)

// tend makes the members what Plan says, one change at a time, each planned on what is seen anew.
func (v *voting) tend(ctx context.Context, list []*pb.Member) error {
	now := time.Now()
	whole := !slices.ContainsFunc(list, func(mb *pb.Member) bool { return mb.IsLearner || mb.Name == "" }) && len(list)%2 == 1
	same := slices.EqualFunc(v.tended.list, list, func(id uint64, mb *pb.Member) bool { return id == mb.ID })
	if whole && same && now.Sub(v.tended.asked) < askEvery {
		return nil
	}
	for range v.m.cfg.Size {
		v.askAll(ctx, list, now)
		v.askHosts(ctx, list, now)
		view := v.view(list, now)
		step, why := Plan(view)
		v.m.update(func(s *Status) { s.Waits = "" })
		if step.Do == Stay {
			v.m.update(func(s *Status) { s.Waits = why })
			return nil
		}
		err := v.carryOut(ctx, step, why)
		if err != nil {
			return v.refused(step, why, err)
		}
		v.tended.stuck = ""
		if step.Do != Promote {
			return nil // other hosts have to act on it first
		}
		// Between the first and the second of two promotions there is an even number of voters, which should be short.
		list, now = v.list(), time.Now()
	}
	return nil
}

// askAll asks every member by its peer port, all at once.
func (v *voting) askAll(ctx context.Context, list []*pb.Member, now time.Time) {
	t := &v.tended
	if t.seen == nil {
		t.seen, t.left = map[uint64]time.Time{}, map[string]time.Time{}
	}
	t.list, t.asked, t.alive = nil, now, map[uint64]bool{}
	var mu sync.Mutex // guards t.alive
	var wg sync.WaitGroup
	for _, mb := range list {
		t.list = append(t.list, mb.ID)
		wg.Go(func() {
			ok := mb.ID == uint64(v.e.Server.MemberID()) || v.m.alive(ctx, mb.PeerURLs)
			mu.Lock()
			defer mu.Unlock()
			t.alive[mb.ID] = ok
		})
	}
	wg.Wait()
	for _, id := range t.list {
		if _, known := t.seen[id]; t.alive[id] || !known {
			t.seen[id] = now
		}
	}
	for id := range t.seen {
		if _, there := t.alive[id]; !there {
			delete(t.seen, id)
		}
	}
}

// askHosts learns which hosts there are. What it learned last stays when there is no answer.
func (v *voting) askHosts(ctx context.Context, list []*pb.Member, now time.Time) {
	t := &v.tended
	every := hostsEvery
	if len(list) < v.m.cfg.Size || slices.ContainsFunc(list, func(mb *pb.Member) bool { return mb.IsLearner || !t.alive[mb.ID] }) {
		every = hostsSoon
	}
	if v.m.cfg.Hosts == nil || !t.hostsAt.IsZero() && now.Sub(t.hostsAt) < every {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	hosts, err := v.m.cfg.Hosts(ctx)
	if err != nil {
		v.m.log.Debug("hosts not known", "err", err)
		return
	}
	t.hosts, t.hostsAt = hosts, now
}

// view puts together what Plan needs.
func (v *voting) view(list []*pb.Member, now time.Time) View {
	t := &v.tended
	view := View{Size: v.m.cfg.Size, Grace: v.m.cfg.grace(), Answers: true}
	self := uint64(v.e.Server.MemberID())
	corrupt := map[uint64]bool{}
	for _, a := range v.e.Server.Alarms() {
		corrupt[a.MemberID] = corrupt[a.MemberID] || a.Alarm == pb.AlarmType_CORRUPT
	}
	voters, taken := 0, map[string]bool{}
	for _, mb := range list {
		s := Seat{ID: mb.ID, Name: mb.Name, Learner: mb.IsLearner, Started: mb.Name != "", Leads: mb.ID == self, Alive: t.alive[mb.ID],
			Corrupt: corrupt[mb.ID]}
		if !s.Alive {
			s.Gone = now.Sub(t.seen[mb.ID])
		}
		for _, h := range t.hosts {
			if h.Member == hex(mb.ID) {
				s.Name, s.Zone = h.Name, h.Zone
			}
		}
		for _, u := range mb.PeerURLs {
			taken[u] = true
		}
		if !mb.IsLearner {
			voters++
		}
		view.Members = append(view.Members, s)
	}
	for _, h := range t.hosts {
		if h.Role == StandBy && h.Peer != "" && !taken[h.Peer] {
			view.StandBys = append(view.StandBys, Waiting{Peer: h.Peer, Name: h.Name, Zone: h.Zone, Passed: now.Sub(t.left[h.Peer]) < leftFor})
		}
	}
	switch {
	case voters <= v.m.cfg.Size:
		t.surplus = time.Time{}
	case t.surplus.IsZero():
		t.surplus = now
	default:
		view.Surplus = now.Sub(t.surplus)
	}
	return view
}

// carryOut makes one change, after the store has shown that it is well.
func (v *voting) carryOut(ctx context.Context, step Step, why string) error {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	if err := v.e.Server.LinearizableReadNotify(ctx); err != nil {
		return err
	}
	switch step.Do {
	case Promote:
		if err := v.promoteOne(ctx, step.ID); err != nil {
			return err
		}
		v.m.log.Info("member votes from now on", "id", hex(step.ID), "reason", why)
	case Remove:
		for _, mb := range v.list() {
			if mb.ID == step.ID {
				for _, u := range mb.PeerURLs {
					v.tended.left[u] = time.Now()
				}
			}
		}
		if _, err := v.e.Server.RemoveMember(ctx, step.ID); err != nil {
			return err
		}
		v.m.log.Info("member removed", "id", hex(step.ID), "reason", why)
	case Add:
		u, err := types.NewURLs([]string{step.Peer})
		if err != nil {
			return err
		}
		now := time.Now()
		mb := membership.NewMemberAsLearner("", u, "", &now)
		if _, err := v.e.Server.AddMember(ctx, *mb); err != nil {
			return err
		}
		v.m.log.Info("host gets a seat", "peer", step.Peer, "reason", why)
	}
	return nil
}

// refused says why a change that is due was not made; it is tried again in the next turn. What passes by itself in a moment is no news.
func (v *voting) refused(step Step, why string, err error) error {
	v.m.update(func(s *Status) { s.Waits = why + ": " + explain(err).Error() })
	for _, passing := range []error{etcderrors.ErrUnhealthy, etcderrors.ErrLearnerNotReady, etcderrors.ErrNotLeader, etcderrors.ErrLeaderChanged} {
		if errors.Is(err, passing) {
			return nil
		}
	}
	if v.tended.stuck != err.Error() {
		v.tended.stuck = err.Error()
		return fmt.Errorf("%s member %x%s (%s): %w", step.Do, step.ID, step.Peer, why, err)
	}
	return nil
}

// promoteOne tries for a while: a learner may be an entry behind for a moment.
func (v *voting) promoteOne(ctx context.Context, id uint64) error {
	for {
		_, err := v.e.Server.PromoteMember(ctx, id)
		if !errors.Is(err, etcderrors.ErrLearnerNotReady) || !pause.For(ctx, 20*time.Millisecond) {
			return err
		}
	}
}
