// Package host looks at a host and does to it what a plan says: files by way of temporary ones beside them, users by the system's own tools,
// units by systemctl.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/image/cloudconfig/desired"
)

// Host is the host at Root: "/", or a tree in a test, whose users are then those of its own /etc/passwd.
type Host struct {
	Root string
	// Exec runs a program of the host and gives its output; nil: the real ones, of the system that runs.
	Exec func(ctx context.Context, stdin string, argv ...string) (string, error)
}

func (h *Host) at(path string) string { return filepath.Join(h.Root, path) }

func (h *Host) exec(ctx context.Context, stdin string, argv ...string) (string, error) {
	if h.Exec != nil {
		return h.Exec(ctx, stdin, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("run %s: this host has no such program", argv[0])
	case err != nil && text != "":
		return text, fmt.Errorf("%s: %w: %s", strings.Join(argv[:min(len(argv), 3)], " "), err, text)
	case err != nil:
		return "", fmt.Errorf("%s: %w", strings.Join(argv[:min(len(argv), 3)], " "), err)
	}
	return text, nil
}

// Look finds out what a plan has to know.
func (h *Host) Look(ctx context.Context, d desired.Desired, was desired.State) (desired.Seen, error) {
	s := desired.Seen{Files: map[string]desired.There{}, Users: map[string]bool{}, Enabled: map[string]bool{}}
	names, err := h.names()
	if err != nil {
		return s, err
	}
	look := func(path string) error {
		there, err := h.file(path, names)
		if err != nil {
			return fmt.Errorf("look at %s: %w", path, err)
		}
		if there.Hash != "" {
			s.Files[path] = there
		}
		return nil
	}
	for _, f := range d.Files {
		if err := look(f.Path); err != nil {
			return s, err
		}
	}
	for path := range was.Files {
		if err := look(path); err != nil {
			return s, err
		}
	}
	for _, u := range d.Users {
		_, s.Users[u.Name] = names.users[u.Name]
	}
	if s.Hostname, err = os.Hostname(); err != nil {
		return s, fmt.Errorf("the name of this host: %w", err)
	}
	for _, list := range [][]string{d.Enable, was.Enabled} {
		for _, u := range list {
			// It ends with an error for all that is not enabled.
			out, _ := h.exec(ctx, "", "systemctl", "--root="+h.Root, "is-enabled", u)
			s.Enabled[u] = out == "enabled" || out == "enabled-runtime" || out == "alias"
		}
	}
	out, _ := h.exec(ctx, "", "systemctl", "is-active", "systemd-networkd.service")
	s.Networkd = out == "active"
	return s, nil
}

func (h *Host) file(path string, names ids) (desired.There, error) {
	info, err := os.Lstat(h.at(path))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return desired.There{}, nil
	}
	if err != nil {
		return desired.There{}, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(h.at(path), &st); err != nil {
		return desired.There{}, err
	}
	there := desired.There{Mode: st.Mode & 0o7777, Owner: names.owner(st.Uid, st.Gid)}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(h.at(path))
		there.Hash = "link:" + target
		return there, err
	case !info.Mode().IsRegular():
		return there, errors.New("it is no plain file: remove it, or name another path")
	}
	data, err := os.ReadFile(h.at(path))
	there.Hash = desired.Hash(data)
	return there, err
}

// Do does what a plan says. First all files are written beside their places: when one of them cannot be, nothing has changed. then is called
// between that and the first change, and must keep in safety what is about to become ours.
func (h *Host) Do(ctx context.Context, steps []desired.Step, then func() error) error {
	staged, err := h.stage(steps)
	defer staged.drop()
	if err != nil {
		return err
	}
	if err := then(); err != nil {
		return err
	}
	var faults []error
	for _, s := range steps {
		// One item's failure stops no other: a host with all but one is better off than one with the first half.
		if err := h.step(ctx, s, staged); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func (h *Host) step(ctx context.Context, s desired.Step, staged *staging) error {
	run := func(argv ...string) error {
		_, err := h.exec(ctx, "", argv...)
		return err
	}
	switch s.Kind {
	case desired.Write:
		return h.write(s, staged)
	case desired.AddUser:
		return h.addUser(ctx, s.User)
	case desired.Password:
		// By standard input: arguments are for everybody to see.
		_, err := h.exec(ctx, s.User.Name+":"+s.User.Passwd+"\n", "chpasswd", "-e")
		return err
	case desired.Restore:
		return h.restore(s)
	case desired.Remove:
		if err := os.Remove(h.at(s.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", s.Path, err)
		}
		// A folder of drop-ins that is empty now means nothing; any other folder may mean something to somebody.
		if dir := filepath.Dir(s.Path); strings.HasSuffix(dir, ".d") {
			_ = os.Remove(h.at(dir))
		}
		return nil
	case desired.SetName:
		if err := unix.Sethostname([]byte(s.Words[0])); err != nil {
			return fmt.Errorf("set the host name %s: %w", s.Words[0], err)
		}
		return nil
	case desired.Enable, desired.Disable:
		return run(append([]string{"systemctl", "--root=" + h.Root, string(s.Kind)}, s.Words...)...)
	case desired.Stop:
		return run(append([]string{"systemctl", "stop"}, s.Words...)...)
	case desired.Reload:
		return run("systemctl", "daemon-reload")
	case desired.ReloadNet:
		return run("systemctl", "--no-block", "try-restart", "systemd-networkd.service")
	case desired.Tell:
		return run(append([]string{"systemctl", "--no-block", s.Verb}, s.Words...)...)
	case desired.Run:
		return h.script(ctx)
	case desired.LeaveAlone:
		return nil
	}
	return fmt.Errorf("%q is no step", s.Kind)
}

// script runs as a unit of its own: it may take its time, and end up restarting what has started it.
func (h *Host) script(ctx context.Context) error {
	_, err := h.exec(ctx, "", "systemd-run", "--no-block", "--collect", "--unit=cloud-config-script.service",
		"--description=Script of cloud-config", h.at(desired.ScriptFile))
	return err
}

// Keep writes a file of ours so that after a power cut there is the old one or the new one.
func (h *Host) Keep(path string, data []byte, mode uint32) error {
	dir := filepath.Dir(h.at(path))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := temporary(dir, filepath.Base(path), data, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := errors.Join(os.Rename(tmp, h.at(path)), syncDir(dir)); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp))
	}
	return nil
}

// Read gives a file of ours, or nothing if there is none.
func (h *Host) Read(path string) ([]byte, error) {
	data, err := os.ReadFile(h.at(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return bytes.Clone(data), err
}

// Forget removes a file of ours; that it is not there is no error.
func (h *Host) Forget(path string) error {
	if err := os.Remove(h.at(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Unit tells systemd something about a unit, and does not wait for it.
func (h *Host) Unit(ctx context.Context, verb, name string) error {
	_, err := h.exec(ctx, "", "systemctl", "--no-block", verb, name)
	return err
}
