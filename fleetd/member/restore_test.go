package member

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
)

func (h *host) backup() []byte {
	h.t.Helper()
	var b bytes.Buffer
	if err := h.m.Backup(h.t.Context(), &b); err != nil {
		h.t.Fatal(err)
	}
	return b.Bytes()
}

func (h *host) restore(backup []byte, force bool) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	return h.m.Restore(ctx, bytes.NewReader(backup), force)
}

// wantOrigin waits until the store of h says that it comes from another cluster.
func (h *host) wantOrigin(from string, confirmed bool) *fleet.StoreOrigin {
	h.t.Helper()
	for {
		o, cluster, rev, err := h.m.Origin(h.t.Context())
		if err == nil && o != nil && o.Cluster == cluster {
			if len(o.From) == 0 || o.From[0] != from || o.Confirmed.IsZero() == confirmed || rev < time.Now().Add(-time.Hour).UnixMicro() {
				h.t.Errorf("origin %+v at %d, want it from %s, confirmed: %v", o, rev, from, confirmed)
			}
			return o
		}
		if !pause.For(h.t.Context(), turnEvery/10) {
			h.t.Fatal("no origin")
		}
	}
}

func TestRestoreOnAnotherHostIsANewCluster(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 3)
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.start()
	a.awaitRole(Voter)
	old := a.awaitOrigin()
	a.put("k", "saved")
	saved := a.backup()
	a.put("k", "later")
	a.stop() // lost for good
	b.start()
	b.awaitRole(Voter)
	if err := b.restore(saved[:len(saved)-1], false); err == nil || b.get("k") != "" {
		t.Errorf("a backup that was cut short: %v", err)
	}
	if err := b.restore(saved, false); err != nil {
		t.Fatal(err)
	}
	b.wantKey("k", "saved")
	b.wantOrigin(old, false)
	b.put("k", "new")
	b.stop()
	b.start()
	b.awaitRole(Voter)
	b.wantKey("k", "new")
	c.start(b)
	c.awaitRole(Learner)

	// The old host comes back: as its cluster has a quorum in it, it stays what it is. Nobody asked it to go.
	a.start()
	a.awaitRole(Voter)
	a.wantKey("k", "later")
}

// awaitOrigin waits until the store says which cluster it is.
func (h *host) awaitOrigin() string {
	h.t.Helper()
	for {
		o, cluster, _, err := h.m.Origin(h.t.Context())
		if err == nil && o != nil && o.Cluster == cluster {
			return cluster
		}
		if !pause.For(h.t.Context(), turnEvery/10) {
			h.t.Fatal("no origin")
		}
	}
}

func TestRestoreOfAWorkingClusterTakesAllOthersAlong(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 4)
	calms, resumed, busy := 0, 0, errors.New("somebody plans on")
	hosts[0].cfg.Calm = func(context.Context) (func(), error) {
		if calms++; calms == 1 {
			return nil, busy
		}
		return func() { resumed++ }, nil
	}
	startAll(hosts)
	roles(t, hosts, map[Role]int{Voter: 3, StandBy: 1})
	old := hosts[0].awaitOrigin()
	hosts[0].put("k", "good")
	saved := hosts[0].backup()
	hosts[0].put("k", "bad")
	if err := hosts[0].restore(saved, false); !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("without force: %v", err)
	}
	hosts[0].wantKey("k", "bad")
	if calms != 0 {
		t.Error("plans are held for a restore that is refused")
	}
	if err := hosts[0].restore(saved, true); !errors.Is(err, busy) {
		t.Errorf("while plans go on: %v", err)
	}
	if _, err := os.Stat(stagedDB(hosts[0].cfg.Dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left of it: %v", err)
	}
	roles(t, hosts, map[Role]int{Voter: 3, StandBy: 1})
	if err := hosts[0].restore(saved, true); err != nil {
		t.Fatal(err)
	}
	if calms != 2 || resumed != 1 {
		t.Errorf("plans were held %d times and let go %d times", calms, resumed)
	}
	hosts[0].wantOrigin(old, false)
	roles(t, hosts, map[Role]int{Voter: 3, StandBy: 1})
	for _, h := range hosts {
		h.wantKey("k", "good")
	}
	o, err := hosts[1].m.Confirm(t.Context(), "the test")
	for err != nil && pause.For(t.Context(), turnEvery) { // it has a time limit of its own, and says so; a person tries again
		o, err = hosts[1].m.Confirm(t.Context(), "the test")
	}
	if err != nil || o.Confirmed.IsZero() || o.By != "the test" {
		t.Errorf("confirm: %+v, %v", o, err)
	}
	hosts[2].wantOrigin(old, true)
}

