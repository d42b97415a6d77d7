package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

// FuzzRecords puts anything where a rollout, a report or what a host said is: it hides no other, and an error names the channel.
func FuzzRecords(f *testing.F) {
	f.Add("rollouts/fleet.amd64.stable", `{"v":1,"version":"x","steps":null}`)
	f.Add("rollouts/other", `{"v":2}`)
	f.Add("rollout-reports/fleet.amd64.stable/m1", `{"v":1,"version":"2.0.0","report":"x"}`)
	f.Add("updates/m2", `{"v":1,"at":"0000-01-01T00:00:00Z","history":[null]}`)
	f.Add("updates/", `[`)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, key, value string) {
		r := Rollouts{Store: kv.NewMemory(time.Now), Prefix: "/fleet/"}
		const good = "fleet.arm64.good"
		if _, err := r.Change(t.Context(), good, func(Rollout) (Rollout, error) { return New("2.0.0", Fast, 3, at) }); err != nil {
			t.Fatal(err)
		}
		if err := r.Publish(t.Context(), Host{Machine: "m1", Running: "1.0.0"}); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(key, good) || key == "updates/m1" {
			return
		}
		if _, _, err := r.Store.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/" + key, Value: []byte(value)}}); err != nil {
			return // no key that can be
		}
		const bad = "fleet.amd64.stable"
		if _, _, err := r.Get(t.Context(), bad); err != nil && !strings.Contains(err.Error(), bad) {
			t.Errorf("%v does not name the channel", err)
		}
		if got, ok, err := r.Get(t.Context(), good); err != nil || !ok || got.Version != "2.0.0" {
			t.Errorf("%s=%q: the good one reads %v %v %v", key, value, got, ok, err)
		}
		hosts, err := r.Hosts(t.Context())
		seen := false
		for _, h := range hosts {
			seen = seen || h.Machine == "m1" && h.Running == "1.0.0"
		}
		if err != nil || !seen {
			t.Errorf("%s=%q: hosts are %v, %v", key, value, hosts, err)
		}
		if all, err := r.All(t.Context()); err == nil && all[good].Version != "2.0.0" {
			t.Errorf("%s=%q: rollouts are %v", key, value, all)
		}
		if err := r.Tell(t.Context(), bad, "m1", "2.0.0", Proved, true, ""); err != nil && !strings.Contains(err.Error(), bad) {
			t.Errorf("%v does not name the channel", err)
		}
		_, _ = r.Said(t.Context(), bad, "m1", "2.0.0") // no error is promised
		if _, err := r.Sweep(t.Context(), func(m string) bool { return m == "m1" }, at); err != nil {
			t.Errorf("%s=%q: %v", key, value, err)
		}
		if hosts, err := r.Hosts(t.Context()); err != nil || len(hosts) == 0 {
			t.Errorf("%s=%q: swept, hosts are %v, %v", key, value, hosts, err)
		}
	})
}
