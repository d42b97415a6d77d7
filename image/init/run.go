package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/image/release"
)

const (
	newRoot = "/sysroot"
	// patience is how long all of this may take. A disk that never appears, a driver that hangs: the restart counts as a try.
	patience = 90 * time.Second
	// handover is how long systemd may take from our end to feeding the watchdog.
	handover = 120 * time.Second
	// reading is how long a message stays on the console before the restart.
	reading = 5 * time.Second
)

// begin does everything and does not return.
func begin() {
	say("starting")
	err := prepare()
	var words map[string]string
	if err == nil {
		words, err = commandLine()
	}
	// It ends with exec; from there on the watchdog counts.
	limit := seconds(words["fleet.patience"], patience)
	dead := time.AfterFunc(limit, func() { restart(fmt.Errorf("not done after %v", limit)) })
	if err == nil {
		err = boot(words)
	}
	dead.Stop()
	if err == nil {
		if words["fleet.drill"] == "stuck" {
			kmsg(3, "drill: stuck")
			for { // the watchdog ends it
				time.Sleep(time.Hour)
			}
		}
		err = unix.Exec("/usr/lib/systemd/systemd", []string{"/sbin/init"}, []string{"PATH=/usr/sbin:/usr/bin", "TERM=linux"})
	}
	restart(err)
}

// restart says why and starts the machine anew.
func restart(err error) {
	// An error's level: "quiet" on the command line lets only those through to the console.
	kmsg(3, "cannot boot: %v; restarting", err)
	time.Sleep(reading)
	unix.Sync()
	for {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		time.Sleep(time.Second)
	}
}

// say writes to the kernel's log.
func say(format string, a ...any) { kmsg(5, format, a...) }

func kmsg(level int, format string, a ...any) {
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		_, _ = fmt.Fprintf(f, "<%d>fleet-init: "+format+"\n", append([]any{level}, a...)...)
		_ = f.Close()
	}
}

// prepare mounts what every process expects, and has the kernel restart after a panic whatever its command line says.
func prepare() error {
	for _, m := range []struct{ kind, at, opt string }{{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", "mode=0755"},
		{"tmpfs", "/run", "mode=0755,size=20%"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		// The kernel may have mounted /dev already.
		if err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID, m.opt); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return os.WriteFile("/proc/sys/kernel/panic", []byte("5"), 0)
}

// commandLine splits the kernel's command line; a word without "=" has the value "".
func commandLine() (map[string]string, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	return parseWords(string(b)), nil
}

// seconds reads a time limit of the command line, for machines whose disks take long, and for drills.
func seconds(word string, usual time.Duration) time.Duration {
	if n, err := strconv.Atoi(word); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	return usual
}

func parseWords(s string) map[string]string {
	words := map[string]string{}
	for w := range strings.FieldsSeq(s) {
		k, v, _ := strings.Cut(w, "=")
		words[k] = v
	}
	return words
}

// boot is the way from an empty machine to a root that systemd can start in.
func boot(words map[string]string) error {
	var rel release.Built
	b, err := os.ReadFile("/release.json")
	if err == nil {
		err = json.Unmarshal(b, &rel)
	}
	if err != nil {
		return fmt.Errorf("read what this release is: %w", err)
	}
	if err := drill(words["fleet.drill"]); err != nil {
		return err
	}
	mods, err := readModules("/modules")
	if err != nil {
		return err
	}
	if err := mods.always(rel.Always); err != nil {
		return err
	}
	watch(mods, seconds(words["fleet.watchdog"], handover))
	d, err := findDisk(mods)
	if err != nil {
		return err
	}
	say("disk %s", d.name)
	name, err := runningSlot(words)
	if err != nil {
		return err
	}
	// The hash is this kernel image's own: whatever the command line says, no other /usr gets mounted.
	if h := words["os.usrhash"]; h != "" && h != rel.RootHash {
		return fmt.Errorf("the boot entry is for the root hash %s, this kernel for %s", h, rel.RootHash)
	}
	if words["fleet.bootoptions"] != "keep" {
		if err := startAgain(d); err != nil {
			say("the firmware has no boot options to come back by: %v", err)
		}
	}
	if err := openUsr(d, name, rel); err != nil {
		return err
	}
	if err := mountState(d); err != nil {
		return err
	}
	version := words["fleet.version"]
	if version == "" {
		version = rel.Version
	}
	if err := os.WriteFile("/run/fleet-boot", fmt.Appendf(nil, "fleet.slot=%s fleet.version=%s\n", name, version), 0o644); err != nil {
		return err
	}
	return enter()
}

// drill breaks this start on purpose, so that an operator can see a host come back: fleet.drill=hang, =panic or =stuck among the options that a
// release is published with.
func drill(kind string) error {
	switch kind {
	case "", "stuck": // that one comes at the end
		return nil
	case "hang":
		say("drill: hanging")
		select {} // the dead man's timer ends it
	case "panic":
		say("drill: panic")
		return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	}
	return fmt.Errorf("fleet.drill=%s: use hang, panic or stuck", kind)
}

// enter makes the new root the only one.
func enter() error {
	for _, m := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(m, newRoot+m, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	// The initramfs stays below the root for good, as memory: what is large in it goes.
	if err := os.RemoveAll("/modules"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	return os.Chdir("/")
}
