package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fleet-init/fleet/functional/host"
)

// inFlight is the window of jobs asked for at a time: close to the 128 pending calls that the bus allows, for the limit shall be what
// systemd can do at best. (The agent has 16 in flight: the first unit is up sooner then.)
const inFlight = 100

// bareStart starts n units, spread over all hosts at one instant, by systemd alone, and returns how long the slowest host took. The
// files are in place before, as they are on an ordinary host.
func (b *bench) bareStart(ctx context.Context, n int) (time.Duration, error) {
	hosts := b.cluster.Hosts()
	share := make([][]string, len(hosts))
	for i, name := range names(n) {
		share[i%len(hosts)] = append(share[i%len(hosts)], "bare-"+name)
	}
	conns := make([]*dbus.Conn, len(hosts))
	for i, h := range hosts {
		if err := putFiles(ctx, h, share[i]); err != nil {
			return 0, err
		}
		conn, err := connect(ctx, h)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		conns[i] = conn
	}
	begin := time.Now()
	ends := make(chan error, len(hosts))
	for i, conn := range conns {
		go func() { ends <- jobs(ctx, conn, "StartUnit", share[i]) }()
	}
	var err error
	for range hosts {
		if e := <-ends; e != nil {
			err = e
		}
	}
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	for i, h := range hosts {
		if err := jobs(ctx, conns[i], "StopUnit", share[i]); err != nil {
			return 0, err
		}
		if _, err := h.Sh(ctx, "rm -f /run/systemd/system/bare-load@*.service && systemctl daemon-reload"); err != nil {
			return 0, err
		}
	}
	return took, nil
}

// putFiles writes one file per unit, as fleetd does.
func putFiles(ctx context.Context, h *host.Host, units []string) error {
	var script strings.Builder
	script.WriteString("cd /run/systemd/system && for i in")
	for _, u := range units {
		script.WriteString(" " + u)
	}
	fmt.Fprintf(&script, "; do printf '%%s' '%s' > $i; done", text)
	_, err := h.Sh(ctx, script.String())
	return err
}

// connect opens a host's system bus, as any client of systemd does. (systemd's private socket is no quicker, and resets a peer from
// outside its process namespace.)
func connect(ctx context.Context, h *host.Host) (*dbus.Conn, error) {
	raw, err := h.DialUnix(ctx, "/run/dbus/system_bus_socket")
	if err != nil {
		return nil, err
	}
	conn, err := dbus.NewConn(raw)
	if err != nil {
		return nil, err
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, err
	}
	if err := conn.Hello(); err != nil {
		return nil, err
	}
	if err := conn.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.systemd1.Manager"), dbus.WithMatchMember("JobRemoved")); err != nil {
		return nil, err
	}
	return conn, conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").
		CallWithContext(ctx, "org.freedesktop.systemd1.Manager.Subscribe", 0).Err
}

// jobs queues one job per unit, inFlight at a time, and returns when all have ended well.
func jobs(ctx context.Context, conn *dbus.Conn, method string, units []string) error {
	signals := make(chan *dbus.Signal, 8*len(units)+64)
	conn.Signal(signals)
	defer conn.RemoveSignal(signals)
	manager := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	wanted := make(map[string]bool, len(units))
	for _, u := range units {
		wanted[u] = true
	}
	next, flying := 0, 0
	for len(wanted) > 0 {
		for ; flying < inFlight && next < len(units); next, flying = next+1, flying+1 {
			manager.Go("org.freedesktop.systemd1.Manager."+method, dbus.FlagNoReplyExpected, nil, units[next], "replace")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, ok := <-signals:
			if !ok {
				return net.ErrClosed
			}
			if s.Name != "org.freedesktop.systemd1.Manager.JobRemoved" || len(s.Body) != 4 {
				continue
			}
			name, _ := s.Body[2].(string)
			if !wanted[name] {
				continue
			}
			if result, _ := s.Body[3].(string); result != "done" {
				return fmt.Errorf("%s %s: %s", method, name, result)
			}
			delete(wanted, name)
			flying--
		}
	}
	return nil
}
