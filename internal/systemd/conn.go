package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	busName      = "org.freedesktop.systemd1"
	managerIface = busName + ".Manager"
	unitIface    = busName + ".Unit"
	managerPath  = dbus.ObjectPath("/org/freedesktop/systemd1")
	unitRoot     = "/org/freedesktop/systemd1/unit/"

	privateSocket = "/run/systemd/private"
	systemBus     = "/run/dbus/system_bus_socket"
)

// callTimeout ends a call that systemd never answers. A daemon-reload of thousands of units takes seconds.
const callTimeout = 90 * time.Second

// dialTimeout covers connecting and authenticating: local sockets, so a peer that takes longer is stuck.
const dialTimeout = 5 * time.Second

// knockPause is how long a ping may stay unanswered before the next.
const knockPause = 20 * time.Millisecond

// conn is one connection. It is not re-made: Systemd drops it and dials the next.
type conn struct {
	bus     *dbus.Conn
	manager dbus.BusObject
	private bool
}

// listener is told what comes in on a connection, by the connection's reader: it must not block.
type listener struct {
	changed func(path string)      // object path of a unit whose properties changed
	signal  func(*dbus.Signal)     // other signals, in order with the replies
	gone    func(ended *dbus.Conn) // the connection is over
	conn    *dbus.Conn
}

// DeliverSignal and Terminate are what godbus calls.
func (l *listener) DeliverSignal(_, _ string, s *dbus.Signal) { l.signal(s) }
func (l *listener) Terminate()                                { l.gone(l.conn) }

// dial connects to the manager at the first address that answers.
func dial(to []address, l listener) (*conn, error) {
	var errs []error
	for _, a := range to {
		c, err := dialOne(a, l)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", a.socket, err))
	}
	return nil, fmt.Errorf("connect to systemd: %w", errors.Join(errs...))
}

// address is a socket and whether systemd itself listens there: then there is no bus, hence no names and no matches.
type address struct {
	socket  string
	private bool
}

// addresses are tried in order. systemd's private socket comes first where it may be used: it needs no bus daemon, which costs
// a second copy of all traffic, refuses more than 128 pending calls, and is gone early at shutdown.
func addresses(o Options) []address {
	if o.User {
		dir := o.Getenv("XDG_RUNTIME_DIR")
		if dir == "" {
			dir = "/run/user/" + strconv.Itoa(os.Getuid())
		}
		return []address{{path.Join(dir, "systemd/private"), true}, {path.Join(dir, "bus"), false}}
	}
	if os.Geteuid() == 0 {
		return []address{{privateSocket, true}, {systemBus, false}}
	}
	return []address{{systemBus, false}}
}

func dialOne(a address, l listener) (*conn, error) {
	sock, err := net.DialTimeout("unix", a.socket, dialTimeout)
	if err != nil {
		return nil, err
	}
	// the deadline ends a handshake that hangs; it is lifted when the connection stands
	if err := sock.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	bus, err := dbus.NewConn(newWire(sock, l.changed), dbus.WithSignalHandler(&l))
	if err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	l.conn = bus
	c := &conn{bus: bus, manager: bus.Object(busName, managerPath), private: a.private}
	if err := c.greet(); err != nil {
		return nil, errors.Join(err, bus.Close())
	}
	return c, sock.SetDeadline(time.Time{})
}

// greet authenticates and asks for signals. systemd sends them to its private socket unasked.
func (c *conn) greet() error {
	if err := c.bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return err
	}
	if c.private {
		return c.knock()
	}
	if err := c.bus.Hello(); err != nil {
		return err
	}
	from := "type='signal',sender='" + busName + "',"
	for _, rule := range []string{
		from + "interface='" + managerIface + "',member='JobRemoved'",
		// without the second signal of each change, that of the unit's type
		from + "interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',arg0='" + unitIface + "'",
	} {
		if err := c.bus.BusObject().Call("org.freedesktop.DBus.AddMatch", 0, rule).Err; err != nil {
			return err
		}
	}
	return c.manager.Call(managerIface+".Subscribe", 0).Err
}

// knock makes sure that systemd listens. When the first call of a private connection comes in one read with the end of the authentication,
// systemd 252 leaves it lying until more comes in: it went unanswered in about one of ten connections. So more comes in.
func (c *conn) knock() error {
	for limit := time.Now().Add(dialTimeout); ; {
		ctx, cancel := context.WithTimeout(context.Background(), knockPause)
		err := c.manager.CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Now().After(limit) {
			return err
		}
	}
}

// call calls a method of the manager and waits for its answer.
func (c *conn) call(ctx context.Context, method string, out []any, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.manager.CallWithContext(ctx, managerIface+"."+method, 0, args...).Store(out...)
}

// property reads one property of a unit.
func (c *conn) property(ctx context.Context, object dbus.ObjectPath, iface, name string) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var v dbus.Variant
	err := c.bus.Object(busName, object).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, iface, name).Store(&v)
	return v.Value(), err
}

// errorName is the D-Bus name of an error, empty if it is none.
func errorName(err error) string {
	var e dbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	return ""
}
