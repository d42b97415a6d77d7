package host

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHostsComeUpAndReachEachOther(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	c := ForTest(t, Options{Hosts: 3, Files: func(i int) map[string]string {
		return map[string]string{"/etc/number": strings.Repeat("i", i), "/usr/bin/hello": "#!/bin/sh\necho hello from $(hostname)\n"}
	}})
	t.Logf("three hosts up in %s", time.Since(begin).Round(time.Millisecond))
	ids := map[string]bool{}
	for i, h := range c.Hosts() {
		ids[h.Must(t, "cat", "/etc/machine-id")] = true
		want(t, "host name", h.Must(t, "hostname"), h.Name)
		want(t, "command of the first files", h.Must(t, "hello"), "hello from "+h.Name)
		want(t, "first file", h.Must(t, "cat", "/etc/number"), strings.Repeat("i", i+1))
		want(t, "machine ID", h.Must(t, "cat", "/etc/machine-id"), h.MachineID)
		for _, o := range c.Hosts() {
			h.Must(t, "ping", "-c1", "-W2", o.Name)
		}
	}
	if len(ids) != 3 {
		t.Errorf("machine IDs are not different: %v", ids)
	}
	if out, err := c.Host(1).Sh(Context(t), "echo out; echo err >&2; exit 3"); err == nil || out != "out\n" ||
		!strings.Contains(err.Error(), "exit status 3: err") {
		t.Errorf("a failing command gives %q, %v", out, err)
	}
	want(t, "what the hosts are", c.Host(1).Must(t, "sh", "-c", ". /etc/os-release && echo $IMAGE_ID; touch /usr/x 2>&1 || :; command -v apt dpkg perl || :"),
		"fleet\ntouch: cannot touch '/usr/x': Read-only file system")
	want(t, "state of the system", c.Host(1).Must(t, "systemctl", "is-system-running", "--wait"), "running")
}

func TestFilesStayOverPowerLossShutdownAndReboot(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{Hosts: 1})
	h, ctx := c.Host(1), Context(t)
	must(t, h.WriteFile(ctx, "/var/lib/x/kept", "one\n"))
	must(t, h.WriteFile(ctx, "/run/gone", "one\n"))
	h.Must(t, "sync")
	boot := h.Must(t, "cat", "/proc/sys/kernel/random/boot_id")
	for _, again := range []struct {
		name string
		do   func() error
	}{
		{"power loss", func() error { return errors.Join(h.PowerOff(ctx), h.PowerOff(ctx), h.Boot(ctx)) }},
		{"shutdown", func() error { return errors.Join(h.Shutdown(ctx), h.Boot(ctx), h.Boot(ctx)) }},
		{"reboot", func() error { return h.Reboot(ctx) }},
	} {
		must(t, again.do())
		now := h.Must(t, "cat", "/proc/sys/kernel/random/boot_id")
		if now == boot {
			t.Errorf("%s: still the same boot", again.name)
		}
		boot = now
		want(t, again.name, h.Must(t, "cat", "/var/lib/x/kept"), "one")
		if _, err := h.ReadFile(ctx, "/run/gone"); err == nil {
			t.Errorf("%s: /run was kept", again.name)
		}
	}
}

func TestAHostThatIsOffCanBeReadAndWritten(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{Hosts: 1})
	h, ctx := c.Host(1), Context(t)
	h.Must(t, "systemd-run", "--wait", "--unit=witness.service", "echo", "I was there")
	h.Must(t, "journalctl", "--sync")
	must(t, h.PowerOff(ctx))
	if _, err := h.Run(ctx, "true"); !errors.Is(err, ErrOff) {
		t.Errorf("a command on a host that is off: %v", err)
	}
	journal, err := h.Journal(ctx, "witness.service")
	must(t, err)
	if !strings.Contains(journal, "I was there") {
		t.Errorf("the journal of a host that is off: %s", journal)
	}
	must(t, h.WriteFile(ctx, "/usr/local/bin/later", "#!/bin/sh\necho later\n"))
	text, err := h.ReadFile(ctx, "/usr/local/bin/later")
	must(t, err)
	want(t, "read when off", text, "#!/bin/sh\necho later\n")
	must(t, h.Boot(ctx))
	want(t, "written when off", h.Must(t, "later"), "later")
}

