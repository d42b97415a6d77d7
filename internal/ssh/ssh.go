// Package ssh is fleetctl's way to machines by SSH: it finds who to log in as and with which key as OpenSSH's client would, checks host
// keys, goes through other hosts, and runs commands. It knows nothing of clusters.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kevinburke/ssh_config"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Options say how to connect. Home and Timeout must be set.
type Options struct {
	User         string // for every host; empty: ~/.ssh/config's, else DefaultUser
	DefaultUser  string
	Timeout      time.Duration // for each host's connection to come up
	Strict       bool          // check host keys
	KnownHosts   string        // file of keys that were accepted here; read beside OpenSSH's own
	Home         string        // the user's home directory
	AgentSocket  string        // of the running ssh-agent; empty: none
	ForwardAgent bool
	Ask          func(question string) bool // whether to accept an unknown host's key
	Notice       func(text string)          // told what the user should see
	Stderr       io.Writer                  // of a ProxyCommand; nil: nowhere
}

// Dialer connects to hosts. It is not safe for use by many goroutines.
type Dialer struct {
	Options
	config []*ssh_config.Config // the user's, then the system's
	agent  agent.ExtendedAgent  // nil: none
	conn   net.Conn             // to the agent
}

// NewDialer reads the configuration of OpenSSH's client. What it cannot read is told of and left out.
func NewDialer(o Options) *Dialer {
	d := &Dialer{Options: o}
	for _, path := range []string{filepath.Join(o.Home, ".ssh/config"), "/etc/ssh/ssh_config"} {
		c, err := readConfig(path, o.Notice)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			d.Notice(fmt.Sprintf("%s is not used: %v", path, err))
			continue
		}
		d.config = append(d.config, c)
	}
	if o.AgentSocket != "" {
		conn, err := net.Dial("unix", o.AgentSocket)
		if err != nil {
			d.Notice(fmt.Sprintf("the ssh-agent is not used: %v", err))
		} else {
			d.conn, d.agent = conn, agent.NewClient(conn)
		}
	}
	return d
}

// Close ends the connection to the agent. Connections to hosts need it only while they come up, unless it is forwarded.
func (d *Dialer) Close() {
	if d.conn != nil {
		_ = d.conn.Close()
	}
}

// get is what the configuration says for a host, the first word there is.
func (d *Dialer) get(alias, key string) string {
	for _, c := range d.config {
		if v, err := c.Get(alias, key); err == nil && v != "" {
			return v
		}
	}
	return ""
}

func (d *Dialer) getAll(alias, key string) (all []string) {
	for _, c := range d.config {
		if v, err := c.GetAll(alias, key); err == nil {
			all = append(all, v...)
		}
	}
	return all
}

// A route is how one host is reached.
type route struct {
	alias   string // as the user wrote it
	addr    string // host:port
	user    string
	jumps   []string // hosts to go through first
	command string   // program to go through, in the words of the shell; empty: none
}

// routeTo reads [user@]host[:port] and what the configuration says of it.
func (d *Dialer) routeTo(target string) (route, error) {
	user, host, named := strings.Cut(target, "@")
	if !named {
		user, host = "", target
	}
	port := ""
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	}
	host = strings.Trim(host, "[]")
	if host == "" || strings.ContainsAny(host, " /@") {
		return route{}, fmt.Errorf("SSH host %q: use [user@]host[:port]", target)
	}
	r := route{alias: host, user: user}
	for _, u := range []string{d.User, d.get(host, "User"), d.DefaultUser} {
		if r.user == "" {
			r.user = u
		}
	}
	if port == "" {
		port = d.get(host, "Port")
	}
	if port == "" {
		port = "22"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return route{}, fmt.Errorf("SSH host %q: %q is no port", target, port)
	}
	name := host
	if h := d.get(host, "HostName"); h != "" {
		name = strings.ReplaceAll(strings.ReplaceAll(h, "%h", host), "%%", "%")
	}
	r.addr = net.JoinHostPort(name, port)
	if h, _, err := net.SplitHostPort(r.addr); err != nil || h == "" {
		return route{}, fmt.Errorf("SSH host %q: %q is no name or address of a host", target, name)
	}
	if jump := d.get(host, "ProxyJump"); jump != "" && jump != "none" {
		r.jumps = strings.Split(jump, ",")
	}
	if r.jumps == nil {
		r.command = d.proxyCommand(r)
	}
	return r, nil
}

// Client is a connection to one host, with those it goes through.
type Client struct {
	*ssh.Client
	dialer *Dialer
	via    *Client
	name   string
}

// Close ends the connection, and those it goes through if Dial made them.
func (c *Client) Close() {
	_ = c.Client.Close() // it may have ended by itself
	if c.via != nil {
		c.via.Close()
	}
}

// maxJumps ends a configuration in which two hosts are reached through each other.
const maxJumps = 8

// Dial connects to [user@]host[:port], through the hosts that the configuration names for it.
func (d *Dialer) Dial(ctx context.Context, target string) (*Client, error) {
	return d.dial(ctx, target, nil, 0)
}

// DialVia connects to [user@]host[:port] from another host, instead of what the configuration says. Closing the client leaves via open.
func (d *Dialer) DialVia(ctx context.Context, via *Client, target string) (*Client, error) {
	r, err := d.routeTo(target)
	if err != nil {
		return nil, err
	}
	c, err := d.connect(ctx, via, r)
	if err == nil {
		c.via = nil
	}
	return c, err
}

