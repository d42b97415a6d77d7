package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/pki"
)

// peerPort is where hosts hand frames on, unless peer_listen says otherwise.
const peerPort = 2377

// serve hands frames on until ctx ends: as soon as this host has a certificate and an address where the others reach it, which fleetd may get
// long after we were started, and while it has that address. What is in the way is told in the log: an update works without.
func (s *sharing) serve(ctx context.Context, c Config) error {
	const soon, late = 2 * time.Second, 5 * time.Minute
	wait, said := soon, ""
	for {
		began, err := s.serveHere(ctx, c)
		if ctx.Err() != nil {
			return nil
		}
		if began {
			wait = soon
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			s.log.Warn("this host hands no frames on", "err", err)
		}
		if !pause.For(ctx, wait) {
			return nil
		}
		wait = min(2*wait, late)
	}
}

// serveHere hands frames on at the address that this host has now; began=false: it has none.
func (s *sharing) serveHere(ctx context.Context, c Config) (began bool, err error) {
	holder, err := pki.OpenHolder(c.PKIDir, time.Now)
	if err != nil || holder.Leaf() == nil {
		return false, err // a host without a certificate has nothing to prove itself by; that is no fault
	}
	address := c.PeerListen
	if address == auto {
		if address, err = s.ownAddress(ctx); err != nil || address == "" {
			return false, err
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return false, fmt.Errorf("peer_listen: %w: choose another port, or end what uses it", err)
	}
	if err := s.Cache.Tidy(time.Now()); err != nil {
		s.log.Warn("clear away old frames", "err", err)
	}
	s.log.Info("frames are handed on to other hosts", "address", address)
	s.tell(address)
	defer s.tell("")
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		defer cancel()
		for pause.For(ctx, time.Minute) && isOwn(address) {
		}
	})
	return true, s.serveOn(ctx, l, c)
}

// ownAddress is where the others reach this host: on the address where fleetd's API does, which is that of member_ip. "" = nowhere.
func (s *sharing) ownAddress(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := s.crowd.Own(ctx)
	if err != nil || !m.HostAddr.IsValid() {
		s.log.Debug("where the others reach this host is not known", "err", err)
		return "", nil // fleetd has not joined yet, or speaks to nobody
	}
	return net.JoinHostPort(m.HostAddr.Addr().String(), strconv.Itoa(peerPort)), nil
}

// isOwn says whether this host still has an address.
func isOwn(address string) bool {
	a, err := netip.ParseAddrPort(address)
	own := ownAddrs()
	return err != nil || len(own) == 0 || slices.Contains(own, a.Addr().Unmap())
}

// serveOn hands frames on by way of a listener, which it closes.
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
	srv := &http.Server{Handler: hostsOnly(c, s.Handler()), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(tls.NewListener(l, conf)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("peer_listen: %w", err)
	}
	return nil
}

// hostsOnly lets hosts of the cluster in, and no person: frames are their own affair.
func hostsOnly(c Config, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Anew at each request: fleetd replaces what is there, and a connection may be older than the end of its certificate.
		if holder, err := pki.OpenHolder(c.PKIDir, time.Now); err != nil || holder.Verify(r.TLS.PeerCertificates) != nil {
			http.Error(w, "the certificate that came is worth nothing any more", http.StatusForbidden)
			return
		}
		if id, err := pki.IdentityOf(r.TLS.PeerCertificates[0]); err != nil || !id.Role.IsHost() {
			http.Error(w, "frames are for hosts of the cluster", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
