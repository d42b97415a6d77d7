package rollout

import (
	"fmt"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

func TestOnlyWhoIsLongGoneIsForgotten(t *testing.T) {
	store := kv.NewMemory(time.Now)
	r := Rollouts{Store: store, Prefix: "/fleet/"}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for name, at := range map[string]time.Time{"up": now.AddDate(0, 0, -30), "off": now.Add(-time.Hour), "gone": now.AddDate(0, 0, -30)} {
		if err := r.Publish(t.Context(), Host{Machine: name, Channel: "c", At: at}); err != nil {
			t.Fatal(err)
		}
		if err := r.Send(t.Context(), name, Order{Kind: "check now"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := store.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/updates/newer", Value: []byte(`{"v":9}`)}, {Key: "/fleet/rollout-reports/c/gone", Value: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} {
		if n, err := r.Sweep(t.Context(), func(m string) bool { return m == "up" }, now.AddDate(0, 0, -7)); n != want || err != nil {
			t.Errorf("%d are forgotten, want %d: %v", n, want, err)
		}
	}
	kvs, _, err := store.Range(t.Context(), "/fleet/")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range kvs[0] {
		left = append(left, e.Key)
	}
	want := "[/fleet/update-orders/off /fleet/update-orders/up /fleet/updates/newer /fleet/updates/off /fleet/updates/up]"
	if got := fmt.Sprint(left); got != want {
		t.Errorf("left are %s, want %s", got, want)
	}
}
