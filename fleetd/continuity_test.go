package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

func TestJudge(t *testing.T) {
	early, late := time.Unix(1000, 0).UTC(), time.Unix(2000, 0).UTC()
	of := func(cluster string, confirmed time.Time, from ...string) *fleet.StoreOrigin {
		return &fleet.StoreOrigin{Cluster: cluster, From: from, Confirmed: confirmed}
	}
	for name, row := range map[string]struct {
		seen    seen
		origin  *fleet.StoreOrigin
		cluster string
		rev     int64
		why     string
	}{
		"first cluster of this host":                      {seen{}, of("a", time.Time{}), "a", 5, ""},
		"a cluster that has said nothing yet":             {seen{}, nil, "a", 5, ""},
		"the same, further":                               {seen{Cluster: "a", Rev: 5}, of("a", time.Time{}), "a", 6, ""},
		"the same, gone back":                             {seen{Cluster: "a", Rev: 5}, of("a", time.Time{}), "a", 4, "gone back"},
		"gone back, an old confirmation":                  {seen{Cluster: "a", Rev: 5, Confirmed: early}, of("a", early), "a", 4, "gone back"},
		"gone back, confirmed since":                      {seen{Cluster: "a", Rev: 5, Confirmed: early}, of("a", late), "a", 4, ""},
		"restored":                                        {seen{Cluster: "a", Rev: 5}, of("b", time.Time{}, "a"), "b", 1e9, "fleetctl backup confirm"},
		"restored and confirmed":                          {seen{Cluster: "a", Rev: 5}, of("b", late, "a"), "b", 1e9, ""},
		"restored from one restored from it":              {seen{Cluster: "a", Rev: 5}, of("c", time.Time{}, "b", "a"), "c", 2e9, "fleetctl backup confirm"},
		"restored, which nobody has written down yet":     {seen{Cluster: "a", Rev: 5}, of("a", late), "b", 1e9, "not said yet"},
		"restored without any word of it":                 {seen{Cluster: "a", Rev: 5}, nil, "b", 1e9, "not said yet"},
		"another cluster that this host was made to join": {seen{Cluster: "a", Rev: 5}, of("z", time.Time{}), "z", 1, ""},
	} {
		next, why := judge(row.seen, row.origin, row.cluster, row.rev)
		if row.why == "" && (why != "" || next.Cluster != row.cluster || next.Rev != row.rev) || row.why != "" && (!strings.Contains(why, row.why) || next != row.seen) {
			t.Errorf("%s: %+v, %q", name, next, why)
		}
	}
}

func TestContinuitySurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	o := &fleet.StoreOrigin{Cluster: "a"}
	cluster, rev := "a", int64(1)
	fail := error(nil)
	open := func() *continuity {
		c, err := newContinuity(dir, func(context.Context) (*fleet.StoreOrigin, string, int64, error) { return o, cluster, rev, fail }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open()
	if err := c.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	fail = errors.New("away")
	if err := c.check(t.Context()); !errors.Is(err, kv.ErrUnavailable) || why(c) != "" {
		t.Errorf("a store that is away: %v", err)
	}
	fail, cluster, o = nil, "b", &fleet.StoreOrigin{Cluster: "b", From: []string{"a"}}
	c = open()
	if err := c.check(t.Context()); !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(why(c), "confirm") {
		t.Errorf("a restored store: %v", err)
	}
	o.Confirmed = time.Now()
	if err := c.check(t.Context()); err != nil || why(c) != "" {
		t.Errorf("confirmed: %v", err)
	}
	if err := open().check(t.Context()); err != nil {
		t.Errorf("confirmed, after a restart: %v", err)
	}
}

// Where the store is another one than before, exclusive units wait until none can run that it knows nothing of.
func TestExclusiveUnitsAreHeldInARestoredCluster(t *testing.T) {
	dir := t.TempDir()
	o := &fleet.StoreOrigin{Cluster: "a"}
	cluster, rev := "a", int64(1)
	var holds []time.Duration
	open := func() *continuity {
		c, err := newContinuity(dir, func(context.Context) (*fleet.StoreOrigin, string, int64, error) { return o, cluster, rev, nil }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		c.keep(func(d time.Duration) { holds = append(holds, d) }, time.Minute)
		return c
	}
	expect := func(when string, n int) {
		t.Helper()
		if len(holds) != n {
			t.Errorf("%s: held %d times, want %d", when, len(holds), n)
		}
	}
	c := open()
	ask := func() { _ = c.check(t.Context()) } // held or not: other tests ask that
	ask()
	expect("in its first cluster", 0)
	cluster, rev, o = "b", 1000, &fleet.StoreOrigin{Cluster: "b", From: []string{"a"}, Rev: 900}
	ask()
	ask()
	expect("restored", 1)
	if c.floor() != 0 {
		t.Errorf("floor %d before it is confirmed", c.floor())
	}
	o.Confirmed = time.Now()
	ask()
	expect("confirmed", 1)
	if c.floor() != 900 {
		t.Errorf("floor %d, want 900", c.floor())
	}
	c = open()
	ask()
	expect("restarted meanwhile", 2)
	c.settled()
	c = open()
	ask()
	expect("restarted later", 2)
	if c.floor() != 900 {
		t.Errorf("after a restart: floor %d, want 900", c.floor())
	}
	rev = 10
	ask()
	expect("gone back", 3)

	dir = t.TempDir()
	c = open()
	ask()
	expect("a new host in a restored cluster", 4)
}

func why(c *continuity) string {
	w, _ := c.why()
	return w
}
