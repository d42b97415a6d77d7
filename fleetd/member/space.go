package member

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/fleet-init/fleet/internal/pause"
)

const (
	// quota is the most that the store's file may grow to on each host. Past it etcd takes deletions only.
	quota = 2 << 30
	// spaceEvery is how often the leader looks for alarms, which it has at hand.
	spaceEvery = 5 * time.Second
	// fullAgain is how long it waits when nothing could be freed.
	fullAgain = 5 * time.Second
	// airyEvery is how often it looks for files that are mostly air, airy how large such a file must be.
	airyEvery = time.Hour
	airy      = 128 << 20
)

// housekeeping is what the leader remembers of it.
type housekeeping struct {
	next  time.Time // when to look for alarms again
	airy  time.Time // when to look for files that are mostly air
	full  bool      // it has been said that nothing can be freed
	tries int
}

func (c Config) quota() int64 {
	if c.Quota > 0 {
		return c.Quota
	}
	return quota
}

// keepSpace answers the store's alarms, and shrinks files that are mostly air.
func (v *voting) keepSpace(ctx context.Context, list []*pb.Member, now time.Time) error {
	h := &v.house
	if now.Before(h.next) {
		return nil
	}
	h.next = now.Add(spaceEvery)
	noSpace, corrupt := false, false
	for _, a := range v.e.Server.Alarms() {
		switch gone := !slices.ContainsFunc(list, func(mb *pb.Member) bool { return mb.ID == a.MemberID }); {
		case gone: // with the member its trouble is gone
			if err := v.disarm(ctx, a); err != nil {
				return err
			}
		case a.Alarm == pb.AlarmType_NOSPACE:
			noSpace = true
		case a.Alarm == pb.AlarmType_CORRUPT && a.MemberID == uint64(v.e.Server.MemberID()):
			corrupt = true
		}
	}
	switch {
	case corrupt:
		return v.letLead(ctx, list)
	case noSpace:
		return v.makeSpace(ctx, list, now)
	}
	h.full, h.tries = false, 0
	if h.airy.IsZero() {
		h.airy = now.Add(airyEvery)
	}
	if now.Before(h.airy) {
		return nil
	}
	h.airy = now.Add(airyEvery)
	return v.shrink(ctx, list, func(size, used int64) bool { return size > airy && used < size/2 })
}

func (v *voting) disarm(ctx context.Context, a *pb.AlarmMember) error {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	_, err := v.e.Server.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm})
	if err == nil {
		v.m.log.Info("alarm of the store is over", "id", hex(a.MemberID), "alarm", a.Alarm.String())
	}
	return err
}

// letLead hands the lead to another voter: this one's data is not that of the others, and it cannot take itself out.
func (v *voting) letLead(ctx context.Context, list []*pb.Member) error {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	for _, mb := range list {
		if !mb.IsLearner && mb.ID != uint64(v.e.Server.MemberID()) && v.m.alive(ctx, mb.PeerURLs) {
			return v.e.Server.MoveLeader(ctx, uint64(v.e.Server.MemberID()), mb.ID)
		}
	}
	return errors.New("this member's data differs from the others', and none of them answers")
}

// makeSpace forgets all history, gives the room back on each member, and lets writes in again.
func (v *voting) makeSpace(ctx context.Context, list []*pb.Member, now time.Time) error {
	rev := v.e.Server.KV().Rev()
	compact, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := v.e.Server.Compact(compact, &pb.CompactionRequest{Revision: rev, Physical: true}); err != nil && v.e.Server.KV().FirstRev() < rev {
		return fmt.Errorf("the store is full, forget its history: %w", err)
	}
	pause.For(compact, 2*time.Second) // etcd tells only when the leader has forgotten, and the others take a moment
	most := v.m.cfg.quota()
	if err := v.shrink(ctx, list, func(int64, int64) bool { return true }); err != nil {
		return fmt.Errorf("the store is full, give room back: %w", err)
	}
	for _, mb := range list {
		r, err := v.m.statusOf(ctx, mb)
		if err != nil {
			continue // what it holds is what the others hold
		}
		if r.DbSize > most-most/10 {
			v.house.next = time.Now().Add(fullAgain)
			if v.house.tries++; v.house.tries < 3 {
				return nil // what a member has not forgotten yet it has by then
			}
			v.house.next = time.Now().Add(time.Minute)
			if !v.house.full {
				v.house.full = true
				v.m.log.Error("the store is full, only deletions are taken: destroy units, or delete keys of other programs", "size", r.DbSize, "most", most)
			}
			return nil
		}
	}
	for _, a := range v.e.Server.Alarms() {
		if a.Alarm == pb.AlarmType_NOSPACE {
			if err := v.disarm(ctx, a); err != nil {
				return err
			}
		}
	}
	v.m.log.Warn("the store was full: its history is forgotten, writes are taken again", "rev", rev)
	return nil
}

// shrink rewrites the files that are worth it, one member at a time and the leader last: a member answers nobody meanwhile.
func (v *voting) shrink(ctx context.Context, list []*pb.Member, worth func(size, used int64) bool) error {
	self := uint64(v.e.Server.MemberID())
	order := slices.Clone(list)
	slices.SortStableFunc(order, func(a, b *pb.Member) int {
		last := map[bool]int{true: 1}
		return last[a.ID == self] - last[b.ID == self]
	})
	for _, mb := range order {
		r, err := v.m.statusOf(ctx, mb)
		if err != nil || r.Header.MemberId != mb.ID || !worth(r.DbSize, r.DbSizeInUse) {
			continue // one that does not answer starts with a fresh look, see BootstrapDefragThresholdMegabytes
		}
		if mb.ID == self {
			err = v.e.Server.Defragment()
		} else {
			err = v.m.defragment(ctx, mb)
		}
		if err != nil {
			return err
		}
		v.m.log.Info("file of the store rewritten", "id", hex(mb.ID), "was", r.DbSize, "used", r.DbSizeInUse)
	}
	return nil
}

func (m *Member) defragment(ctx context.Context, mb *pb.Member) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	u, err := url.Parse(mb.ClientURLs[0])
	if err != nil {
		return err
	}
	endpoint := urls([]string{u.Host})[0]
	c, err := m.dial([]string{endpoint})
	if err != nil {
		return err
	}
	_, err = c.Defragment(ctx, endpoint)
	return errors.Join(err, c.Close())
}
