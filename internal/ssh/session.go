package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/term"
)

// Lost is the exit code of a command whose end is not known: the connection broke, or a signal ended it.
const Lost = 255

// Streams are what a remote command is joined to.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Run runs a command on the host, or the user's shell if it is empty, and returns its exit code. A shell on a terminal has one there,
// too. The error says why a command did not run or its end is not known.
func (c *Client) Run(ctx context.Context, command string, s Streams) (int, error) {
	session, err := c.NewSession()
	if err != nil {
		return Lost, fmt.Errorf("open a session on %s: %w", c.name, err)
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	if c.dialer.ForwardAgent && c.dialer.agent != nil {
		if err := agent.RequestAgentForwarding(session); err != nil {
			return Lost, fmt.Errorf("forward the ssh-agent to %s: %w", c.name, err)
		}
	}
	session.Stdout, session.Stderr = s.Out, s.Err
	// Not session.Stdin: Wait would wait for its end, which on a terminal does not come.
	in, err := session.StdinPipe()
	if err != nil {
		return Lost, fmt.Errorf("open a session on %s: %w", c.name, err)
	}
	if command == "" {
		restore, err := onTerminal(session, s.In)
		if err != nil {
			return Lost, fmt.Errorf("open a terminal on %s: %w", c.name, err)
		}
		defer restore()
		err = session.Shell()
		if err != nil {
			return Lost, fmt.Errorf("start a shell on %s: %w", c.name, err)
		}
	} else if err := session.Start(command); err != nil {
		return Lost, fmt.Errorf("run %q on %s: %w", command, c.name, err)
	}
	// It ends with its input or with the process: a read from a terminal cannot be called off.
	go func() {
		_, _ = io.Copy(in, s.In) // the command may end without reading all
		_ = in.Close()
	}()
	return exitCode(ctx, c.name, session.Wait())
}

func exitCode(ctx context.Context, host string, err error) (int, error) {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0, nil
	case ctx.Err() != nil:
		return Lost, ctx.Err()
	case errors.As(err, &exit) && exit.Signal() == "":
		return exit.ExitStatus(), nil
	case errors.As(err, &exit):
		return Lost, fmt.Errorf("the command on %s was ended by signal %s", host, exit.Signal())
	}
	return Lost, fmt.Errorf("the end of the command on %s is not known: %w", host, err)
}

// onTerminal asks for a terminal there if there is one here, which goes into raw mode until restore.
func onTerminal(session *ssh.Session, in io.Reader) (restore func(), err error) {
	file, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}, nil
	}
	fd := int(file.Fd())
	width, height, err := term.GetSize(fd)
	if err != nil {
		return nil, err
	}
	if err := session.RequestPty("xterm-256color", height, width, ssh.TerminalModes{}); err != nil {
		return nil, err
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	resized, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-resized:
				if w, h, err := term.GetSize(fd); err == nil {
					_ = session.WindowChange(h, w) // the next one tells, too
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(resized)
		close(done)
		_ = term.Restore(fd, state) // there is nothing better to do with a terminal that refuses
	}, nil
}

// DialUnix connects to a unix socket on the host: by SSH's own forwarding, or where sshd forbids that by running fallback there, a
// command that joins its input and output to the socket.
func (c *Client) DialUnix(path string, fallback string) (net.Conn, error) {
	conn, err := c.Dial("unix", path)
	if err == nil {
		return conn, nil
	}
	session, serr := c.NewSession()
	if serr != nil {
		return nil, fmt.Errorf("connect to %s on %s: %w", path, c.name, errors.Join(err, serr))
	}
	in, _ := session.StdinPipe() // fails only on a session that has started
	out, _ := session.StdoutPipe()
	if serr := session.Start(fallback); serr != nil {
		_ = session.Close()
		return nil, fmt.Errorf("connect to %s on %s: %w", path, c.name, errors.Join(err, serr))
	}
	return &pipe{Reader: out, WriteCloser: in, session: session}, nil
}

// pipe is a command's input and output as a connection. Deadlines are not kept: who needs an end closes it.
type pipe struct {
	io.Reader
	io.WriteCloser
	session *ssh.Session
}

func (p *pipe) Close() error {
	_ = p.WriteCloser.Close() // the session's end says it, too
	err := p.session.Close()
	if errors.Is(err, io.EOF) {
		return nil // the command had ended
	}
	return err
}

func (p *pipe) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "ssh", Net: "unix"} }
func (p *pipe) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "ssh", Net: "unix"} }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

// Quote makes one word of a text for a remote shell.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