// One that was away, or too slow to hear that it was taken out, must not wait for the quorum of a cluster that is no more.
func TestMemberThatDidNotHearOfARestoreComesAlong(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 3)
	startAll(hosts)
	roles(t, hosts, map[Role]int{Voter: 3})
	old := hosts[0].awaitOrigin()
	hosts[0].put("k", "good")
	saved := hosts[0].backup()
	hosts[1].stop()
	if err := hosts[0].restore(saved, true); err != nil {
		t.Fatal(err)
	}
	hosts[0].wantOrigin(old, false)
	hosts[1].start()
	roles(t, hosts, map[Role]int{Voter: 3})
	hosts[1].wantKey("k", "good")
	hosts[1].wantOrigin(old, false) // coming along confirms nothing
}

// A cluster that was restored once must not fall behind itself when an older backup is restored.
func TestLeapGoesPastAllLeapsBefore(t *testing.T) {
	then := time.Unix(1_800_000_000, 0)
	first := 500 + int64(leap(500, then))
	second := 300 + int64(leap(300, then.Add(time.Minute)))
	if second <= first+50_000_000 || second >= 1<<53 {
		t.Errorf("first restored at %d, then at %d", first, second)
	}
	if again := first + int64(leap(first, time.Unix(0, 0))); again <= first {
		t.Errorf("with a clock that is behind: %d after %d", again, first)
	}
}

func TestRecoveryFromALostQuorum(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 3)
	startAll(hosts)
	roles(t, hosts, map[Role]int{Voter: 3})
	old := hosts[0].awaitOrigin()
	hosts[1].put("k", "v")
	if err := hosts[0].m.Recover(t.Context()); !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "has a quorum") {
		t.Errorf("with a quorum: %v", err)
	}
	hosts[1].stop()
	hosts[2].stop()
	hosts[0].await("to say that there is no quorum", func(s Status) bool { return strings.Contains(s.Lost, "no quorum") })
	l, err := hosts[0].m.List(t.Context())
	if err != nil || l.Lost == "" || len(l.Members) != 3 {
		t.Errorf("list without a quorum: %+v, %v", l, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := hosts[0].m.Recover(ctx); err != nil {
		t.Fatal(err, hosts[0].log)
	}
	hosts[0].wantKey("k", "v")
	hosts[0].wantOrigin(old, true)
	hosts[0].put("k", "w")
	// The lost come back after all, together: as they are they would be a quorum of the old cluster.
	hosts[1].start()
	hosts[2].start()
	roles(t, hosts, map[Role]int{Voter: 3})
	hosts[2].wantKey("k", "w")
}

// The second host of two holds a copy but has no vote: the first may be lost for good.
func TestRecoveryByALearner(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 2)
	startAll(hosts)
	hosts[1].awaitRole(Learner)
	hosts[0].put("k", "v")
	hosts[1].wantKey("k", "v")
	hosts[0].stop()
	if err := os.RemoveAll(hosts[0].cfg.Dir); err != nil {
		t.Fatal(err)
	}
	hosts[1].await("to say that there is no quorum", func(s Status) bool { return s.Lost != "" })
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := hosts[1].m.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	hosts[1].wantKey("k", "v")
	hosts[1].put("k", "w")
}
