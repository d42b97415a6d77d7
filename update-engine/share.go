package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/peers"
)

// sharing is this host's part in handing frames on.
type sharing struct {
	*peers.Share
	url   string // ours, for the others; "" = not served
	hosts atomic.Pointer[[]peers.Host]
	list  func(context.Context) ([]rollout.Host, error)
	group string // channel
	log   *slog.Logger
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
func newSharing(c Config, h *host, self string, list func(context.Context) ([]rollout.Host, error)) (*sharing, error) {
	client, _, err := c.peerTLS()
	if err != nil {
		return nil, err
	}
	scheme := "http"
	if client != nil {
		scheme = "https"
	} else {
		h.log.Warn("frames are handed on without protection: set peer_ca, peer_cert and peer_key", "address", c.PeerListen)
	}
	s := &sharing{url: (&url.URL{Scheme: scheme, Host: c.PeerListen}).String(), list: list, group: rolloutOf(c), log: h.log}
	s.Share = &peers.Share{Origin: origin{h}, Self: self, Client: &http.Client{Transport: &http.Transport{TLSClientConfig: client, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}},
		Cache: peers.Cache{Dir: filepath.Join(c.StateDir, "frames"), Max: int64(c.PeerCache)}, Hosts: func() []peers.Host { return *s.hosts.Load() }}
	s.hosts.Store(new([]peers.Host))
	return s, nil
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
	for _, h := range list {
		if h.Channel == s.group && h.Peer != "" {
			out = append(out, peers.Host{ID: h.Machine, URL: h.Peer})
		}
	}
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
	_, server, err := c.peerTLS()
	if err != nil {
		return err
	}
	if server != nil {
		l = tls.NewListener(l, server)
	}
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("peer_listen: %w", err)
	}
	return nil
}

// peerTLS is how hosts prove to each other who they are; nil is not at all.
func (c Config) peerTLS() (client, server *tls.Config, err error) {
	if c.PeerCA == "" && c.PeerCert == "" && c.PeerKey == "" {
		return nil, nil, nil
	}
	pem, err := os.ReadFile(c.PeerCA)
	if err != nil {
		return nil, nil, fmt.Errorf("peer_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("peer_ca: %s holds no certificate", c.PeerCA)
	}
	// Read anew at each connection: certificates are renewed while we run.
	read := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.PeerCert, c.PeerKey)
		if err != nil {
			return nil, fmt.Errorf("peer_cert, peer_key: %w", err)
		}
		return &pair, nil
	}
	if _, err := read(); err != nil {
		return nil, nil, err
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return read() }},
		&tls.Config{ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return read() }}, nil
}
