package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/internal/pause"
)

// alarms waits until there are so many.
func (h *host) alarms(n int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	for {
		r, err := h.m.Client().AlarmList(ctx)
		if err == nil && len(r.Alarms) == n {
			return
		}
		if !pause.For(ctx, turnEvery/10) {
			h.t.Fatalf("alarms %v, %v, want %d\n%s", r, err, n, h.log)
		}
	}
}

// fill writes until the store is full.
func (h *host) fill(key func(i int) string) {
	h.t.Helper()
	value := strings.Repeat("x", 256<<10)
	for i := range 1000 {
		ctx, cancel := context.WithTimeout(h.t.Context(), limit)
		_, err := h.m.Client().Put(ctx, key(i), value)
		cancel()
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	h.t.Fatal("it is never full")
}

func TestFullStoreFreesItself(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 3)
	for _, h := range hosts {
		h.cfg.Quota = 16 << 20
	}
	startAll(hosts)
	roles(t, hosts, map[Role]int{Voter: 3})
	hosts[1].put("keep", "v")
	hosts[1].fill(func(int) string { return "history" }) // one key, rewritten
	for _, h := range hosts {
		h.alarms(0)
	}
	hosts[2].put("after", "v")
	hosts[2].wantKey("keep", "v")

	// What is full of what is still there stays so, and says it once, until somebody deletes.
	said := func() bool {
		return slices.ContainsFunc(hosts, func(h *host) bool { return strings.Contains(h.log.String(), "only deletions are taken") })
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for i := 0; !said(); i++ { // what rewriting the files gives back is filled again
		_, err := hosts[1].m.Client().Put(ctx, fmt.Sprint("fill/", i), strings.Repeat("x", 256<<10))
		if ctx.Err() != nil || errors.Is(err, rpctypes.ErrNoSpace) && !pause.For(ctx, turnEvery/10) {
			t.Fatal("nobody says that the store is full\n", hosts[0].log)
		}
	}
	if _, err := hosts[1].m.Client().Put(t.Context(), "more", "v"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("a write into a full store: %v", err)
	}
	if _, err := hosts[1].m.Client().Delete(t.Context(), "fill/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
}

func TestMemberWithOtherDataTakesThatOfTheRest(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 3)
	startAll(hosts)
	roles(t, hosts, map[Role]int{Voter: 3})
	hosts[0].put("k", "v")
	for _, h := range hosts { // also the one that leads
		old := h.m.Status().ID
		srv := hosts[0].m.server().Server
		for _, mb := range srv.Cluster().Members() {
			if mb.ID.String() != old {
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			_, err := srv.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: uint64(mb.ID), Alarm: pb.AlarmType_CORRUPT})
			cancel()
			if err != nil {
				t.Fatal(err)
			}
		}
		h.await("to be another member", func(s Status) bool { return s.Role == Voter && s.ID != "" && s.ID != old })
		roles(t, hosts, map[Role]int{Voter: 3})
		h.alarms(0)
		h.wantKey("k", "v")
	}
}
