package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
)

// The names are what fleet's documentation lists, and dashboards ask for.
func TestMetricsHaveFleetsNames(t *testing.T) {
	m := newMetrics()
	s := m.counted(kv.NewMemory(time.Now))
	m.add(func() engine.Counters {
		return engine.Counters{Turns: 3, Decisions: map[fleet.DecisionKind]uint64{fleet.Place: 2, fleet.Withdraw: 1}}
	})
	m.observeTurn(time.Millisecond)
	ctx := t.Context()
	if _, ok, err := s.Txn(ctx, nil, []kv.Op{{Key: "/a/b", Value: []byte("c")}}); err != nil || !ok {
		t.Fatal(ok, err)
	}
	for _, prefix := range []string{"/a/", "/a/", "/a/b"} {
		if _, _, err := s.Range(ctx, prefix); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Txn(ctx, nil, []kv.Op{{Key: "/a/c", Lease: 77}}); err == nil {
		t.Fatal("a lease that does not exist was taken")
	}
	page := httptest.NewRecorder()
	m.handler().ServeHTTP(page, httptest.NewRequestWithContext(ctx, "GET", "/metrics", nil))
	text := "\n" + page.Body.String()
	for _, line := range []string{
		"fleet_engine_leader_start_time 0",
		`fleet_engine_task_count_total{type="attemptscheduleunit"} 2`,
		`fleet_engine_task_count_total{type="unscheduleunit"} 1`,
		`fleet_engine_task_failure_count_total{type="attemptscheduleunit"} 0`,
		"fleet_engine_reconcile_count_total 3",
		`fleet_engine_reconcile_failure_count_total{type="run"} 0`,
		"fleet_engine_reconcile_duration_second_count 1",
		`fleet_registry_operation_count_total{type="get"} 1`,
		`fleet_registry_operation_count_total{type="get_all"} 2`,
		`fleet_registry_operation_count_total{type="set"} 2`,
		`fleet_registry_operation_failed_count_total{type="set"} 1`,
		`fleet_registry_operation_failed_count_total{type="get"} 0`,
		`fleet_registry_operation_duration_second_count{ops="get_all"} 2`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
