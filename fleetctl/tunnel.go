package main

import (
	"context"
	"fmt"
	"net"
	"os/user"
	"path/filepath"
	"strings"
	"sync"

	"github.com/fleet-init/fleet/internal/ssh"
)

// dialer makes the SSH dialer of the flags, the environment and the user's ~/.ssh/config. An --ssh-username given holds for
// every host, as in fleet.
func (a *app) dialer() *ssh.Dialer {
	home := lookup(a.env, "HOME")
	return ssh.NewDialer(ssh.Options{
		User: a.opts.sshUser, DefaultUser: "core", Timeout: a.opts.sshTimeout, Strict: a.opts.strictHost,
		KnownHosts: expandHome(a.opts.knownHosts, home), Home: home, AgentSocket: lookup(a.env, "SSH_AUTH_SOCK"),
		ForwardAgent: a.opts.forwardAgent, Ask: a.ask, Notice: func(text string) { a.warn("%s", text) },
		Stderr: a.err,
	})
}

// expandHome reads ~/ and ~user/ at the begin of a path.
func expandHome(path, home string) string {
	if !strings.HasPrefix(path, "~") {
		return path
	}
	name, rest, _ := strings.Cut(path[1:], "/")
	if name != "" {
		u, err := user.Lookup(name)
		if err != nil {
			return path
		}
		home = u.HomeDir
	}
	return filepath.Join(home, rest)
}

// ask puts a question on stderr and reads the answer, byte by byte: what follows it on stdin is not for us.
func (a *app) ask(question string) bool {
	_ = a.out.Flush() // its error is kept and found at the end
	fmt.Fprint(a.err, question)
	var answer []byte
	for b := make([]byte, 1); len(answer) < 16; {
		n, err := a.stdin.Read(b)
		if n == 1 && b[0] != '\n' {
			answer = append(answer, b[0])
		}
		if err != nil || n == 1 && b[0] == '\n' {
			break
		}
	}
	word := strings.ToLower(strings.TrimSpace(string(answer)))
	return word == "yes" || word == "y"
}

// tunnel carries the API's connections to fleetd through a host. It connects with the first one.
type tunnel struct {
	app    *app
	mu     sync.Mutex // guards the rest
	dialer *ssh.Dialer
	client *ssh.Client
}

// bastion connects to the tunnel's host, once.
func (t *tunnel) bastion(ctx context.Context) (*ssh.Client, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client != nil {
		return t.client, nil
	}
	if t.dialer == nil {
		t.dialer = t.app.dialer()
	}
	var err error
	t.client, err = t.dialer.Dial(ctx, t.app.opts.tunnel)
	return t.client, err
}

// dial is for api.Options. The socket of a fleetd is the bastion's own, an address is reached from there.
func (t *tunnel) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := t.bastion(ctx)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return c.DialUnix(addr, "fleetctl fd-forward "+ssh.Quote(addr))
	}
	return c.DialContext(ctx, network, addr)
}

func (t *tunnel) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client != nil {
		t.client.Close()
	}
	if t.dialer != nil {
		t.dialer.Close()
	}
}
