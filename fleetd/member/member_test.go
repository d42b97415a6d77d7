package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// host is one host of a test: a directory and two ports on loopback, on which members come and go.
type host struct {
	t      *testing.T
	cfg    Config
	m      *Member
	log    *record
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run, once done is closed
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

// freePorts asks the kernel; all are held until all are known, so that they differ.
func freePorts(t *testing.T, n int) []uint16 {
	t.Helper()
	var ports []uint16
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, netip.MustParseAddrPort(l.Addr().String()).Port())
	}
	return ports
}

func newHosts(t *testing.T, n int) []*host {
	t.Helper()
	ports := freePorts(t, 2*n)
	hosts := make([]*host, n)
	for i := range hosts {
		dir := t.TempDir()
		hosts[i] = &host{t: t, cfg: Config{
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
		h.cancel()
		<-h.done
	}
}

// limit is how long a test waits for what must come; only a broken one waits that long.
const limit = time.Minute

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
	for { // a change of role ends calls under way; what was sent to a leader that died is never answered
		try, done := context.WithTimeout(ctx, 500*time.Millisecond)
		_, err := h.m.Client().Put(try, key, value)
		done()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			h.t.Fatalf("put %s: %v", key, err)
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
	for {
		r, err := c.Get(ctx, key)
		if err == nil && len(r.Kvs) == 1 {
			return string(r.Kvs[0].Value)
		}
		if err == nil {
			return ""
		}
		if ctx.Err() != nil {
			h.t.Fatalf("get %s: %v", key, err)
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

func TestFirstHostWithoutConfigurationIsACluster(t *testing.T) {
	t.Parallel()
	h := newHosts(t, 1)[0]
	h.cfg.Net = netip.Prefix{} // no port is opened
	h.start()
	s := h.awaitRole(Voter)
	h.put("a", "1")
	h.wantKey("a", "1")
	if len(s.Members) > 1 || s.Cluster == "" || s.ID == "" {
		t.Errorf("status %+v", s)
	}
	if fi, err := os.Stat(h.cfg.Socket); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", fi, err)
	}
	for _, port := range []uint16{h.cfg.PeerPort, h.cfg.ClientPort} {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			t.Errorf("port %d is open", port)
		}
	}
	h.stop()
	if n := strings.Count(h.log.String(), "\n"); n > 2 {
		t.Errorf("a quiet start should be at most two lines:\n%s", h.log)
	}
	h.start()
	if again := h.awaitRole(Voter); again.Cluster != s.Cluster {
		t.Errorf("cluster %s became %s", s.Cluster, again.Cluster)
	}
	h.wantKey("a", "1")
}

func TestFirstHostCanBeGivenAnAddressLaterAndBeJoined(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 2)
	a, b := hosts[0], hosts[1]
	a.cfg.Net = netip.Prefix{}
	a.start()
	a.awaitRole(Voter)
	a.stop()
	a.cfg.Net = b.cfg.Net
	a.start()
	a.awaitRole(Voter)
	b.start(a)
	b.awaitRole(Learner)
	a.put("a", "1")
	b.wantKey("a", "1")
}

func TestThreeVoteTheFourthStandsBy(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, 4)
	hosts[3].put("from the fourth", "1")
	for i, h := range hosts {
		h.put("k", fmt.Sprint(i))
		for _, o := range hosts {
			o.wantKey("k", fmt.Sprint(i))
		}
	}
	hosts[0].awaitVoters(3)

	// One after the other, each comes back as what it was, also without its join=.
	for i, h := range hosts {
		h.stop()
		alive := hosts[(i+1)%3]
		alive.put("while away", fmt.Sprint(i))
		h.start()
		h.awaitRole([]Role{Voter, Voter, Voter, StandBy}[i])
		h.wantKey("while away", fmt.Sprint(i))
	}

	// All at once.
	for _, h := range hosts {
		h.cancel()
	}
	for _, h := range hosts {
		h.stop()
	}
	// One alone says what it waits for, and can be stopped meanwhile.
	hosts[0].start()
	hosts[0].await("a reason", func(s Status) bool {
		return strings.Contains(s.Doing, "waiting for a quorum of http://127.0.0.1:") && !s.Ready
	})
	hosts[0].stop()
	for _, h := range hosts {
		h.start()
	}
	for i, h := range hosts {
		h.awaitRole([]Role{Voter, Voter, Voter, StandBy}[i])
		h.wantKey("k", "3")
	}
}

func TestLossOfTheLeaderLeavesTheStoreUsable(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, 3)
	hosts[0].await("to lead", func(s Status) bool { return s.Leads })
	lease, err := hosts[1].m.Client().Grant(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	hosts[0].stop()
	hosts[1].put("k", "after")
	t.Logf("write after a clean stop of the leader: %s after it began to stop", time.Since(began).Round(time.Millisecond))
	ttl, err := hosts[2].m.Client().TimeToLive(t.Context(), lease.ID)
	if err != nil || ttl.TTL <= 0 {
		t.Errorf("the lease did not survive: %+v, %v", ttl, err)
	}
}

// TestMain lets this program be a host of its own, which a test can kill as a power loss would.
func TestMain(m *testing.M) {
	text := os.Getenv("MEMBER_TEST_HOST")
	if text == "" {
		os.Exit(m.Run())
	}
	var cfg Config
	err := json.Unmarshal([]byte(text), &cfg)
	if err == nil {
		var mb *Member
		if mb, err = New(cfg, slog.New(slog.NewTextHandler(os.Stderr, nil))); err == nil {
			err = mb.Run(context.Background())
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestKilledLeaderComesBack(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 3)
	text, err := json.Marshal(hosts[0].cfg)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "MEMBER_TEST_HOST="+string(text))
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() { child.Process.Kill(); child.Wait() })
	t.Cleanup(kill)
	for _, h := range hosts[1:] {
		h.start(hosts[0])
	}
	for _, h := range hosts[1:] {
		h.awaitRole(Voter)
	}
	lease, err := hosts[1].m.Client().Grant(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	hosts[1].put("k", "before")
	kill()
	began := time.Now()
	hosts[1].put("k", "after")
	ttl, err := hosts[2].m.Client().TimeToLive(t.Context(), lease.ID)
	if err != nil || ttl.TTL <= 0 {
		t.Fatalf("the lease did not survive: %+v, %v", ttl, err)
	}
	t.Logf("first write %s after the leader was killed; the lease of 10 s then had %d s", time.Since(began).Round(time.Millisecond), ttl.TTL)
	hosts[0].start()
	hosts[0].awaitRole(Voter)
	hosts[0].wantKey("k", "after")
}

func TestTwoHostsJoinAtOnce(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 4)
	hosts[0].start()
	hosts[0].awaitRole(Voter)
	for _, h := range hosts[1:] {
		h.start(hosts[0])
	}
	hosts[0].awaitVoters(3)
	roles := map[Role]int{}
	for _, h := range hosts {
		s := h.await("voter or stand-by", func(s Status) bool { return s.Ready && (s.Role == Voter || s.Role == StandBy) })
		roles[s.Role]++
	}
	if roles[Voter] != 3 || roles[StandBy] != 1 {
		t.Errorf("roles %v, want 3 voters and 1 stand-by\n", roles)
	}
}

func TestCrashBetweenBeingAddedAndStarting(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 3)
	hosts[0].start()
	hosts[0].awaitRole(Voter)
	// What a process does until then: it is in the list, and remembers whom to ask.
	self := fmt.Sprintf("http://127.0.0.1:%d", hosts[1].cfg.PeerPort)
	r, err := hosts[0].m.Client().MemberAddAsLearner(t.Context(), []string{self})
	if err != nil {
		t.Fatal(err)
	}
	st := state{V: 1, Cluster: hex(r.Header.ClusterId), Hosts: []string{hosts[0].client()}}
	if err := st.save(hosts[1].cfg.Dir); err != nil {
		t.Fatal(err)
	}
	// Another host comes meanwhile: the dead entry must not be made a voter, that would stop the cluster.
	hosts[2].start(hosts[0])
	hosts[2].awaitRole(Learner)
	hosts[0].put("k", "v")

	hosts[1].start() // no join= in the configuration: it knows
	s := hosts[1].awaitRole(Voter)
	if s.ID != hex(r.Member.ID) {
		t.Errorf("took entry %s, want its own %x", s.ID, r.Member.ID)
	}
	hosts[2].awaitRole(Voter)
}

