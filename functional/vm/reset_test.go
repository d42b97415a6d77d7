package vm

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fleet-init/fleet/update-engine/disk"
)

// resets breaks a working host in ways that no release has to bring along, and waits for it to start anew. That a start which does not end
// well leads back to the old slot is TestAHostsLife's.
func (r *rig) resets(t *testing.T) {
	// What is told the watchdogs here is what system.conf tells them, only shorter.
	const manager = "busctl set-property org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager "
	var taps atomic.Int64
	const freeze = "echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze"
	for name, c := range map[string]struct {
		script string
		says   []string
	}{
		"emergency mode":    {"setsid systemctl --no-block emergency", []string{"This boot has failed"}},
		"process 1 crashes": {"dmesg -n 3; kill -SEGV 1", []string{"Caught <SEGV>"}},
		"process 1 hangs": {"grep -qx RuntimeWatchdogSec=60s /usr/lib/systemd/system.conf.d/fleet.conf && dmesg -n 4; " +
			manager + "RuntimeWatchdogUSec t 10000000 && " + freeze, []string{"softdog: Initiating system reboot"}},
		// A service that does not go holds the shutdown up until its time is over. What follows belongs to no service that is stopped, and is left
		// for the last part of the shutdown: one process holds that up, which nothing but the watchdog ends; the other, which that part spares for
		// its name, stops process 1 in it.
		"a shutdown hangs": {"dmesg -n 4; " + manager + `RebootWatchdogUSec t 30000000 && cat >/run/hang <<'END'
(trap '' TERM; exec sleep 10000) &
until read -r comm </proc/1/comm && [ "$comm" != systemd ]; do sleep 0.2; done
echo the shutdown hangs >/dev/console
` + freeze + `
sleep 10000
END
			systemd-run --unit=stays sh -c 'trap "" TERM; echo a service stays >/dev/console; while :; do sleep 1; done' &&
			systemd-run --unit=last --property=DefaultDependencies=no bash -c 'exec -a @hang bash /run/hang' &&
			systemctl --no-block reboot`, []string{"a service stays", "the shutdown hangs", "softdog: Initiating system reboot"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := r.again(t)
			// One of its own, off the bridge: the card must find what it had in the snapshot, and all of these have the same address.
			s.Tap = fmt.Sprintf("tap%d", taps.Add(1))
			if err := s.makeTap(s.ctx, s.Tap); err != nil {
				t.Fatal(err)
			}
			s.resume()
			if out, err := s.Leave(s.ctx, c.script); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			said := s.console.all()
			for _, want := range c.says {
				if !strings.Contains(said, want) {
					t.Errorf("the console does not say %q:\n%s", want, said)
				}
			}
		})
	}
}

// shortKernel boots a slot whose kernel image has lost its second half after it was verified: no boot loader can start that, and no
// counter helps a machine that sits at a prompt.
func (r *rig) shortKernel() {
	r.resume()
	r.write("/etc/fleet/reboot", "#!/bin/sh\ntouch "+asked+"\n")
	r.must("update-engine apply >/run/apply.log 2>&1 || { cat /run/apply.log; exit 1; }")
	r.until("the wish to reboot", "test -e "+asked)
	r.Kill()
	r.offline(func(raw string, esp *disk.FAT, _ func(string) disk.Part) {
		old, err := esp.Open("EFI/fleet/b.efi")
		if err != nil {
			r.t.Fatal(err)
		}
		half := make([]byte, old.Size()/2)
		if _, err := io.ReadFull(io.NewSectionReader(old, 0, old.Size()), half); err != nil {
			r.t.Fatal(err)
		}
		if err := esp.Remove("EFI/fleet/b.efi"); err != nil {
			r.t.Fatal(err)
		}
		f, err := esp.Create("EFI/fleet/b.efi", int64(len(half)))
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := f.WriteAt(half, 0); err != nil {
			r.t.Fatal(err)
		}
		if out, err := exec.CommandContext(r.ctx, "qemu-img", "convert", "-O", "qcow2", raw, r.Disk).CombinedOutput(); err != nil {
			r.t.Fatalf("qemu-img: %v: %s", err, out)
		}
	})
	if err := r.Start(r.ctx, ""); err != nil {
		r.t.Fatal(err)
	}
	r.await(starts)
	// Not by way of the network or of the firmware's shell: what comes next is the same boot loader.
	if said := r.cameBack(); !strings.Contains(said, `Error loading \EFI\fleet\b.efi`) || strings.Contains(said, "PXE") {
		r.t.Errorf("the console says:\n%s", said)
	}
}

// cameBack logs in after a release that did not come up, and looks that the host is on the first one and remembers. It returns what was said.
func (r *rig) cameBack() string {
	r.t.Helper()
	said := r.login()
	r.must(`grep -q 'fleet.slot=a fleet.version=` + first + `' /run/fleet-boot`)
	r.until("a host that remembers", `update-engine status | grep '^not again *`+second+`'`)
	return said
}

// hangingUnit is a release in which the boot never gets anywhere, and nothing fails either.
func (r *rig) hangingUnit() {
	r.resume()
	r.write("/etc/systemd/system/hang.service", "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\nConditionKernelCommandLine=fleet.version="+second+
		"\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sleep infinity\n")
	// It is half an hour otherwise. Only for this release: a good one may take its time.
	r.write("/etc/systemd/system-generators/short", "#!/bin/sh\ngrep -q fleet.version="+second+" /proc/cmdline || exit 0\n"+
		`mkdir -p "$1/boot-complete.target.d" && printf '[Unit]\nJobTimeoutSec=60s\n' >"$1/boot-complete.target.d/short.conf"`+"\n")
	r.must("chmod 755 /etc/systemd/system-generators/short && mkdir -p /etc/systemd/system/sysinit.target.wants && ln -s ../hang.service /etc/systemd/system/sysinit.target.wants/ && sync")
	r.apply()
	if said := r.await(starts); !strings.Contains(said, "Timed out starting") {
		r.t.Errorf("the console says:\n%s", said)
	}
	r.cameBack()
}

// stuck is a release that hangs after the initramfs is through and before systemd feeds the watchdog.
func (r *rig) stuck() {
	// A directory of its own: the other tests' has the same version with other words.
	r.releases = filepath.Join(r.releases, "stuck")
	if err := os.MkdirAll(r.releases, 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.makeKeys()
	r.publish(second, first, "fleet.drill=stuck fleet.watchdog=20")
	r.url = strings.TrimSuffix(r.url, "/dir") + "/stuck/dir"
	r.resume()
	r.must("systemctl stop update-engine && rm -rf /var/lib/update-engine/*")
	r.follow("10m")
	r.apply()
	if said := r.await(starts); !strings.Contains(said, "drill: stuck") {
		r.t.Errorf("the console says:\n%s", said)
	}
	r.cameBack()
}
