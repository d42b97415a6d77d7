// Package sshtest is an SSH server for tests: it lets in who has a key it knows, runs commands with sh, and forwards connections, unix
// sockets and agents as sshd does.
package sshtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Server listens on loopback until its test ends.
type Server struct {
	Addr      string
	HostKey   ssh.PublicKey
	NoSockets bool // as AllowStreamLocalForwarding=no

	tb     testing.TB
	config *ssh.ServerConfig
	tasks  sync.WaitGroup

	mu    sync.Mutex // guards the rest
	conns []net.Conn
	log   []string
}

// New starts a server that lets in the keys named, under any user name.
func New(tb testing.TB, keys ...ssh.PublicKey) *Server {
	tb.Helper()
	s := &Server{tb: tb}
	s.config = &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		for _, k := range keys {
			if string(k.Marshal()) == string(key.Marshal()) {
				return &ssh.Permissions{}, nil
			}
		}
		return nil, fmt.Errorf("key of %s is not known", c.User())
	}}
	// Noted before the client is told, so that whoever has logged in finds it in the log.
	s.config.AuthLogCallback = func(c ssh.ConnMetadata, method string, err error) {
		if err == nil && method == "publickey" {
			s.note("login %s", c.User())
		}
	}
	signer, _ := Key(tb)
	s.HostKey = signer.PublicKey()
	s.config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.Addr = l.Addr().String()
	s.tasks.Go(func() { s.accept(l) })
	tb.Cleanup(func() {
		_ = l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.tasks.Wait()
	})
	return s
}

// Key makes a key; its text is as in an identity file.
func Key(tb testing.TB) (ssh.Signer, []byte) {
	tb.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// Log is what was done so far: "login USER", "exec COMMAND", "shell", "pty", "tcp", "unix", "agent KEY" for each key a forwarded agent has.
func (s *Server) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.log...)
}

func (s *Server) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		s.tasks.Go(func() { s.serve(c) })
	}
}

func (s *Server) serve(c net.Conn) {
	conn, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for ch := range channels {
		open.Go(func() { s.channel(ctx, conn, ch) })
	}
	cancel() // the client is gone, and what it runs goes, too
	open.Wait()
}

func (s *Server) channel(ctx context.Context, conn *ssh.ServerConn, ch ssh.NewChannel) {
	switch kind := ch.ChannelType(); {
	case kind == "session":
		s.session(ctx, conn, ch)
	case kind == "direct-tcpip":
		var to struct {
			Host     string
			Port     uint32
			From     string
			FromPort uint32
		}
		if ssh.Unmarshal(ch.ExtraData(), &to) == nil {
			addr := net.JoinHostPort(to.Host, fmt.Sprint(to.Port))
			s.note("tcp")
			s.forward(ch, "tcp", addr)
		}
	case kind == "direct-streamlocal@openssh.com" && !s.NoSockets:
		var to struct {
			Path     string
			Reserved string
			Port     uint32
		}
		if ssh.Unmarshal(ch.ExtraData(), &to) == nil {
			s.note("unix")
			s.forward(ch, "unix", to.Path)
		}
	default:
		_ = ch.Reject(ssh.Prohibited, "not here")
	}
}

func (s *Server) forward(ch ssh.NewChannel, network, addr string) {
	to, err := net.Dial(network, addr)
	if err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer to.Close()
	c, requests, err := ch.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	go ssh.DiscardRequests(requests)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(to, c)
		_ = to.Close()
	}()
	_, _ = io.Copy(c, to)
	_ = c.Close()
	<-done
}

// session runs one command.
func (s *Server) session(ctx context.Context, conn *ssh.ServerConn, ch ssh.NewChannel) {
	c, requests, err := ch.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	for r := range requests {
		ok := true
		switch r.Type {
		case "auth-agent-req@openssh.com":
			s.held(conn)
		case "pty-req":
			s.note("pty")
		case "exec", "shell":
			var line struct{ Command string }
			_ = ssh.Unmarshal(r.Payload, &line) // a shell has none
			s.note("%s %s", r.Type, line.Command)
			_ = r.Reply(true, nil)
			s.run(ctx, c, line.Command)
			return
		default:
			ok = false
		}
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
	}
}

func (s *Server) run(ctx context.Context, c ssh.Channel, command string) {
	cmd := exec.CommandContext(ctx, "sh")
	if command != "" {
		cmd = exec.CommandContext(ctx, "sh", "-c", command)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Stdout, cmd.Stderr = c, c.Stderr()
	in, err := cmd.StdinPipe() // not cmd.Stdin: Wait would wait for the client to send its end
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(in, c)
		_ = in.Close()
	}()
	status := struct{ Status uint32 }{}
	if err := cmd.Run(); err != nil {
		status.Status = uint32(cmd.ProcessState.ExitCode())
		if cmd.ProcessState.ExitCode() < 0 {
			_, _ = c.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Signal string
				Core   bool
				Error  string
				Lang   string
			}{"KILL", false, "", ""}))
			return
		}
	}
	_, _ = c.SendRequest("exit-status", false, ssh.Marshal(status))
}

// held notes the keys of the client's agent, which only a forwarded one shows.
func (s *Server) held(conn *ssh.ServerConn) {
	c, requests, err := conn.OpenChannel("auth-agent@openssh.com", nil)
	if err != nil {
		s.note("agent: %v", err)
		return
	}
	defer c.Close()
	go ssh.DiscardRequests(requests)
	keys, err := agent.NewClient(c).List()
	for _, k := range keys {
		s.note("agent %s", k.Comment)
	}
	if err != nil {
		s.note("agent: %v", err)
	}
}
