package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/api"
	daemon "github.com/fleet-init/fleet/internal/run"
)

// listen gives the API's sockets: those that systemd passed, else api_socket; and api_listen if it is set.
func (h *host) listen() ([]net.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take over systemd's sockets: %w", err)
	}
	var all []net.Listener
	for _, l := range passed {
		if l != nil { // a datagram socket, which is of no use here
			all = append(all, h.secured(l))
		}
	}
	if len(all) == 0 {
		l, err := listenUnix(h.cfg.APISocket)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	if h.cfg.APIListen != "" {
		l, err := net.Listen("tcp", h.cfg.APIListen)
		if err != nil {
			return nil, fmt.Errorf("api_listen: %w: choose another port, or end what uses it", err)
		}
		if h.trust == nil {
			h.log.Warn("the API is served over TCP without protection: whoever reaches it can run anything on every host", "address", l.Addr())
		}
		all = append(all, h.secured(l))
	}
	return all, nil
}

// secured puts TLS on a listener that others than processes of this host can reach, unless insecure=true.
func (h *host) secured(l net.Listener) net.Listener {
	if h.trust == nil || l.Addr().Network() == "unix" {
		return l
	}
	return h.trust.holder.Listen(l)
}

// listenUnix makes the API's socket for root and the group fleet. A socket that a killed fleetd left is replaced, one that
// somebody listens on is not.
func listenUnix(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("api_socket %s is in use: is another fleetd running?", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("api_socket: %w", err)
	}
	// Made under a name that nobody knows, so that it never stands open with other permissions than its own.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".fleet-")
	if err != nil {
		return nil, fmt.Errorf("api_socket: %w", err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("api_socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o660)
	if g, lookup := user.LookupGroup("fleet"); lookup == nil && err == nil {
		if gid, convErr := strconv.Atoi(g.Gid); convErr == nil {
			err = os.Chown(tmp, -1, gid)
			if errors.Is(err, fs.ErrPermission) { // not root (systemd_user), and not in the group: then it is this user's alone
				err = os.Chmod(tmp, 0o600)
			}
		}
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("api_socket: %w", err), l.Close())
	}
	return l, nil
}

// serveAPI answers on all sockets until ctx ends.
func (h *host) serveAPI(ctx context.Context, listeners []net.Listener) error {
	srv := api.NewServer(ctx, h.api, h.log)
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- srv.Serve(l) }()
	}
	var err error
	left := len(listeners)
	select {
	case <-ctx.Done():
	case err = <-failed:
		left--
		err = fmt.Errorf("serve the API: %w", err)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if srv.Shutdown(end) != nil {
		_ = srv.Close() // what is still open then is cut
	}
	for range left {
		if e := <-failed; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// apiHandler is the API, for any socket.
func (h *host) apiHandler() http.Handler {
	return api.NewHandler(api.Config{
		Registry:   h.registry,
		SnapshotOf: h.registry.SnapshotOf,
		Explain:    engine.Explain,
		Restart:    h.registry.Restart,
		Journal:    h.hosts.readJournal,
		Own:        h.ownUnits,
		Network:    h.hosts.network,
		Processes:  h.hosts.processes,
		Ready:      h.ready,
		More:       h.moreRoutes(),
		Version:    daemon.Version(),
		Metrics:    h.metrics.handler(),
		TokenLimit: uint16(min(h.cfg.TokenLimit, 1<<16-1)),
		Log:        h.log,
		Caller:     h.caller,
		Audit:      h.audit,
		Voters:     h.voterNames,
	})
}

// voterNames are the hosts that vote, where this one does not: each by its name and the address that others reach it at.
func (h *host) voterNames(ctx context.Context) (names []string) {
	if h.member.Status().Role != member.StandBy {
		return nil
	}
	ms, err := h.registry.Machines(ctx)
	if err != nil {
		return nil // then the store's own words have to do
	}
	for _, m := range ms {
		if m.Seat.Role == string(member.Voter) {
			names = append(names, fmt.Sprintf("%s (%s)", m.Name, m.IP))
		}
	}
	slices.Sort(names)
	return names
}

// ready is why the API cannot answer yet.
func (h *host) ready() error {
	now, _, why := h.presence.Now()
	if lost := h.member.Status().Lost; lost != "" {
		return errors.New(lost)
	}
	if now != nil {
		return nil
	}
	if waits, _ := h.trust.watch(); waits != "" {
		return errors.New(waits)
	}
	if st := h.member.Status(); st.Doing != "" {
		return errors.New(st.Doing)
	}
	return why
}
