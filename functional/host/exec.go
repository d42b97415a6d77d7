package host

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Run runs a command on the host, as root, and returns what it wrote to stdout. The error holds the end of its stderr, and is an
// *exec.ExitError underneath if the command ran. When ctx ends, the command is killed.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return h.run(ctx, nil, append([]string{name}, args...))
}

// Sh runs a line of shell on the host.
func (h *Host) Sh(ctx context.Context, line string) (string, error) {
	return h.Run(ctx, "sh", "-c", line)
}

// Command returns a command that runs on the host, for callers that want to set its input and output themselves.
func (h *Host) Command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	pid, err := h.leader()
	if err != nil {
		return nil, err
	}
	argv := append([]string{"-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "-C", "--", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", argv...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"TERM=dumb", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	return cmd, nil
}

func (h *Host) run(ctx context.Context, stdin io.Reader, argv []string) (string, error) {
	cmd, err := h.Command(ctx, argv[0], argv[1:]...)
	if err != nil {
		return "", err
	}
	return finish(cmd, stdin, h.Name+": "+strings.Join(argv, " "))
}

// runOff runs a command in the root tree of a host that is off.
func (h *Host) runOff(ctx context.Context, stdin io.Reader, argv []string) (string, error) {
	script := append([]string{"--mount", "sh", h.cluster.script("offline.sh")}, argv...)
	cmd := exec.CommandContext(ctx, "unshare", script...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, h.environ()...)
	return finish(cmd, stdin, h.Name+" (off): "+strings.Join(argv, " "))
}

// Command returns a command that runs out here, but in the cluster's network.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := append([]string{"-t", strconv.Itoa(c.state.Holder.PID), "-n", "--", name}, args...)
	return exec.CommandContext(ctx, "nsenter", argv...)
}

// onBridge runs a command in the cluster's network, and returns what it wrote to stdout.
func (c *Cluster) onBridge(ctx context.Context, argv ...string) (string, error) {
	return finish(c.Command(ctx, argv[0], argv[1:]...), nil, strings.Join(argv, " "))
}

// Finish runs a command that Command returned, and returns what it wrote to stdout; the error holds the end of its stderr.
func Finish(cmd *exec.Cmd) (string, error) { return finish(cmd, nil, strings.Join(cmd.Args, " ")) }

func finish(cmd *exec.Cmd, stdin io.Reader, what string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	// nsenter waits for the command in a process of its own: both have to be killed, so they get a process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	if err := runOn(cmd); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", what, err, Tail(stderr.String(), 10))
	}
	return stdout.String(), nil
}

// runOn runs a command of a process group of its own, and lets nothing stop it. A host that shuts down stops all its processes before it ends them; nsenter
// sees that, stops itself too, and would wait for ever for somebody to wake it, with the command long dead.
func runOn(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case err := <-end:
			return err
		case <-t.C:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT) // whoever runs does not mind
		}
	}
}

// WriteFile writes a file on the host, whether it is on or off, and makes the folders it needs. A script ("#!") and a program are executable. /usr can
// only be written while the host is off.
func (h *Host) WriteFile(ctx context.Context, path, content string) error {
	return h.WriteFiles(ctx, map[string]string{path: content})
}

// WriteFiles writes several: path → content.
func (h *Host) WriteFiles(ctx context.Context, files map[string]string) error {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, path := range sortedKeys(files) {
		mode := int64(0o644)
		if strings.HasPrefix(files[path], "#!") || strings.HasPrefix(files[path], "\x7fELF") {
			mode = 0o755
		}
		head := &tar.Header{Name: strings.TrimPrefix(filepath.Clean(path), "/"), Mode: mode, Size: int64(len(files[path])), ModTime: time.Now()}
		if err := errors.Join(w.WriteHeader(head), writeString(w, files[path])); err != nil {
			return fmt.Errorf("%s: write %s: %w", h.Name, path, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	// tar resolves the path as the host does, so that its links lead where they lead there and never out of it.
	argv := []string{"tar", "-x", "-C", "/", "--no-same-owner", "--unlink-first", "-f", "-"}
	run := h.run
	if !h.On() {
		run = h.runOff
	}
	_, err := run(ctx, &buf, argv)
	return err
}

// ReadFile reads a file on the host, whether it is on or off.
func (h *Host) ReadFile(ctx context.Context, path string) (string, error) {
	if !h.On() {
		return h.runOff(ctx, nil, []string{"cat", "--", path})
	}
	return h.run(ctx, nil, []string{"cat", "--", path})
}

// Journal returns the host's journal, of one unit or, for the empty name, of all: also of earlier boots, and also when it is off.
func (h *Host) Journal(ctx context.Context, unit string) (string, error) {
	argv := []string{"journalctl", "--no-pager", "--output=short-precise", "--no-hostname"}
	if unit != "" {
		argv = append(argv, "--unit="+unit)
	}
	if !h.On() {
		return h.runOff(ctx, nil, append(argv, "--directory=/var/log/journal"))
	}
	return h.run(ctx, nil, argv)
}

func writeString(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
