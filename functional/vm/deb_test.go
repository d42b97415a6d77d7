package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// machines checks what list-machines printed.
func machines(ctx context.Context, h *host.Host, want int) error {
	out, err := h.Run(ctx, "fleetctl", "list-machines", "--no-legend")
	if n := strings.Count(out, "\n"); err == nil && n != want {
		err = fmt.Errorf("%d machines, want %d:\n%s", n, want, out)
	}
	return err
}

// TestDebianPackages installs, upgrades and purges the packages on a stock Debian, and looks at what is left.
func TestDebianPackages(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("FLEET_DEB")
	if dir == "" {
		t.Skip("FLEET_DEB is not set: ./build.sh test makes the packages and sets it")
	}
	c := host.ForTest(t, host.Options{Hosts: 1, Tree: host.Debian(t)})
	ctx := host.Context(t)
	h := c.Host(1)
	give(t, h, filepath.Join(dir, "old"), "/var/tmp/old")
	give(t, h, filepath.Join(dir, "new"), "/var/tmp/new")
	// What dpkg, systemd and the journal write by themselves is no trace of ours.
	const listing = `find / -xdev -not -path '/proc/*' -not -path '/var/lib/dpkg/*' -not -path '/var/log/*' -not -path '/tmp*' -not -path '/var/tmp*' ` +
		`-not -path '/var/lib/systemd/*' -not -path '/run/*' -not -path '/etc/.pwd.lock' -not -path '/var/cache/*' -not -name '*-' | sort`
	before := h.Must(t, "sh", "-c", listing)

	h.Must(t, "sh", "-c", "dpkg -i /var/tmp/old/*.deb")
	cluster := func(what string) {
		t.Helper()
		if err := host.WaitFor(ctx, what, func(ctx context.Context) error { return machines(ctx, h, 1) }); err != nil {
			t.Fatal(err)
		}
	}
	cluster("a cluster of one after the installation")
	h.Must(t, "sh", "-c", "systemctl is-enabled fleetd.service fleet.socket && getent group fleet")
	h.Must(t, "sh", "-c", `printf '[Service]\nExecStart=/bin/sleep 1000\n' >/var/tmp/hello.service; cd /var/tmp; fleetctl start hello.service`)
	pid := h.Must(t, "systemctl", "show", "--value", "--property=MainPID", "hello.service")
	daemon := h.Must(t, "systemctl", "show", "--value", "--property=MainPID", "fleetd.service")
	h.Must(t, "sh", "-c", "echo 'metadata = mine=yes' >>/etc/fleet/fleet.conf")

	h.Must(t, "sh", "-c", "dpkg -i /var/tmp/new/*.deb")
	cluster("a cluster of one after the upgrade")
	if now := h.Must(t, "systemctl", "show", "--value", "--property=MainPID", "hello.service"); now != pid || pid == "0" {
		t.Errorf("the unit's process is %s after the upgrade, %s before", now, pid)
	}
	if err := host.WaitFor(ctx, "the new daemon", func(ctx context.Context) error {
		now, err := h.Run(ctx, "systemctl", "show", "--value", "--property=MainPID", "fleetd.service")
		if err == nil && (strings.TrimSpace(now) == daemon || strings.TrimSpace(now) == "0") {
			err = fmt.Errorf("main process %s, before %s", now, daemon)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	h.Must(t, "sh", "-c", "grep -q mine=yes /etc/fleet/fleet.conf")

	h.Must(t, "sh", "-c", "cd /var/tmp; fleetctl destroy hello.service; rm /var/tmp/hello.service")
	h.Must(t, "sh", "-c", "dpkg --remove fleet-update-engine fleet-netd fleetd fleetctl; test -e /etc/fleet/fleet.conf; test -d /var/lib/fleet")
	h.Must(t, "sh", "-c", "dpkg --purge fleet-update-engine fleet-netd fleetd fleetctl")
	if out, err := h.Run(ctx, "sh", "-c", "systemctl is-active fleetd.service fleet.socket netd.service; pgrep -l fleetd"); err == nil {
		t.Errorf("after the purge there still runs: %s", out)
	}
	if left := diff(before, h.Must(t, "sh", "-c", listing)); len(left) > 0 {
		t.Errorf("the purge left, or took:\n%s", strings.Join(left, "\n"))
	}
}

// give copies a folder of packages to a host.
func give(t *testing.T, h *host.Host, from, to string) {
	t.Helper()
	debs, err := filepath.Glob(filepath.Join(from, "*.deb"))
	if err != nil || len(debs) < 4 {
		t.Fatalf("%d packages in %s, %v", len(debs), from, err)
	}
	for _, d := range debs {
		text, err := os.ReadFile(d)
		if err == nil {
			err = h.WriteFile(t.Context(), filepath.Join(to, filepath.Base(d)), string(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// diff lists the lines of two listings that are in one of them.
func diff(before, after string) []string {
	count := map[string]int{}
	for l := range strings.Lines(before) {
		count[strings.TrimSpace(l)]--
	}
	for l := range strings.Lines(after) {
		count[strings.TrimSpace(l)]++
	}
	var out []string
	for l, n := range count {
		if n != 0 {
			out = append(out, fmt.Sprintf("%+d %s", n, l))
		}
	}
	return out
}
