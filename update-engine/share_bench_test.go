package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// BenchmarkFiftyHosts has fifty hosts take one release at once, each into its own slot, from an origin behind a line of 100 Mbit/s: by
// themselves, and from each other over TLS. All of them share this machine's processors.
func BenchmarkFiftyHosts(b *testing.B) {
	for _, peers := range []bool{false, true} {
		b.Run(fmt.Sprintf("peers=%v", peers), func(b *testing.B) {
			c := newThrong(b, 50, 8*payload.FrameSize)
			for b.Loop() {
				c.take(b, peers)
			}
			b.ReportMetric(float64(c.sent.Load())/float64(b.N)/float64(len(c.file)), "releases-from-origin")
		})
	}
}

// throng is hosts with certificates, and the release that they take.
type throng struct {
	others
	dir   string
	pki   []string
	file  []byte
	image payload.Image
	web   *httptest.Server
	sent  atomic.Int64
}

func newThrong(b *testing.B, hosts, size int) *throng {
	c := &throng{dir: b.TempDir()}
	image := make([]byte, size)
	r := rand.New(rand.NewPCG(5, 6))
	for i := range image {
		image[i] = byte(r.Uint32())
	}
	var out bytes.Buffer
	built, err := payload.Build(b.Context(), &out, bytes.NewReader(image), int64(size), nil, 0)
	must(b, err)
	c.file, built.File.Name = out.Bytes(), "usr.zst"
	c.image = payload.Image{Name: usr, Size: int64(size), SHA256: built.SHA256, Files: []payload.File{built.File}}
	line := rate.NewLimiter(100e6/8, 64<<10)
	c.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(&slow{w, req.Context(), line, &c.sent}, req, "usr.zst", time.Time{}, bytes.NewReader(c.file))
	}))
	b.Cleanup(c.web.Close)
	ca, err := pki.NewCA(time.Now())
	must(b, err)
	for i := range hosts {
		_, dir := credential(b, ca, pki.Identity{Role: pki.Host, Name: machineNumber(i)})
		c.pki = append(c.pki, dir)
	}
	return c
}

func machineNumber(i int) string { return fmt.Sprintf("%032x", i+1) }

// slow sends no faster than the line, and counts.
type slow struct {
	http.ResponseWriter
	ctx  context.Context
	line *rate.Limiter
	sent *atomic.Int64
}

func (s *slow) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		part := p[n:min(len(p), n+s.line.Burst())]
		if err = s.line.WaitN(s.ctx, len(part)); err == nil {
			var m int
			m, err = s.ResponseWriter.Write(part)
			n += m
			s.sent.Add(int64(m))
		}
	}
	return n, err
}

// take has all hosts take the release, with nothing kept from before.
func (c *throng) take(b *testing.B, peers bool) {
	ctx, cancel := context.WithCancel(b.Context())
	var serving, taking sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	c.reports = nil
	var hosts []*host
	for i := range c.pki {
		dir, err := os.MkdirTemp(c.dir, "host")
		must(b, err)
		cfg := Config{StateDir: dir, PKIDir: c.pki[i], PeerCache: 1 << 30, Mirrors: []string{c.web.URL}, Product: "fleet", Arch: "amd64", Channel: "stable"}
		h := &host{cfg: cfg, log: slog.New(slog.DiscardHandler), now: time.Now, client: &http.Client{}}
		must(b, slot.Dir{Root: dir}.Init(c.image.Size))
		if peers {
			h.share = newSharing(cfg, h, fleet.MachineID(machineNumber(i)), c)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(b, err)
			serving.Go(func() {
				if err := h.share.serveOn(ctx, l, cfg); err != nil {
					b.Error(err)
				}
			})
			c.reports = append(c.reports, rollout.Host{Machine: machineNumber(i), Channel: rolloutOf(cfg), Peer: l.Addr().String()})
		}
		hosts = append(hosts, h)
	}
	for _, h := range hosts {
		taking.Go(func() {
			if err := c.apply(ctx, h); err != nil {
				b.Error(err)
			}
		})
	}
	taking.Wait()
	for _, h := range hosts {
		must(b, os.RemoveAll(h.cfg.StateDir))
	}
}

func (c *throng) apply(ctx context.Context, h *host) error {
	from, err := h.source(ctx)
	if err != nil {
		return err
	}
	x, err := payload.ReadIndex(ctx, from, c.image, c.image.Files[0])
	if err != nil {
		return err
	}
	to, err := slot.Dir{Root: h.cfg.StateDir}.Image(slot.B)
	if err != nil {
		return err
	}
	defer to.Close()
	j := payload.Job{File: c.image.Files[0].Name, Index: x, From: from, To: to, Journal: payload.FileJournal{Path: filepath.Join(h.cfg.StateDir, "journal")}}
	return j.Run(ctx)
}
