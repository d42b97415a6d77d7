package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// guest makes this test program process 1 of a virtual machine whose kernel is the image's: it sees to a system that tests can run in, runs them
// as the kernel's command line says, prints how they ended, and switches the machine off. functional/vm makes the machine; its initramfs
// has the modules, its first disk the image's /usr.
func guest() {
	err := guestSystem()
	words, rerr := os.ReadFile("/proc/cmdline")
	for w := range strings.FieldsSeq(string(words)) {
		// netd.run=PROGRAM=REGEX
		if what, ok := strings.CutPrefix(w, "netd.run="); ok && err == nil {
			program, tests, _ := strings.Cut(what, "=")
			cmd := exec.Command(program, "-test.v", "-test.parallel=1", "-test.run", tests)
			cmd.Dir, cmd.Stdout, cmd.Stderr = "/tmp", os.Stdout, os.Stdout
			cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "TMPDIR=/tmp"}
			fmt.Printf("guest: %s ended: %v\n", program, cmd.Run())
		}
	}
	fmt.Println("guest: done:", errors.Join(err, rerr))
	unix.Sync()
	time.Sleep(time.Second) // the serial line is slow
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		panic(err)
	}
}

// guestSystem mounts what programs expect, loads the drivers of the disk and mounts it, so that the kernel finds all other modules itself.
func guestSystem() error {
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}, {"tmpfs", "/run", "tmpfs"}, {"tmpfs", "/tmp", "tmpfs"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	deps, err := os.ReadFile("/modules/deps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(deps)) {
		all := strings.Fields(line) // a module, and before it what it needs
		if !strings.HasPrefix(all[0], "virtio") && all[0] != "erofs" {
			continue
		}
		for _, name := range append(all[1:], all[0]) {
			if err := loadModule(name); err != nil {
				return err
			}
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err = os.Stat("/dev/vda"); err == nil || time.Now().After(end) {
			break
		}
	}
	if err := errors.Join(err, os.MkdirAll("/usr", 0o755), unix.Mount("/dev/vda", "/usr", "erofs", unix.MS_RDONLY, "")); err != nil {
		return fmt.Errorf("mount the image's /usr: %w", err)
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, "/"+name); err != nil {
			return err
		}
	}
	lo := exec.Command("/usr/sbin/ip", "link", "set", "lo", "up") // etcd is there
	out, err := lo.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func loadModule(name string) error {
	f, err := os.Open(filepath.Join("/modules", name+".ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	return nil
}
