package guard

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// clock is fake time as Now gives it.
func clock() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) + time.Hour }
}

func TestGuardEndsWhenItIsNotFed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "guard")
		now := clock()
		f, err := NewFeeder(path, now)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		c := Config{Path: path, Now: now, Notify: func(s string) error { said = append(said, s); return nil }}
		if err := Run(t.Context(), c); !errors.Is(err, ErrLapsed) || len(said) > 0 {
			t.Fatalf("before it was ever fed: %v %q", err, said)
		}
		must(t, f.Renewed(7, now(), 10*time.Second))
		if f.Fed() {
			t.Fatal("fed before it was admitted")
		}
		must(t, f.Admitted(6))
		if f.Fed() {
			t.Fatal("fed by the orders of another registration")
		}
		must(t, f.Admitted(7))
		if !f.Fed() || f.Left() != 10*time.Second {
			t.Fatal(f.Left())
		}
		<-f.Wake()
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- Run(t.Context(), c) }()
		for range 5 {
			time.Sleep(3 * time.Second)
			// An answer that took two seconds.
			must(t, f.Renewed(7, now()-2*time.Second, 10*time.Second))
		}
		if err := <-done; !errors.Is(err, ErrLapsed) {
			t.Fatal(err)
		}
		if took := time.Since(began); took != (15-2+10)*time.Second {
			t.Errorf("ended after %s", took)
		}
		if !strings.HasPrefix(said[0], "READY=1\nWATCHDOG=1\nWATCHDOG_USEC=10000000\n") || len(said) < 5 {
			t.Errorf("%q", said)
		}
		for _, s := range said[1:] {
			if !strings.HasPrefix(s, "WATCHDOG=1\nWATCHDOG_USEC=") {
				t.Errorf("%q", s)
			}
		}
		if err := Run(t.Context(), c); !errors.Is(err, ErrLapsed) {
			t.Error(err)
		}
		// A new process of fleetd knows how it stands.
		again, err := NewFeeder(path, now)
		must(t, err)
		if again.Fed() || again.Left() != 0 {
			t.Error(again.Left())
		}
		must(t, again.Admitted(7))
		must(t, again.Renewed(7, now()-20*time.Second, 10*time.Second))
		if again.Fed() {
			t.Error("fed by a lease that has ended")
		}
	})
}

// Where exclusive units run is not known for a while: a lease alone feeds nothing then, and what was promised before is kept.
func TestNothingIsFedWhileItIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := clock()
		f, err := NewFeeder(filepath.Join(t.TempDir(), "guard"), now)
		must(t, err)
		must(t, f.Admitted(7))
		must(t, f.Renewed(7, now(), 10*time.Second))
		time.Sleep(3 * time.Second)
		f.Hold(time.Minute)
		f.Hold(time.Second) // a shorter one shortens nothing
		if f.Fed() {
			t.Error("exclusive units may start while it is held")
		}
		must(t, f.Renewed(7, now(), 10*time.Second))
		if f.Left() != 7*time.Second {
			t.Errorf("while it was held, %s were added", f.Left()-7*time.Second)
		}
		time.Sleep(time.Minute - 1)
		must(t, f.Renewed(7, now(), 10*time.Second))
		if f.Fed() {
			t.Error("fed too early")
		}
		time.Sleep(time.Nanosecond)
		must(t, f.Renewed(7, now(), 10*time.Second))
		if f.Left() != 10*time.Second {
			t.Errorf("not fed when it was over: %s", f.Left())
		}
	})
}

func TestGuardIsStoppedInGoodOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "guard")
		now := clock()
		must(t, write(path, now()+time.Minute))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, Config{Path: path, Now: now, Notify: func(string) error { return nil }})
		}()
		time.Sleep(5 * time.Second)
		must(t, os.WriteFile(path, []byte("?"), 0o600)) // what cannot be read moves nothing
		time.Sleep(5 * time.Second)
		cancel()
		must(t, <-done)
		broken := errors.New("no socket")
		must(t, write(path, now()+time.Minute))
		if err := Run(t.Context(), Config{Path: path, Now: now, Notify: func(string) error { return broken }}); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
}

func TestNowGoesOn(t *testing.T) {
	if a, b := Now(), Now(); a <= 0 || b < a || b > 1<<61 {
		t.Error(a, b)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"until 5\n", "until -5", "until", "", "until 99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parse([]byte(s)); d < 0 || err != nil && d != 0 {
			t.Fatalf("%q: %v %v", s, d, err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
