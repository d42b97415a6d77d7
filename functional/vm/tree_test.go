package vm

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// TestTheSameTreeBootsInContainers boots two nspawn hosts from the image's own root tree, as one cluster.
func TestTheSameTreeBootsInContainers(t *testing.T) {
	t.Parallel()
	tree := os.Getenv("FLEET_TREE")
	if tree == "" {
		t.Skip("FLEET_TREE is not set: ./build.sh test makes the tree and sets it")
	}
	files := host.FleetFiles(2, "")
	c := host.ForTest(t, host.Options{Hosts: 2, Tree: tree, Files: func(i int) map[string]string { return host.TreeFiles(files(i)) }})
	ctx := host.Context(t)
	h := c.Host(1)
	if err := host.WaitFor(ctx, "two machines", func(ctx context.Context) error { return machines(ctx, h, 2) }); err != nil {
		t.Fatal(err)
	}
	if out := h.Must(t, "cat", "/etc/os-release"); !strings.Contains(out, "IMAGE_ID=fleet") {
		t.Errorf("/etc/os-release is %s", out)
	}
	if err := host.WaitFor(ctx, "a host at rest", func(ctx context.Context) error {
		_, err := h.Run(ctx, "systemctl", "is-system-running")
		return err
	}); err != nil {
		t.Errorf("%v\n%s", err, h.Must(t, "systemctl", "--failed", "--no-legend", "--plain"))
	}
	h.Must(t, "sh", "-c", "printf '[Service]\\nExecStart=/bin/sleep 1000\\n' >/root/hello.service; cd /root; fleetctl start hello.service")
	// What the machine writes stays over a reboot, and is nowhere in the tree.
	if err := h.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	h.Must(t, "test", "-e", "/root/hello.service")
}
