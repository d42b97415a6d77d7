package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/netd/nettest"
)

// pair is two pods and how to reach one from the other.
type pair struct {
	name string
	from *nettest.Host
	to   string
}

// sink takes bytes on port 9 until the test ends.
func sink(t testing.TB, h *nettest.Host) {
	var l net.Listener
	h.Must(func() (err error) { l, err = net.Listen("tcp", ":9"); return err })
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(io.Discard, c)
			}()
		}
	}()
}

// stream sends for a while over one TCP connection and gives Gbit/s.
func (p pair) stream(t testing.TB, d time.Duration) float64 {
	var c net.Conn
	var err error
	p.from.Do(func() { c, err = net.Dial("tcp", net.JoinHostPort(p.to, "9")) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	begun, sent := time.Now(), 0
	for time.Since(begun) < d {
		n, err := c.Write(buf)
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	return float64(sent) * 8 / time.Since(begun).Seconds() / 1e9
}

// roundTrip is the median of a byte's way there and back over TCP, in microseconds.
func (p pair) roundTrip(t testing.TB) float64 {
	c, err := p.from.Dial(p.to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var all []time.Duration
	b := []byte{0}
	for range 2000 {
		begun := time.Now()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		all = append(all, time.Since(begun))
	}
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds()) / 1000
}

// byHand joins two hosts the way an administrator does with ip, and gives the pair of pods.
func (c *cluster) byHand(backend string, n, m int) pair {
	c.t.Helper()
	hosts := []*host{c.cable(n), c.cable(m)}
	mac := func(n int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 9, byte(n)} }
	mtu := 1500
	if backend == "wireguard" {
		mtu = 1420
		c.wireguardByHand(hosts)
	}
	for i, h := range hosts {
		peer := hosts[1-i]
		h.Must(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
		sub := fmt.Sprintf("10.6.%d.0", peer.n)
		if backend == "wireguard" {
			continue
		}
		if backend == "host-gw" {
			h.Route(sub+"/24", fmt.Sprintf("192.168.77.%d", peer.n))
			continue
		}
		mtu = 1450
		h.Must(func() error {
			under, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.HardwareAddr, attrs.MTU = "vx0", mac(h.n), mtu
			return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: under.Attrs().Index, SrcAddr: net.IPv4(192, 168, 77, byte(h.n)), Port: 8472})
		})
		h.Up("vx0", fmt.Sprintf("10.6.%d.0/32", h.n))
		h.Must(func() error {
			dev, err := netlink.LinkByName("vx0")
			if err != nil {
				return err
			}
			idx, base := dev.Attrs().Index, net.ParseIP(sub)
			return errors.Join(
				netlink.NeighSet(&netlink.Neigh{LinkIndex: idx, State: netlink.NUD_PERMANENT, IP: base, HardwareAddr: mac(peer.n)}),
				netlink.NeighSet(&netlink.Neigh{LinkIndex: idx, State: netlink.NUD_PERMANENT, Family: 7, Flags: netlink.NTF_SELF, IP: net.IPv4(192, 168, 77, byte(peer.n)), HardwareAddr: mac(peer.n)}),
				netlink.RouteAdd(&netlink.Route{LinkIndex: idx, Dst: &net.IPNet{IP: base, Mask: net.CIDRMask(24, 32)}, Gw: base, Flags: int(netlink.FLAG_ONLINK)}))
		})
	}
	var pods []*nettest.Host
	for _, h := range hosts {
		p := h.Pod(fmt.Sprint("hand", h.n), "pod0", fmt.Sprintf("10.6.%d.2/24", h.n), fmt.Sprintf("10.6.%d.1/24", h.n), mtu)
		p.Echo()
		sink(c.t, p)
		pods = append(pods, p)
	}
	return pair{"by hand", pods[0], fmt.Sprintf("10.6.%d.2", m)}
}

// masquerade is the least that an administrator writes for workloads that reach the world outside.
func (p pair) masquerade(hosts []*host) {
	for _, h := range hosts {
		h.NFT("table ip hand { chain post { type nat hook postrouting priority srcnat; ip saddr 10.6.0.0/16 ip daddr != 10.6.0.0/16 masquerade; }; }")
	}
}

// BenchmarkPath compares the path that netd makes with the same made by hand, in turns, so that both see the same machine.
func BenchmarkPath(b *testing.B) {
	for _, name := range []string{"vxlan", "host-gw", "wireguard", "vxlan masquerading", "host-gw masquerading"} {
		b.Run(name, func(b *testing.B) {
			backend, masq := strings.CutSuffix(name, " masquerading")
			var flags []string
			if masq {
				flags = []string{"--ip-masq"}
			}
			c := newCluster(b, `{"Network":"10.5.0.0/16","Backend":{"Type":"`+backend+`"}}`)
			hosts := []*host{c.host(1, flags...), c.host(2, flags...)}
			for _, h := range hosts {
				h.addPod()
				sink(b, h.pod)
			}
			c.talk()
			pairs := []pair{{"netd", hosts[0].pod, hosts[1].addr()}, c.byHand(backend, 3, 4)}
			if masq { // as the path by hand then does
				pairs[1].masquerade(c.hosts[len(c.hosts)-2:])
			}
			for b.Loop() {
				// Rounds compare what ran next to each other; the median of their ratios is nearly free of what else the machine did.
				var rate, rtt, rateRatio, rttRatio []float64
				for round := range 16 {
					var r, t [2]float64
					for j := range pairs {
						i := (j + round) % 2 // neither always goes first
						r[i] = pairs[i].stream(b, 250*time.Millisecond)
						t[i] = pairs[i].roundTrip(b)
					}
					rate, rtt = append(rate, r[0]), append(rtt, t[0])
					rateRatio, rttRatio = append(rateRatio, r[0]/r[1]), append(rttRatio, t[1]/t[0])
				}
				med := func(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }
				b.ReportMetric(med(rate), "Gbit/s")
				b.ReportMetric(med(rateRatio), "of-by-hand")
				b.ReportMetric(med(rtt), "µs-rtt")
				b.ReportMetric(med(rttRatio), "rtt-of-by-hand")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkCluster puts thousands of leases into the store and takes the time until the kernel has them.
func BenchmarkCluster(b *testing.B) {
	c := newCluster(b, `{"Network":"10.0.0.0/8","SubnetMin":"10.200.0.0","Backend":{"Type":"vxlan"}}`) // the made-up ones have 10.100 and on
	h := c.host(1)
	lease := func(i, mac int) kv.Op {
		return kv.Op{Key: fmt.Sprintf("/coreos.com/network/subnets/10.%d.%d.0-24", 100+i>>8, i&255),
			Value: fmt.Appendf(nil, `{"PublicIP":"172.16.%d.%d","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:%02x:%02x:%02x"}}`, i>>8, i&255, mac, i>>8, i&255)}
	}
	write := func(ops []kv.Op) {
		for part := range slices.Chunk(ops, kv.MaxOps) {
			if _, _, err := c.etcd.Store.Txn(context.Background(), nil, part); err != nil {
				b.Fatal(err)
			}
		}
	}
	var k *netlink.Handle
	h.Must(func() (err error) { k, err = netlink.NewHandle(); return err })
	// wait looks until the neighbours are n and the last one has this address.
	wait := func(n int, last netip.Addr, mac string) time.Duration {
		begun := time.Now()
		for {
			dev, err := k.LinkByName("flannel.1")
			if err != nil {
				b.Fatal(err)
			}
			list, err := k.NeighList(dev.Attrs().Index, netlink.FAMILY_V4)
			if err != nil {
				b.Fatal(err)
			}
			good := 0
			for _, e := range list {
				if e.State&netlink.NUD_PERMANENT != 0 {
					good++
				}
				if a, _ := netip.AddrFromSlice(e.IP); a.Unmap() == last && e.HardwareAddr.String() == mac {
					good += 1 << 20
				}
			}
			if good == n+1<<20 {
				return time.Since(begun)
			}
			if time.Since(begun) > time.Minute {
				b.Fatalf("%d neighbours, want %d", good, n)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	// oneMore puts a lease and waits for the kernel's word that the last part of its path, the route, is there. Reading a table
	// of thousands to see it would be what is measured.
	oneMore := func(i int) float64 {
		news, done := make(chan netlink.RouteUpdate, 64), make(chan struct{})
		h.Must(func() error { return netlink.RouteSubscribe(news, done) })
		defer close(done)
		begun := time.Now()
		write([]kv.Op{lease(i, 1)})
		want := fmt.Sprintf("10.%d.%d.0/24", 100+i>>8, i&255)
		for u := range news {
			if u.Dst != nil && u.Dst.String() == want {
				break
			}
		}
		return time.Since(begun).Seconds() * 1000
	}
	// median of a few, each beside those before.
	median := func(from int) float64 {
		var v []float64
		for i := range 9 {
			v = append(v, oneMore(from+i))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	// newHost starts netd on a host that has never had one, and takes the time until a connection through the overlay to the first host
	// stands: both have the way to the other.
	h.Echo()
	to := netip.MustParsePrefix(h.env("FLANNEL_SUBNET")).Masked().Addr().String() // on the first host's device
	newHost := func(n int) float64 {
		next := c.cable(n)
		begun := time.Now()
		ready := next.launch()
		for time.Since(begun) < time.Minute {
			var conn net.Conn
			var err error
			next.Do(func() { conn, err = net.DialTimeout("tcp", net.JoinHostPort(to, "7"), 20*time.Millisecond) })
			if err == nil {
				took := time.Since(begun).Seconds() * 1000
				err := errors.Join(<-ready, conn.Close())
				next.stop(syscall.SIGTERM)
				if _, gone := next.netd("cleanup", "--release"); err != nil || gone != nil {
					b.Fatal(err, gone)
				}
				return took
			}
		}
		b.Fatalf("no way to %s:\n%s", to, next.log())
		return 0
	}
	mac := func(i, m int) string { return fmt.Sprintf("02:00:00:%02x:%02x:%02x", m, i>>8, i&255) }
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(100 + i>>8), byte(i & 255), 0}) }
	for b.Loop() {
		var ops []kv.Op
		for i := range 10 {
			ops = append(ops, lease(i, 1))
		}
		write(ops)
		wait(10, at(9), mac(9, 1))
		b.ReportMetric(median(10), "ms-one-more-of-10")
		b.ReportMetric(newHost(2), "ms-new-host-beside-20")
		ops = nil
		for i := 19; i < 5000; i++ {
			ops = append(ops, lease(i, 1))
		}
		begun := time.Now()
		write(ops)
		b.ReportMetric(time.Since(begun).Seconds()*1000, "ms-write-5000")
		wait(5000, at(4999), mac(4999, 1))
		b.ReportMetric(time.Since(begun).Seconds()*1000, "ms-5000-appear")
		ops = nil
		for i := 4500; i < 5000; i++ {
			ops = append(ops, lease(i, 2))
		}
		begun = time.Now()
		write(ops)
		wait(5000, at(4999), mac(4999, 2))
		b.ReportMetric(time.Since(begun).Seconds()*1000, "ms-500-change")
		b.ReportMetric(median(5000), "ms-one-more-of-5000")
		b.ReportMetric(newHost(3), "ms-new-host-beside-5000")
		s := h.status()
		b.ReportMetric(float64(s.Turn.Microseconds())/1000, "ms-full-turn-of-5000")
		b.ReportMetric(float64(rss(h.cmd.Process.Pid))/1024, "MB-memory")
		b.ReportMetric(0, "ns/op")
		ops = nil
		for i := range 5009 {
			ops = append(ops, kv.Op{Key: lease(i, 1).Key, Delete: true})
		}
		write(ops)
	}
}

// rss is a process's resident memory in KB.
func rss(pid int) (kb int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			return kb
		}
	}
	return 0
}
