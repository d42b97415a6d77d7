package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/peers"
)

// sharing is this host's part in handing frames on.
type sharing struct {
	*peers.Share
	self    fleet.MachineID
	hosts   atomic.Pointer[[]peers.Host]
	where   atomic.Pointer[map[string]string] // name:port of a host's certificate → its address:port
	crowd   crowd
	channel string
	log     *slog.Logger
	tell    func(address string) // says to the others where we hand frames on; "" = nowhere
}

// crowd is what must be known of the other hosts. cluster is the real one.
type crowd interface {
	// Sharing are the reports of the hosts that are up.
	Sharing(ctx context.Context) ([]rollout.Host, error)
	// Own is this host as the others know it.
	Own(ctx context.Context) (fleet.Machine, error)
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
func newSharing(c Config, h *host, self fleet.MachineID, others crowd) *sharing {
	s := &sharing{self: self, crowd: others, channel: rolloutOf(c), log: h.log, tell: func(string) {}}
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
		// The kernel of a host that is up answers at once, however busy it is.
		return (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: holder.Client(host)}).DialContext(ctx, network, address)
	}
	s.Share = &peers.Share{Origin: origin{h}, Self: string(self), Client: &http.Client{Transport: &http.Transport{DialTLSContext: dial, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}},
		Cache: peers.Cache{Dir: filepath.Join(c.StateDir, "frames"), Max: int64(c.PeerCache), Free: diskFree}, Hosts: func() []peers.Host { return *s.hosts.Load() }}
	s.hosts.Store(new([]peers.Host))
	s.where.Store(&map[string]string{})
	return s
}

// look reads anew who shares. Without the store it stays as it was.
func (s *sharing) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := s.crowd.Sharing(ctx)
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

// diskFree says how full the disk below a folder is.
func diskFree(dir string) (free, all int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("look how full %s is: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
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
