package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/journal"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/registry"
	daemon "github.com/fleet-init/fleet/internal/run"
	"github.com/fleet-init/fleet/internal/unit"
)

// hosts is how this fleetd and those of other hosts speak to each other, on host_port of member_ip. docs/decisions/0011-logs.md
// says why there.
type hosts struct {
	*host
	own    *journal.Journal
	client *api.HostClient
}

func newHosts(h *host) *hosts {
	var client *tls.Config // nil: insecure=true
	if h.trust != nil {
		client = h.trust.holder.Client("")
	}
	own := journal.New("journalctl", h.id.machine)
	if h.cfg.SystemdUser {
		own = journal.NewUser("journalctl", h.id.machine)
	}
	return &hosts{host: h, own: own, client: api.NewHostClient(client)}
}

// readJournal reads the journal of any machine: this one's directly, another's through its fleetd.
func (h *hosts) readJournal(ctx context.Context, m fleet.Machine, q fleet.LogQuery, each func(fleet.LogEntry) error) error {
	switch {
	case m.ID == h.id.machine:
		return h.own.Read(ctx, q, each)
	case !m.HostAddr.IsValid():
		return errors.New("its fleetd does not listen for other hosts: set member_ip in its fleet.conf, or look there: fleetctl ssh " + m.ID.Short())
	}
	return h.client.Journal(api.WithHostName(ctx, pki.HostName(string(m.ID))), m.HostAddr, q, each)
}

// processes asks any machine's systemd what runs of a unit there.
func (h *hosts) processes(ctx context.Context, m fleet.Machine, n unit.Name) (fleet.Processes, error) {
	switch {
	case m.ID == h.id.machine:
		return h.systemd.Processes(ctx, n)
	case !m.HostAddr.IsValid():
		return fleet.Processes{}, errors.New("its fleetd does not listen for other hosts: set member_ip in its fleet.conf")
	}
	return h.client.Processes(api.WithHostName(ctx, pki.HostName(string(m.ID))), m.HostAddr, n)
}

// unknown returns those of the names that are no units of this cluster.
func (h *hosts) unknown(ctx context.Context, names []unit.Name) ([]unit.Name, error) {
	s, err := h.registry.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	known := map[unit.Name]bool{}
	for k := range s.Observed { // a unit that was destroyed and is still stopping here
		known[k.Unit] = true
	}
	var list []unit.Name
	for _, n := range names {
		if _, there := s.Units[n]; !there && !known[n] {
			list = append(list, n)
		}
	}
	return list, nil
}

// run listens for other hosts whenever this host has its member_ip, and publishes where. Nothing else waits for it: without it other
// hosts cannot read this one's logs, and that is all.
func (h *hosts) run(ctx context.Context) error {
	defer h.client.Close()
	if !h.cfg.MemberIP.IsValid() {
		return nil
	}
	last := ""
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		l, err := h.listen(ctx)
		if err == nil {
			h.publish(l.Addr().(*net.TCPAddr).AddrPort())
			err = h.serve(ctx, l)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != last {
			h.log.Warn("other hosts cannot read this host's logs", "err", err)
			last = err.Error()
		}
		h.publish(netip.AddrPort{})
		if !pause.For(ctx, wait) {
			return nil
		}
	}
}

func (h *hosts) publish(addr netip.AddrPort) {
	h.presence.Say(func(hello *registry.Hello) { hello.HostAddr = addr })
}

func (h *hosts) listen(ctx context.Context) (net.Listener, error) {
	for _, a := range hostAddrs() {
		if h.cfg.MemberIP.Contains(a.Addr()) {
			addr := netip.AddrPortFrom(a.Addr(), uint16(h.cfg.HostPort))
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr.String())
			if err != nil {
				return nil, fmt.Errorf("host_port: %w: choose another port, or end what uses it", err)
			}
			return h.secured(l), nil
		}
	}
	return nil, fmt.Errorf("member_ip: this host has no address in %s", h.cfg.MemberIP)
}

// handler answers voters what they ask of this host, and everybody by their certificate's role what the API has. With insecure=true it is
// the former alone, as nobody could be told from anybody.
func (h *hosts) handler() http.Handler {
	own := api.NewHostHandler(api.HostConfig{Journal: h.own.Read, Unknown: h.unknown, Network: h.ownNetwork, Processes: h.systemd.Processes, Version: daemon.Version()})
	if h.trust == nil {
		return own
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, api.HostPrefix) {
			h.api.ServeHTTP(w, r)
			return
		}
		if who := h.caller(r); who.Role != api.Voter {
			e := &api.Error{Code: http.StatusForbidden, Message: "logs and processes are told to hosts with a vote only: ask there, or with access of your own (fleetctl context add)"}
			api.Reply(w, e.Code, map[string]*api.Error{"error": e})
			return
		}
		own.ServeHTTP(w, r)
	})
}

func (h *hosts) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := api.NewServer(ctx, h.handler(), h.log)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		awaitAway(ctx, l.Addr().(*net.TCPAddr).AddrPort().Addr(), hostAddrs)
		_ = srv.Close() // readers of logs come again
	}()
	err := srv.Serve(l)
	cancel()
	<-ended
	if errors.Is(err, http.ErrServerClosed) { // of no interest to run if it was told to end
		err = fmt.Errorf("this host no longer has the address %s", l.Addr())
	}
	return fmt.Errorf("host_port: %w", err)
}

// lookAgain is how often a host looks whether it still has the address that it listens on. The kernel does not tell a listener.
const lookAgain = 10 * time.Second

// awaitAway returns when addr is no longer among this host's addresses, or ctx ends.
func awaitAway(ctx context.Context, addr netip.Addr, all func() []netip.Prefix) {
	for pause.For(ctx, lookAgain) {
		if !slices.ContainsFunc(all(), func(p netip.Prefix) bool { return p.Addr() == addr }) {
			return
		}
	}
}
