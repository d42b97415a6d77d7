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
