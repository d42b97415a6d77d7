package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is one process for good: a process ID comes again, together with its start time it does not.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
}

// processOf returns the process that has this ID now; the zero process if there is none, or only its remains.
func processOf(pid int) process {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}
	}
	// The second field is the command's name in parentheses, which may hold spaces and parentheses itself.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return process{}
	}
	start, _ := strconv.ParseUint(fields[19], 10, 64)
	return process{PID: pid, Start: start}
}

func (p process) alive() bool { return p.PID != 0 && processOf(p.PID) == p }

// kill ends the process at once. The descriptor pins the ID between the look and the blow.
func (p process) kill() {
	if p.PID == 0 {
		return
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if p.alive() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// wait returns once the process has ended, or after the given time.
func (p process) wait(most time.Duration) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil || !p.alive() {
		return
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(most.Milliseconds()))
}

// grandchild returns the only child of the only child.
func grandchild(pid int) (int, error) {
	for range 2 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			return 0, err
		}
		if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			return 0, fmt.Errorf("find the cluster's first process: children are %q", text)
		}
	}
	return pid, nil
}

// cgroupRoots returns where control groups are made: version 2's hierarchy first, and beside version 1 also the one that
// is named systemd, since nspawn wants to be in the same place in both.
func cgroupRoots() ([]string, error) {
	const base = "/sys/fs/cgroup"
	if _, err := os.Stat(base + "/cgroup.controllers"); err == nil {
		return []string{base}, nil
	}
	if _, err := os.Stat(base + "/unified/cgroup.procs"); err == nil {
		return []string{base + "/unified", base + "/systemd"}, nil
	}
	return nil, errors.New("boot hosts: there is no cgroup v2 at " + base + " or " + base + "/unified: mount it there")
}

// systemdRuns reports whether this machine's own process 1 is systemd, which then hands out the control groups.
func systemdRuns() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// scoped returns a command line that runs argv in a control group of its own where systemd hands those out, else argv. There,
// Delegate= lets nspawn and the host's systemd make more below, with all controllers; the keeper needs it too, since nspawn
// takes what its process 1 has for what there is. It also takes both out of the user's session, which ends before they do.
func scoped(name string, argv ...string) []string {
	if !systemdRuns() {
		return argv
	}
	// Unique, as a scope lives on until its last process is gone.
	unit := fmt.Sprintf("--unit=fleet-host-%s-%d", name, time.Now().UnixNano())
	return append([]string{"systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", unit, "--"}, argv...)
}

// removeGroup kills what is in a control group and removes it with all below it. Killed processes leave it a moment later.
func removeGroup(dir string) {
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	for range 50 {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			_ = os.Remove(d)
		}
		if _, err := os.Stat(dir); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// pidsIn returns the processes in a control group and all below it.
func pidsIn(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "cgroup.procs" {
			return nil
		}
		text, _ := os.ReadFile(path)
		for _, f := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Sort(pids)
	return pids
}

// Missing says what this machine lacks for booting hosts, nil if nothing.
func Missing() error {
	if os.Geteuid() != 0 {
		return errors.New("boot hosts: only root can: run it with sudo")
	}
	packages := map[string]string{
		"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nft": "nftables", "ip": "iproute2",
		"unshare": "util-linux", "nsenter": "util-linux",
	}
	var lacking []string
	for tool, pkg := range packages {
		if _, err := exec.LookPath(tool); err != nil {
			lacking = append(lacking, pkg)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	slices.Sort(lacking)
	return fmt.Errorf("boot hosts: this machine lacks tools: apt-get install %s", strings.Join(slices.Compact(lacking), " "))
}