func TestCutsHealAndGoOneWay(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{Hosts: 3})
	ctx := Context(t)
	a, b, third := c.Host(1), c.Host(2), c.Host(3)
	reach(t, a, b, true)
	must(t, a.Cut(ctx, b))
	must(t, a.Cut(ctx, b)) // twice is no harm
	reach(t, a, b, false)
	reach(t, b, a, false)
	reach(t, a, third, true)
	must(t, a.Heal(ctx, b))
	must(t, a.Heal(ctx, b))
	reach(t, a, b, true)

	must(t, a.Cut(ctx))
	reach(t, third, a, false)
	reach(t, third, b, true)
	must(t, a.Heal(ctx))
	reach(t, third, a, true)

	// One way: b hears a's datagrams, a hears none of b's.
	must(t, b.CutTo(ctx, a))
	want(t, "datagrams from a to b", datagram(t, a, b), "arrived")
	want(t, "datagrams from b to a", datagram(t, b, a), "lost")
	must(t, b.Heal(ctx))
	want(t, "datagrams from b to a after healing", datagram(t, b, a), "arrived")

	must(t, a.Unplug(ctx))
	reach(t, b, a, false)
	must(t, a.Plug(ctx))
	must(t, WaitFor(ctx, "the plugged cable", func(ctx context.Context) error {
		_, err := b.Run(ctx, "ping", "-c1", "-W1", a.IP)
		return err
	}))
}

func TestFrozenHostsAndProcessesStandStill(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{Hosts: 1})
	h, ctx := c.Host(1), Context(t)
	must(t, h.WriteFile(ctx, "/etc/systemd/system/web.service",
		"[Service]\nExecStart=busybox httpd -f -p 80 -h /etc\n"))
	h.Must(t, "systemctl", "start", "web.service")
	get := func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://h1/hostname", nil)
		if err != nil {
			return err
		}
		resp, err := c.HTTP().Do(req)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	must(t, WaitFor(ctx, "the web server", get))
	pid, err := h.MainPID(ctx, "web.service")
	must(t, err)
	if pid == 0 || !strings.Contains(readFile(t, "/proc", itoa(pid), "cmdline"), "httpd") {
		t.Errorf("the main process is %d", pid)
	}
	silent := func(what string) {
		t.Helper()
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		if err := get(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: answer is %v", what, err)
		}
	}
	must(t, h.Signal(ctx, "web.service", "STOP"))
	silent("stopped process")
	must(t, h.Signal(ctx, "web.service", "CONT"))
	must(t, get(ctx))
	must(t, h.Freeze(ctx))
	silent("frozen host")
	must(t, h.Thaw(ctx))
	must(t, get(ctx))
	conn, err := h.DialUnix(ctx, "/run/dbus/system_bus_socket")
	must(t, err)
	conn.Close()
	must(t, h.PowerOff(ctx))
	if pids := h.PIDs(""); len(pids) > 0 {
		t.Errorf("a host without power has processes %v", pids)
	}
}

func TestDialKnowsOnlyTheClustersHosts(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{})
	if _, err := c.Dial(Context(t), "tcp", "example.org:80"); err == nil || !strings.Contains(err.Error(), "no host of the cluster") {
		t.Errorf("a name from outside: %v", err)
	}
	if addrs, err := net.InterfaceAddrs(); err != nil || strings.Contains(join(addrs), gateway) {
		t.Errorf("the test itself is in the cluster's network: %v %v", addrs, err)
	}
}

func reach(t *testing.T, from, to *Host, want bool) {
	t.Helper()
	_, err := from.Run(Context(t), "ping", "-c1", "-W1", to.IP)
	if (err == nil) != want {
		t.Errorf("%s reaches %s: %v, want %v", from.Name, to.Name, err == nil, want)
	}
}

