package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"

	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/pause"
)

// Config says where the store is and what part this host takes in it.
type Config struct {
	// Servers are URLs of an etcd elsewhere. If there are any, there is no member and only Socket of what follows counts.
	Servers []string
	Login   etcd.Login // at Servers

	Dir    string // all the member's files are under it; made if it is not there
	Socket string // unix socket of the store for this host
	Name   string // for people; need not be unique
	// Net is this host's address for other hosts, or a network it has one address in. The zero Prefix: no port is opened, no
	// other host can join.
	Net                  netip.Prefix
	PeerPort, ClientPort uint16
	Join                 []string      // running hosts, host or host:port of their client port; none: be the first host
	Size                 int           // most voters: 1, 3 or 5
	Grace                time.Duration // a voter that has not answered for this long is replaced; 0: two minutes
	// Hosts are those that are registered: who stands by, and what zone everybody is in. nil: nobody takes a free seat but hosts that join.
	Quota int64 // bytes that the store's file may have on a host; 0: 2 GiB
	// OriginKey is where the store says which cluster it is and which it was restored from; empty: nowhere.
	OriginKey string
	// Stale are beginnings of keys that speak of who is there and who leads, on leases. A store that comes out of a backup begins without them: else
	// what was decided in the lost time, and is written now, would find all as it expects it.
	Stale []string
	Hosts func(context.Context) ([]Host, error) `json:"-"`
	// Calm keeps everybody from planning in a cluster that works and is about to be left, until resume is called or this process ends. nil: they go on.
	Calm func(context.Context) (resume func(), err error) `json:"-"`
	TLS  TLS                                              `json:"-"` // of the two ports; Servers have files of their own above
}

// Role is what this host is to the store.
type Role string

const (
	None     Role = ""         // not settled yet
	Voter    Role = "voter"    // holds the data and votes
	Learner  Role = "learner"  // holds the data, does not vote yet; the socket leads to the voters
	StandBy  Role = "stand-by" // holds nothing; the socket leads to the voters
	External Role = "external" // etcd_servers; the socket leads there
)

// Status is how things stand, for logs, the API and systemd's status line.
type Status struct {
	Role      Role     `json:"role"`
	Ready     bool     `json:"ready"`             // the store has answered once
	Doing     string   `json:"doing,omitempty"`   // what it waits for and why, for people; empty when all is well
	Cluster   string   `json:"cluster,omitempty"` // etcd's cluster ID, hex
	ID        string   `json:"id,omitempty"`      // etcd's member ID, hex; voters and learners
	Leads     bool     `json:"leads,omitempty"`   // is etcd's leader
	Peer      string   `json:"peer,omitempty"`    // URL of its peer port, also of one that stands by; empty: others cannot reach it
	Lost      string   `json:"lost,omitempty"`    // why the store does not answer, for people; empty: it does, or has not yet
	Waits     string   `json:"waits,omitempty"`   // at the leader: the change of the members that is due, and why it is not made
	Members   []Info   `json:"members,omitempty"`
	Endpoints []string `json:"endpoints,omitempty"` // where fleetd's own client goes
}

// Info is one member as the cluster knows it.
type Info struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"` // empty: added, never started
	Peers   []string `json:"peers"`
	Clients []string `json:"clients,omitempty"`
	Learner bool     `json:"learner,omitempty"`
}

// Member is this host's store. Make it with New, run it with Run.
type Member struct {
	cfg    Config
	log    *slog.Logger
	zap    *zap.Logger
	client *clientv3.Client
	conns  conns         // of client
	http   *http.Client  // to peer ports
	forgot string        // the last error of writing member.json that was logged; of Run's goroutine
	ended  time.Time     // when etcd ended by itself last; of Run's goroutine
	ready  chan struct{} // closed once the store has answered

	mu         sync.Mutex // guards what follows
	endLife    context.CancelFunc
	etcd       *embed.Etcd // while it runs
	held       bool        // the leader changes no members
	unrestored error       // why the last restore was given up
	status     Status
	changed    chan struct{} // closed at the next change, then made anew
}

// New checks what can be checked without touching anything, and makes the client. Errors name the setting.
func New(cfg Config, log *slog.Logger) (*Member, error) {
	m := &Member{cfg: cfg, log: log, zap: newZap(log), ready: make(chan struct{}), changed: make(chan struct{})}
	if len(cfg.Servers) == 0 && len(cfg.Join) > 0 && !cfg.Net.IsValid() {
		return nil, errors.New("join is set but member_ip is not: set member_ip to this host's address that the others reach")
	}
	if len(cfg.Servers) == 0 && cfg.Size != 1 && cfg.Size != 3 && cfg.Size != 5 {
		return nil, fmt.Errorf("cluster_size = %d: use 1, 3 or 5", cfg.Size)
	}
	if strings.ContainsAny(cfg.Name, ",=") {
		return nil, fmt.Errorf("name = %q: use a name without comma and equals sign", cfg.Name)
	}
	if m.cfg.Name == "" {
		m.cfg.Name = "fleet"
	}
	m.conns.dialer, m.http = m.dialGRPC, m.newHTTP()
	eps := cfg.Servers
	if len(eps) == 0 {
		eps = []string{m.socketURL()}
	}
	var err error
	m.client, err = m.dial(eps, grpc.WithContextDialer(m.conns.dial))
	return m, err
}

