package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/systemd"
	"github.com/fleet-init/fleet/internal/unit"
)

const overlaid = "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nNetwork=overlay\nPublish=8080:80\n"

// noting is a systemd that remembers the drop-ins it was given last.
type noting struct {
	*systemd.Fake
	mu      sync.Mutex // guards dropIns
	dropIns map[unit.Name]map[string]string
}

func (s *noting) Load(ctx context.Context, files []fleet.UnitPath) (bool, map[unit.Name]error) {
	s.mu.Lock()
	for _, f := range files {
		s.dropIns[f.Name] = f.DropIns
	}
	s.mu.Unlock()
	return s.Fake.Load(ctx, files)
}

func (s *noting) has(n unit.Name) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropIns[n]
}

// networked runs a test with agents that find these addresses.
func networked(t *testing.T, given func(unit.Name) []netip.Addr, test func(*rig, *noting)) {
	world(t, func(r *rig) {
		sys := &noting{Fake: r.sys, dropIns: map[unit.Name]map[string]string{}}
		r.more = func(c *Config) { c.Systemd, c.Addresses = sys, given }
		r.stop()
		r.start()
		test(r, sys)
	})
}

func (r *rig) address(n unit.Name, want ...string) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var got []string
	for _, ip := range []netip.Addr{r.observed[n].IP, r.observed[n].IP6} {
		if ip.IsValid() {
			got = append(got, ip.String())
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.Error(diff)
	}
}

func TestAUnitOnTheOverlay(t *testing.T) {
	given := func(unit.Name) []netip.Addr {
		return []netip.Addr{netip.MustParseAddr("10.5.7.2"), netip.MustParseAddr("fd05::2")}
	}
	networked(t, given, func(r *rig, sys *noting) {
		own := map[string]string{"fleet-network.conf": overlayDropIn}
		r.order(overlaid, "a.service launched")
		r.order(sleeper, "b.service launched")
		r.pass(time.Second)
		r.address("a.service", "10.5.7.2", "fd05::2")
		r.address("b.service")
		if diff := cmp.Diff(own, sys.has("a.service")); diff != "" {
			t.Error(diff)
		}
		if len(sys.has("b.service")) != 0 {
			t.Error("a unit in the host's network has drop-ins:", sys.has("b.service"))
		}
		// A restarted agent finds it again, without a report.
		r.stop()
		r.forget()
		r.start()
		r.pass(time.Second)
		r.address("a.service", "10.5.7.2", "fd05::2")
		if r.reports != 0 {
			t.Errorf("%d reports after a restart, want none", r.reports)
		}
		// Loaded only: it has no address any more.
		r.order(overlaid, "a.service loaded")
		r.pass(time.Second)
		r.address("a.service")
		// The other text does without.
		r.order(sleeper, "a.service launched")
		r.pass(time.Second)
		r.address("a.service")
		if len(sys.has("a.service")) != 0 {
			t.Error("the drop-ins of an older text are left:", sys.has("a.service"))
		}
	})
}

func TestAUnitWhoseNetworkCannotBeReadDoesNotRun(t *testing.T) {
	networked(t, nil, func(r *rig, _ *noting) {
		r.order("[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nNetwork=bridge\n", "a.service launched")
		r.pass(time.Second)
		r.expect(`a.service not-found inactive dead: load a.service: line 4: Network "bridge" is neither overlay nor host: write Network=overlay for an address of the unit's own`)
		r.did()
	})
}

func TestAddressFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.service"), []byte("10.5.7.2\nfd05::2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	look := AddressFiles(dir)
	want := []netip.Addr{netip.MustParseAddr("10.5.7.2"), netip.MustParseAddr("fd05::2")}
	if diff := cmp.Diff(want, look("a.service"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got := look("b.service"); got != nil {
		t.Error("addresses of a unit without any:", got)
	}
}
