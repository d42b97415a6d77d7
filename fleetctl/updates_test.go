package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/reboot"
	waves "github.com/fleet-init/fleet/internal/rollout"
	"github.com/google/go-cmp/cmp"
)

// osServer is a fleetd that answers what is asked about the hosts' system with what it was given, and notes what it was told.
type osServer struct {
	told   []string
	socket string
}

func newOSServer(t *testing.T, hosts []waves.Host, rolls map[string]waves.Rollout, group permitGroup) *osServer {
	s := &osServer{socket: filepath.Join(t.TempDir(), "s")}
	const m1, m2 = "1f2e3d4c5b6a79881f2e3d4c5b6a7988", "2f2e3d4c5b6a79881f2e3d4c5b6a7988"
	give := func(v any) func(http.ResponseWriter, *http.Request, string) error {
		return func(w http.ResponseWriter, r *http.Request, item string) error {
			if r.Method == http.MethodPost {
				b, err := io.ReadAll(r.Body)
				if err != nil {
					return err
				}
				s.told = append(s.told, item+" "+string(b))
				if item == "full" {
					return api.Refuse(http.StatusConflict, "1 of 1 permits are taken")
				}
			}
			api.Reply(w, http.StatusOK, v)
			return nil
		}
	}
	roll := waves.Rollout{}
	for _, r := range rolls {
		roll = r
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /fleet/v1/machines", func(w http.ResponseWriter, _ *http.Request) {
		api.Reply(w, 200, map[string]any{"machines": []api.Machine{{ID: m1, PrimaryIP: "10.0.0.1", Name: "h1"}, {ID: m2, PrimaryIP: "10.0.0.2", Name: "h2"}}})
	})
	mux.Handle("/", api.NewHandler(api.Config{More: map[string]api.Route{
		"updates": {"GET": give(map[string]any{"hosts": hosts})}, "updates/": {"POST": give(waves.Order{})},
		"rollouts": {"GET": give(map[string]any{"rollouts": rolls})}, "rollouts/": {"POST": give(roll)},
		"reboot":  {"GET": give(map[string]any{"groups": []permitGroup{group, {Group: "edge", Lost: []reboot.Holder{{ID: "m9"}}}}})},
		"reboot/": {"GET": give(group), "POST": give(group)},
	}}))
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	done := make(chan bool)
	go func() { _ = srv.Serve(l); close(done) }() // ends with ErrServerClosed
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return s
}

// run runs fleetctl; the answer is its output, behind "N: " where it exits with N.
func (s *osServer) run(t *testing.T, line string) string {
	t.Helper()
	var out, text bytes.Buffer
	code := run(t.Context(), append([]string{"--endpoint=unix://" + s.socket}, strings.Fields(line)...), nil, strings.NewReader(""), &out, &text)
	if code != 0 {
		return string(rune('0'+code)) + ": " + out.String() + text.String()
	}
	return out.String() + text.String()
}

