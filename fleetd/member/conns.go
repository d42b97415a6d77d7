package member

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"
)

// conns are the connections of a client whose endpoints change. gRPC leaves streams on a connection to an address that is no endpoint any
// more, for as long as it stands: the watches of a host that once was a learner would go through another host for ever, and
// stand still for many seconds when that one is lost. keep ends such connections; the client opens its watches again where they
// belong, and misses nothing.
type conns struct {
	dialer func(ctx context.Context, addr string) (net.Conn, error)
	mu     sync.Mutex // guards open
	open   map[*conn]string
}

// conn takes itself off the list when it is closed.
type conn struct {
	net.Conn
	list *conns
}

func (c *conn) Close() error {
	c.list.mu.Lock()
	delete(c.list.open, c)
	c.list.mu.Unlock()
	return c.Conn.Close()
}

// dial connects, for gRPC.
func (l *conns) dial(ctx context.Context, addr string) (net.Conn, error) {
	raw, err := l.dialer(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &conn{raw, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[*conn]string{}
	}
	l.open[c] = bare(addr)
	return c, nil
}

// keep ends the connections to all but these endpoints.
func (l *conns) keep(endpoints []string) {
	stays := map[string]bool{}
	for _, e := range endpoints {
		stays[bare(e)] = true
	}
	l.mu.Lock()
	var gone []*conn
	for c, addr := range l.open {
		if !stays[addr] {
			gone = append(gone, c)
		}
	}
	l.mu.Unlock()
	for _, c := range gone {
		_ = c.Close()
	}
}

// bare is an endpoint, or what gRPC makes of it, as host:port or path.
func bare(endpoint string) string {
	for _, scheme := range []string{"http://", "https://", "unix://", "unix:"} {
		if rest, ok := strings.CutPrefix(endpoint, scheme); ok {
			return rest
		}
	}
	return endpoint
}

// dialFast connects so that the kernel notices within four seconds that the other host is gone. gRPC's own pings come every ten seconds,
// and not more often, whatever it is told.
func dialFast(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 2}}
	network, a := "tcp", bare(addr)
	if strings.HasPrefix(a, "/") {
		network = "unix"
	}
	return d.DialContext(ctx, network, a)
}

// lead has the client ask at these endpoints, and nowhere else.
func (m *Member) lead(endpoints ...string) {
	m.client.SetEndpoints(endpoints...)
	m.conns.keep(endpoints)
}
