package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/internal/unit"
	"github.com/google/go-cmp/cmp"
)

// three is a cluster of m1 to m3 with addresses 10.0.0.1 to .3; a unit "name@m1 global" runs on m1. "!m2" is a machine that is away
// with its units.
func three(t *testing.T, units ...string) fleet.Snapshot {
	t.Helper()
	s := fleet.NewSnapshot()
	for i := range 3 {
		id := fleet.MachineID(fmt.Sprint("m", i+1))
		s.Machines[id] = fleet.Machine{ID: id, IP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Rev: int64(i + 10), Admitted: int64(i + 10), Metadata: map[string]string{"rack": "r1"}}
	}
	for _, text := range units {
		if away, is := strings.CutPrefix(text, "!"); is {
			delete(s.Machines, fleet.MachineID(away))
			continue
		}
		f := strings.Fields(text)
		name, on, _ := strings.Cut(f[0], ":")
		u := fleet.Unit{Name: unit.Name(name), Hash: "h", Target: fleet.Launched, Rev: 1}
		for _, need := range f[1:] {
			switch k, v, _ := strings.Cut(need, "="); k {
			case "global":
				u.Needs.Global = true
			case "exclusive":
				u.Needs.Exclusive = true
				s.Holders[u.Name] = fleet.Holder{Machine: fleet.MachineID(on)}
			case "on":
				u.Needs.MachineID = v
			case "rack":
				u.Needs.Metadata = map[string][]string{"rack": {v}}
			case "not":
				u.Needs.Conflicts = []unit.Glob{unit.Glob(v)}
			}
		}
		s.Units[u.Name] = u
		k := fleet.Key{Machine: fleet.MachineID(on), Unit: u.Name}
		s.Placements[k] = fleet.Placement{Unit: u.Name, Machine: k.Machine, Hash: "h", Target: fleet.Launched, Rev: 1}
		s.Observed[k] = fleet.Observation{Unit: u.Name, Machine: k.Machine, Load: "loaded", Active: "active", Hash: "h", Launched: true}
	}
	return s
}

func votersAt(last ...byte) []voter {
	var out []voter
	for _, b := range last {
		out = append(out, voter{[]netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, b})}, true})
	}
	return out
}