func (d *Dialer) dial(ctx context.Context, target string, via *Client, depth int) (*Client, error) {
	if depth > maxJumps {
		return nil, fmt.Errorf("connect to %s: more than %d hosts on the way: see ProxyJump in ~/.ssh/config", target, maxJumps)
	}
	r, err := d.routeTo(target)
	if err != nil {
		return nil, err
	}
	if via == nil {
		for _, jump := range r.jumps {
			next, err := d.dial(ctx, strings.TrimSpace(jump), via, depth+1)
			if err != nil {
				if via != nil {
					via.Close()
				}
				return nil, err
			}
			via = next
		}
	}
	c, err := d.connect(ctx, via, r)
	if err != nil && via != nil {
		via.Close()
	}
	return c, err
}

// connect makes the connection to the last host of a route.
func (d *Dialer) connect(ctx context.Context, via *Client, r route) (*Client, error) {
	fail := func(err error) (*Client, error) {
		if r.command != "" && via == nil {
			err = fmt.Errorf("through ProxyCommand %q: %w", r.command, err)
		}
		return nil, fmt.Errorf("connect to %s@%s by SSH: %w", r.user, r.addr, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(d.Timeout, func() { cancel(fmt.Errorf("not up within %v", d.Timeout)) })
	defer patience.Stop()
	signers, err := d.signers(r)
	if err != nil {
		return fail(err)
	}
	keys, algorithms, err := d.hostKeys(r.addr, patience)
	if err != nil {
		return fail(err)
	}
	var conn net.Conn
	switch {
	case via != nil:
		conn, err = via.DialContext(ctx, "tcp", r.addr)
	case r.command != "":
		conn, err = d.throughCommand(ctx, r)
	default:
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", r.addr)
	}
	if err != nil {
		return fail(cause(ctx, err))
	}
	// Not the deadline of the connection: one through another host has none.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	config := &ssh.ClientConfig{User: r.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)}, HostKeyCallback: keys, HostKeyAlgorithms: algorithms}
	sc, chans, reqs, err := ssh.NewClientConn(conn, r.addr, config)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return fail(cause(ctx, authHint(err, len(signers))))
	}
	c := &Client{Client: ssh.NewClient(sc, chans, reqs), dialer: d, via: via, name: r.addr}
	if d.ForwardAgent && d.agent != nil {
		if err := agent.ForwardToAgent(c.Client, d.agent); err != nil {
			_ = c.Client.Close()
			return fail(err)
		}
	}
	return c, nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func authHint(err error, keys int) error {
	if strings.Contains(err.Error(), "unable to authenticate") {
		return fmt.Errorf("none of %d keys is accepted: add the right one to the ssh-agent (ssh-add), name it as IdentityFile in ~/.ssh/config, or give another --ssh-username", keys)
	}
	return err
}

// signers are the keys to log in with: those of the agent, then those of the identity files.
func (d *Dialer) signers(r route) ([]ssh.Signer, error) {
	files := d.getAll(r.alias, "IdentityFile")
	named := len(files) > 0
	if !named {
		files = []string{"~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"}
	}
	var own, all []ssh.Signer
	var public []ssh.PublicKey // of the identity files, also of those that are locked
	for _, file := range files {
		path := d.path(file, r)
		signer, pub, err := readIdentity(path)
		if pub != nil {
			public = append(public, pub)
		}
		switch {
		case signer != nil:
			own = append(own, signer)
		case errors.Is(err, os.ErrNotExist):
		case err != nil && (named || !isLocked(err)):
			d.Notice(fmt.Sprintf("key %s is not used: %v", path, err))
		}
	}
	if d.agent != nil {
		held, err := d.agent.Signers()
		if err != nil {
			d.Notice(fmt.Sprintf("the ssh-agent is not used: %v", err))
		}
		only := strings.EqualFold(d.get(r.alias, "IdentitiesOnly"), "yes")
		for _, s := range held {
			listed := slices.ContainsFunc(public, func(p ssh.PublicKey) bool { return string(p.Marshal()) == string(s.PublicKey().Marshal()) })
			if listed || !only {
				all = append(all, s)
			}
		}
	}
	all = append(all, own...)
	if len(all) == 0 {
		return nil, errors.New("there is no key to log in with: start an ssh-agent and add one (ssh-add), or name a file as IdentityFile in ~/.ssh/config")
	}
	return all, nil
}

// path expands what stands in a file name of the configuration.
func (d *Dialer) path(file string, r route) string {
	host, _, _ := net.SplitHostPort(r.addr)
	file = strings.NewReplacer("%d", d.Home, "%h", host, "%n", r.alias, "%r", r.user, "%%", "%").Replace(file)
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		return filepath.Join(d.Home, rest)
	}
	return file
}

func isLocked(err error) bool {
	var locked *ssh.PassphraseMissingError
	return errors.As(err, &locked)
}

// readIdentity reads a key, with its certificate if one lies beside it. Of a key that needs a passphrase only the public part may be
// known: the agent may hold it.
func readIdentity(path string) (ssh.Signer, ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if locked := (*ssh.PassphraseMissingError)(nil); errors.As(err, &locked) {
		return nil, locked.PublicKey, fmt.Errorf("it needs a passphrase: ssh-add %s: %w", path, err)
	}
	if err != nil {
		return nil, nil, err
	}
	if text, err = os.ReadFile(path + "-cert.pub"); err != nil {
		return signer, signer.PublicKey(), nil
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s-cert.pub: %w", path, err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return nil, nil, fmt.Errorf("%s-cert.pub is no certificate", path)
	}
	signer, err = ssh.NewCertSigner(cert, signer)
	return signer, pub, err
}
