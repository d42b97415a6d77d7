package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

const (
	exclusive = "[Service]\nExecStart=/bin/sleep infinity\nTimeoutStopSec=4\n[X-Fleet]\nExclusive=yes\n"
	halting   = "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nOnDisconnect=stop\n"
	freezing  = "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nOnDisconnect=freeze\n"
)

// lease is one that a test gives and takes.
type lease struct {
	mu    sync.Mutex // guards until
	until time.Time
	wake  chan struct{}
}

func (l *lease) Fed() bool             { return l.Left() > 0 }
func (l *lease) Wake() <-chan struct{} { return l.wake }
func (l *lease) Left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.until)
}

func (l *lease) end(in time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Now().Add(in)
}

func (l *lease) feed(d time.Duration) {
	l.end(d)
	l.wake <- struct{}{}
}

// leased runs a test with an agent that has no lease yet.
func leased(t *testing.T, test func(*rig, *lease, *ice)) {
	world(t, func(r *rig) {
		l, f := &lease{wake: make(chan struct{}, 1)}, &ice{frozen: map[unit.Name]bool{}}
		r.stop()
		r.more = func(c *Config) { c.Lease, c.Freezer = l, f }
		r.start()
		test(r, l, f)
	})
}

// ice notes what is frozen.
type ice struct {
	mu     sync.Mutex // guards all below
	frozen map[unit.Name]bool
	calls  int
}

func (f *ice) set(n unit.Name, frozen bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.frozen[n] = frozen
	return nil
}

func (f *ice) Freeze(_ context.Context, n unit.Name) error { return f.set(n, true) }
func (f *ice) Thaw(_ context.Context, n unit.Name) error   { return f.set(n, false) }

// is tells whether a unit is frozen, and how many calls there were.
func (f *ice) is(n unit.Name) (frozen bool, calls int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frozen[n], f.calls
}

// gone are the units that were let go.
func (r *rig) gone() []unit.Name {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.letGo)
}

func (r *rig) active(n unit.Name) bool {
	_, alive := r.sys.Alive(n)
	return alive
}

func TestExclusiveUnitNeedsALease(t *testing.T) {
	leased(t, func(r *rig, l *lease, _ *ice) {
		r.order(exclusive, "db.service launched")
		r.order(sleeper, "web.service launched")
		r.pass(time.Minute)
		if r.active("db.service") || !r.active("web.service") {
			t.Fatal("a unit that needs a lease runs without, or one that needs none does not run")
		}
		l.feed(time.Hour)
		r.pass(time.Second)
		if !r.active("db.service") {
			t.Fatal("not started under a lease")
		}
		// The guard ends: systemd stops the unit, and it starts again under the next lease, not before.
		l.end(0)
		r.sys.FailGuard()
		r.pass(time.Minute)
		if r.active("db.service") {
			t.Fatal("started again without a lease")
		}
		r.stop()
		r.start() // also by another process of fleetd
		r.pass(time.Second)
		l.feed(time.Hour)
		r.pass(time.Second)
		if !r.active("db.service") {
			t.Fatal("not started again")
		}
		// One that somebody stopped by hand stays so, lease or not.
		if errs := r.sys.Stop(t.Context(), []unit.Name{"db.service"}); len(errs) > 0 {
			t.Fatal(errs)
		}
		r.pass(time.Minute)
		l.feed(time.Hour)
		r.pass(time.Minute)
		if r.active("db.service") {
			t.Fatal("started against an operator's will")
		}
	})
}

func TestOrdersOfAnotherTimeStartNothingExclusive(t *testing.T) {
	leased(t, func(r *rig, l *lease, _ *ice) {
		l.feed(time.Hour)
		r.mu.Lock()
		r.orders.Admitted = false
		r.mu.Unlock()
		r.order(exclusive, "db.service launched")
		r.pass(time.Minute)
		if r.active("db.service") {
			t.Fatal("started by orders that were not planned for this registration")
		}
		r.mu.Lock()
		r.orders.Admitted = true
		r.push()
		r.pass(time.Second)
		if !r.active("db.service") {
			t.Fatal("not started")
		}
	})
}

