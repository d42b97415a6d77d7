package etcdtest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy passes connections on to the member's socket, so that they can be cut: a member that stops waits up to ten seconds for
// its clients' streams to end, and a test wants to see what a client does when its connection breaks.
type proxy struct {
	listener net.Listener
	to       string

	mu    sync.Mutex // guards conns and down
	conns map[net.Conn]struct{}
	down  bool // refuses connections
	wg    sync.WaitGroup
}

func newProxy(t testing.TB, at, to string) *proxy {
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, to: to, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("unix", p.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		if !p.keep(in, out) {
			continue
		}
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			p.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				_ = pair[0].Close()
				_ = pair[1].Close()
			})
		}
	}
}

// keep remembers connections for cut; if the line is down it closes them at once.
func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.down {
			_ = c.Close()
			continue
		}
		p.conns[c] = struct{}{}
	}
	return !p.down
}

// cut breaks all connections, and while down refuses new ones.
func (p *proxy) cut(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}
