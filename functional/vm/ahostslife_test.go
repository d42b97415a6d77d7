package vm

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// TestAHostsLife is one VM from its first boot on: alone, in a cluster, through a good release and four bad ones, and back to new. Each boot
// costs half a minute of emulation, so that all there is to see in one is looked at.
func TestAHostsLife(t *testing.T) {
	// Two at a time, since each of them waits a lot. This is the longest and begins first, for which its file has its name.
	t.Parallel()
	r := newRig(t, 2)
	r.publish(second, first, "")
	r.blank()
	if err := r.Start(r.ctx, ""); err != nil {
		t.Fatal(err)
	}
	var said string
	r.timed("power on to the console of a new host", func() { said = r.login() })
	if !strings.Contains(said, "This host has no owner yet") || !strings.Contains(said, "fleetctl list-machines") {
		t.Errorf("the console of a new host says:\n%s", said)
	}
	r.alone()
	r.join()
	r.update()
	r.bad("0.3.0", "fleet.drill=panic", "Kernel panic")
	r.bad("0.4.0", "fleet.drill=hang fleet.patience=10", "not done after 10s")
	// Only now: an emulated host under load takes its time to be well.
	r.follow("20s")
	r.bad("0.5.0", "", "health check: not this release")
	r.corrupt()
	r.bad("0.6.0", "", "verity")
	r.reset()
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
	r.must(`grep -q ' /usr erofs ro' /proc/mounts && grep -q ' /etc overlay' /proc/mounts`)
	// The disk is larger than the image.
	r.must(`test "$(df --output=size -m / | tail -n1)" -gt 800`)
	r.must(`grep -Eqx '[0-9a-f]{32}' /etc/machine-id && cmp /etc/machine-id /.fleet/machine-id`)
	r.must(`test "$(uname -n)" = "fleet-$(cut -c1-8 /etc/machine-id)" && grep -q 'fleet.slot=a fleet.version=` + first + `' /run/fleet-boot`)
	r.until("a host at rest", `test "$(systemctl is-system-running)" = running || { systemctl list-jobs; systemctl --failed; exit 1; }`)
	r.must(`cat /dev/watchdog0 2>&1 | grep -q busy; test "$(cat /proc/sys/kernel/panic)" = 5`)
	r.kinds()
}

// join makes it the third host of a cluster.
func (r *rig) join() {
	r.t.Helper()
	for path, text := range r.config() {
		r.write(path, text)
	}
	// It has been a cluster of its own, and gives that up.
	r.must(`systemctl stop fleetd && rm -rf /var/lib/fleet/* && systemctl start --no-block fleetd`)
	r.timed("fleetd's start to joined", func() {
		r.until("the VM in the cluster", `test "$(fleetctl list-machines --no-legend | wc -l)" = 3`)
	})
	if out := r.c.Host(1).Must(r.t, "fleetctl", "list-machines", "--no-legend"); !strings.Contains(out, IP) {
		r.t.Errorf("h1 does not see the VM:\n%s", out)
	}
}

// follow makes the host take releases from the rig's directory, and give each so long to prove itself.
func (r *rig) follow(gate string) {
	r.t.Helper()
	r.write("/etc/fleet/update.conf", fmt.Sprintf(`mirrors = "%s"
root = /etc/fleet/root.json
interval = 0s
gate_time = 2s
gate_timeout = %s
tries = 1
reboot_command = /etc/fleet/reboot
`, r.url, gate))
	r.write("/etc/fleet/reboot", "#!/bin/sh\ntouch "+asked+"\n[ -e /run/stay ] || exec systemctl reboot\n")
	// A release that this host's own checks do not like.
	r.write("/etc/fleet/health.d/10-version", `#!/bin/sh
grep -q fleet.version=0.5.0 /run/fleet-boot || exit 0
echo health check: not this release >/dev/console
exit 1
`)
	r.must("chmod 755 /etc/fleet/reboot /etc/fleet/health.d/10-version")
	r.write("/etc/fleet/root.json", r.root())
	r.must(`systemctl restart update-engine || { journalctl -q --no-pager -o cat -n 20 -u update-engine; exit 1; }`)
	r.until("update-engine at rest", `update-engine status | grep -q '^phase *idle'`)
}

// asked is made by reboot_command, which may write nothing but the daemon's own folders.
const asked = "/var/lib/update-engine/asked"

// update takes the second release into the other slot, which proves itself.
func (r *rig) update() {
	r.t.Helper()
	r.fullESP()
	r.must("touch /run/stay")
	r.timed("a release fetched, written, verified", func() {
		r.must(`update-engine apply >/run/apply.log 2>&1 || { cat /run/apply.log; exit 1; }`)
	})
	r.until("the wish to reboot", "test -e "+asked)
	if out, err := r.Leave(r.ctx, "rm /run/stay; exec /etc/fleet/reboot"); err != nil {
		r.t.Fatalf("%v\n%s", err, out)
	}
	r.timed("firmware to the console after an update", func() { r.login() })
	r.must(`grep -q 'fleet.slot=b fleet.version=` + second + `' /run/fleet-boot && grep -q '^IMAGE_VERSION=` + second + `' /etc/os-release`)
	r.timed("console to proven", r.settled)
	// What this host was told before is still so.
	r.until("the VM in the cluster again", `test "$(fleetctl list-machines --no-legend | wc -l)" = 3`)
	r.must(`cmp /etc/machine-id /.fleet/machine-id && test -e /root/hello.service`)
	r.until("a boot that is complete", `systemctl is-active boot-complete.target`)
}

