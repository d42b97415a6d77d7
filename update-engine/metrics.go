package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fleet-init/fleet/update-engine/peers"
	"github.com/fleet-init/fleet/update-engine/update"
)

// metrics are made from the state at each scrape: nothing is counted twice, nothing is forgotten at a restart.
func metrics(s update.State, share *peers.Share) *prometheus.Registry {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, v float64, labels prometheus.Labels) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "fleet_update", Name: name, Help: help, ConstLabels: labels})
		g.Set(v)
		r.MustRegister(g)
	}
	good := 0.0
	if s.Good {
		good = 1
	}
	last := 0.0
	if !s.LastGood.IsZero() {
		last = float64(s.LastGood.Unix())
	}
	gauge("last_successful_check_timestamp_seconds", "When the host last read the signed state of its channel; 0 = never. Alert on its age.", last, nil)
	gauge("failed_checks", "Checks that failed since the last good one.", float64(s.Checks), nil)
	gauge("running_good", "1 when the running release has proven itself, 0 on trial.", good, prometheus.Labels{"version": s.Running})
	gauge("phase", "1 for the phase the host is in.", 1, prometheus.Labels{"phase": string(s.Phase)})
	gauge("refused_releases", "Releases that failed here and are not taken again.", float64(len(s.Failed)), nil)
	gauge("staged_frames", "Frames of the release under way that are written.", float64(s.Done), nil)
	if share == nil {
		return r
	}
	count := func(name, help string, v int64, labels prometheus.Labels) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "fleet_update", Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(v) }))
	}
	got := "Bytes of frames that came from the mirrors (origin) and from other hosts (peers) since the start."
	count("frame_bytes_total", got, share.Count.Origin.Load(), prometheus.Labels{"from": "origin"})
	count("frame_bytes_total", got, share.Count.Peers.Load(), prometheus.Labels{"from": "peers"})
	count("frame_bytes_given_total", "Bytes of frames handed on to other hosts since the start.", share.Count.Given.Load(), nil)
	return r
}

func (c *control) metrics(w http.ResponseWriter, r *http.Request) {
	s, err := c.daemon.ask(r.Context(), update.Fact{Kind: look})
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	promhttp.HandlerFor(metrics(s, c.share), promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

// serveMetrics serves the same on an address of its own.
func (c *control) serveMetrics(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", c.metrics)
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("metrics_listen: %w: choose another port, or end what uses it", err)
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics_listen: %w", err)
	}
	return nil
}
