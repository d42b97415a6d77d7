package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// server answers status on the unix socket, and health and metrics on a port if one is set.
type server struct {
	handler   http.Handler
	listeners []net.Listener
}

// socket is where `netd status` and fleetd ask.
func (c Config) socket() string { return filepath.Join(c.RunDir, "netd.sock") }

// listen opens the socket, and a port when one is wanted. It happens before anything is programmed, so that a port that is taken ends the start.
func listen(c Config, n *node) (*server, error) {
	if err := os.MkdirAll(c.RunDir, 0o755); err != nil {
		return nil, fmt.Errorf("make --run-dir: %w", err)
	}
	if err := os.Remove(c.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of a netd before: %w", err)
	}
	l, err := net.Listen("unix", c.socket())
	if err != nil {
		return nil, fmt.Errorf("listen for status: %w", err)
	}
	// For our own group, fleetd's.
	if err := os.Chmod(c.socket(), 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for status: %w", err)
	}
	s := &server{listeners: []net.Listener{l}, handler: routes(n)}
	if c.HealthPort != 0 {
		at := net.JoinHostPort(c.HealthIP.String(), strconv.Itoa(c.HealthPort))
		h, err := net.Listen("tcp", at)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("listen on --healthz-ip, --healthz-port %s: %w: choose a free port", at, err)
		}
		s.listeners = append(s.listeners, h)
	}
	return s, nil
}

// run serves until ctx ends. A listener that fails takes the others along: a health check that nobody answers must not look healthy.
func (s *server) run(ctx context.Context) error {
	// Requests end with ctx: a probe of thousands of peers must not hold up a restart.
	srv := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	errs := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		go func() { errs <- srv.Serve(l) }()
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	var err error
	for range s.listeners {
		if e := <-errs; !errors.Is(e, http.ErrServerClosed) {
			err = e
			srv.Close()
		}
	}
	return err
}

// routes are health, readiness, status and metrics, the same on the socket and on the port. None of them shows a key.
func routes(n *node) http.Handler {
	mux := http.NewServeMux()
	check := func(path, ok string, err func() error) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			if e := err(); e != nil {
				http.Error(w, e.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, ok)
		})
	}
	check("/healthz", "flanneld is running", n.alive) // flannel's words: probes match on them
	check("/readyz", "ready", n.isReady)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s := n.status()
		if r.URL.Query().Get("probe") != "" {
			probe(r.Context(), &s)
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(s); err != nil {
			n.log.Debug("status not sent", "err", err)
		}
	})
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{n})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}

// alive is whether the loop turns.
func (n *node) alive() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if late := time.Since(n.turned); !n.turned.IsZero() && late > 3*n.c.Resync+30*time.Second {
		return fmt.Errorf("no turn for %s", late.Round(time.Second))
	}
	return nil
}

// isReady is whether workloads may count on the network: the lease runs, the last turn was clean, subnet.env is as it must be.
func (n *node) isReady() error {
	k := n.keeper.Status()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.problem != nil:
		return n.problem
	case !n.ready && k.Err != "":
		return errors.New(k.Err)
	case !n.ready:
		return errors.New("no subnet yet")
	// Packets still flow then, but another host may be given the subnet any moment.
	case k.Held && !k.Until.IsZero() && time.Now().After(k.Until):
		return fmt.Errorf("the lease of %s has ended: the store was away too long", n.view.Own.Name())
	}
	return nil
}

// collector turns the status into metrics.
type collector struct{ n *node }

// Describe leaves the metrics undescribed: they are few and made as they are asked for.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect gives the metrics.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.n.status()
	gauge := func(name, help string, v float64) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("netd_"+name, help, nil, nil), prometheus.GaugeValue, v)
	}
	counter := func(name, help string, v float64) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("netd_"+name, help, nil, nil), prometheus.CounterValue, v)
	}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("store_contact", "1 if the last request to the store went through.", yes(s.Store.Contact))
	gauge("store_revision", "Revision of the store seen last.", float64(s.Store.Revision))
	counter("store_resyncs_total", "Whole reads of the network's keys.", float64(s.Store.Resyncs))
	gauge("junk_keys", "Keys among the leases that are none.", float64(s.Store.Junk))
	gauge("lease_held", "1 if this host has a subnet in the store.", yes(s.Lease.Held))
	if !s.Lease.Until.IsZero() {
		gauge("lease_seconds_left", "Until the lease ends if it is not renewed.", time.Until(s.Lease.Until).Seconds())
	}
	skipped, failed := 0, 0
	for _, p := range s.Peers {
		if p.Skipped != "" {
			skipped++
		}
		if p.Failed != "" {
			failed++
		}
	}
	gauge("peers", "Leases of other hosts.", float64(len(s.Peers)))
	gauge("peers_skipped", "Those without a path.", float64(skipped))
	gauge("peers_failed", "Those whose path the kernel refused.", float64(failed))
	gauge("peers_stale", "Those still reached although their lease vanished.", float64(s.Store.Stale))
	gauge("mtu_bytes", "What workloads may send.", float64(s.MTU))
	gauge("ready", "1 if workloads may count on the network.", yes(s.Ready))
	gauge("turn_seconds", "How long the last full turn took.", s.Turn.Seconds())
	counter("repairs_total", "Things put right that another hand had changed.", float64(s.Repairs))
	for name, d := range s.Devices {
		for what, v := range map[string]uint64{"rx_bytes": d.RxBytes, "tx_bytes": d.TxBytes, "rx_dropped": d.RxDropped, "tx_dropped": d.TxDropped, "tx_errors": d.TxErrors} {
			out <- prometheus.MustNewConstMetric(prometheus.NewDesc("netd_device_"+what+"_total", "Counter of an overlay device.", []string{"device"}, nil),
				prometheus.CounterValue, float64(v), name)
		}
	}
}