func TestUpdateStatusSaysWhyNotYet(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	hosts := []waves.Host{
		{Machine: "1f2e3d4c5b6a79881f2e3d4c5b6a7988", Channel: "fleet.amd64.stable", Group: "edge", Running: "2.0.0", Phase: "trial", Slot: "b",
			History: []waves.Event{{At: at, Text: "2.0.0 staged"}, {At: at.Add(time.Minute), Text: "rebooting into 2.0.0"}}},
		{Machine: "2f2e3d4c5b6a79881f2e3d4c5b6a7988", Channel: "fleet.amd64.stable", Group: "default", Running: "1.0.0", Good: true, Phase: "staging", Target: "2.0.0",
			Done: 30, Frames: 120, Why: "canaries first", History: []waves.Event{{At: at.Add(time.Second), Text: "2.0.0: came back"}}},
	}
	rolls := map[string]waves.Rollout{"fleet.amd64.stable": {Version: "2.0.0", Start: at, Pace: waves.Fast, Hosts: 2, Took: 1, Canary: "edge", CanaryGood: 1,
		AtLeast: 10, Paused: "lunch", Stopped: "too many came back"}}
	s := newOSServer(t, hosts, rolls, permitGroup{})
	for line, want := range map[string]string{
		"update status": `MACHINE		RUNNING		PHASE		TARGET	GROUP	WHY
1f2e3d4c...	2.0.0 on trial	trial		-	edge	-
2f2e3d4c...	1.0.0		staging 25 %	2.0.0	default	canaries first

fleet.amd64.stable: 2.0.0, pace fast since 2026-11-21T12:00:00Z
  of 2 hosts 1 have begun, 0 have proven it, 0 came back
  canaries edge: 0 of 1 have proven it
  10 % may begin whatever the waves say
  paused: lunch
  stopped by itself: too many came back
`,
		"update history": `2026-11-21T12:00:00Z  1f2e3d4c...  2.0.0 staged
2026-11-21T12:00:01Z  2f2e3d4c...  2.0.0: came back
2026-11-21T12:01:00Z  1f2e3d4c...  rebooting into 2.0.0
`,
		"update history h2": "2026-11-21T12:00:01Z  2f2e3d4c...  2.0.0: came back\n",
	} {
		if diff := cmp.Diff(want, s.run(t, line)); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
	var all struct{ Hosts []waves.Host }
	if err := json.Unmarshal([]byte(s.run(t, "update status --json")), &all); err != nil || len(all.Hosts) != 2 {
		t.Error(err, all)
	}
}

func TestOrdersAndRollouts(t *testing.T) {
	rolls := map[string]waves.Rollout{"c": {Version: "2.0.0"}}
	for line, want := range map[string]string{
		"update now h1 --take=2.0.0":                  `1f2e3d4c5b6a79881f2e3d4c5b6a7988 "version":"2.0.0"`,
		"update now all":                              `2f2e3d4c5b6a79881f2e3d4c5b6a7988 "kind":"check now"`,
		"update rollback 10.0.0.2 --why=slow":         `2f2e3d4c5b6a79881f2e3d4c5b6a7988 "why":"slow"`,
		"update reboot 1f2e":                          `1f2e3d4c5b6a79881f2e3d4c5b6a7988 "kind":"reboot now"`,
		"update forget h1":                            `"kind":"forget"`,
		"update rollout 2.1.0 --pace=slow --canary=e": `c "pace":"slow" "canary":"e" "do":"start" "version":"2.1.0"`,
		"update pause --why=lunch":                    `c "do":"pause" "why":"lunch"`,
		"update resume":                               `c "do":"resume"`,
		"update percent 30":                           `c "percent":30`,
		"update end --channel=d":                      `d "do":"end"`,
		"reboot lock h1 --why=disk":                   `default "id":"1f2e3d4c5b6a79881f2e3d4c5b6a7988" "reason":"disk"`,
		"reboot unlock gone --group=edge":             `edge "do":"unlock" "id":"gone"`,
		"reboot set-max 2":                            `default "number":2`,
		"reboot set-outage yes":                       `"allowed":true`,
		"reboot set-domain rack":                      `"word":"rack"`,
	} {
		s := newOSServer(t, []waves.Host{{Machine: "2f2e3d4c5b6a79881f2e3d4c5b6a7988", Channel: "c"}}, rolls, permitGroup{})
		out := s.run(t, line)
		if len(s.told) != 1 {
			t.Errorf("%s: told %v, says %s", line, s.told, out)
			continue
		}
		for _, w := range strings.Fields(strings.ReplaceAll(want, `check now"`, `check_now"`)) {
			w = strings.ReplaceAll(w, "check_now", "check now")
			if w == `now"` || w == `"kind":"reboot` {
				continue
			}
			if !strings.Contains(s.told[0], w) {
				t.Errorf("%s: told %s, want %s", line, s.told[0], w)
			}
		}
	}
}

func TestRebootStatusInLocksmithsWords(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	dead := reboot.Holder{ID: "m1", Reason: "update from 1.0.0 to 2.0.0", Since: at}
	s := newOSServer(t, nil, nil, permitGroup{Group: "default", Semaphore: reboot.Semaphore{Holders: []reboot.Holder{dead}, Domain: "rack"}, Limit: 1, Lost: []reboot.Holder{dead}})
	want := `Available: 0
Max: 1
Domain: rack

MACHINE ID
m1  since 2026-11-21T12:00:00Z  update from 1.0.0 to 2.0.0

m1 got its permit at 2026-11-21T12:00:00Z and has not come back: the others wait.
Bring it back, or say that it is gone: fleetctl reboot unlock m1

m9 got its permit at 0001-01-01T00:00:00Z and has not come back: the others wait.
Bring it back, or say that it is gone: fleetctl reboot unlock m9 --group=edge
`
	if diff := cmp.Diff(want, s.run(t, "reboot")); diff != "" {
		t.Error(diff)
	}
	if got := s.run(t, "reboot set-max 3"); got != "Old-Max: 1\nMax: 1\n" {
		t.Error(got)
	}
	for line, code := range map[string]string{
		"reboot fly": "2: ", "reboot set-max": "2: ", "reboot set-max 0": "2: ", "reboot set-outage perhaps": "2: ", "reboot lock nobody": "2: ", "reboot lock h1 --group=full": "1: ",
		"update fly": "2: ", "update now": "2: ", "update now nobody": "1: ", "update rollback": "2: ", "update percent much": "2: ", "update rollout 2.1.0": "1: ", "update now a b": "2: ",
	} {
		if got := s.run(t, line); !strings.HasPrefix(got, code) {
			t.Errorf("%s: %s, want exit %s", line, got, code)
		}
	}
}
