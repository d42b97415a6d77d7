package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/netd/nettest"
)

// podman runs a podman command on a host: with storage of the test's own, and with the network list that netd writes.
func (h *host) podman(bin string, args ...string) (string, error) {
	conf := fmt.Sprintf("[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=1024:1024\"]\n[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\nruntime=\"runc\"\n"+
		"[network]\nnetwork_backend=\"cni\"\ncni_plugin_dirs=[%q]\nnetwork_config_dir=%q\ndefault_network=\"netd\"\n", bin, h.path("cni.d"))
	if err := os.WriteFile(h.path("containers.conf"), []byte(conf), 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("podman", append([]string{"--root", h.path("podman"), "--runroot", h.path("podman.run"), "--storage-driver", "vfs", "--log-level", "error"}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+h.path("containers.conf"))
	var errs strings.Builder
	cmd.Stderr = &errs
	var out []byte
	var err error
	h.Do(func() { out, err = cmd.Output() })
	if err != nil {
		err = fmt.Errorf("podman %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out)), err
}

// Containers of podman have addresses of their host's subnet, both families, are reached by them from other hosts and by the ports that
// they publish, and give all back. It needs podman, which ./build.sh test installs.
func TestPodmansContainersAreOnTheOverlay(t *testing.T) {
	t.Parallel()
	bin := plugins(t)
	c := newCluster(t, `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan"}}`)
	a, b := c.cable(1), c.host(2)
	a.flags = []string{"--ip-masq", "--cni-bin", bin, "--cni-conf", a.path("cni.d/10-netd.conflist")}
	a.start()
	b.addPod()
	// A root file system with a program that does nothing for ever.
	root := a.path("root")
	main := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(main, []byte("package main\n\nimport \"syscall\"\n\nfunc main() {\n\tfor {\n\t\tsyscall.Pause()\n\t}\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(root, "pause"), main)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		// It leaves the parents of its cgroups behind, and its monitor a moment longer.
		c.soon("podman's cgroups to go", func() (err error) {
			for _, pattern := range []string{"/sys/fs/cgroup/libpod_parent", "/sys/fs/cgroup/*/libpod_parent"} {
				for _, sub := range []string{"/conmon", ""} {
					dirs, _ := filepath.Glob(pattern + sub)
					for _, dir := range dirs {
						err = errors.Join(err, os.Remove(dir))
					}
				}
			}
			return err
		})
	})
	id, err := a.podman(bin, "run", "--detach", "--publish", "8081:7", "--rootfs", root, "/pause")
	if err != nil {
		t.Fatal(err)
	}
	gone := false
	remove := func() error {
		gone = true
		_, err := a.podman(bin, "rm", "--force", "--time", "0", id)
		return err
	}
	t.Cleanup(func() {
		if !gone {
			_ = remove() // the test has failed already
		}
	})
	text, err := a.podman(bin, "inspect", id)
	var info []struct {
		NetworkSettings struct {
			SandboxKey string
			Networks   map[string]struct{ IPAddress, GlobalIPv6Address string }
		}
	}
	if err != nil || json.Unmarshal([]byte(text), &info) != nil || len(info) != 1 {
		t.Fatal(err, text)
	}
	at := info[0].NetworkSettings
	addrs := at.Networks["netd"]
	for env, ip := range map[string]string{"FLANNEL_SUBNET": addrs.IPAddress, "FLANNEL_IPV6_SUBNET": addrs.GlobalIPv6Address} {
		if addr, err := netip.ParseAddr(ip); err != nil || !netip.MustParsePrefix(a.env(env)).Contains(addr) {
			t.Fatalf("%s is not in %s, %v", ip, a.env(env), err)
		}
	}
	inside := nettest.Open(t, "container", at.SandboxKey)
	inside.Echo()
	for _, to := range []string{addrs.IPAddress, addrs.GlobalIPv6Address} {
		c.soon("to the container at "+to, func() error { return b.pod.Call(to, 1<<20) })
		if err := b.pod.Packet(to, 1430); err != nil {
			t.Error(err)
		}
	}
	for _, to := range []string{b.addr(), b.addr6()} {
		c.soon("from the container to "+to, func() error { return inside.Call(to, 1000) })
	}
	c.soon("the published port", func() error {
		var conn net.Conn
		var err error
		b.Do(func() { conn, err = net.Dial("tcp", "192.168.77.1:8081") })
		if err != nil {
			return err
		}
		defer conn.Close()
		return nettest.Exchange(conn, 1000)
	})
	if n := a.taken(); n != 2 {
		t.Errorf("%d addresses taken, want 2", n)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if n := a.taken(); n != 0 {
		t.Errorf("%d addresses taken after rm, want none", n)
	}
}
