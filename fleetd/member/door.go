package member

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"google.golang.org/grpc"
)

// door is where clients come in: the unix socket, and the client port if the host has an address. What stands behind it, the
// member itself or the proxy to the voters, can change while it is open: the old one's connections end, clients come again.
type door struct {
	listeners []net.Listener
	accepting sync.WaitGroup

	mu     sync.Mutex // guards room, server
	room   *room
	server *grpc.Server
	served sync.WaitGroup
}

// openDoor takes the socket, replacing a dead one of an earlier run, and addr if it is valid. Connections are accepted
// once serve is called.
func openDoor(socket string, addr netip.AddrPort) (*door, error) {
	d := &door{}
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of etcd_socket: %w", err)
	}
	l, err := listenUnix(socket)
	if err != nil {
		return nil, err
	}
	d.listeners = append(d.listeners, l)
	if addr.IsValid() {
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			d.close()
			return nil, portError("client_port", addr.String(), err)
		}
		d.listeners = append(d.listeners, l)
	}
	return d, nil
}

// listenUnix makes the socket under another name and moves it into place, so that it is never there with the wrong mode.
func listenUnix(path string) (net.Listener, error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("make etcd_socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make etcd_socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // it would remove the name of the time of listening
	if err := errors.Join(os.Chmod(tmp, 0o660), os.Rename(tmp, path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("make etcd_socket: %w", err)
	}
	return unixDoor{l, path}, nil
}

type unixDoor struct {
	net.Listener
	path string
}

func (u unixDoor) Close() error {
	os.Remove(u.path)
	return u.Listener.Close()
}

// serve puts server behind the door and ends the one before.
func (d *door) serve(server *grpc.Server) {
	r := newRoom()
	d.mu.Lock()
	first, old := d.server == nil, d.server
	d.room, d.server = r, server
	d.mu.Unlock()
	d.served.Go(func() { server.Serve(r) }) // ends with Stop; all it could report is that
	if old != nil {
		old.Stop()
	}
	if first {
		for _, l := range d.listeners {
			d.accepting.Go(func() { d.accept(l) })
		}
	}
}

// park ends all connections; new ones are closed at once until serve is called again.
func (d *door) park() {
	d.mu.Lock()
	server := d.server
	d.mu.Unlock()
	if server != nil {
		server.Stop()
	}
}

func (d *door) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // out of file descriptors, or a client that was gone before it was in
		}
		d.mu.Lock()
		r := d.room
		d.mu.Unlock()
		r.enter(c)
	}
}

// close ends all connections; the socket is gone after that.
func (d *door) close() {
	for _, l := range d.listeners {
		l.Close()
	}
	d.accepting.Wait()
	d.mu.Lock()
	server := d.server
	d.mu.Unlock()
	if server != nil {
		server.Stop()
	}
	d.served.Wait()
}

// room is the listener of one server: connections are handed in by the door.
type room struct {
	conns chan net.Conn
	shut  chan struct{}
	once  sync.Once
}

func newRoom() *room { return &room{conns: make(chan net.Conn), shut: make(chan struct{})} }

func (r *room) enter(c net.Conn) {
	select {
	case r.conns <- c:
	case <-r.shut:
		c.Close()
	}
}

func (r *room) Accept() (net.Conn, error) {
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.shut:
		return nil, net.ErrClosed
	}
}

func (r *room) Close() error {
	r.once.Do(func() { close(r.shut) })
	return nil
}

func (r *room) Addr() net.Addr { return &net.UnixAddr{Name: "door", Net: "unix"} }

// portError says which setting a port that cannot be opened comes from, and what to do.
func portError(key, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s: %w: find who holds the port (ss -lptn) and stop it, or set another %s", addr, err, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: %w: this host does not have the address; correct member_ip", addr, err)
	}
	return fmt.Errorf("listen on %s (member_ip, %s): %w", addr, key, err)
}
