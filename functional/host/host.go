package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrOff is the answer of a host that is switched off, or has not got to its first process.
var ErrOff = errors.New("the host is off")

// identity is what stays of a host over reboots, and in the state file.
type identity struct {
	Name      string `json:"name"` // h1, h2, …: host name, and the bridge's port
	IP        string `json:"ip"`
	MAC       string `json:"mac"`
	MachineID string `json:"machineID"` // 32 hex digits, as in /etc/machine-id
}

// Host is one machine of a cluster. What it wrote to disk lasts over PowerOff, Shutdown and Boot; /run does not.
type Host struct {
	identity
	cluster *Cluster
}

// New makes a host, with its files on its disk, and does not boot it.
func (c *Cluster) New(ctx context.Context) (*Host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := len(c.hosts) + 1
	if i > 240 {
		return nil, errors.New("make a host: a cluster's network has room for 240")
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	h := &Host{cluster: c, identity: identity{
		Name: fmt.Sprintf("h%d", i), IP: fmt.Sprintf("%s%d", network, 10+i), MAC: fmt.Sprintf("02:f1:ee:00:00:%02x", 10+i),
		MachineID: hex.EncodeToString(id[:]),
	}}
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(h.diskDir(), dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(h.runDir(), 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mkfifo(filepath.Join(h.runDir(), "ready"), 0o600); err != nil {
		return nil, fmt.Errorf("make the pipe %s: %w", filepath.Join(h.runDir(), "ready"), err)
	}
	if err := h.WriteFiles(ctx, h.firstFiles(i)); err != nil {
		return nil, err
	}
	c.hosts = append(c.hosts, h)
	c.state.Hosts = append(c.state.Hosts, h.identity)
	return h, c.save()
}

// firstFiles returns what host i has on its disk before its first boot.
func (h *Host) firstFiles(i int) map[string]string {
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for n := 1; n <= 20; n++ { // also those that are not made yet
		hosts += fmt.Sprintf("%s%d h%d\n", network, 10+n, n)
	}
	files := map[string]string{
		"/etc/machine-id": h.MachineID + "\n", "/etc/hostname": h.Name + "\n", "/etc/hosts": hosts,
	}
	if h.cluster.opt.Files != nil {
		for path, content := range h.cluster.opt.Files(i) {
			files[path] = content
		}
	}
	return files
}

// Boot switches the host on and returns when units can be started on it (basic.target). A host that is on answers at once.
func (h *Host) Boot(ctx context.Context) error {
	if h.On() {
		return nil
	}
	ready, err := h.openReady()
	if err != nil {
		return err
	}
	defer ready.Close()
	ended, err := h.startRunner()
	if err != nil {
		return err
	}
	return h.awaitReady(ctx, ready, ended)
}

// openReady opens the pipe that a host writes its boot ID into, empty.
func (h *Host) openReady() (*os.File, error) {
	// For reading and writing, so that it is neither waited for nor ever at its end.
	f, err := os.OpenFile(filepath.Join(h.runDir(), "ready"), os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	_ = f.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, _ = f.Read(make([]byte, 1<<16))
	return f, nil
}

// startRunner starts the processes that boot the host. The channel is closed when they have ended.
func (h *Host) startRunner() (<-chan struct{}, error) {
	c := h.cluster
	if !c.state.Holder.alive() {
		return nil, fmt.Errorf("boot %s: its cluster is gone", h.Name)
	}
	group := groupPrefix + c.state.ID + "." + h.Name
	if systemdRuns() {
		group = "" // the scope's
	}
	argv := scoped(c.state.ID+"-"+h.Name, "sh", c.script("host.sh"))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), h.environ()...)
	cmd.Env = append(cmd.Env, "CGROUPS="+strings.Join(c.cgroups, " "), "CGROUP="+group, "NAME="+h.Name, "MAC="+h.MAC,
		fmt.Sprintf("HOLDER=%d", c.state.Holder.PID), "IP="+h.IP+"/24", "GATEWAY="+gateway)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	console, err := os.OpenFile(filepath.Join(h.runDir(), "console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("boot %s: %w", h.Name, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how a host ended is its own affair
		close(ended)
	}()
	return ended, nil
}

// environ is what the scripts need to find the host's disk.
func (h *Host) environ() []string {
	c := h.cluster
	return []string{"RUN=" + h.runDir(), "DISK=" + h.diskDir(), "SCRIPTS=" + c.script(""), "LOWER=" + c.state.Lower}
}

// awaitReady returns when the host has written its boot ID.
func (h *Host) awaitReady(ctx context.Context, ready *os.File, ended <-chan struct{}) error {
	said := make(chan error, 1)
	_ = ready.SetReadDeadline(time.Time{})
	go func() {
		_, err := ready.Read(make([]byte, 64))
		said <- err
	}()
	var err error
	select {
	case err = <-said:
		return err
	case <-ended:
		err = errors.New("it went off again")
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = ready.SetReadDeadline(time.Unix(1, 0)) // ends the read above
	<-said
	console, _ := os.ReadFile(filepath.Join(h.runDir(), "console"))
	return fmt.Errorf("boot %s: %w; its console: %s", h.Name, err, Tail(string(console), 30))
}

// PowerOff is a power loss: the cable is dead first, so that no peer gets a FIN or an answer, then every process of the host is
// killed in one stroke. It returns when none is left.
func (h *Host) PowerOff(ctx context.Context) error {
	group, err := h.group()
	if err != nil {
		return nil // never booted
	}
	_, _ = h.cluster.onBridge(ctx, "ip", "link", "set", h.Name, "down") // fails if it is off already
	if err := os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("power off %s: %w", h.Name, err)
	}
	return h.awaitOff(ctx)
}

// Shutdown switches the host off as systemctl poweroff does, and returns when it is off.
func (h *Host) Shutdown(ctx context.Context) error {
	if _, err := h.Run(ctx, "systemctl", "--no-block", "poweroff"); err != nil {
		return err
	}
	return h.awaitOff(ctx)
}

// Reboot is systemctl reboot; it returns when the host is up again.
func (h *Host) Reboot(ctx context.Context) error {
	ready, err := h.openReady()
	if err != nil {
		return err
	}
	defer ready.Close()
	if _, err := h.Run(ctx, "systemctl", "--no-block", "reboot"); err != nil {
		return err
	}
	return h.awaitReady(ctx, ready, nil)
}

func (h *Host) awaitOff(ctx context.Context) error {
	return WaitFor(ctx, h.Name+" to be off", func(context.Context) error {
		group, err := h.group()
		if err != nil {
			return nil
		}
		if pids := pidsIn(group); len(pids) > 0 {
			return fmt.Errorf("%d processes are left", len(pids))
		}
		return nil
	})
}

// On reports whether the host has processes: booting, up or going down.
func (h *Host) On() bool {
	group, err := h.group()
	return err == nil && len(pidsIn(group)) > 0
}

// leader returns the host's process 1, by its ID out here.
func (h *Host) leader() (int, error) {
	group, err := h.group()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", h.Name, ErrOff)
	}
	pids := pidsIn(filepath.Join(group, "machine", "payload", "init.scope"))
	if len(pids) == 0 {
		return 0, fmt.Errorf("%s: %w", h.Name, ErrOff)
	}
	return pids[0], nil
}

// group returns the folder of the host's control group. It is os.ErrNotExist for a host that was never booted.
func (h *Host) group() (string, error) {
	text, err := os.ReadFile(filepath.Join(h.runDir(), "cgroup"))
	if err != nil {
		return "", err
	}
	return filepath.Join(h.cluster.cgroups[0], string(bytes.TrimSpace(text))), nil
}

func (h *Host) runDir() string  { return filepath.Join(h.cluster.runDir(), h.Name) }
func (h *Host) diskDir() string { return filepath.Join(h.cluster.diskDir(), h.Name) }

// Tail returns the last n lines of a text.
func Tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
