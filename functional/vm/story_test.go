package vm

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// TestAHostsLife is one VM from its first boot on: alone, in a cluster, through a good release and four bad ones, and back to new. Each boot
// costs half a minute of emulation, so that all there is to see in one is looked at.
func TestAHostsLife(t *testing.T) {
	r := newRig(t, 2)
	r.publish(second, "")
	if err := r.Start(r.ctx, ""); err != nil {
		t.Fatal(err)
	}
	if said := r.login(); !strings.Contains(said, "This host has no owner yet") || !strings.Contains(said, "fleetctl list-machines") {
		t.Errorf("the console of a new host says:\n%s", said)
	}
	r.alone()
	r.join()
	r.update()
}

// alone looks at the first boot without any configuration.
func (r *rig) alone() {
	r.t.Helper()
	r.until("a cluster of one", `test "$(fleetctl list-machines --no-legend | wc -l)" = 1`)
	r.must(`set -e
		printf '[Service]\nExecStart=/bin/sleep 1000\n' >/root/hello.service
		cd /root; fleetctl start hello.service
		systemctl is-active hello.service
		fleetctl destroy hello.service`)
	// Nothing may write to /usr, whoever asks.
	r.must(`! touch /usr/x && ! mount -o remount,rw /usr && ! dd if=/dev/zero of=/dev/dm-0 count=1`)
	r.must(`grep -q ' /usr squashfs ro' /proc/mounts && grep -q ' /etc overlay' /proc/mounts`)
	// The disk is larger than the image.
	r.must(`test "$(df --output=size -m / | tail -n1)" -gt 800`)
	r.must(`grep -Eqx '[0-9a-f]{32}' /etc/machine-id && cmp /etc/machine-id /.fleet/machine-id`)
	r.must(`test "$(uname -n)" = "fleet-$(cut -c1-8 /etc/machine-id)" && grep -q 'fleet.slot=a fleet.version=` + first + `' /run/fleet-boot`)
	r.must(`test "$(systemctl is-system-running)" = running || { systemctl list-jobs; systemctl --failed; exit 1; }`)
	r.must(`cat /dev/watchdog0 2>&1 | grep -q busy; test "$(cat /proc/sys/kernel/panic)" = 5`)
}

// join makes it the third host of a cluster.
func (r *rig) join() {
	r.t.Helper()
	r.write("/etc/fleet/fleet.conf", r.config())
	// It has been a cluster of its own, and gives that up.
	r.must(`systemctl stop fleetd && rm -rf /var/lib/fleet/* && systemctl start --no-block fleetd`)
	r.until("the VM in the cluster", `test "$(fleetctl list-machines --no-legend | wc -l)" = 3`)
	if out := r.c.Host(1).Must(r.t, "fleetctl", "list-machines", "--no-legend"); !strings.Contains(out, IP) {
		r.t.Errorf("h1 does not see the VM:\n%s", out)
	}
}

// update takes the second release into the other slot, which proves itself.
func (r *rig) update() {
	r.t.Helper()
	r.write("/etc/fleet/update.conf", fmt.Sprintf(`mirrors = "%s"
root = /etc/fleet/root.json
interval = 0s
gate_time = 3s
gate_timeout = 60s
tries = 1
`, r.url))
	r.fetchRoot()
	r.must(`systemctl restart update-engine`)
}

// write writes a file in the VM.
func (r *rig) write(path, text string) {
	r.t.Helper()
	r.must(fmt.Sprintf("mkdir -p $(dirname %[1]s) && echo %[2]s | base64 -d >%[1]s && sync %[1]s", path, base64.StdEncoding.EncodeToString([]byte(text))))
}

func (r *rig) fetchRoot() {
	r.t.Helper()
	text, err := r.root()
	if err != nil {
		r.t.Fatal(err)
	}
	r.write("/etc/fleet/root.json", text)
}