func TestHostThatLostItsDiskComesBack(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, 3)
	h := hosts[2]
	old := h.m.Status().ID
	hosts[0].put("k", "v")
	h.stop()
	for _, name := range []string{"etcd", "member.json"} {
		if err := os.RemoveAll(filepath.Join(h.cfg.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.start(hosts[0], hosts[1])
	if s := h.awaitRole(Voter); s.ID == old {
		t.Errorf("entry %s was started again without its data", old)
	}
	h.wantKey("k", "v")
	h.awaitVoters(3)
}

func TestWrongAddressToJoinIsSaidAndTriedAgain(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 2)
	hosts[1].start(hosts[0]) // nobody there yet
	s := hosts[1].await("a reason", func(s Status) bool { return s.Doing != "" })
	for _, w := range []string{"joining", hosts[0].client(), "is fleetd up there"} {
		if !strings.Contains(s.Doing, w) {
			t.Errorf("%q is not in %q", w, s.Doing)
		}
	}
	select {
	case <-hosts[1].m.Ready():
		t.Error("ready without a store")
	default:
	}
	hosts[0].start()
	hosts[1].awaitRole(Learner)
}

func TestJoinThatNamesOnlyItself(t *testing.T) {
	t.Parallel()
	h := newHosts(t, 1)[0]
	h.start(h)
	h.await("a reason", func(s Status) bool { return strings.Contains(s.Doing, "only this host") })
	h.stop()
	if hasLog(h.cfg.Dir) {
		t.Error("it made a cluster of its own")
	}
}

func TestDataOfAnotherCluster(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 2)
	for _, h := range hosts {
		h.start()
		h.awaitRole(Voter)
	}
	hosts[1].stop()
	hosts[1].start(hosts[0])
	hosts[1].awaitEnd(etcdDir(hosts[1].cfg.Dir), "is of cluster", hosts[0].m.Status().Cluster, "remove the directory")
	// As it says:
	if err := os.RemoveAll(etcdDir(hosts[1].cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	hosts[1].start(hosts[0])
	hosts[1].awaitRole(Learner)
}

func TestRemovedHostSaysSo(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, 3)
	remove := func(h *host) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		var list []*pb.Member
		for { // the others must have seen each other for five seconds
			var err error
			list, _, err = memberList(ctx, hosts[0].m.Client())
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(list, func(m *pb.Member) bool { return hex(m.ID) == h.m.Status().ID })
			if i < 0 {
				return
			}
			_, err = memberRemove(ctx, hosts[0].m.Client(), list[i].ID)
			if ctx.Err() != nil {
				t.Fatalf("remove: %v", err)
			}
		}
	}
	hosts[2].stop() // removed while it is down
	remove(hosts[2])
	hosts[2].start()
	hosts[2].awaitEnd("was removed from the cluster", etcdDir(hosts[2].cfg.Dir))
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		port func(*host) uint16
		want string
	}{
		"peers":   {func(h *host) uint16 { return h.cfg.PeerPort }, "another peer_port"},
		"clients": {func(h *host) uint16 { return h.cfg.ClientPort }, "another client_port"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, 1)[0]
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", row.port(h)))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			h.start()
			h.awaitEnd(l.Addr().String(), "address already in use", row.want)
		})
	}
}

