package systemd

import (
	"log/slog"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// Options says which systemd.
type Options struct {
	User   bool                // the calling user's systemd instead of the host's
	Getenv func(string) string // os.Getenv if nil
	Log    *slog.Logger
}

// Systemd speaks to a running systemd. Its methods may be called at the same time. A lost connection is made anew by the
// next call, and Take then says so.
type Systemd struct {
	opt Options
	to  []address
	dir string // where runtime links go

	dialing sync.Mutex // held while a connection is made

	mu      sync.Mutex // guards all below but wake
	conn    *conn      // nil: none now
	closed  bool
	changed map[string]time.Time // object path → first change since the last Take
	calls   int                  // starts and stops not answered yet
	jobs    map[dbus.ObjectPath]fleet.JobEnd
	early   map[dbus.ObjectPath]string // results that came before the answer that names the job
	ends    []fleet.JobEnd
	lost    bool
	known   map[unit.Name]known

	wake chan struct{}
}

// known is what the last States said of a unit, to tell when it changed without asking systemd for each timestamp.
type known struct {
	active string
	result string
	since  time.Time
	moved  time.Time // first change signalled after that; zero if none
	again  bool      // restarted after that: active as before, since another time
}

// New returns the adapter without connecting yet.
func New(o Options) *Systemd {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Systemd{
		opt:     o,
		to:      addresses(o),
		dir:     "/run/systemd/system",
		changed: map[string]time.Time{},
		jobs:    map[dbus.ObjectPath]fleet.JobEnd{},
		early:   map[dbus.ObjectPath]string{},
		known:   map[unit.Name]known{},
		wake:    make(chan struct{}, 1),
	}
	if o.User {
		dir := o.Getenv("XDG_RUNTIME_DIR")
		if dir == "" {
			dir = "/run/user/" + strconv.Itoa(os.Getuid())
		}
		s.dir = path.Join(dir, "systemd/user")
	}
	return s
}

// Close ends the connection; later calls fail.
func (s *Systemd) Close() error {
	s.mu.Lock()
	c := s.conn
	s.conn, s.closed = nil, true
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.bus.Close()
}

// Wake is signalled when Take has something to say. It has room for one signal: many changes are one.
func (s *Systemd) Wake() <-chan struct{} { return s.wake }

// Take returns what happened since the last Take.
func (s *Systemd) Take() fleet.SystemdChanges {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := fleet.SystemdChanges{Jobs: s.ends, Lost: s.lost}
	for p, at := range s.changed {
		name := unitOf(p)
		c.Units = append(c.Units, name)
		if k, ok := s.known[name]; ok && k.moved.IsZero() {
			k.moved = at
			s.known[name] = k
		}
	}
	slices.Sort(c.Units)
	s.ends, s.lost = nil, false
	clear(s.changed)
	return c
}

// connected returns the connection, made anew if there is none.
func (s *Systemd) connected() (*conn, error) {
	// One dials at a time, and not under s.mu: the connection's reader needs that to deliver the dialer's own answers.
	s.dialing.Lock()
	defer s.dialing.Unlock()
	if c, err := s.current(); c != nil || err != nil {
		return c, err
	}
	c, err := dial(s.to, listener{changed: s.onChange, signal: s.onSignal, gone: s.onGone})
	if err != nil {
		return nil, err
	}
	s.opt.Log.Debug("connected to systemd", "private", c.private)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = c
	return c, nil
}

// current returns the connection if it still stands. One that ended before it came into use never told onGone.
func (s *Systemd) current() (*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, dbus.ErrClosed
	}
	if s.conn != nil && !s.conn.bus.Connected() {
		s.drop()
	}
	return s.conn, nil
}

// drop forgets a connection that ended: what was under way on it is unknown from now on. It needs s.mu.
func (s *Systemd) drop() {
	s.opt.Log.Debug("connection to systemd ended")
	s.conn, s.lost = nil, true
	clear(s.jobs)
	clear(s.early)
	clear(s.known) // timestamps of what was missed meanwhile must be asked for
	s.signalWake()
}

func (s *Systemd) onGone(bus *dbus.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.conn.bus == bus && !s.closed {
		s.drop()
	}
}

func (s *Systemd) onChange(object string) {
	if !strings.HasPrefix(object, unitRoot) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.changed[object]; !ok {
		s.changed[object] = time.Now()
		s.signalWake()
	}
}

func (s *Systemd) signalWake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
