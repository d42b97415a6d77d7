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
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/netd/nettest"
	"github.com/fleet-init/fleet/netd/subnet"
)

// plugins builds the CNI plugins that netd's list names, at the version in go.mod.
func plugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const p = "github.com/containernetworking/plugins/plugins/"
	cmd := exec.Command("go", "build", "-o", dir+"/", p+"main/bridge", p+"main/ptp", p+"ipam/host-local", p+"meta/portmap", p+"meta/bandwidth", p+"meta/tuning")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build CNI plugins: %v\n%s", err, out)
	}
	return dir
}

// Units on two hosts get addresses, reach each other by them, publish a port, and give everything back.
func TestUnitsHaveAddresses(t *testing.T) {
	t.Parallel()
	bin := plugins(t)
	c := newCluster(t, `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan"}}`)
	a, b := c.host(1, "--ip-masq", "--cni-bin", bin), c.host(2, "--ip-masq", "--cni-bin", bin, "--cni-interface", "ptp", "--cni-plugins", "bandwidth,tuning")
	name := func(h *host) string { return fmt.Sprintf("test@%d-%d:_.service", os.Getpid(), h.n) }
	units := map[*host]*nettest.Host{}
	addrs := map[*host][]string{}
	for _, h := range []*host{a, b} {
		t.Cleanup(func() { h.netd("netns", "del", name(h)) })
		h.publish(name(h), "8080:7 8080:7/udp")
		out, err := h.netd("netns", "add", name(h))
		if err != nil {
			t.Fatal(err)
		}
		addrs[h] = strings.Fields(out)
		if len(addrs[h]) != 2 || !netip.MustParsePrefix(h.env("FLANNEL_SUBNET")).Contains(netip.MustParseAddr(addrs[h][0])) {
			t.Fatalf("addresses %v", addrs[h])
		}
		units[h] = nettest.Open(t, name(h), filepath.Join(nsDir, nsName(name(h))))
		units[h].Echo()
	}
	for _, to := range append(addrs[a], "127.0.0.1", "::1") {
		if err := units[a].Call(to, 1000); err != nil {
			t.Errorf("a unit does not reach itself: %v", err)
		}
	}
	for _, to := range addrs[b] {
		c.soon("unit to unit", func() error { return units[a].Call(to, 1<<20) })
	}
	if err := units[a].Packet(addrs[b][0], 1430); err != nil {
		t.Error(err)
	}
	// b's published port, from another host.
	var conn net.Conn
	c.soon("published port", func() (err error) {
		a.Do(func() { conn, err = net.Dial("tcp", "192.168.77.2:8080") })
		return err
	})
	if err := nettest.Exchange(conn, 1000); err != nil {
		t.Error(err)
	}
	conn.Close()
	b.refusesTakenPorts("other-" + name(b))
	// netd goes and comes; the unit keeps its address and its connection.
	conn, err := units[a].Dial(addrs[b][0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b.stop(syscall.SIGTERM)
	b.start()
	if err := nettest.Exchange(conn, 1000); err != nil {
		t.Error(err)
	}
	// Adding again makes a new one and leaks nothing; so does a namespace that vanished, as after a crash.
	if out, err := b.netd("netns", "add", name(b)); err != nil || len(strings.Fields(out)) != 2 {
		t.Errorf("second add: %s, %v", out, err)
	}
	if n := b.taken(); n != 2 {
		t.Errorf("%d addresses taken, want 2", n)
	}
	if err := removeNS(name(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.netd("netns", "gc"); err != nil {
		t.Error(err)
	}
	if n := b.taken(); n != 0 {
		t.Errorf("%d addresses taken after gc, want none", n)
	}
	// a moves to another subnet and a third host gets the one it had, which a reaches there and not on its bridge.
	was := netip.MustParsePrefix(a.env("FLANNEL_SUBNET")).Masked()
	six := netip.MustParsePrefix(a.env("FLANNEL_IPV6_SUBNET")).Masked()
	for _, args := range [][]string{{"reserve", "10.5.99.0/24,fd05:0:0:99::/64", "192.168.77.1"}, {"reserve", was.String() + "," + six.String(), "192.168.77.3"}} {
		c.soon("reserve", func() error { _, err := a.netd(args...); return err })
	}
	third := c.host(3)
	third.Echo() // on its device's address too, which no unit of a has
	c.soon("the subnet where it is now", func() error {
		var conn net.Conn
		var err error
		a.Do(func() {
			conn, err = net.DialTimeout("tcp", net.JoinHostPort(was.Addr().String(), "7"), time.Second)
		})
		if err == nil {
			conn.Close()
		}
		return err
	})
	// b's unit has no namespace any more, a's has addresses of a subnet that leads elsewhere.
	a.renews(name(a), addrs[a][0])
	// A bridge that a unit uses stays; without units it goes with the network.
	a.stop(syscall.SIGTERM)
	if out, err := a.netd("cleanup"); err != nil || strings.Contains(out, cniBridge) {
		t.Errorf("cleanup with a unit: %s, %v", out, err)
	}
	if _, err := a.netd("netns", "del", name(a)); err != nil {
		t.Error(err)
	}
	if out, err := a.netd("cleanup"); err != nil || !strings.Contains(out, "delete device "+cniBridge) {
		t.Errorf("cleanup without units: %s, %v", out, err)
	}
	if left := a.leftovers(); strings.Contains(left, "device") {
		t.Errorf("left: %s", left)
	}
	if n := a.taken(); n != 0 {
		t.Errorf("%d addresses taken after del, want none", n)
	}
	if out, err := a.netd("netns", "renew"); err != nil || out != "" {
		t.Errorf("renew without a network: %s, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(nsDir, nsName(name(a)))); err == nil {
		t.Error("the namespace is still there")
	}
}

// renews has netd look for units whose addresses lead nowhere, with a systemctl that only notes what it is asked.
func (h *host) renews(unit, ip string) {
	h.c.t.Helper()
	h.c.soon("the new subnet's list", func() error {
		list, err := os.ReadFile(h.path("run/netd.conflist"))
		if err == nil && strings.Contains(string(list), netip.PrefixFrom(netip.MustParseAddr(ip), 24).Masked().String()) {
			err = errors.New("is of the old subnet")
		}
		return err
	})
	if err := os.Mkdir(h.path("bin"), 0o755); err != nil {
		h.c.t.Fatal(err)
	}
	if err := os.WriteFile(h.path("bin/systemctl"), []byte("#!/bin/sh\necho \"$@\" >>"+h.path("asked")+"\nexit 1\n"), 0o755); err != nil {
		h.c.t.Fatal(err)
	}
	cmd := h.command("netns", "renew")
	cmd.Env = append(cmd.Env, "PATH="+h.path("bin")+":"+os.Getenv("PATH"))
	var out []byte
	var err error
	h.Do(func() { out, err = cmd.CombinedOutput() })
	asked, _ := os.ReadFile(h.path("asked")) // not there: nothing was asked
	if d := cmp.Diff("try-restart fleet-netns@"+unit+".service\n", string(asked)); d != "" || err == nil ||
		!strings.Contains(string(out), unit+": its address "+ip+" is of no subnet that this host has now: it is restarted for another\n") {
		h.c.t.Errorf("renew: %v: %s%s", err, out, d)
	}
}

// publish writes a unit's text.
func (h *host) publish(unit, ports string) {
	h.c.t.Helper()
	if err := os.MkdirAll(h.path("units"), 0o755); err != nil {
		h.c.t.Fatal(err)
	}
	text := "[Service]\nExecStart=/bin/true\n[X-Fleet]\nNetwork=overlay\nPublish=" + ports + "\n"
	if err := os.WriteFile(filepath.Join(h.path("units"), unit), []byte(text), 0o644); err != nil {
		h.c.t.Fatal(err)
	}
}

// refusesTakenPorts asks for ports that are another unit's, a program's, or none; nothing may be left of it.
func (h *host) refusesTakenPorts(unit string) {
	h.c.t.Helper()
	var l net.Listener
	h.Must(func() (err error) {
		l, err = net.Listen("tcp", ":9090")
		return err
	})
	defer l.Close()
	before := h.taken()
	for ports, want := range map[string]string{
		"8080:9":     "port 8080/tcp of this host is published by test@",
		"9090:9":     "port 9090/tcp of this host is taken by a program",
		"9091:9 9:x": `"9:x" is no published port`,
	} {
		h.publish(unit, ports)
		if _, err := h.netd("netns", "add", unit); err == nil || !strings.Contains(err.Error(), want) {
			h.c.t.Errorf("Publish=%s: %v, want %s", ports, err, want)
		}
	}
	if n := h.taken(); n != before {
		h.c.t.Errorf("%d addresses taken after refusals, want %d", n, before)
	}
}

// taken counts the addresses in the plugin's books.
func (h *host) taken() int {
	files, _ := filepath.Glob(h.path("cni/addresses/netd/*"))
	n := 0
	for _, f := range files {
		if _, err := netip.ParseAddr(filepath.Base(f)); err == nil {
			n++
		}
	}
	return n
}

func removeNS(unit string) error {
	path := filepath.Join(nsDir, nsName(unit))
	if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
		return err
	}
	return os.Remove(path)
}

func TestContainerIDs(t *testing.T) {
	long := strings.Repeat("@", 220) + ".service"
	seen := map[string]string{}
	for _, unit := range []string{"a.service", "a@1.service", "a_a1.service", "a_1.service", "a:1.service", `a\x2d1.service`, "a_bx2d1.service", long, long[1:]} {
		id := containerID(unit)
		if err := utils.ValidateContainerID(id); err != nil {
			t.Error(err)
		}
		if len(id) > 220 {
			t.Errorf("%s: too long for a file's name", id)
		}
		if other, twice := seen[id]; twice {
			t.Errorf("%s and %s are both %s", unit, other, id)
		}
		seen[id] = unit
	}
}

func TestNetworkList(t *testing.T) {
	v := subnet.View{Own: network.Lease{V4: netip.MustParsePrefix("10.5.1.0/24"), V6: netip.MustParsePrefix("fd05:0:0:1::/64")}}
	const head = `{"cniVersion":"1.0.0","name":"netd","plugins":[`
	const ipam = `"ipMasq":false,"ipam":{"dataDir":"/run/fleet-netns/addresses","ranges":[[{"subnet":"10.5.1.0/24"}],[{"subnet":"fd05:0:0:1::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}],"type":"host-local"},`
	const ports = `{"backend":"nftables","capabilities":{"portMappings":true},"snat":true,"type":"portmap"}`
	for _, row := range []struct {
		c    Config
		want string
	}{
		{Config{CNIInterface: "bridge"}, head + `{"bridge":"netd0","forceAddress":true,"hairpinMode":true,` + ipam + `"isGateway":true,"mtu":1430,"type":"bridge"},` + ports + `]}`},
		{Config{CNIInterface: "ptp", CNIPlugins: []string{"bandwidth", "tuning"}}, head + `{` + ipam + `"mtu":1430,"type":"ptp"},` + ports +
			`,{"capabilities":{"bandwidth":true},"type":"bandwidth"},{"type":"tuning"}]}`},
	} {
		row.c.CNIState = "/run/fleet-netns"
		b, err := json.Marshal(networkList(row.c, v, 1430))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(row.want, string(b)); d != "" {
			t.Errorf("%s: %s", row.c.CNIInterface, d)
		}
	}
}
