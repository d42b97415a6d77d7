package host

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// InNetwork calls f in the cluster's network namespace, where the hosts' bridge is. Sockets that f makes stay in it. f must not
// start goroutines that make sockets: those would be outside.
func (c *Cluster) InNetwork(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread has left our namespace and ends with this goroutine.
		runtime.LockOSThread()
		done <- c.enterNetwork(f)
	}()
	return <-done
}

func (c *Cluster) enterNetwork(f func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.state.Holder.PID))
	if err != nil {
		return fmt.Errorf("enter the cluster's network: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the cluster's network: %w", err)
	}
	return f()
}

// Dial connects to host:port in the cluster's network, by IP address or by the host's name.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if h := c.Named(name); h != nil {
		name = h.IP
	}
	// Only a literal address is dialled from the calling thread; a name would be looked up from another, outside.
	if _, err := netip.ParseAddr(name); err != nil {
		return nil, fmt.Errorf("dial %s: no host of the cluster is called that: %w", address, err)
	}
	var conn net.Conn
	err = c.InNetwork(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(name, port))
		return err
	})
	return conn, err
}

// HTTP returns a client for URLs such as http://h2:8002/ or http://172.31.80.12:8002/. It keeps no connections, so that a cut shows.
func (c *Cluster) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
}

// Path returns where a path of a running host is out here: below /proc/PID/root, /run and other mounts included. A link in it with
// an absolute target leads out of the host: use WriteFile and ReadFile for what is not a socket.
func (h *Host) Path(path string) (string, error) {
	pid, err := h.leader()
	if err != nil {
		return "", err
	}
	return filepath.Join("/proc", strconv.Itoa(pid), "root", path), nil
}

// DialUnix connects to a unix socket on the host, such as /run/fleet.sock.
func (h *Host) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	outside, err := h.Path(path)
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "unix", outside)
}

// UnixHTTP returns a client that speaks to a unix socket on the host, whatever the URL's host is.
func (h *Host) UnixHTTP(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return h.DialUnix(ctx, path) },
		DisableKeepAlives: true,
	}}
}