func TestAddressOfAnotherHost(t *testing.T) {
	t.Parallel()
	h := newHosts(t, 1)[0]
	h.cfg.Net = netip.MustParsePrefix("192.0.2.1/32")
	h.start()
	h.awaitEnd("192.0.2.1", "correct member_ip")
}

func TestDirectoryThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	h := newHosts(t, 1)[0]
	h.cfg.Dir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(h.cfg.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.awaitEnd("use data_dir "+h.cfg.Dir, "set another data_dir")
}

func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	h := newHosts(t, 1)[0]
	h.start()
	h.awaitRole(Voter)
	two := &host{t: t, cfg: h.cfg}
	two.start()
	two.awaitEnd("another fleetd uses it")
	h.wantKey("x", "") // the first one's socket is still its own
}

func TestExternalEtcd(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t, 2)
	hosts[0].start()
	hosts[0].awaitRole(Voter)
	e := hosts[1]
	e.cfg.Servers = []string{"http://" + hosts[0].client()}
	e.cfg.Dir = "/nonexistent" // is not looked at
	e.start()
	e.awaitRole(External)
	e.put("k", "v")
	e.wantKey("k", "v")
	hosts[0].wantKey("k", "v")
	e.stop()
}

func TestExternalEtcdThatIsDown(t *testing.T) {
	t.Parallel()
	h := newHosts(t, 1)[0]
	h.cfg.Servers, h.cfg.Username, h.cfg.Password = []string{"http://" + h.client()}, "root", "secret"
	h.start()
	s := h.await("a reason", func(s Status) bool { return s.Doing != "" })
	if !strings.Contains(s.Doing, "etcd_servers") || s.Ready {
		t.Errorf("status %+v", s)
	}
	h.stop()
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for want, cfg := range map[string]Config{
		"set member_ip":   {Join: []string{"a"}, Size: 3},
		"use 1, 3 or 5":   {Size: 2},
		"without comma":   {Size: 1, Name: "a,b"},
		"etcd_cafile":     {Servers: []string{"https://a:1"}, CAFile: "/nonexistent"},
		"file does not e": {Servers: []string{"https://a:1"}, CAFile: "/nonexistent"},
	} {
		if _, err := New(cfg, log); err == nil || !strings.Contains(err.Error(), want) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
