package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// patience is how long a round of a probe waits for its last answer.
const patience = time.Second

// probe measures the way to every peer, through the overlay, and writes it into the status: nothing is sent unless somebody asks. The
// first round may find no neighbour entry or no handshake yet and is measured with that; the second is what packets meet then.
func probe(ctx context.Context, s *Status) {
	var fams sync.WaitGroup
	best := make([]map[netip.Addr]time.Duration, 2)
	for i, f := range []pinger{
		{network: "ip4:icmp", request: ipv4.ICMPTypeEcho, reply: ipv4.ICMPTypeEchoReply, proto: 1},
		{network: "ip6:ipv6-icmp", request: ipv6.ICMPTypeEchoRequest, reply: ipv6.ICMPTypeEchoReply, proto: 58},
	} {
		var to []netip.Addr
		for _, p := range s.Peers {
			for _, a := range p.targets {
				if a.Is6() == (i == 1) {
					to = append(to, a)
				}
			}
		}
		fams.Go(func() { best[i] = f.ping(ctx, to) })
	}
	fams.Wait()
	for i := range s.Peers {
		p := &s.Peers[i]
		p.RTT, p.Silent = 0, len(p.targets) == 0
		for _, a := range p.targets {
			rtt, heard := best[0][a]
			if a.Is6() {
				rtt, heard = best[1][a]
			}
			p.Silent = p.Silent || !heard
			p.RTT = max(p.RTT, rtt)
		}
		if p.Silent {
			p.RTT = 0
		}
	}
}

// pinger sends echo requests of one family.
type pinger struct {
	network        string
	request, reply icmp.Type
	proto          int
	cookie         [8]byte // tells our answers from those of others who ping
}

// ping gives the shorter round trip of two for each address that answered.
func (f pinger) ping(ctx context.Context, to []netip.Addr) map[netip.Addr]time.Duration {
	best := map[netip.Addr]time.Duration{}
	if len(to) == 0 {
		return best
	}
	c, err := net.ListenPacket(f.network, "")
	if err != nil {
		return best // without CAP_NET_RAW nobody answers; they show as silent
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	rand.Read(f.cookie[:])
	// Thousands answer within a millisecond; the kernel may grant less.
	_ = c.(*net.IPConn).SetReadBuffer(4 << 20)
	for seq := range 2 {
		f.round(c, to, seq, best)
	}
	return best
}

// round pings each address once and takes the answers, until all are there or patience ends.
func (f pinger) round(c net.PacketConn, to []netip.Addr, seq int, best map[netip.Addr]time.Duration) {
	if c.SetReadDeadline(time.Now().Add(patience)) != nil {
		return
	}
	begun := time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for _, a := range to {
			data := binary.BigEndian.AppendUint64(f.cookie[:], uint64(time.Since(begun)))
			msg := icmp.Message{Type: f.request, Body: &icmp.Echo{ID: int(f.cookie[0]), Seq: seq, Data: data}}
			if b, err := msg.Marshal(nil); err == nil {
				_, _ = c.WriteTo(b, &net.IPAddr{IP: a.AsSlice()}) // no answer says the same
			}
		}
	}()
	defer func() { <-sent }()
	waits := make(map[netip.Addr]bool, len(to))
	for _, a := range to {
		waits[a] = true
	}
	for buf := make([]byte, 1500); len(waits) > 0; {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		now := time.Since(begun)
		a, at, ok := f.read(buf[:n], from, seq)
		if !ok || !waits[a] {
			continue
		}
		delete(waits, a)
		if rtt := max(now-at, 1); best[a] == 0 || rtt < best[a] {
			best[a] = rtt
		}
	}
}

// read takes an answer to one of ours apart: from whom, and when into the round the request was sent.
func (f pinger) read(b []byte, from net.Addr, seq int) (netip.Addr, time.Duration, bool) {
	m, err := icmp.ParseMessage(f.proto, b)
	if err != nil || m.Type != f.reply {
		return netip.Addr{}, 0, false
	}
	echo, ok := m.Body.(*icmp.Echo)
	ip, ok2 := from.(*net.IPAddr)
	if !ok || !ok2 || echo.Seq != seq || len(echo.Data) != 16 || !bytes.Equal(echo.Data[:8], f.cookie[:]) {
		return netip.Addr{}, 0, false
	}
	a, _ := netip.AddrFromSlice(ip.IP)
	return a.Unmap(), time.Duration(binary.BigEndian.Uint64(echo.Data[8:])), true
}