func TestWhoVotesAndWhoIsDown(t *testing.T) {
	for _, tt := range []struct {
		name   string
		snap   fleet.Snapshot
		voters []voter
		asker  string
		want   string
	}{
		{"three machines, three voters", three(t), votersAt(1, 2, 3), "m1", "m1 up voter, m2 up voter, m3 up voter"},
		{"one that is away with its units", three(t, "a.service:m2", "!m2"), votersAt(1, 3), "m1", "m1 up voter, m2, m3 up voter"},
		{"a voter that is away counts as one", three(t, "!m2"), votersAt(1, 2, 3), "m1", "a voter of the store that is away (2 of 3) voter, m1 up voter, m3 up voter"},
		{"but not to a machine that does not vote", three(t, "!m2"), votersAt(2, 3), "m1", "m1 up, m3 up voter"},
		{"a store elsewhere", three(t), votersAt(101, 102, 103), "m1", "m1 up, m2 up, m3 up"},
		{"a member that has not started", three(t), []voter{votersAt(1)[0], {addrs: votersAt(2)[0].addrs}}, "m1", "m1 up voter, m2 voter, m3 up"},
		{"alone, without an address for others", three(t, "!m2", "!m3"), []voter{{started: true}}, "m1", "m1 up voter"},
	} {
		c, _ := clusterOf(tt.snap, tt.voters, "rack", tt.asker)
		var got []string
		for id, m := range c.Machines {
			if m.Up {
				id += " up"
			}
			if m.Voter {
				id += " voter"
			}
			got = append(got, id)
		}
		slices.Sort(got)
		if diff := cmp.Diff(tt.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func TestUnitsWithoutAnotherHome(t *testing.T) {
	for _, tt := range []struct {
		name  string
		units []string
		want  string
	}{
		{"any machine will do", []string{"a.service:m1"}, ""},
		{"a global one", []string{"a.service:m1 global"}, ""},
		{"one that names this machine", []string{"a.service:m1 on=m1"}, ""},
		{"one that conflicts with what runs on all others", []string{"a.service:m1 not=b*", "b1.service:m2", "b2.service:m3"}, "a.service"},
		{"one that wants what only this machine has", []string{"a.service:m1 rack=r9"}, "a.service"},
		{"on another machine", []string{"a.service:m2 rack=r9"}, ""},
		{"the others are away", []string{"a.service:m1", "!m2", "!m3"}, "a.service"},
		{"an exclusive one", []string{"a.service:m1 exclusive"}, ""},
		{"an exclusive one that wants what only this machine has", []string{"a.service:m1 exclusive rack=r9"}, "a.service"},
	} {
		s := three(t, tt.units...)
		before := len(s.Placements)
		var got []string
		for _, h := range homelessOf(s, "m1") {
			name, why, _ := strings.Cut(h, " ")
			if got = append(got, name); len(why) < 5 && len(s.Machines) > 1 {
				t.Errorf("%s: no reason in %q", tt.name, h)
			}
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, ",")); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		if len(s.Placements) != before {
			t.Errorf("%s: the snapshot has changed", tt.name)
		}
	}
}

func TestExclusiveUnitsKeepTheirFailover(t *testing.T) {
	for _, tt := range []struct {
		name  string
		units []string
		want  string
	}{
		{"a third machine takes it", []string{"a.service:m2 exclusive"}, ""},
		{"no third machine", []string{"a.service:m2 exclusive", "!m3"}, "a.service on m2"},
		{"the third machine is taken", []string{"a.service:m2 exclusive not=b*", "b1.service:m3"}, "a.service on m2"},
		{"it has no failover as it is", []string{"a.service:m2 exclusive rack=r9"}, ""},
		{"it names its machine", []string{"a.service:m2 exclusive on=m2"}, ""},
		{"on this machine", []string{"a.service:m1 exclusive", "!m3"}, ""},
		{"not exclusive", []string{"a.service:m2", "!m3"}, ""},
		{"two on one machine, one on another", []string{"a.service:m2 exclusive not=c*", "b.service:m2 exclusive", "c.service:m3"}, "a.service on m2"},
	} {
		var got []string
		for _, text := range strandedOf(three(t, tt.units...), "m1") {
			who, why, _ := strings.Cut(text, " (")
			if got = append(got, who); len(why) < 5 {
				t.Errorf("%s: no reason in %q", tt.name, text)
			}
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// osAPI is the API of permits and updates over a memory store.
type osAPI struct {
	t       *testing.T
	store   kv.Store
	reg     *registry.Registry
	handler http.Handler
}

func newOSAPI(t *testing.T) *osAPI {
	o := &osAPI{t: t, store: kv.NewMemory(time.Now)}
	o.reg = registry.New(o.store, "/fleet/", slog.New(slog.DiscardHandler))
	r := &reboots{permits: reboot.Permits{Store: o.store, Prefix: "/fleet/"}, snapshot: o.reg.Snapshot, guard: o.reg.GuardMachine, now: time.Now,
		voters: func(context.Context) ([]voter, error) { return votersAt(1, 2, 3), nil }}
	routes := r.routes()
	u := &updates{rollouts: rollout.Rollouts{Store: o.store, Prefix: "/fleet/"}, now: time.Now}
	for p, route := range u.routes() {
		routes[p] = route
	}
	o.handler = api.NewHandler(api.Config{Registry: o.reg, More: routes})
	for i := range 3 {
		id := fleet.MachineID(strings.Repeat(fmt.Sprint(i+1), 32))
		_, err := o.reg.Register(t.Context(), registry.Hello{Machine: fleet.Machine{ID: id, IP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}, Instance: "i"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// ask makes a request and returns its status and body.
func (o *osAPI) ask(method, path string, in any) (int, string) {
	o.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		o.t.Fatal(err)
	}
	w := httptest.NewRecorder()
	o.handler.ServeHTTP(w, httptest.NewRequest(method, "/fleet/v1/"+path, strings.NewReader(string(b))))
	described(o.t, method, path, w.Code)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestPermitsOverTheAPI(t *testing.T) {
	o := newOSAPI(t)
	m1, m2 := strings.Repeat("1", 32), strings.Repeat("2", 32)
	for _, step := range []struct {
		path string
		ask  rebootAsk
		code int
		says string
	}{
		{"reboot/default", rebootAsk{Do: "take", ID: m1, Boot: "b1", Reason: "update"}, 200, `"limit":1`},
		{"reboot/default", rebootAsk{Do: "take", ID: m2, Boot: "b1"}, 409, "1 of 1 permits are taken, by " + m1},
		{"reboot/default", rebootAsk{Do: "confirm", ID: m1}, 200, m1},
		{"reboot/default", rebootAsk{Do: "confirm", ID: m2}, 409, "taken away"},
		{"reboot/default", rebootAsk{Do: "set-max", Number: 2}, 200, `"limit":2`},
		{"reboot/default", rebootAsk{Do: "take", ID: m2, Boot: "b1"}, 409, "1 of 3 voters would be left"},
		{"reboot/default", rebootAsk{Do: "set-max"}, 500, "want at least 1"},
		{"reboot/default", rebootAsk{Do: "unlock", ID: m2}, 404, "holds no permit"},
		{"reboot/default", rebootAsk{Do: "lock", ID: m2, Reason: "disk"}, 200, "locked by hand: disk"},
		{"reboot/default", rebootAsk{Do: "unlock", ID: m1}, 200, m2},
		{"reboot/default", rebootAsk{Do: "unlock"}, 400, "no machine"},
		{"reboot/default", rebootAsk{Do: "set-outage", Allowed: true}, 200, `"outage":true`},
		{"reboot/default", rebootAsk{Do: "set-homeless", Allowed: true}, 200, `"homeless":true`},
		{"reboot/default", rebootAsk{Do: "set-domain", Word: "rack"}, 200, `"domain":"rack"`},
		{"reboot/default", rebootAsk{Do: "set-percent", Number: 50}, 200, `"percent":50`},
		{"reboot/default", rebootAsk{Do: "fly"}, 400, "cannot do"},
		{"reboot/a_b", rebootAsk{Do: "take", ID: m1}, 400, "group names"},
	} {
		code, body := o.ask("POST", step.path, step.ask)
		if code != step.code || !strings.Contains(body, step.says) {
			t.Errorf("%+v: %d %s, want %d and %s", step.ask, code, body, step.code, step.says)
		}
	}
	if code, body := o.ask("GET", "reboot", nil); code != 200 || !strings.Contains(body, `{"groups":[{"group":"default"`) {
		t.Errorf("%d %s", code, body)
	}
}

func TestLostHolderIsShown(t *testing.T) {
	o := newOSAPI(t)
	p := reboot.Permits{Store: o.store, Prefix: "/fleet/"}
	_, err := p.Change(t.Context(), "default", reboot.Pure(func(s reboot.Semaphore) (reboot.Semaphore, error) {
		gone := s.Lock(reboot.Holder{ID: "dead", Boot: "b1"}, time.Now().Add(-time.Hour))
		return gone.Lock(reboot.Holder{ID: "zincati"}, time.Now().Add(-time.Hour)), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	_, body := o.ask("GET", "reboot/default", nil)
	var st groupState
	if err := json.Unmarshal([]byte(body), &st); err != nil || len(st.Lost) != 1 || st.Lost[0].ID != "dead" {
		t.Errorf("%v, %s: want only ours that is away", err, body)
	}
}

func TestAMachineThatDiesMeanwhileTakesThePermitsGroundAway(t *testing.T) {
	o := newOSAPI(t)
	reads := 0
	r := &reboots{permits: reboot.Permits{Store: o.store, Prefix: "/fleet/"}, snapshot: o.reg.Snapshot, guard: o.reg.GuardMachine, now: time.Now,
		voters: func(ctx context.Context) ([]voter, error) {
			if reads++; reads == 1 {
				// Behind the snapshot and before the write.
				_, _, err := o.store.Txn(ctx, nil, []kv.Op{{Key: "/fleet/machines/" + strings.Repeat("2", 32), Delete: true}})
				return votersAt(1, 2, 3), err
			}
			return votersAt(1, 2, 3), nil
		}}
	err := r.do(t.Context(), "default", rebootAsk{Do: "take", ID: strings.Repeat("1", 32), Boot: "b"})
	var refusal *reboot.Refusal
	if !errors.As(err, &refusal) || reads != 2 {
		t.Errorf("%v after %d reads", err, reads)
	}
}

func TestUpdatesAndRolloutsOverTheAPI(t *testing.T) {
	o := newOSAPI(t)
	r := rollout.Rollouts{Store: o.store, Prefix: "/fleet/"}
	const channel = "fleet.amd64.stable"
	for _, m := range []string{"m1", "m2"} {
		if err := r.Publish(t.Context(), rollout.Host{Machine: m, Channel: channel}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		method, path string
		ask          any
		code         int
		says         string
	}{
		{"GET", "updates", nil, 200, `{"hosts":[{"machineID":"m1"`},
		{"POST", "updates/m1", rollout.Order{Kind: "check now"}, 202, `"kind":"check now"`},
		{"POST", "updates/m1", rollout.Order{Kind: "gate passed"}, 400, "unknown order"},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "pause"}, 400, "has none"},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "start", Version: "2.0.0", Pace: "soon"}, 400, "want a version"},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "start", Version: "2.0.0", Pace: rollout.Slow, Canary: "edge"}, 200, `"hosts":2,"canary":"edge","canary_good":1`},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "start", Version: "2.0.0", Pace: rollout.Slow}, 400, "already"},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "pause", Why: "lunch"}, 200, `"paused":"lunch"`},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "resume"}, 200, `"took":0`},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "percent", Percent: 30}, 200, `"at_least":30`},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "percent", Percent: 101}, 400, "want 0 to 100"},
		{"GET", "rollouts", nil, 200, `{"rollouts":{"fleet.amd64.stable":{"version":"2.0.0"`},
		{"POST", "rollouts/" + channel, rolloutAsk{Do: "end"}, 200, `"version":""`},
		{"GET", "rollouts", nil, 200, `{"rollouts":{}}`},
	} {
		code, body := o.ask(step.method, step.path, step.ask)
		if code != step.code || !strings.Contains(body, step.says) {
			t.Errorf("%s %s %+v: %d %s, want %d and %s", step.method, step.path, step.ask, code, body, step.code, step.says)
		}
	}
}
