package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/ssh/sshtest"
)

// user is a home directory with a key, and what its owner was asked and told.
type user struct {
	*testing.T
	options Options
	signer  ssh.Signer
	said    bytes.Buffer
	answer  bool
}

func newUser(t *testing.T) *user {
	u := &user{T: t}
	home := t.TempDir()
	signer, text := sshtest.Key(t)
	u.signer = signer
	u.options = Options{
		DefaultUser: "core", Timeout: 20 * time.Second, Strict: true, Home: home, KnownHosts: filepath.Join(home, ".fleetctl/known_hosts"),
		Ask:    func(q string) bool { u.said.WriteString(q); return u.answer },
		Notice: func(text string) { fmt.Fprintln(&u.said, text) },
	}
	u.write(".ssh/id_ed25519", string(text))
	return u
}

func (u *user) write(name, text string) {
	u.Helper()
	path := filepath.Join(u.options.Home, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		u.Fatal(err)
	}
}

// knows puts a server's key among OpenSSH's known hosts.
func (u *user) knows(servers ...*sshtest.Server) {
	text := ""
	for _, s := range servers {
		text += knownhosts.Line([]string{s.Addr}, s.HostKey) + "\n"
	}
	u.write(".ssh/known_hosts", text)
}

func (u *user) dial(target string) (*Client, error) {
	d := NewDialer(u.options)
	u.Cleanup(d.Close)
	c, err := d.Dial(u.Context(), target)
	if err == nil {
		u.Cleanup(c.Close)
	}
	return c, err
}

func (u *user) mustDial(target string) *Client {
	u.Helper()
	c, err := u.dial(target)
	if err != nil {
		u.Fatal(err)
	}
	return c
}

