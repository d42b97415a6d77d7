package api

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

func someProcesses() fleet.Processes {
	return fleet.Processes{MainPID: 7, Tasks: 2, Memory: 4096, CPU: 5e6, ControlGroup: "/system.slice/a.service",
		List: []fleet.Process{{PID: 7, Command: "web --port 80"}, {PID: 9, Command: "helper"}}}
}

func TestProcessesOfAUnitOnAMachine(t *testing.T) {
	f := newFixture(t)
	f.machine(m1, "10.0.0.1", nil)
	f.machine(m2, "10.0.0.2", nil)
	f.submit(fleet.Launched, "a.service", "b.service", "far.service", "homeless.service")
	f.place("a.service", m1)
	f.report("a.service", m1, running())
	f.report("b.service", m1, running())
	f.report("b.service", m2, running())
	f.place("far.service", m2)
	f.report("far.service", m2, running())
	f.handler = NewHandler(Config{Registry: f.reg, Version: "1.2.3",
		Explain: func(fleet.Snapshot, ...unit.Name) []fleet.Explanation { return nil },
		Processes: func(_ context.Context, m fleet.Machine, n unit.Name) (fleet.Processes, error) {
			if m.ID == m2 {
				if n == "b.service" {
					return fleet.Processes{}, refuse(403, "this host has no vote")
				}
				return fleet.Processes{}, errors.New("its fleetd does not answer")
			}
			return someProcesses(), nil
		}})
	c := f.serve()
	got, err := c.Processes(t.Context(), "a.service", string(m1))
	if diff := cmp.Diff(someProcesses(), got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, tt := range []struct {
		path, says string
		code       int
	}{
		{"processes/a.service", `"mainPID":7`, 200},
		{"processes/b.service", "say which, with machine=ID", 400},
		{"processes/b.service?machine=" + string(m1), `"mainPID":7`, 200},
		{"processes/b.service?machine=" + string(m2), "this host has no vote", 403},
		{"processes/far.service", "machine 2f2e3d4c: its fleetd does not answer", 502},
		{"processes/a.service?machine=" + string(m2), "does not have a.service", 404},
		{"processes/none.service", "does not exist", 404},
		{"processes/homeless.service", "is on no machine", 409},
		{"processes/a.exe", "unknown type", 400},
	} {
		if w := f.do("GET", "/fleet/v1/"+tt.path, ""); w.Code != tt.code || !strings.Contains(w.Body.String(), tt.says) {
			t.Errorf("%s: %d %s, want %d and %q", tt.path, w.Code, w.Body, tt.code, tt.says)
		}
	}
}

func TestAHostTellsOthersOnlyOfTheClustersUnits(t *testing.T) {
	srv := httptest.NewServer(NewHostHandler(HostConfig{Version: "1.2.3",
		Unknown: func(_ context.Context, names []unit.Name) ([]unit.Name, error) {
			if names[0] == "ssh.service" {
				return names, nil
			}
			return nil, nil
		},
		Processes: func(context.Context, unit.Name) (fleet.Processes, error) { return someProcesses(), nil },
	}))
	defer srv.Close()
	c := NewHostClient(nil)
	defer c.Close()
	addr := netip.MustParseAddrPort(srv.Listener.Addr().String())
	got, err := c.Processes(t.Context(), addr, "a.service")
	if diff := cmp.Diff(someProcesses(), got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, err := c.Processes(t.Context(), addr, "ssh.service"); err == nil || !strings.Contains(err.Error(), "no unit of this cluster") {
		t.Errorf("ssh.service: %v", err)
	}
}
