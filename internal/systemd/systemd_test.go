package systemd

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

func TestFakePassesTheSuite(t *testing.T) {
	suite(t, func(t *testing.T) *bench {
		now := time.Now()
		f := NewFake(FakeOptions{Now: func() time.Time { return now }})
		return &bench{T: t, sys: f, dir: t.TempDir(), seen: map[unit.Name]bool{}, lose: f.Lose,
			rest: func(*bench) { now = now.Add(10 * time.Millisecond) }}
	})
}

// TestSystemdPassesTheSuite needs a systemd whose units it may start and stop: functional/host runs it as root in a container.
func TestSystemdPassesTheSuite(t *testing.T) {
	if os.Getenv("FLEET_TEST_SYSTEMD") == "" {
		t.Log("FLEET_TEST_SYSTEMD is not set: only the fake is tested")
		return
	}
	t.Run("private socket", func(t *testing.T) { suite(t, realBench) })
	t.Run("system bus", func(t *testing.T) {
		suite(t, func(t *testing.T) *bench {
			b := realBench(t)
			b.sys.(*Systemd).to = []address{{systemBus, false}}
			return b
		})
	})
}

// realBench is a connection to the real systemd.
func realBench(t *testing.T) *bench {
	dir := "/run/fleet/units"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := New(Options{})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{T: t, sys: s, dir: dir, seen: map[unit.Name]bool{},
		lose: func() {
			if err := s.conn.bus.Close(); err != nil {
				t.Error(err)
			}
		},
		// every change that is waited for comes with a signal; the timer is for a unit that changed before it was asked for
		rest: func(*bench) {
			select {
			case <-s.Wake():
			case <-time.After(20 * time.Millisecond):
			}
		}}
}

func TestFakeMovesByItselfWhenRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake(FakeOptions{ReadFile: func(string) ([]byte, error) { return []byte(sleeper), nil }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		b := &bench{T: t, sys: f, seen: map[unit.Name]bool{}, rest: func(*bench) { <-f.Wake() }}
		f.links["a.service"] = "a"
		b.start("a.service")
		b.sameEnd("start", b.ended("start", "a.service"), "done")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