func TestRunJoinsStreamsAndReturnsTheExitCode(t *testing.T) {
	u := newUser(t)
	s := sshtest.New(t, u.signer.PublicKey())
	u.knows(s)
	c := u.mustDial(s.Addr)
	var out, errs bytes.Buffer
	code, err := c.Run(t.Context(), "cat; echo bad >&2; exit 7", Streams{strings.NewReader("in"), &out, &errs})
	if code != 7 || err != nil || out.String() != "in" || errs.String() != "bad\n" {
		t.Errorf("%d %v %q %q", code, err, &out, &errs)
	}
	// A command that reads nothing ends although its input has no end.
	never, _ := io.Pipe()
	if code, err := c.Run(t.Context(), "true", Streams{never, &out, &errs}); code != 0 || err != nil {
		t.Error(code, err)
	}
	code, err = c.Run(t.Context(), "kill -9 $$", Streams{strings.NewReader(""), &out, &errs})
	if code != Lost || err == nil || !strings.Contains(err.Error(), "was ended by signal KILL") {
		t.Error(code, err)
	}
	out.Reset()
	if code, err := c.Run(t.Context(), "", Streams{strings.NewReader("echo shell; exit 3"), &out, &errs}); code != 3 || err != nil || out.String() != "shell\n" {
		t.Error(code, err, out.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, err := c.Run(ctx, "sleep 1000", Streams{never, &out, &errs}); code != Lost || err == nil {
		t.Error(code, err)
	}
	if diff := cmp.Diff("login core", s.Log()[0]); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownHostIsAskedAboutOnce(t *testing.T) {
	u := newUser(t)
	s := sshtest.New(t, u.signer.PublicKey())
	if _, err := u.dial(s.Addr); err == nil || !strings.Contains(err.Error(), "is not known") {
		t.Fatal(err)
	}
	if want := "The authenticity of host " + knownhosts.Normalize(s.Addr) + " cannot be checked: its ssh-ed25519 key SHA256:"; !strings.HasPrefix(u.said.String(), want) {
		t.Error(u.said.String())
	}
	u.answer = true
	u.mustDial(s.Addr)
	if !strings.Contains(u.said.String(), "is known from now on, it is in "+u.options.KnownHosts) {
		t.Error(u.said.String())
	}
	u.said.Reset()
	u.answer = false
	u.mustDial(s.Addr)
	if u.said.Len() > 0 {
		t.Error(u.said.String())
	}
}

func TestChangedHostKeyIsRefused(t *testing.T) {
	u := newUser(t)
	s, other := sshtest.New(t, u.signer.PublicKey()), sshtest.New(t, u.signer.PublicKey())
	u.write(".fleetctl/known_hosts", knownhosts.Line([]string{s.Addr}, other.HostKey)+"\n")
	u.answer = true
	_, err := u.dial(s.Addr)
	if err == nil || !strings.Contains(err.Error(), "has changed to "+ssh.FingerprintSHA256(s.HostKey)) || !strings.Contains(err.Error(), "remove line 1 of "+u.options.KnownHosts) {
		t.Error(err)
	}
	if u.said.Len() > 0 || len(s.Log()) > 0 {
		t.Error(u.said.String(), s.Log())
	}
	u.options.Strict = false
	u.mustDial(s.Addr)
}

func TestConfigurationOfOpenSSHIsUsed(t *testing.T) {
	u := newUser(t)
	key, text := sshtest.Key(t)
	s, jump := sshtest.New(t, key.PublicKey()), sshtest.New(t, key.PublicKey())
	host, port, _ := net.SplitHostPort(s.Addr)
	_, jumpPort, _ := net.SplitHostPort(jump.Addr)
	u.write("keys/other", string(text))
	u.write(".ssh/config", fmt.Sprintf("Host web\n  HostName %s\n  Port %s\n  ProxyJump gate\nHost gate\n  HostName 127.0.0.1\n  Port %s\n  User porter\n"+
		"Host *\n  User ops\n  IdentityFile ~/keys/other\n", host, port, jumpPort))
	u.knows(s, jump)
	c := u.mustDial("web")
	if code, err := c.Run(t.Context(), "true", Streams{strings.NewReader(""), io.Discard, io.Discard}); code != 0 || err != nil {
		t.Error(code, err)
	}
	got := strings.Join(append(jump.Log(), s.Log()...), ", ")
	if want := "login porter, tcp, login ops, exec true"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	u.options.User = "root"
	u.mustDial("gate")
	if got := jump.Log()[2]; got != "login root" {
		t.Error(got)
	}
}

func TestWhatTheConfigurationSays(t *testing.T) {
	u := newUser(t)
	u.write(".ssh/config", "Host h1\n HostName %h.example\n Port 2222\n ProxyJump a, b\nHost h2\n ProxyJump none\n"+
		"Host h3\n HostName h3.example\n ProxyCommand nc %h %p %r %n 100%%\nHost h4\n ProxyCommand none\nMatch host 10.0.0.*\n User ten\n")
	d := NewDialer(u.options)
	for target, want := range map[string]route{
		"h1":          {"h1", "h1.example:2222", "core", []string{"a", " b"}, ""},
		"me@h1:22":    {"h1", "h1.example:22", "me", []string{"a", " b"}, ""},
		"h2":          {"h2", "h2:22", "core", nil, ""},
		"10.0.0.7":    {"10.0.0.7", "10.0.0.7:22", "ten", nil, ""},
		"[fd00::1]:5": {"fd00::1", "[fd00::1]:5", "core", nil, ""},
		"fd00::1":     {"fd00::1", "[fd00::1]:22", "core", nil, ""},
		"h3":          {"h3", "h3.example:22", "core", nil, "nc h3.example 22 core h3 100%"},
		"h4":          {"h4", "h4:22", "core", nil, ""},
	} {
		got, err := d.routeTo(target)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(route{})); diff != "" || err != nil {
			t.Errorf("%s: %v %s", target, err, diff)
		}
	}
	for _, target := range []string{"", "me@", "h:0", "h:x", "h:70000", "a b"} {
		if r, err := d.routeTo(target); err == nil {
			t.Errorf("%q is taken as %+v", target, r)
		}
	}
	u.write(".ssh/config", "Host x\n ProxyJump y\nHost y\n ProxyJump x\n")
	if _, err := u.dial("x"); err == nil || !strings.Contains(err.Error(), "hosts on the way") {
		t.Error(err)
	}
}

func TestKeysOfTheAgent(t *testing.T) {
	u := newUser(t)
	ring := agent.NewKeyring()
	_, text := sshtest.Key(t)
	private, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Add(agent.AddedKey{PrivateKey: private, Comment: "held"}); err != nil {
		t.Fatal(err)
	}
	held, err := ring.Signers()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "agent") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); _ = os.RemoveAll(dir) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c) }() // ends with its connection
		}
	}()
	u.options.AgentSocket = dir + "/s"
	s := sshtest.New(t, held[0].PublicKey())
	u.knows(s)
	u.mustDial(s.Addr)
	// Forwarded, it answers to commands there.
	u.options.ForwardAgent = true
	code, err := u.mustDial(s.Addr).Run(t.Context(), "true", Streams{strings.NewReader(""), io.Discard, io.Discard})
	if err != nil || code != 0 {
		t.Error(code, err)
	}
	if got, want := strings.Join(s.Log(), ", "), "login core, login core, agent held, exec true"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	u.write(".ssh/config", "Host *\n IdentitiesOnly yes\n")
	if _, err := u.dial(s.Addr); err == nil || !strings.Contains(err.Error(), "none of 1 keys is accepted") {
		t.Error(err)
	}
}

