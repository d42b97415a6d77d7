package host

import (
	"context"
	"os/exec"
	"strconv"
	"syscall"
)

// Inside returns a command that runs out here in the cluster's network and process namespaces: it ends with the cluster, however that ends. It
// is a process group of its own, with nsenter as its first process.
func (c *Cluster) Inside(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := append([]string{"-t", strconv.Itoa(c.state.Holder.PID), "-n", "-p", "--", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", argv...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// TreeFiles are what a host needs beside the files of its test when its root is not the tests' own tree: the unit that tells the harness that
// it is up, and a word to networkd that the harness has configured the network.
func TreeFiles(files map[string]string) map[string]string {
	all := map[string]string{
		"/etc/systemd/system/host-ready.service": "[Unit]\nAfter=basic.target dbus.socket\n[Service]\nType=oneshot\n" +
			"ExecStart=/bin/sh -c 'cat /proc/sys/kernel/random/boot_id >/run/host-ready'\n",
		"/etc/systemd/system/multi-user.target.d/ready.conf": "[Unit]\nWants=host-ready.service\n",
		"/etc/systemd/network/10-host0.network":              "[Match]\nName=host0\n[Link]\nUnmanaged=yes\n",
	}
	for p, text := range files {
		all[p] = text
	}
	return all
}
