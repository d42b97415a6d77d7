package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/omaha"
)

const flatcarApp = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"

func TestFlatcarHostsGoByTheClustersRollout(t *testing.T) {
	list := filepath.Join(t.TempDir(), "omaha.json")
	must(t, os.WriteFile(list, []byte(`[{"app":"`+flatcarApp+`","arch":"amd64","track":"stable","version":"3815.2.2","codebases":["https://releases.invalid/amd64-usr/3815.2.2"],
		"file":"update.gz","size":458234665,"sha256":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]`), 0o644))
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	rolls := rollout.Rollouts{Store: kv.NewMemory(time.Now), Prefix: "/fleet/"}
	const channel = flatcarApp + ".amd64.stable"
	server := httptest.NewServer(omaha.Handler(&decider{slog.New(slog.DiscardHandler), rolls, readForeign(list), func() time.Time { return now }}))
	defer server.Close()
	change := func(f func(*rollout.Rollout)) rollout.Rollout {
		r, err := rolls.Change(t.Context(), channel, func(r rollout.Rollout) (rollout.Rollout, error) { f(&r); return r, nil })
		must(t, err)
		return r
	}
	ask := func(machine, version string, check bool, events ...omaha.Event) string {
		h := omaha.Host{AppID: "{" + flatcarApp + "}", Version: version, Track: "stable", Board: "amd64-usr", MachineID: machine, BootID: "b"}
		r, err := omaha.Post(t.Context(), http.DefaultClient, server.URL, h.Ask(check, events...))
		must(t, err)
		if !check {
			return ""
		}
		a, err := r.Check()
		must(t, err)
		if a.Offer == nil {
			return "nothing"
		}
		return fmt.Sprint(a.Offer.Version, " ", a.Offer.URLs[0])
	}
	const offered = "3815.2.2 https://releases.invalid/amd64-usr/3815.2.2/update.gz"
	step := func(what, want, got string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	step("no rollout yet", "nothing", ask("m1", "3815.2.1", true))
	change(func(r *rollout.Rollout) {
		n, err := rollout.New("3815.2.2", rollout.Normal, 100, now)
		must(t, err)
		*r = n
	})
	step("its turn has not come", "nothing", ask("m1", "3815.2.1", true))
	change(func(r *rollout.Rollout) { r.AtLeast = 100 })
	step("its turn", offered, ask("m1", "3815.2.1", true))
	ask("m1", "3815.2.1", false, omaha.DownloadStarted())
	step("another, while one is under way", "nothing", ask("m2", "3815.2.1", true))
	step("who has begun goes on", offered, ask("m1", "3815.2.1", true))
	ask("m1", "3815.2.1", false, omaha.Installed())
	ask("m1", "3815.2.2", false, omaha.Complete("3815.2.1"))
	if r := change(func(*rollout.Rollout) {}); r.Took != 1 || r.Proved != 1 {
		t.Errorf("%+v", r)
	}
	step("who has it", "nothing", ask("m1", "3815.2.2", true))
	step("the next", offered, ask("m2", "3815.2.1", true))
	ask("m3", "3815.2.1", false, omaha.Failed(34)) // never began: says nothing of the release
	ask("m2", "3815.2.1", false, omaha.DownloadStarted())
	ask("m2", "3815.2.1", false, omaha.Failed(omaha.RolledBack))
	if r := change(func(*rollout.Rollout) {}); r.CameBack != 1 {
		t.Errorf("%+v", r)
	}
	step("who came back", "nothing", ask("m2", "3815.2.1", true))
	change(func(r *rollout.Rollout) { r.Paused = "lunch" })
	step("paused", "nothing", ask("m4", "3815.2.1", true))
	must(t, os.WriteFile(list, []byte(`[{"app":"x"}]`), 0o644))
	step("a list with a mistake", "nothing", ask("m4", "3815.2.1", true))
}