func TestNoKey(t *testing.T) {
	u := newUser(t)
	u.write(".ssh/config", "Host *\n IdentityFile ~/.ssh/missing\n")
	if _, err := u.dial("127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "there is no key to log in with") {
		t.Error(err)
	}
	u.write(".ssh/missing", "no key")
	u.options.AgentSocket = "/nonexistent/agent"
	if _, err := u.dial("127.0.0.1:1"); err == nil || !strings.Contains(u.said.String(), "key "+u.options.Home+"/.ssh/missing is not used") || !strings.Contains(u.said.String(), "the ssh-agent is not used") {
		t.Error(err, u.said.String())
	}
	u.write(".ssh/config", "Host *\n IdentityFile \"x\n Include")
	NewDialer(u.options)
}

func TestHostThatDoesNotAnswer(t *testing.T) {
	u := newUser(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	u.options.Timeout = time.Millisecond
	if _, err := u.dial(l.Addr().String()); err == nil || !strings.HasSuffix(err.Error(), "not up within 1ms") {
		t.Error(err)
	}
}

func TestUnixSocketsThroughAHost(t *testing.T) {
	u := newUser(t)
	dir, err := os.MkdirTemp("", "sock")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); _ = os.RemoveAll(dir) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	for name, row := range map[string]struct {
		noSockets bool
		fallback  string
		want      string
	}{
		"forwarded by sshd": {false, "false", "ping"},
		"by a command":      {true, "head -c4", "ping"},
	} {
		s := sshtest.New(t, u.signer.PublicKey())
		s.NoSockets = row.noSockets
		u.knows(s)
		conn, err := u.mustDial(s.Addr).DialUnix(dir+"/s", row.fallback)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := io.WriteString(conn, "ping"); err != nil {
			t.Fatal(name, err)
		}
		b := make([]byte, 4)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != row.want {
			t.Error(name, err, string(b))
		}
		if err := conn.Close(); err != nil {
			t.Error(name, err)
		}
	}
	if got := Quote("it's"); got != `'it'\''s'` {
		t.Error(got)
	}
}

// A shell on a terminal has one there, raw here for as long as it runs.
func TestShellOnATerminal(t *testing.T) {
	u := newUser(t)
	s := sshtest.New(t, u.signer.PublicKey())
	u.knows(s)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	before, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	c := u.mustDial(s.Addr)
	if _, err := master.WriteString("exit 5\n"); err != nil {
		t.Fatal(err)
	}
	code, err := c.Run(t.Context(), "", Streams{terminal, io.Discard, io.Discard})
	if code != 5 || err != nil {
		t.Error(code, err)
	}
	after, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if diff := cmp.Diff(before, after); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got := strings.Join(s.Log(), ", "); got != "login core, pty, shell " {
		t.Error(got)
	}
}
