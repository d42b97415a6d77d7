package ssh

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// hangUp is how long a ProxyCommand has to end by itself.
const hangUp = time.Second

// commandConn is a connection through a program: ProxyCommand. Closing it ends the program.
type commandConn struct {
	net.Conn
	addr  string // host:port at the other end
	group int    // of the program's processes: the shell may not have become the program
	ended chan struct{}
}

func (c *commandConn) Close() error {
	err := c.Conn.Close()
	_ = syscall.Kill(-c.group, syscall.SIGHUP) // as OpenSSH does; it may have ended by itself
	select {
	case <-c.ended:
	case <-time.After(hangUp):
		_ = syscall.Kill(-c.group, syscall.SIGKILL)
		<-c.ended
	}
	return err
}

// RemoteAddr is the host's and not the program's: host keys are looked up by it.
func (c *commandConn) RemoteAddr() net.Addr { return hostAddr(c.addr) }

type hostAddr string

func (hostAddr) Network() string  { return "tcp" }
func (a hostAddr) String() string { return string(a) }

// throughCommand starts a ProxyCommand, whose input and output are the connection.
func (d *Dialer) throughCommand(ctx context.Context, r route) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("ProxyCommand: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ProxyCommand"), os.NewFile(uintptr(pair[1]), "ProxyCommand")
	defer theirs.Close()
	defer ours.Close() // FileConn makes a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("ProxyCommand: %w", err)
	}
	cmd := exec.Command("/bin/sh", "-c", "exec "+r.command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, d.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("ProxyCommand: %w", err)
	}
	c := &commandConn{Conn: conn, addr: r.addr, group: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		defer close(c.ended) // Close waits for it
		_ = cmd.Wait()
	}()
	return c, nil
}

// proxyCommand is what the configuration says for a host, its %-words filled in; empty: nothing.
func (d *Dialer) proxyCommand(r route) string {
	command := d.get(r.alias, "ProxyCommand")
	if command == "" || strings.EqualFold(command, "none") {
		return ""
	}
	host, port, _ := net.SplitHostPort(r.addr) // routeTo has put it together
	return strings.NewReplacer("%%", "%", "%h", host, "%p", port, "%r", r.user, "%n", r.alias).Replace(command)
}
