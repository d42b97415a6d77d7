package main

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/internal/fleet"
)

// metrics is what /metrics shows: fleet's series under their old names, and the Go runtime's.
type metrics struct {
	registry *prometheus.Registry
	turns    prometheus.Histogram
	lost     prometheus.Gauge // machines that are away with a reboot permit
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), turns: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "fleet_engine_reconcile_duration_second", Help: "How long the engine's turns took, in seconds.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9), // 0.1 ms to 6.5 s
	})}
	m.lost = prometheus.NewGauge(prometheus.GaugeOpts{Name: "fleet_reboot_lost_holders",
		Help: "Machines that got a reboot permit and have not come back, as the leading engine's host sees it; the others wait for them. Alert on it."})
	m.registry.MustRegister(m.turns, m.lost, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observeTurn(took time.Duration) { m.turns.Observe(took.Seconds()) }

// add exports what the engine counts.
func (m *metrics) add(counters func() engine.Counters) {
	m.registry.MustRegister(engineSeries{counters})
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// engineSeries turns the engine's counters into fleet's series when they are asked for.
type engineSeries struct{ counters func() engine.Counters }

// Describe says nothing: the series are checked when they are collected.
func (engineSeries) Describe(chan<- *prometheus.Desc) {}

func (e engineSeries) Collect(out chan<- prometheus.Metric) {
	c := e.counters()
	send := func(kind prometheus.ValueType, name, help string, value float64, label ...string) {
		var names, values []string
		if len(label) == 2 {
			names, values = label[:1], label[1:]
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
	}
	start := 0.0
	if c.Leading {
		start = float64(c.Since.Unix())
	}
	send(prometheus.GaugeValue, "fleet_engine_leader_start_time", "When this engine began to lead, in seconds of Unix time; 0 while another leads.", start)
	const tasks = "Changes of placements that were written, by kind."
	placed := c.Decisions[fleet.Place] + c.Decisions[fleet.Update] + c.Decisions[fleet.Handover]
	send(prometheus.CounterValue, "fleet_engine_task_count_total", tasks, float64(placed), "type", "attemptscheduleunit")
	send(prometheus.CounterValue, "fleet_engine_task_count_total", tasks, float64(c.Decisions[fleet.Withdraw]), "type", "unscheduleunit")
	send(prometheus.CounterValue, "fleet_engine_task_failure_count_total", "Changes that were not written, because what they were planned on had changed.",
		float64(c.Conflicts), "type", "attemptscheduleunit")
	send(prometheus.CounterValue, "fleet_engine_reconcile_count_total", "Turns of the engine.", float64(c.Turns))
	send(prometheus.CounterValue, "fleet_engine_reconcile_failure_count_total", "Turns that ended a term.", float64(c.Failures), "type", "run")
	send(prometheus.CounterValue, "fleet_engine_resync_count_total", "Times the engine read the whole cluster anew.", float64(c.Resyncs))
	send(prometheus.GaugeValue, "fleet_engine_brake_machines", "Machines that vanished at once, so that nothing is moved away from them; 0: none.", float64(c.Missing))
	send(prometheus.CounterValue, "fleet_engine_collected_texts_total", "Unit texts deleted because nothing used them.", float64(c.Collected))
}
