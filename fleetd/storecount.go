package main

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleet-init/fleet/internal/kv"
)

// countedStore counts what passes between the registry and the store, in fleet's words: get reads named keys, get_all whole
// folders, set writes. Watches and the renewal of leases are none of these.
type countedStore struct {
	kv.Store
	count, failed *prometheus.CounterVec
	took          *prometheus.HistogramVec
}

// counted lays the counters over a store and exports them.
func (m *metrics) counted(s kv.Store) kv.Store {
	c := &countedStore{Store: s,
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_registry_operation_count_total", Help: "Requests to the store, by kind.",
		}, []string{"type"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_registry_operation_failed_count_total", Help: "Requests to the store that it did not answer or refused, by kind.",
		}, []string{"type"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fleet_registry_operation_duration_second", Help: "How long requests to the store took, in seconds, by kind.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8), // 0.5 ms to 8 s
		}, []string{"ops"}),
	}
	for _, kind := range []string{"get", "get_all", "set"} { // there from the start: a rate over a series that comes up late misses its first step
		c.count.WithLabelValues(kind)
		c.failed.WithLabelValues(kind)
		c.took.WithLabelValues(kind)
	}
	m.registry.MustRegister(c.count, c.failed, c.took)
	return c
}

func (c *countedStore) observe(kind string, begin time.Time, err error) {
	c.count.WithLabelValues(kind).Inc()
	c.took.WithLabelValues(kind).Observe(time.Since(begin).Seconds())
	if err != nil {
		c.failed.WithLabelValues(kind).Inc()
	}
}

// Range is kv.Store's.
func (c *countedStore) Range(ctx context.Context, prefixes ...string) ([][]kv.KV, int64, error) {
	kind := "get"
	for _, p := range prefixes {
		if strings.HasSuffix(p, "/") {
			kind = "get_all"
		}
	}
	begin := time.Now()
	kvs, rev, err := c.Store.Range(ctx, prefixes...)
	c.observe(kind, begin, err)
	return kvs, rev, err
}

// Txn is kv.Store's. A lost race is an answer, not a failure.
func (c *countedStore) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (int64, bool, error) {
	begin := time.Now()
	rev, ok, err := c.Store.Txn(ctx, guards, ops)
	c.observe("set", begin, err)
	return rev, ok, err
}