// fullESP has something else fill the ESP, and the host say so when it looks for a release. While update-engine runs nobody else can mount it.
func (r *rig) fullESP() {
	r.t.Helper()
	const esp = "systemctl stop update-engine && mount -t vfat /dev/vda1 /mnt && "
	r.must("! mount -t vfat /dev/vda1 /mnt && " + esp + "{ dd if=/dev/zero of=/mnt/filler bs=1M 2>/dev/null; umount /mnt; }")
	r.follow("10m")
	if out := r.must("! update-engine apply 2>&1"); !strings.Contains(out, "the boot file system has ") || !strings.Contains(out, " bytes free, the kernel needs ") {
		r.t.Errorf("of a full ESP update-engine says:\n%s", out)
	}
	r.must("update-engine status | grep '^running *" + first + " in slot a, good' && " + esp + "rm /mnt/filler && umount /mnt && systemctl start update-engine")
	r.until("update-engine at rest", `update-engine status | grep '^phase *idle'`)
}

// settled waits until the release that runs has proven itself.
func (r *rig) settled() {
	r.t.Helper()
	r.until("a good slot", `update-engine status >/run/status; cat /run/status; journalctl -q --no-pager -o cat -n 5 -u update-engine; grep -q '^phase *idle' /run/status`)
	if out := r.must("update-engine status"); !strings.Contains(out, "slot b") || strings.Contains(out, "trial") {
		r.t.Errorf("update-engine status:\n%s", out)
	}
}

// bad takes a release that does not come up. The host must be back on the second one after one start of it, by itself, and remember, and the
// rollout by which it got the release must go nowhere else.
func (r *rig) bad(version, words, says string) {
	r.t.Helper()
	r.publish(version, second, words)
	// By this host's clock, which is not quite that of the others: a rollout that has not begun yet gives nothing.
	r.until("a rollout of "+version, `said=$(fleetctl update rollout `+version+` --pace=emergency --percent=100 2>&1) || case $said in
		*"is being rolled out already"*) ;; # the answer to an earlier one was lost
		*) echo "$said"; exit 1 ;;
		esac`)
	r.apply()
	if said := r.await(starts); !strings.Contains(said, says) {
		r.t.Errorf("the console of %s does not say %q:\n%s", version, says, said)
	}
	r.login()
	r.must(`grep -q 'fleet.slot=b fleet.version=` + second + `' /run/fleet-boot`)
	r.settled()
	r.must(`update-engine status | grep '^not again *` + version + `'`)
	// It is not taken once more.
	r.must("update-engine check")
	r.until("a host that has looked and found nothing", `update-engine status | grep '^phase *idle'`)
	r.must(`update-engine status | grep '^not again *` + version + `'`)
	r.stopped(version)
}

// stopped waits until the other hosts know that a release goes nowhere, and why.
func (r *rig) stopped(version string) {
	r.t.Helper()
	if err := host.WaitFor(r.ctx, "the rollout of "+version+" to stop", func(ctx context.Context) error {
		out, err := r.c.Host(1).Run(ctx, "fleetctl", "update", "status")
		_, of, _ := strings.Cut(out, ": "+version+", pace ")
		if err == nil && !strings.Contains(of, "stopped by itself: 1 of 1 hosts that are through came back") {
			err = fmt.Errorf("fleetctl update status says:\n%s", out)
		}
		return err
	}); err != nil {
		r.t.Error(err)
	}
}

// corrupt has the next release damaged on the disk after it was verified, behind the first blocks that every mount reads.
func (r *rig) corrupt() {
	r.t.Helper()
	r.write("/etc/fleet/reboot", "#!/bin/sh\ndd if=/dev/zero of=/dev/vda2 bs=1M seek=2 count=100 conv=notrunc oflag=direct && exec systemctl reboot\n")
}

// reset forgets first /etc, then everything.
func (r *rig) reset() {
	r.t.Helper()
	id := r.must("cat /etc/machine-id")
	r.must("echo here >/var/here")
	r.reboot("factory-reset etc --now")
	r.must(`test ! -e /etc/fleet/update.conf && test ! -e /etc/fleet/root.json && grep -q here /var/here`)
	if now := r.must("cat /etc/machine-id"); now != id {
		r.t.Errorf("machine ID %s after a reset of /etc, %s before", now, id)
	}
	// From here on the host has a document that nobody can read. It says where that is wrong, and comes up all the same.
	r.iso("cidata", map[string]string{"user-data": "#cloud-config\nhostname: nobody\nwrite_files:\n\t- {path: /opt/x}\n"})
	said := r.reboot("factory-reset all --now")
	for _, want := range []string{"config drive cidata at /dev/vdb: line 4: error: YAML: ", "cloud-config: config drive cidata at /dev/vdb: the document has errors", "This host has no owner yet"} {
		if !strings.Contains(said, want) {
			r.t.Errorf("with a document that is no YAML the console does not say %q:\n%s", want, said)
		}
	}
	r.must(`test ! -e /opt/x && uname -n | grep -x 'fleet-[0-9a-f]*'`)
	r.until("a cluster of one", `test "$(fleetctl list-machines --no-legend | wc -l)" = 1`)
	r.must(`test ! -e /var/here && test ! -e /root/hello.service && grep -q 'fleet.version=` + second + `' /run/fleet-boot`)
	if now := r.must("cat /etc/machine-id"); now == id || len(now) != 32 {
		r.t.Errorf("machine ID %s after a reset of all, %s before", now, id)
	}
}

// write writes a file in the VM.
func (r *rig) write(path, text string) {
	r.t.Helper()
	r.must(fmt.Sprintf("mkdir -p $(dirname %[1]s) && echo %[2]s | base64 -d >%[1]s && sync %[1]s", path, base64.StdEncoding.EncodeToString([]byte(text))))
}
