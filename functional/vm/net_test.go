package vm

import (
	"bytes"
	"debug/pe"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// TestNetworkOnTheImagesKernel runs those tests of netd whose answer depends on the kernel, on the image's: it has WireGuard and ipip, which
// the kernel out here need not have. One machine without firmware or systemd starts the kernel of the image's UKI with its own modules; netd's test
// program is its process 1, and the hosts of the tests are network namespaces in it.
func TestNetworkOnTheImagesKernel(t *testing.T) {
	t.Parallel()
	images := os.Getenv("FLEET_IMAGE")
	if images == "" {
		t.Skip("FLEET_IMAGE is not set: ./build.sh test makes images and sets it")
	}
	if err := Missing(); err != nil {
		t.Fatal(err)
	}
	ctx, dir := host.Context(t), t.TempDir()
	var extra cpio
	for name, pkg := range map[string]string{"init": "./netd", "link.test": "./netd/link"} {
		build := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags=-s -w", "-o", filepath.Join(dir, name), pkg)
		build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v: %s", pkg, err, out)
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		extra.file(name, text)
	}
	extra.file("etc/passwd", []byte("root:x:0:0::/:/bin/sh\n"))
	uki, err := pe.Open(filepath.Join(images, "fleet-"+first+".efi"))
	if err != nil {
		t.Fatal(err)
	}
	defer uki.Close()
	section := func(name, to string, more []byte) string {
		text, err := uki.Section(name).Data()
		if err != nil {
			t.Fatal(err)
		}
		// The kernel takes archives one behind the other, at multiples of four, and of a file the last.
		text = append(text[:uki.Section(name).VirtualSize:uki.Section(name).VirtualSize], make([]byte, -uki.Section(name).VirtualSize&3)...)
		to = filepath.Join(dir, to)
		if err := os.WriteFile(to, append(text, more...), 0o600); err != nil {
			t.Fatal(err)
		}
		return to
	}
	const netd = "^(TestTheKernelsOwnTunnels|TestEncryptedWhereEveryKernelCan)$/^(ipip|wireguard.*)$"
	const streams = "^TestStreamsFitTheTunnelWhateverTheirEndsThink$/^vxlan$"
	const link = "^(TestKindsThatThisKernelLacks|TestSetMakesItSoOnceAndCleansUp|TestRulesOnAKernelWithoutEgress)$"
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-smp", "2", "-m", "1536", "-cpu", "max",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-device", "virtio-rng-pci",
		"-kernel", section(".linux", "vmlinuz", nil), "-initrd", section(".initrd", "initrd", extra.end()),
		"-drive", "if=virtio,format=raw,readonly=on,file="+filepath.Join(images, "usr-"+first+".img"),
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check netd.run=/link.test="+link+" netd.run=/init="+streams+" netd.run=/init="+netd)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// However the test ends, the machine ends with its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	text := strings.ReplaceAll(out.String(), "\r", "")
	for _, want := range []string{"guest: /link.test ended: <nil>\n", "guest: /init ended: <nil>\n", "guest: done: <nil>\n", "this kernel has ipip: ", "this kernel has wireguard: ",
		"kernel has ipip: true\n", "kernel has wireguard: true\n", "--- PASS: TestEncryptedWhereEveryKernelCan", "--- PASS: TestStreamsFit"} {
		if !strings.Contains(text, want) {
			t.Errorf("the machine did not say %q", want)
		}
	}
	if strings.Contains(text, "--- FAIL: ") || t.Failed() || err != nil {
		t.Fatalf("%v\n%s", err, host.Tail(text, 150))
	}
}

// cpio is an archive as the kernel unpacks it, in the form "newc".
type cpio struct{ buf bytes.Buffer }

func (c *cpio) file(name string, text []byte) {
	if dir := filepath.Dir(name); dir != "." {
		c.add(dir, nil, 0o40755)
	}
	c.add(name, text, 0o100755)
}

func (c *cpio) add(name string, text []byte, mode int) {
	fmt.Fprintf(&c.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", 1+c.buf.Len(), mode, 0, 0, 1, 0, len(text), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.buf.Write(text)
	c.pad()
}

func (c *cpio) pad() { c.buf.Write(make([]byte, -c.buf.Len()&3)) }

func (c *cpio) end() []byte {
	c.add("TRAILER!!!", nil, 0)
	return c.buf.Bytes()
}
