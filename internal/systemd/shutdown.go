package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	loginName  = "org.freedesktop.login1"
	loginIface = loginName + ".Manager"
	loginPath  = dbus.ObjectPath("/org/freedesktop/login1")
)

// AwaitShutdown returns nil when somebody asks for this host's shutdown or reboot, which then waits until hold is closed, or for logind's
// InhibitDelayMaxSec. Nothing was stopped yet then: once systemd stops units it stops all at once, in no order that would let their
// successors start before. An error says why a shutdown would not wait now, for instance that there is no logind; the caller tries
// again later. A shutdown that goes past logind (systemctl --force, no logind) does not wait and is not told.
func (s *Systemd) AwaitShutdown(ctx context.Context) (hold *os.File, err error) {
	bus, err := dialBus(ctx, systemBus)
	if err != nil {
		return nil, fmt.Errorf("connect to logind: %w", err)
	}
	defer bus.Close()
	signals := make(chan *dbus.Signal, 4)
	bus.Signal(signals)
	rule := "type='signal',sender='" + loginName + "',interface='" + loginIface + "',member='PrepareForShutdown'"
	if err := bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.AddMatch", 0, rule).Err; err != nil {
		return nil, fmt.Errorf("listen to logind: %w", err)
	}
	hold, err = inhibit(ctx, bus)
	if err != nil {
		return nil, err
	}
	for {
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), hold.Close())
		case sig, ok := <-signals:
			if !ok {
				return nil, errors.Join(errors.New("connect to logind: the bus has ended"), hold.Close())
			}
			if begins, is := prepares(sig); is && begins {
				return hold, nil
			}
		}
	}
}

// inhibit takes the lock. logind knows its holder by a pipe: it is given back by closing our end, also when we crash.
func inhibit(ctx context.Context, bus *dbus.Conn) (*os.File, error) {
	call, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var fd dbus.UnixFD
	err := bus.Object(loginName, loginPath).CallWithContext(call, loginIface+".Inhibit", 0,
		"shutdown", "fleet", "units are handed over to other machines", "delay").Store(&fd)
	if err != nil {
		return nil, fmt.Errorf("ask logind to wait with a shutdown: %w", err)
	}
	syscall.CloseOnExec(int(fd))
	return os.NewFile(uintptr(fd), "shutdown lock"), nil
}

// prepares reads logind's announcement: true before a shutdown, false when it was called off.
func prepares(sig *dbus.Signal) (begins, is bool) {
	if sig.Name != loginIface+".PrepareForShutdown" || len(sig.Body) != 1 {
		return false, false
	}
	begins, is = sig.Body[0].(bool)
	return begins, is
}

// dialBus connects to a message bus until ctx ends.
func dialBus(ctx context.Context, socket string) (*dbus.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(dialTimeout, cancel) // of the handshake only
	bus, err := dbus.Connect("unix:path="+socket, dbus.WithContext(ctx))
	if !limit.Stop() && err == nil {
		err = errors.New("the bus does not answer")
	}
	if err != nil {
		cancel()
	}
	return bus, err
}
