package main

import (
	"context"
	"io"
	"net"
)

// fdForward joins its input and output to a unix socket: the far end of --tunnel where sshd does not forward sockets itself.
func fdForward(ctx context.Context, a *app, args []string) int {
	if len(args) != 1 {
		return a.fail("A socket must be given: fleetctl fd-forward /run/fleet.sock")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", args[0])
	if err != nil {
		return a.fail("Error: connect to %s: %v", args[0], err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(conn, a.stdin)         // what the socket does not take, it answers for
		_ = conn.(*net.UnixConn).CloseWrite() // it may be closed already
	}()
	if _, err := io.Copy(a.stdout, conn); err != nil && ctx.Err() == nil {
		return a.fail("Error: %v", err)
	}
	return exitOK
}
