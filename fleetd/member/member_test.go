package member

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
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

	"github.com/fleet-init/fleet/internal/kv/etcd"
)

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
}

func TestAllHostsGoAtOnceAndComeBack(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, 4)
	hosts[3].put("k", "3")
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
	// Far longer than any stop takes on a loaded machine: what counts is that the change of leaders does not end it.
	lease, err := hosts[1].m.Client().Grant(t.Context(), 600)
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
		// They wait for elections nearly all the time: more at once than there are processors.
		if err := flag.Set("test.parallel", "24"); err != nil {
			panic(err)
		}
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

func TestRemovedHostComesBackAsANewOne(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, 3)
	old := hosts[2].m.Status().ID
	hosts[2].stop() // removed while it is down
	hosts[2].removeBy(hosts[0])
	hosts[0].put("k", "while it was away")
	hosts[2].start()
	s := hosts[2].awaitRole(Voter)
	if s.ID == old {
		t.Errorf("it is still member %s", old)
	}
	hosts[2].wantKey("k", "while it was away")
	if aside, _ := filepath.Glob(etcdDir(hosts[2].cfg.Dir) + ".old-*"); len(aside) != 1 {
		t.Errorf("its old data: %v", aside)
	}
	hosts[2].removeBy(hosts[0]) // removed while it runs
	hosts[2].await("another ID", func(now Status) bool { return now.Role == Voter && now.ID != s.ID })
	if aside, _ := filepath.Glob(etcdDir(hosts[2].cfg.Dir) + ".old-*"); len(aside) != 2 {
		t.Errorf("its old data, the newest and one before: %v", aside)
	}
}

// removeBy takes a host out of the list of members as etcdctl would.
func (h *host) removeBy(other *host) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	id := h.m.Status().ID
	for { // the others must have seen each other for five seconds
		list, _, err := memberList(ctx, other.m.Client())
		if err != nil && ctx.Err() == nil {
			continue
		}
		if err != nil {
			h.t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(m *pb.Member) bool { return hex(m.ID) == id })
		if i < 0 {
			return
		}
		if _, err = memberRemove(ctx, other.m.Client(), list[i].ID); ctx.Err() != nil {
			h.t.Fatalf("remove: %v", err)
		}
	}
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
	two := &host{t: t, town: h.town, cfg: h.cfg}
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
	h.cfg.Servers, h.cfg.Login = []string{"http://" + h.client()}, etcd.Login{Username: "root", Password: "secret"}
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
		"set member_ip": {Join: []string{"a"}, Size: 3},
		"use 1, 3 or 5": {Size: 2},
		"without comma": {Size: 1, Name: "a,b"},
		"/nonexistent":  {Servers: []string{"https://a:1"}, Login: etcd.Login{CAFile: "/nonexistent"}},
	} {
		if _, err := New(cfg, log); err == nil || !strings.Contains(err.Error(), want) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
