package rollout

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/google/go-cmp/cmp"
)

func TestHostsSayHowTheyAre(t *testing.T) {
	r := Rollouts{Store: kv.NewMemory(time.Now), Prefix: "/fleet/"}
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	want := []Host{{Machine: "m1", At: at, Running: "2.0.0", Phase: "idle", History: []Event{{at, "2.0.0 has proven itself"}}}, {Machine: "m2", At: at}}
	for _, h := range []Host{want[1], {Machine: "m1", Running: "1.0.0"}, want[0]} {
		if err := r.Publish(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := r.Store.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/updates/m0", Value: []byte(`{"v":2}`)}, {Key: "/fleet/updates/m9", Value: []byte("{")}}); err != nil {
		t.Fatal(err)
	}
	got, err := r.Hosts(t.Context())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := r.Change(t.Context(), "fleet.amd64.stable", func(Rollout) (Rollout, error) { return New("2.0.0", Fast, 3, at) }); err != nil {
		t.Fatal(err)
	}
	all, err := r.All(t.Context())
	if err != nil || len(all) != 1 || all["fleet.amd64.stable"].Version != "2.0.0" {
		t.Errorf("%v, %v", all, err)
	}
}

func TestEachOrderIsObeyedOnce(t *testing.T) {
	r := Rollouts{Store: kv.NewMemory(time.Now), Prefix: "/fleet/"}
	send := func(machine, version string) {
		if err := r.Send(t.Context(), machine, Order{Kind: "check now", Version: version}); err != nil {
			t.Fatal(err)
		}
	}
	send("m1", "1")
	send("m2", "not for this host")
	obeyed := make(chan string)
	run := func() context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() {
			defer close(done)
			r.Obey(ctx, "m1", func(ctx context.Context, o Order) {
				select {
				case obeyed <- o.Version:
				case <-ctx.Done():
				}
			}, func(err error) {
				if ctx.Err() == nil {
					t.Error(err)
				}
			})
		}()
		return func() { cancel(); <-done }
	}
	stop := run()
	for i := 1; i < 4; i++ {
		if got := <-obeyed; got != fmt.Sprint(i) {
			t.Errorf("order %s, want %d", got, i)
		}
		if i == 3 {
			break
		}
		send("m1", fmt.Sprint(i+1))
	}
	stop()
	send("m1", "while it was off")
	defer run()()
	if got := <-obeyed; got != "while it was off" {
		t.Errorf("order %q at the next start", got)
	}
}