// datagram reports whether one sent from one host arrives on the other; neighbours' addresses are given, since asking takes both ways.
func datagram(t *testing.T, from, to *Host) string {
	t.Helper()
	from.Must(t, "ip", "neigh", "replace", to.IP, "lladdr", to.MAC, "dev", "host0", "nud", "permanent")
	before := echoes(t, to)
	_, _ = from.Run(Context(t), "ping", "-c3", "-i0.05", "-W1", to.IP)
	switch got := echoes(t, to) - before; got {
	case 3:
		return "arrived"
	case 0:
		return "lost"
	default:
		return itoa(got) + " of 3 arrived"
	}
}

// echoes counts the echo requests that a host's kernel has received.
func echoes(t *testing.T, h *Host) int {
	t.Helper()
	return atoi(t, h.Must(t, "awk", `/^Icmp:/ { if (!seen++) split($0, name); else for (i in name) if (name[i] == "InEchos") print $i }`, "/proc/net/snmp"))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %q, want %q", what, got, want)
	}
}

func readFile(t *testing.T, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	must(t, err)
	return string(text)
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("FLEET_TEST_ABANDON"); dir != "" {
		abandon(dir)
	}
	os.Exit(m.Run())
}

// abandon is what the test below runs in a process of its own: it makes a cluster, tells, and dies without a word.
func abandon(told string) {
	c, err := Start(context.Background(), Options{Hosts: 1, Tree: os.Getenv("FLEET_HOST_TREE")})
	if err != nil {
		panic(err)
	}
	text := c.state.ID + " " + itoa(c.state.Holder.PID)
	if err := os.WriteFile(told, []byte(text), 0o644); err != nil {
		panic(err)
	}
	_ = processOf(os.Getpid())
	processOf(os.Getpid()).kill()
	select {}
}

func TestNothingIsLeftOfAClusterWhoseOwnerWasKilled(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{}) // skips where hosts cannot be booted, and makes the tree
	ctx, told := Context(t), filepath.Join(t.TempDir(), "told")
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "FLEET_TEST_ABANDON="+told, "FLEET_HOST_TREE="+Tree(t))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the other process was to be killed, but: %v: %s", err, out)
	}
	id, holder, _ := strings.Cut(readFile(t, told), " ")
	must(t, WaitFor(ctx, "the keeper to clear away", func(context.Context) error {
		if _, err := os.Stat("/proc/" + holder + "/ns"); err == nil {
			return errors.New("the holder is there")
		}
		return leftovers(c.cgroups, id)
	}))
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{Hosts: 2})
	c.Host(2).Must(t, "systemd-run", "--unit=stubborn.service", "sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done")
	pids := append(c.Host(1).PIDs(""), c.Host(2).PIDs("")...)
	must(t, c.Close())
	must(t, leftovers(c.cgroups, c.state.ID))
	for _, pid := range pids {
		if p := processOf(pid); p.alive() && strings.Contains(readFile(t, "/proc", itoa(pid), "cgroup"), c.state.ID) {
			t.Errorf("process %d lives on", pid)
		}
	}
	must(t, c.Close())
}

func TestAClusterThatOutlivesItsMakerIsFoundAgain(t *testing.T) {
	t.Parallel()
	ctx := Context(t)
	ForTest(t, Options{})
	made, err := Start(ctx, Options{ID: "outlive" + itoa(os.Getpid()), Outlive: true, Hosts: 1, Tree: Tree(t)})
	must(t, err)
	defer made.Close()
	if _, err := Start(ctx, Options{ID: made.state.ID, Outlive: true, Tree: Tree(t)}); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second cluster of the same ID: %v", err)
	}
	found, err := Open(made.state.ID)
	must(t, err)
	want(t, "host name", found.Host(1).Must(t, "hostname"), "h1")
	must(t, found.Host(1).PowerOff(ctx))
	must(t, found.Host(1).Boot(ctx))
	must(t, found.Close())
	must(t, leftovers(found.cgroups, found.state.ID))
	if _, err := Open(made.state.ID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close it is still found: %v", err)
	}
}