func TestRevokedUnitIsLetGoWhenItHasStopped(t *testing.T) {
	leased(t, func(r *rig, l *lease, _ *ice) {
		l.feed(time.Hour)
		r.order(exclusive+"[Service]\nExecStop=/bin/sleep 3\n", "db.service launched")
		r.pass(time.Second)
		r.order(exclusive, "db.service inactive")
		r.pass(2 * time.Second)
		if !r.active("db.service") || len(r.gone()) > 0 {
			t.Fatal("let go while it stops", r.gone())
		}
		r.mu.Lock()
		r.away = true
		r.mu.Unlock()
		r.pass(10 * time.Second)
		if r.active("db.service") {
			t.Fatal("does not stop")
		}
		r.mu.Lock()
		r.away = false
		r.mu.Unlock()
		r.pass(time.Minute)
		if !slices.Equal(r.gone(), []unit.Name{"db.service"}) {
			t.Errorf("let go: %v", r.gone())
		}
		// A machine that never had it says so as well.
		r.order(exclusive, "other.service inactive")
		r.pass(time.Second)
		if !slices.Contains(r.gone(), "other.service") {
			t.Errorf("let go: %v", r.gone())
		}
	})
}

func TestCutOffUnitsAreStoppedOrFrozen(t *testing.T) {
	leased(t, func(r *rig, l *lease, f *ice) {
		l.feed(10 * time.Second)
		r.order(halting, "h.service launched")
		r.order(freezing, "f.service launched")
		r.order(sleeper, "web.service launched")
		r.pass(5 * time.Second)
		if frozen, _ := f.is("f.service"); frozen {
			t.Fatal("frozen under a lease")
		}
		r.pass(6 * time.Second)
		if frozen, _ := f.is("f.service"); !frozen {
			t.Fatal("not frozen without one")
		}
		r.sys.FailGuard()
		r.pass(time.Second)
		if r.active("h.service") || !r.active("web.service") {
			t.Fatal("not stopped, or more than that")
		}
		r.stop()
		r.start() // another process does not know what is frozen
		l.feed(time.Hour)
		r.pass(time.Second)
		frozen, calls := f.is("f.service")
		if frozen || !r.active("h.service") {
			t.Fatal("not thawed, or not started again", frozen)
		}
		r.pass(time.Hour - 2*time.Second)
		if _, now := f.is("f.service"); now != calls {
			t.Errorf("%d calls in quiet times", now-calls)
		}
	})
}

func TestDropInOfAnExclusiveUnit(t *testing.T) {
	got := onDisk("db.service", parse(exclusive)).dropIns("/run/fleet/fencing/db.service")
	want := `# Written by fleetd, for Exclusive=yes
[Unit]
BindsTo=fleet-guard.service fleet-fence-10.target
After=fleet-guard.service fleet-fence-10.target

[Service]
TimeoutStopSec=4000ms
SendSIGKILL=yes
FinalKillSignal=SIGKILL
EnvironmentFile=/run/fleet/fencing/%n
LoadCredential=fleet.fencing-token:/run/fleet/fencing/%n.token
`
	if got["fleet-zz-guard.conf"] != want || len(got) != 1 {
		t.Errorf("%q", got)
	}
	for _, c := range unit.StopClasses() {
		f := parse("[Service]\nTimeoutStopSec=" + time.Duration(time.Duration(c)*time.Second).String() + "\n[X-Fleet]\nExclusive=yes\n")
		if onDisk("db.service", f).Stop.Class != c {
			t.Errorf("class %d", c)
		}
	}
}

func TestTokenOnDisk(t *testing.T) {
	run := t.TempDir()
	d, err := OpenDir(filepath.Join(run, "units"), filepath.Join(run, "started"), filepath.Join(run, "drop-ins"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []int64{7, 12} {
		if err := d.Token("db.service", token); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"db.service": "FLEET_FENCING_TOKEN=12\n", "db.service.token": "12"} {
		if got, err := os.ReadFile(filepath.Join(run, "fencing", name)); string(got) != want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	if err := d.Remove("db.service"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(run, "fencing")); len(left) > 0 || err != nil {
		t.Error(left, err)
	}
	if d.Token("../x.service", 1) == nil {
		t.Error("a token outside")
	}
}