// Client is the one client that fleetd uses for as long as it runs. It may be used at once; until Ready, and in an outage,
// calls fail as unavailable. Its endpoints follow the role.
func (m *Member) Client() *clientv3.Client { return m.client }

// Ready is closed once the store has answered for the first time.
func (m *Member) Ready() <-chan struct{} { return m.ready }

func (c Config) grace() time.Duration {
	if c.Grace > 0 {
		return c.Grace
	}
	return 2 * time.Minute
}

// Status says how things stand. It is safe to call at any time.
func (m *Member) Status() Status {
	s, _ := m.Watch()
	return s
}

// Watch is Status with a channel that is closed when it has changed.
func (m *Member) Watch() (Status, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	s.Endpoints = slices.Clone(m.client.Endpoints())
	return s, m.changed
}

// update changes the status; change must replace slices, not write into them.
func (m *Member) update(change func(*Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.status
	change(&m.status)
	if !reflect.DeepEqual(old, m.status) {
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

// doing notes what is waited for and logs it when it is new.
func (m *Member) doing(what string, err error) {
	text := what
	if err != nil {
		text += ": " + err.Error()
	}
	changed := false
	m.update(func(s *Status) { changed = s.Doing != text; s.Doing = text })
	switch {
	case !changed || what == "":
	case err != nil:
		m.log.Warn("store not ready", "reason", what, "err", err)
	default:
		m.log.Info("store not ready", "reason", what)
	}
}

func (m *Member) server() *embed.Etcd {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.etcd
}

func (m *Member) setServer(e *embed.Etcd) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.etcd = e
}

func (m *Member) hold(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = on
}

func (m *Member) holds() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held
}

// Run serves the store until ctx ends, then stops cleanly: if this host leads, another voter leads before it is gone. An
// error is one that waiting will not cure (port taken, directory not writable, removed from the cluster, data of another
// cluster); it says what to do. What may pass (no answer, no quorum) is waited for, see Status.
func (m *Member) Run(ctx context.Context) error {
	defer shut(m.client)
	defer m.http.CloseIdleConnections()
	if len(m.cfg.Servers) > 0 {
		return m.external(ctx)
	}
	return m.embedded(ctx)
}

// external offers the socket and waits for the store to answer.
func (m *Member) external(ctx context.Context) error {
	m.update(func(s *Status) { s.Role = External })
	d, err := openDoor(m.cfg.Socket, netip.AddrPort{})
	if err != nil {
		return err
	}
	defer d.close()
	p, err := m.newProxy(m.cfg.Servers, nil)
	if err != nil {
		return err
	}
	defer p.close()
	d.serve(p.server)
	if m.untilReady(ctx, "waiting for etcd at "+strings.Join(m.cfg.Servers, ", ")+", as etcd_servers says (without it fleetd brings its own)") {
		<-ctx.Done()
	}
	return nil
}

// untilReady asks the store until it answers; false if ctx ended first.
func (m *Member) untilReady(ctx context.Context, what string) bool {
	for try := 0; ; try++ {
		err := m.ask(ctx)
		if err == nil {
			m.doing("", nil)
			first := false
			m.update(func(s *Status) { first = !s.Ready; s.Ready = true })
			if first {
				close(m.ready)
			}
			return true
		}
		m.doing(what, explain(err))
		if !pause.For(ctx, backoff(try)) {
			return false
		}
	}
}

// ask makes one linearizable read, which only a store with a quorum answers.
func (m *Member) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	resp, err := m.client.Get(ctx, "/", clientv3.WithCountOnly())
	if errors.Is(err, rpctypes.ErrPermissionDenied) && len(m.cfg.Servers) == 0 {
		// A host without a vote may not read that key. The list of members is as good: it needs a quorum, too.
		_, id, err := memberList(ctx, m.client)
		if err == nil {
			m.update(func(s *Status) { s.Cluster = hex(id) })
		}
		return err
	}
	if err != nil {
		return err
	}
	m.update(func(s *Status) { s.Cluster = hex(resp.Header.ClusterId) })
	return nil
}

func (m *Member) socketURL() string { return "unix://" + m.cfg.Socket }

// dial makes a client that connects when it is first used.
func (m *Member) dial(endpoints []string, opts ...grpc.DialOption) (*clientv3.Client, error) {
	c := clientv3.Config{
		Endpoints: endpoints,
		Logger:    m.zap.Named("client"),
		// A host that answers for its kernel only, but does nothing more, is noticed after 13 s by the pings: gRPC sends none more often. One that
		// is gone, dialFast notices.
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		DialOptions: append([]grpc.DialOption{grpc.WithContextDialer(m.dialGRPC)}, append(opts, grpc.WithConnectParams(grpc.ConnectParams{
			// gRPC waits up to two minutes between attempts; a store that is back shall be found in moments.
			Backoff:           grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}))...),
	}
	if len(m.cfg.Servers) == 0 {
		return clientv3.New(c)
	}
	var err error
	if c.TLS, err = m.cfg.Login.TLS(); err != nil {
		return nil, err
	}
	return m.cfg.Login.Dial(c)
}

// backoff is how long to wait before try number n (from 0) is repeated.
func backoff(n int) time.Duration { return pause.Backoff(n, 200*time.Millisecond, 5*time.Second) }

func hex(id uint64) string { return fmt.Sprintf("%x", id) }
