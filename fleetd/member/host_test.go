package member

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
)

// host is one host of a test: a directory and two ports on loopback, on which members come and go.
type host struct {
	t      *testing.T
	town   *town
	zone   string
	name   string // none: its address
	cfg    Config
	m      *Member
	log    *record
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run, once done is closed
}

// town is what the registry knows: the hosts that run.
type town struct {
	mu      sync.Mutex // guards running
	running map[*host]*Member
}

func (w *town) set(h *host, m *Member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m == nil {
		delete(w.running, h)
		return
	}
	w.running[h] = m
}

func (w *town) hosts(context.Context) ([]Host, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []Host
	for h, m := range w.running {
		s := m.Status()
		list = append(list, Host{Name: cmp.Or(h.name, h.client()), Zone: h.zone, Role: s.Role, Member: s.ID, Peer: s.Peer})
	}
	return list, nil
}

// record keeps what was logged.
type record struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func newHosts(t *testing.T, n int) []*host {
	t.Helper()
	ports := etcdtest.Ports(t, 2*n)
	all := &town{running: map[*host]*Member{}}
	hosts := make([]*host, n)
	for i := range hosts {
		dir := t.TempDir()
		hosts[i] = &host{t: t, town: all, cfg: Config{
			Hosts: all.hosts, OriginKey: "/fleet/origin",
			Dir: dir, Socket: filepath.Join(dir, "run", "etcd.sock"), Name: "same-name", Size: 3,
			Net: netip.MustParsePrefix("127.0.0.1/32"), PeerPort: ports[2*i], ClientPort: ports[2*i+1],
		}}
		t.Cleanup(hosts[i].kill)
	}
	return hosts
}

// client is the address that others join by.
func (h *host) client() string { return fmt.Sprintf("127.0.0.1:%d", h.cfg.ClientPort) }

func (h *host) start(join ...*host) {
	h.t.Helper()
	h.cfg.Join = nil
	for _, j := range join {
		h.cfg.Join = append(h.cfg.Join, j.client())
	}
	h.log = &record{}
	m, err := New(h.cfg, slog.New(slog.NewTextHandler(h.log, nil)))
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.m, h.cancel, h.done = m, cancel, make(chan struct{})
	h.town.set(h, m)
	go func() {
		defer close(h.done)
		h.err = m.Run(ctx)
	}()
}

// stop ends a running host and fails the test if it did not end well.
func (h *host) stop() {
	h.t.Helper()
	h.kill()
	if h.err != nil {
		h.t.Errorf("Run: %v", h.err)
	}
}

func (h *host) kill() {
	if h.cancel != nil {
		h.town.set(h, nil)
		h.cancel()
		<-h.done
	}
}

// limit is how long a test waits for what must come; only a broken one waits that long. A machine with other work to do makes everything slow: no test
// here may hold that something comes within a time, or that one thing is quicker than another.
const limit = 4 * time.Minute

// await returns the first status that fits, or fails with what happened instead.
func (h *host) await(what string, fits func(Status) bool) Status {
	h.t.Helper()
	late := time.After(limit)
	for {
		s, changed := h.m.Watch()
		if fits(s) {
			return s
		}
		select {
		case <-changed:
		case <-h.done:
			h.t.Fatalf("waiting for %s: Run returned %v\n%s", what, h.err, h.log)
		case <-late:
			h.t.Fatalf("waiting for %s, stuck at %+v\n%s", what, s, h.log)
		}
	}
}

func (h *host) awaitRole(r Role) Status {
	h.t.Helper()
	return h.await("role "+string(r), func(s Status) bool { return s.Role == r && s.Ready })
}

// awaitVoters waits until this host's list has n voters.
func (h *host) awaitVoters(n int) {
	h.t.Helper()
	h.await(fmt.Sprintf("%d voters", n), func(s Status) bool {
		voters := 0
		for _, m := range s.Members {
			if !m.Learner && m.Name != "" {
				voters++
			}
		}
		return voters == n
	})
}

// awaitEnd waits for Run to return with an error that holds all the words.
func (h *host) awaitEnd(words ...string) {
	h.t.Helper()
	select {
	case <-h.done:
	case <-time.After(limit):
		h.t.Fatalf("Run goes on, at %+v\n%s", h.m.Status(), h.log)
	}
	if h.err == nil {
		h.t.Fatalf("Run ended without an error")
	}
	for _, w := range words {
		if !strings.Contains(h.err.Error(), w) {
			h.t.Errorf("%q is not in: %v", w, h.err)
		}
	}
}

func (h *host) put(key, value string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	for n := 0; ; n++ { // a change of role ends calls under way; what was sent to a leader that died is never answered
		try, done := context.WithTimeout(ctx, time.Second<<min(n, 4))
		_, err := h.m.Client().Put(try, key, value)
		done()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			h.t.Fatalf("put %s: %v, at %+v\n%s", key, err, h.m.Status(), h.log)
		}
	}
}

// get reads by a client of the host's own socket, as a user's program does.
func (h *host) get(key string) string {
	h.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + h.cfg.Socket}, Logger: h.m.zap})
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	for n := 0; ; n++ {
		try, done := context.WithTimeout(ctx, time.Second<<min(n, 4)) // as in put
		r, err := c.Get(try, key)
		done()
		if err == nil && len(r.Kvs) == 1 {
			return string(r.Kvs[0].Value)
		}
		if err == nil {
			return ""
		}
		if ctx.Err() != nil {
			h.t.Fatalf("get %s: %v, at %+v\n%s", key, err, h.m.Status(), h.log)
		}
	}
}

func (h *host) wantKey(key, value string) {
	h.t.Helper()
	if got := h.get(key); got != value {
		h.t.Errorf("%s is %q, want %q", key, got, value)
	}
}

// cluster starts n hosts, the first alone, the others joining by it, and waits for what they shall become.
func cluster(t *testing.T, n int) []*host {
	t.Helper()
	hosts := newHosts(t, n)
	hosts[0].start()
	hosts[0].awaitRole(Voter)
	for i, h := range hosts[1:] {
		h.start(hosts[0])
		switch i + 1 {
		case 1:
			h.awaitRole(Learner)
		case 2:
			h.awaitRole(Voter)
			hosts[1].awaitRole(Voter)
		default:
			h.awaitRole(StandBy)
		}
	}
	return hosts
}
