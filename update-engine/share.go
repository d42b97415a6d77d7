package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/peers"
)

// sharing is this host's part in handing frames on.
type sharing struct {
	*peers.Share
	address string // ours, for the others
	hosts   atomic.Pointer[[]peers.Host]
	where   atomic.Pointer[map[string]string] // name:port of a host's certificate → its address:port
	list    func(context.Context) ([]rollout.Host, error)
	channel string
	log     *slog.Logger
}

// origin is the configured mirrors, as they are at each fetch.
type origin struct{ h *host }

func (o origin) Fetch(ctx context.Context, file string, spans []payload.Span, take func(int, []byte) error) error {
	m, err := o.h.mirrors()
	if err != nil {
		return err
	}
	return m.Fetch(ctx, file, spans, take)
}

// newSharing joins the hosts of the same channel that say where they share.
func newSharing(c Config, h *host, self string, list func(context.Context) ([]rollout.Host, error)) *sharing {
	s := &sharing{address: c.PeerListen, list: list, channel: rolloutOf(c), log: h.log}
	dial := func(ctx context.Context, network, name string) (net.Conn, error) {
		// The name is in the certificate; where it is, the host itself has said.
		address, ok := (*s.where.Load())[name]
		if !ok {
			return nil, fmt.Errorf("where %s shares is not known", name)
		}
		host, _, err := net.SplitHostPort(name)
		if err != nil {
			return nil, err
		}
		holder, err := pki.OpenHolder(c.PKIDir, time.Now) // anew at each connection: certificates are renewed while we run
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{Config: holder.Client(host)}).DialContext(ctx, network, address)
	}
	s.Share = &peers.Share{Origin: origin{h}, Self: self, Client: &http.Client{Transport: &http.Transport{DialTLSContext: dial, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}},
		Cache: peers.Cache{Dir: filepath.Join(c.StateDir, "frames"), Max: int64(c.PeerCache)}, Hosts: func() []peers.Host { return *s.hosts.Load() }}
	s.hosts.Store(new([]peers.Host))
	s.where.Store(&map[string]string{})
	return s
}

// look reads anew who shares. Without the store it stays as it was.
func (s *sharing) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := s.list(ctx)
	if err != nil {
		s.log.Warn("who shares frames is not known", "err", err)
		return
	}
	var out []peers.Host
	where := map[string]string{}
	for _, h := range list {
		_, port, err := net.SplitHostPort(h.Peer)
		if h.Channel != s.channel || err != nil {
			continue
		}
		name := net.JoinHostPort(pki.HostName(h.Machine), port)
		where[name] = h.Peer
		out = append(out, peers.Host{ID: h.Machine, URL: "https://" + name})
	}
	s.where.Store(&where)
	s.hosts.Store(&out)
}

// source is where a payload comes from: the mirrors, or the other hosts before them. What came by hand is not asked of others.
func (h *host) source(ctx context.Context) (payload.Source, error) {
	m, err := h.mirrors()
	if err != nil || h.share == nil || h.from.Load() != nil {
		return m, err
	}
	h.share.look(ctx)
	return h.share, nil
}

// serve hands frames on until ctx ends.
func (s *sharing) serve(ctx context.Context, c Config) error {
	l, err := net.Listen("tcp", c.PeerListen)
	if err != nil {
		return fmt.Errorf("peer_listen: %w: choose another port, or end what uses it", err)
	}
	return s.serveOn(ctx, l, c)
}

func (s *sharing) serveOn(ctx context.Context, l net.Listener, c Config) error {
	conf := &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		holder, err := pki.OpenHolder(c.PKIDir, time.Now)
		if err != nil {
			return nil, err
		}
		now, err := holder.Server().GetConfigForClient(hello)
		if err == nil {
			now = now.Clone()
			now.ClientAuth, now.NextProtos = tls.RequireAndVerifyClientCert, []string{"http/1.1"}
		}
		return now, err
	}}
	srv := &http.Server{Handler: hostsOnly(s.Handler()), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(tls.NewListener(l, conf)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("peer_listen: %w", err)
	}
	return nil
}

// hostsOnly lets hosts of the cluster in, and no person: frames are their own affair.
func hostsOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, err := pki.IdentityOf(r.TLS.PeerCertificates[0]); err != nil || !id.Role.IsHost() {
			http.Error(w, "frames are for hosts of the cluster", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
