package main

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
	"github.com/fleet-init/fleet/netd/nettest"
)

// The test program is netd itself when asked to: hosts of a test run it as a process of their own.
func TestMain(m *testing.M) {
	if os.Getenv("NETD_TEST") == "netd" {
		main()
		return
	}
	if os.Getpid() == 1 {
		guest()
		return
	}
	os.Exit(m.Run())
}

// cluster is some hosts on one switch with an etcd that all reach.
type cluster struct {
	t     testing.TB
	etcd  *etcdtest.Server
	sw    *nettest.Host
	hosts []*host
}

// host is a network namespace with a netd in it and a pod behind it.
type host struct {
	*nettest.Host
	c      *cluster
	n      int
	dir    string
	flags  []string
	choose bool // the flags say which interface, or leave it to netd; else it is eth0
	cmd    *exec.Cmd
	ended  chan error
	pod    *nettest.Host
	mtu    int // of the pod: what netd said when it was made
}

func newCluster(t testing.TB, config string) *cluster {
	c := &cluster{t: t, etcd: etcdtest.Start(t), sw: nettest.New(t, "switch")}
	c.sw.Bridge("br0")
	c.put("config", config)
	return c
}

// connected is two hosts with a pod each and a TCP connection between those, over which exchange sends both ways; it fails the test when that is cut.
func connected(t *testing.T, config string) (c *cluster, a, b *host, exchange func(when string)) {
	t.Helper()
	c = newCluster(t, config)
	a, b = c.host(1), c.host(2)
	a.addPod()
	b.addPod()
	c.talk()
	conn, err := a.pod.Dial(b.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return c, a, b, func(when string) {
		t.Helper()
		if err := nettest.Exchange(conn, 100000); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

func (c *cluster) put(key, value string) {
	c.t.Helper()
	op := kv.Op{Key: "/coreos.com/network/" + key, Value: []byte(value), Delete: value == ""}
	if _, _, err := c.etcd.Store.Txn(context.Background(), nil, []kv.Op{op}); err != nil {
		c.t.Fatal(err)
	}
}

// cable puts a host on the switch: 192.168.77.N and fd77::N.
func (c *cluster) cable(n int) *host {
	c.t.Helper()
	dir, err := os.MkdirTemp("", "netd") // sockets' paths are short
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{Host: nettest.New(c.t, fmt.Sprint("host", n)), c: c, n: n, dir: dir}
	port := fmt.Sprint("port", n)
	nettest.Cable(h.Host, "eth0", c.sw, port, 1500, []string{fmt.Sprintf("192.168.77.%d/24", n), fmt.Sprintf("fd77::%d/64", n)}, nil)
	c.sw.Enslave("br0", port)
	c.hosts = append(c.hosts, h)
	if err := os.WriteFile(h.path("machine-id"), fmt.Appendf(nil, "%032d\n", n), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return h
}

// host cables one and starts its netd.
func (c *cluster) host(n int, flags ...string) *host {
	c.t.Helper()
	h := c.cable(n)
	h.flags = flags
	h.start()
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) command(args ...string) *exec.Cmd {
	all := append([]string{"--etcd-endpoints", h.c.etcd.Client.Endpoints()[0], "--subnet-file", h.path("subnet.env"), "--state-dir", h.path("state"),
		"--run-dir", h.path("run"), "--machine-id-file", h.path("machine-id"), "--iptables-resync", "1", "--cni-state", h.path("cni"), "--unit-dirs", h.path("units")}, h.flags...)
	if !h.choose {
		all = append(all, "--iface", "eth0")
	}
	cmd := exec.Command(os.Args[0], append(all, args...)...)
	cmd.Env = append(os.Environ(), "NETD_TEST=netd")
	return cmd
}

// launch starts netd and gives a channel that tells when it is ready or has ended.
func (h *host) launch() <-chan error {
	h.c.t.Helper()
	os.Remove(h.path("notify"))
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
	if err != nil {
		h.c.t.Fatal(err)
	}
	h.cmd = h.command()
	h.cmd.Env = append(h.cmd.Env, "NOTIFY_SOCKET="+h.path("notify"))
	// A file and no pipe: a user-space WireGuard process that outlives netd would keep Wait waiting.
	log, err := os.OpenFile(h.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.c.t.Fatal(err)
	}
	defer log.Close()
	h.cmd.Stderr = log
	h.Must(h.cmd.Start)
	h.ended = make(chan error, 1)
	ready := make(chan error, 2)
	cmd, ended := h.cmd, h.ended
	go func() {
		err := cmd.Wait()
		ended <- err
		ready <- fmt.Errorf("netd on %s ended: %w", h.Name, err)
		notify.Close()
	}()
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := notify.Read(buf)
			if err != nil {
				return
			}
			if strings.Contains(string(buf[:n]), "READY=1") {
				ready <- nil
			}
		}
	}()
	return ready
}

func (h *host) start() {
	h.c.t.Helper()
	if err := <-h.launch(); err != nil {
		h.c.t.Fatalf("%v\n%s", err, h.log())
	}
	cmd, ended := h.cmd, h.ended
	h.c.t.Cleanup(func() {
		h.end(cmd, ended, syscall.SIGTERM)
		// Without its device a user-space WireGuard process ends too.
		if _, err := h.netd("cleanup"); err != nil {
			h.c.t.Error(err)
		}
	})
}

// end ends a process once.
func (h *host) end(cmd *exec.Cmd, ended chan error, sig syscall.Signal) {
	if h.c.t.Failed() {
		h.c.t.Logf("%s:\n%s", h.Name, h.log())
	}
	_ = cmd.Process.Signal(sig) // it may have ended
	err := <-ended
	ended <- err
	if strings.Contains(h.log(), "DATA RACE") {
		h.c.t.Errorf("%s:\n%s", h.Name, h.log())
	}
}

func (h *host) stop(sig syscall.Signal) { h.end(h.cmd, h.ended, sig) }

// log is what netd wrote so far.
func (h *host) log() string {
	b, _ := os.ReadFile(h.path("log")) // not there: nothing was written
	return string(b)
}

// env reads the subnet file.
func (h *host) env(key string) string {
	h.c.t.Helper()
	b, err := os.ReadFile(h.path("subnet.env"))
	if err != nil {
		h.c.t.Fatal(err)
	}
	for _, l := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(l, key+"="); ok {
			return v
		}
	}
	return ""
}

// addPod puts a workload behind the host, at the second address of its subnet, that echoes.
func (h *host) addPod() {
	h.c.t.Helper()
	mtu := 0
	if _, err := fmt.Sscan(h.env("FLANNEL_MTU"), &mtu); err != nil {
		h.c.t.Fatal(err)
	}
	h.addPodOf(mtu)
}

// addPodOf is addPod with an MTU of its own idea.
func (h *host) addPodOf(mtu int) {
	h.c.t.Helper()
	h.mtu = mtu
	gw := netip.MustParsePrefix(h.env("FLANNEL_SUBNET"))
	h.pod = h.Pod(fmt.Sprint("pod", h.n), "pod0", netip.PrefixFrom(gw.Addr().Next(), gw.Bits()).String(), gw.String(), h.mtu)
	if v6 := h.env("FLANNEL_IPV6_SUBNET"); v6 != "" {
		gw := netip.MustParsePrefix(v6)
		h.Up("pod0", gw.String())
		h.pod.Up("eth0", netip.PrefixFrom(gw.Addr().Next(), gw.Bits()).String())
		h.pod.Route("::/0", gw.Addr().String())
	}
	h.pod.Echo()
}

// addr is the pod's address.
func (h *host) addr() string {
	return netip.MustParsePrefix(h.env("FLANNEL_SUBNET")).Addr().Next().String()
}

func (h *host) addr6() string {
	return netip.MustParsePrefix(h.env("FLANNEL_IPV6_SUBNET")).Addr().Next().String()
}

// soon tries until it works; minutes are for machines that do much else, or are emulated.
func (c *cluster) soon(what string, f func() error) {
	c.t.Helper()
	end := time.Now().Add(2 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// talk has the pods of all hosts reach each other: a megabyte by TCP, and packets of just the MTU by UDP.
func (c *cluster) talk() {
	c.t.Helper()
	for _, a := range c.hosts {
		for _, b := range c.hosts {
			if a == b || a.pod == nil || b.pod == nil {
				continue
			}
			to := []string{b.addr()}
			if a.env("FLANNEL_IPV6_SUBNET") != "" && b.env("FLANNEL_IPV6_SUBNET") != "" {
				to = append(to, b.addr6())
			}
			for _, to := range to {
				c.soon(fmt.Sprintf("%s to %s", a.pod.Name, to), func() error { return a.pod.Call(to, 1<<20) })
				if err := a.pod.Packet(to, min(a.mtu, b.mtu)); err != nil {
					c.t.Errorf("%s: %v", a.pod.Name, err)
				}
			}
		}
	}
}

// netd runs a netd command on the host and gives what it prints.
func (h *host) netd(args ...string) (string, error) {
	cmd := h.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var err error
	h.Do(func() { err = cmd.Run() })
	if err != nil {
		return out.String(), fmt.Errorf("netd %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (h *host) status(args ...string) Status {
	h.c.t.Helper()
	out, err := h.netd(append([]string{"status", "--json"}, args...)...)
	if err != nil {
		h.c.t.Fatal(err)
	}
	var s Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		h.c.t.Fatal(err)
	}
	return s
}
