package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/functional/host"
)

// SlowDisk lets a host's fleetd write to disk only so many times a second, until restore is called. With one write a second a commit of the store takes a
// second or more. A fleetd that is restarted meanwhile is as fast as ever where the machine has version 1 of control groups; call it again then. A machine
// that cannot limit it is errors.ErrUnsupported.
func SlowDisk(h *host.Host, writes int) (restore func() error, err error) {
	pid, err := FleetdPID(h)
	if err != nil {
		return nil, err
	}
	disk, err := diskOf(pid)
	if err != nil {
		return nil, err
	}
	if dir := "/sys/fs/cgroup/blkio"; exists(dir) {
		return slowV1(dir, disk, pid, writes)
	}
	return slowV2(disk, pid, writes)
}

// diskOf is the whole disk, as major:minor, that a process's /var/lib/fleet is on. Hosts' disks are overlays on a file system out here.
func diskOf(pid int) (string, error) {
	var st unix.Stat_t
	// The overlay has a device of its own; the folder where hosts' disks are kept is on the right one.
	if err := unix.Stat("/var/tmp", &st); err != nil {
		return "", fmt.Errorf("find the disk of process %d: %w", pid, err)
	}
	id := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	path, err := filepath.EvalSymlinks("/sys/dev/block/" + id)
	if err != nil {
		return "", fmt.Errorf("%w: the hosts' disks are on no block device (%s): %w", errors.ErrUnsupported, id, err)
	}
	if exists(path + "/partition") { // limits are for whole disks
		path = filepath.Dir(path)
	}
	text, err := os.ReadFile(path + "/dev")
	return strings.TrimSpace(string(text)), err
}

// slowV1 puts the process into a group of its own, with a limit, and back.
func slowV1(dir, disk string, pid, writes int) (func() error, error) {
	back := dir + groupOf(pid, "blkio")
	slow := filepath.Join(dir, "fleet-host-slow-"+strconv.Itoa(pid))
	if err := os.Mkdir(slow, 0o755); err != nil {
		return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	restore := func() (err error) {
		for range 1000 { // what it started is in there, too
			text, _ := os.ReadFile(slow + "/cgroup.procs") // no processes, then Remove says why
			for p := range strings.FieldsSeq(string(text)) {
				if err := put(back, "cgroup.procs", p); err != nil && !errors.Is(err, unix.ESRCH) {
					return err
				}
			}
			if err = os.Remove(slow); !errors.Is(err, unix.EBUSY) {
				return err
			}
			runtime.Gosched()
		}
		return err
	}
	err := errors.Join(put(slow, "blkio.throttle.write_iops_device", fmt.Sprintf("%s %d", disk, writes)), put(slow, "cgroup.procs", strconv.Itoa(pid)))
	if err != nil {
		return nil, errors.Join(err, restore())
	}
	return restore, nil
}

// slowV2 sets a limit on the group that systemd made for fleetd, and on all that are between it and the host's.
func slowV2(disk string, pid, writes int) (func() error, error) {
	dir := "/sys/fs/cgroup" + groupOf(pid, "")
	if !exists(dir + "/io.max") {
		return nil, fmt.Errorf("%w: %s has no io.max: the io controller is not passed on to hosts here", errors.ErrUnsupported, dir)
	}
	restore := func() error {
		if !exists(dir) {
			return nil // gone with its process
		}
		return put(dir, "io.max", disk+" wiops=max")
	}
	return restore, put(dir, "io.max", fmt.Sprintf("%s wiops=%d", disk, writes))
}

// groupOf is a process's group in a hierarchy of version 1, or in that of version 2 for the empty name.
func groupOf(pid int, controller string) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // of a process that is gone: the root, which is always there
	for line := range strings.Lines(string(text)) {
		w := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(w) == 3 && w[1] == controller {
			return w[2]
		}
	}
	return "/"
}

func put(dir, file, text string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(text), 0)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
