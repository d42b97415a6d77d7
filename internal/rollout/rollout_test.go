package rollout

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/kv"
)

func start() time.Time { return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC) }

func begun(t *testing.T, pace Pace, hosts int) Rollout {
	t.Helper()
	r, err := New("2.0.0", pace, hosts, start())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestShareGrowsToAll(t *testing.T) {
	for _, p := range []Pace{Slow, Normal, Fast, Emergency} {
		r, last := begun(t, p, 100), -1.0
		for h := range 24 * 14 {
			s := r.Share(start().Add(time.Duration(h) * time.Hour))
			if s < last || s > 100 {
				t.Fatalf("%s: %.2f %% after %d hours, %.2f before", p, s, h, last)
			}
			last = s
		}
		if last != 100 {
			t.Errorf("%s: ends at %.2f %%", p, last)
		}
		for _, w := range Waves(p) {
			if at := r.when(w.Percent); at != start().Add(w.After) {
				t.Errorf("%s: %v %% at %v", p, w.Percent, at)
			}
		}
	}
	if s := begun(t, Normal, 100).Share(start().Add(30 * time.Minute)); s != 0.5 {
		t.Errorf("half an hour into the first wave: %v %%", s)
	}
	if _, err := New("2.0.0", "warp", 5, start()); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestAllows(t *testing.T) {
	later := start().Add(12 * time.Hour)
	for _, tt := range []struct {
		name   string
		change func(*Rollout)
		seed   float64
		group  string
		at     time.Time
		want   string
	}{
		{"first in the line", nil, 0.001, "", later, "yes"},
		{"later in the line", nil, 0.5, "", later, "9.0 % of the hosts may have 2.0.0 now; this one's turn is 2026-11-24T00:00:00Z"},
		{"a share set by hand", func(r *Rollout) { r.AtLeast = 60 }, 0.5, "", later, "yes"},
		{"not begun", nil, 0, "", start().Add(-time.Hour), "the rollout of 2.0.0 begins 2026-11-21T00:00:00Z"},
		{"paused", func(r *Rollout) { r.Paused = "holiday" }, 0, "", later, "the rollout of 2.0.0 is paused: holiday"},
		{"stopped", func(r *Rollout) { r.Stopped = "3 came back" }, 0, "", later, "the rollout of 2.0.0 has stopped: 3 came back"},
		{"a canary goes first", func(r *Rollout) { r.Canary, r.CanaryGood = "test", 2 }, 0.9, "test", start(), "yes"},
		{"the others wait for the canaries", func(r *Rollout) { r.Canary, r.CanaryGood, r.CanaryDone = "test", 2, 1 }, 0, "prod", later, "1 of 2 hosts of the canary group test have proven 2.0.0"},
		{"the canaries are through", func(r *Rollout) { r.Canary, r.CanaryGood, r.CanaryDone = "test", 2, 2 }, 0, "prod", later, "yes"},
		{"none is through yet", func(r *Rollout) { r.Took = 10 }, 0, "", later, "10 hosts are under way with 2.0.0 and 0 have proven it: more go when those are back"},
		{"each that is through makes room for two", func(r *Rollout) { r.Took, r.Proved = 12, 1 }, 0, "", later, "yes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := begun(t, Normal, 1000)
			if tt.change != nil {
				tt.change(&r)
			}
			got, ok := r.Allows(tt.seed, tt.group, tt.at)
			if ok {
				got = "yes"
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCounting(t *testing.T) {
	r := begun(t, Normal, 1000)
	r = r.Count("", Took, false).Count(Took, Proved, false).Count("", Took, false).Count(Took, GaveUp, false).Count(GaveUp, Took, false).Count("", GaveUp, false)
	if r.Took != 2 || r.Proved != 1 || r.CameBack != 0 {
		t.Errorf("%+v", r)
	}
	r = r.Count(Proved, CameBack, false) // rolled back by hand after it was proven
	if r.Took != 2 || r.Proved != 0 || r.CameBack != 1 || r.Stopped != "" {
		t.Errorf("%+v", r)
	}
	for range 2 {
		r = r.Count("", Took, false).Count(Took, CameBack, false)
	}
	if r.Stopped != "3 of 3 hosts that are through came back" {
		t.Errorf("%+v", r)
	}
	if r = r.Resume(); r.Stopped != "" || r.CameBack != 0 || r.Took != 1 {
		t.Errorf("%+v", r)
	}
	many := begun(t, Normal, 10000)
	many.Took, many.Proved = 200, 197
	for range 3 {
		many = many.Count(Took, CameBack, false)
	}
	if many.Stopped != "" {
		t.Errorf("3 of 200 stopped it: %s", many.Stopped)
	}
	few := begun(t, Normal, 3).Count("", Took, false).Count(Took, CameBack, false)
	if few.Stopped == "" {
		t.Error("the first of three hosts came back, and the next was let go")
	}
	canary := begun(t, Normal, 1000).Count("", Took, true).Count(Took, CameBack, true)
	if canary.Stopped == "" {
		t.Error("a canary came back, and the others were let go")
	}
}

// simulate plays hosts that check every 45 minutes, take some time to write and reboot, and fail with a probability. It returns the
// rollout at its end and how long it took.
func simulate(seed uint64, pace Pace, hosts int, bad float64) (Rollout, time.Duration) {
	r := rand.New(rand.NewPCG(seed, 11))
	x, _ := New("2.0.0", pace, hosts, start())
	type event struct {
		at    time.Duration
		host  int
		state Report
	}
	queue := make([][]event, 60*24*16) // a slot a minute
	put := func(e event) {
		if i := int(e.at / time.Minute); i < len(queue) {
			queue[i] = append(queue[i], e)
		}
	}
	for h := range hosts {
		put(event{time.Duration(r.IntN(45)) * time.Minute, h, ""})
	}
	for i := range queue {
		now := time.Duration(i) * time.Minute
		for _, e := range queue[i] {
			switch e.state {
			case "":
				if _, ok := x.Allows(Seed(fmt.Sprint(e.host), "2.0.0"), "", start().Add(now)); !ok {
					put(event{now + time.Duration(43+r.IntN(5))*time.Minute, e.host, ""})
					continue
				}
				x = x.Count("", Took, false)
				// Ten to twenty minutes to write it, some to wait for a permit; a bad one needs three tries of ten minutes.
				wait := time.Duration(10+r.IntN(40)) * time.Minute
				if r.Float64() < bad {
					put(event{now + wait + 30*time.Minute, e.host, CameBack})
				} else {
					put(event{now + wait + 3*time.Minute, e.host, Proved})
				}
			default:
				x = x.Count(Took, e.state, false)
			}
		}
		if through := x.Proved + x.CameBack; through == x.Took && (x.Took == hosts || x.Stopped != "") {
			return x, now
		}
	}
	return x, time.Duration(len(queue)) * time.Minute
}

func TestBadReleaseStopsBeforeTwoPercentOfTenThousandTookIt(t *testing.T) {
	for _, bad := range []float64{1, 0.5, 0.25} {
		for seed := range uint64(3) {
			x, _ := simulate(seed, Normal, 10_000, bad)
			if x.Stopped == "" || x.Took >= 200 {
				t.Errorf("seed %d, %.0f %% bad: %d hosts took it, stopped %q", seed, bad*100, x.Took, x.Stopped)
			}
			if seed == 0 {
				t.Logf("%.0f %% bad: %d of 10000 took it, %d came back; %s", bad*100, x.Took, x.CameBack, x.Stopped)
			}
		}
	}
}

func TestGoodReleaseReachesAll(t *testing.T) {
	for _, p := range []Pace{Normal, Emergency} {
		x, took := simulate(1, p, 10_000, 0.002)
		waves := Waves(p)
		if x.Stopped != "" || x.Took != 10_000 || took > waves[len(waves)-1].After+3*time.Hour {
			t.Errorf("%s: %d hosts took it in %v, stopped %q", p, x.Took, took, x.Stopped)
		}
		t.Logf("%s: all 10000 in %v", p, took)
	}
}

func TestRolloutInTheStore(t *testing.T) {
	r, ctx := Rollouts{kv.NewMemory(time.Now), "/fleet/"}, t.Context()
	if _, ok, err := r.Get(ctx, "stable"); ok || err != nil {
		t.Error(ok, err)
	}
	if _, err := r.Change(ctx, "stable", func(Rollout) (Rollout, error) { return New("2.0.0", Normal, 1000, start()) }); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			id := fmt.Sprint("m", i)
			for _, say := range []Report{Took, Took, Proved, Proved} {
				if err := r.Tell(ctx, "stable", id, "2.0.0", say, false, ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := r.Tell(ctx, "stable", "m99", "1.0.0", CameBack, false, "old news"); err != nil {
		t.Error(err)
	}
	if err := r.Tell(ctx, "beta", "m99", "2.0.0", CameBack, false, "no rollout"); err != nil {
		t.Error(err)
	}
	x, ok, err := r.Get(ctx, "stable")
	if err != nil || !ok || x.Took != 30 || x.Proved != 30 || x.CameBack != 0 {
		t.Errorf("%+v, %v", x, err)
	}
	for _, value := range []string{"{", `{"v":2}`} {
		if _, _, err := r.Store.Txn(ctx, nil, []kv.Op{{Key: "/fleet/rollouts/stable", Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
		if err := r.Tell(ctx, "stable", "m1", "2.0.0", CameBack, false, ""); err == nil {
			t.Errorf("%s was overwritten", value)
		}
	}
}

func TestSeedsAreSpreadAndDifferByRelease(t *testing.T) {
	var seeds []float64
	for i := range 1000 {
		seeds = append(seeds, Seed(fmt.Sprint(i), "1.0.0"))
	}
	slices.Sort(seeds)
	for i, s := range seeds {
		if d := s - float64(i)/1000; d > 0.06 || d < -0.06 {
			t.Fatalf("seed %d is %.3f", i, s)
		}
	}
	if Seed("1", "1.0.0") == Seed("1", "2.0.0") {
		t.Error("the same hosts would be first each time")
	}
}

func TestAReleaseThatWasStoppedStaysSoWhenAnotherTakesItsPlace(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	begin := func(r Rollout, version string) Rollout {
		n, err := New(version, Fast, 3, at)
		if err != nil {
			t.Fatal(err)
		}
		return r.Replace(n)
	}
	r := begin(Rollout{}, "2.0.0")
	r = begin(r, "3.0.0") // 2.0.0 went well
	r.Stopped = "1 came back"
	r = begin(r, "3.1.0")
	r.Paused = "lunch"
	r = begin(r, "3.2.0")
	if r.Refuses("2.0.0") || !r.Refuses("3.0.0") || !r.Refuses("3.1.0") || r.Refuses("3.2.0") || r.Refuses("") {
		t.Errorf("refused are %q", r.Refused)
	}
	if r = begin(r, "3.1.0"); r.Refuses("3.1.0") || !r.Refuses("3.0.0") {
		t.Errorf("begun anew, refused are %q", r.Refused)
	}
}
