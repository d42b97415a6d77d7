package run

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestGroupFirstFailureEndsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(t.Context())
		boom := errors.New("boom")
		g.Go("fails", func(context.Context) error { time.Sleep(time.Second); return boom })
		g.Go("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		g.Go("short", func(context.Context) error { return nil })
		err := g.Wait()
		if !errors.Is(err, boom) || err.Error() != "fails: boom" {
			t.Errorf("got %v, want fails: boom", err)
		}
		if cause := context.Cause(g.Context()); !errors.Is(cause, boom) {
			t.Errorf("cause is %v, want boom", cause)
		}
	})
}

func TestGroupBaseOutlivesTheTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		g := NewGroup(parent)
		var order []string
		g.Base("store", func(ctx context.Context) error { <-ctx.Done(); order = append(order, "store"); return nil })
		g.Go("agent", func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Minute) // says good-bye to the store
			order = append(order, "agent")
			return nil
		})
		time.Sleep(time.Second)
		cancel()
		if err := g.Wait(); err != nil {
			t.Errorf("a group that was told to end returned %v", err)
		}
		if diff := cmp.Diff([]string{"agent", "store"}, order); diff != "" {
			t.Error(diff)
		}
	})
}

func TestGroupFailingBaseEndsTheTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(t.Context())
		g.Base("store", func(context.Context) error { return io.ErrUnexpectedEOF })
		g.Go("agent", func(ctx context.Context) error { <-ctx.Done(); return nil })
		if err := g.Wait(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
	})
}

func TestGroupKeepsAFailureThatComesWithTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(t.Context())
		g.Go("agent", func(ctx context.Context) error { <-ctx.Done(); return errors.New("cannot leave") })
		g.Stop()
		if err := g.Wait(); err == nil || err.Error() != "agent: cannot leave" {
			t.Errorf("got %v", err)
		}
	})
}

// turns runs a loop in fake time and returns the seconds since its start at which its turns began.
func turns(t *testing.T, l Loop, until time.Duration, turn func(n int) error) []float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), until)
	defer cancel()
	start := time.Now()
	var at []float64
	l.Turn = func(context.Context) error {
		at = append(at, time.Since(start).Seconds())
		return turn(len(at))
	}
	if l.Log == nil {
		l.Log = slog.New(slog.DiscardHandler)
	}
	if err := l.Run(ctx); err != nil {
		t.Errorf("loop returned %v", err)
	}
	return at
}

func between(t *testing.T, what string, lo, got, hi float64) {
	t.Helper()
	if got < lo || got > hi {
		t.Errorf("%s: %.3f is not between %.3f and %.3f", what, got, lo, hi)
	}
}

func TestLoopTicksWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := turns(t, Loop{Name: "x", Every: 10 * time.Second}, 35*time.Second, func(int) error { return nil })
		if len(at) != 4 {
			t.Fatalf("turns at %v, want 4", at)
		}
		for i := 1; i < len(at); i++ {
			between(t, "gap", 10, at[i]-at[i-1], 11)
		}
	})
}

func TestLoopManyWakesAreOneTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake, doWake := Wake()
		at := turns(t, Loop{Name: "x", Wake: wake}, time.Minute, func(n int) error {
			if n == 1 {
				doWake()
				doWake()
				doWake()
			}
			return nil
		})
		if diff := cmp.Diff([]float64{0, 0}, at); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLoopBacksOffAndWakesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake, doWake := Wake()
		var out bytes.Buffer
		l := Loop{Name: "x", Wake: wake, Min: time.Second, Max: 4 * time.Second, Log: slog.New(slog.NewTextHandler(&out, nil))}
		at := turns(t, l, time.Hour, func(n int) error {
			doWake()
			if n <= 4 {
				return errors.New("store is down")
			}
			if n > 5 {
				time.Sleep(time.Hour)
			}
			return nil
		})
		if len(at) != 6 {
			t.Fatalf("turns at %v, want 6", at)
		}
		for i, want := range []float64{1, 2, 4, 4} {
			between(t, "back-off", want, at[i+1]-at[i], want*1.1+0.001)
		}
		between(t, "woken after success", 0, at[5]-at[4], 0.001)
		if got := strings.Count(out.String(), "\n"); got != 2 {
			t.Errorf("an outage and its end should be two lines, got:\n%s", out.String())
		}
	})
}

func TestPulseTellsAStuckTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pulse
		check := Healthy(time.Minute, map[string]*Pulse{"engine": &p})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		l := Loop{Name: "engine", Every: time.Second, Log: slog.New(slog.DiscardHandler), Pulse: &p, Turn: func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}}
		if err := check(); err != nil {
			t.Errorf("before the first turn: %v", err)
		}
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		time.Sleep(61 * time.Second)
		if err := check(); err == nil || !strings.Contains(err.Error(), "loop engine has been in one turn for 1m1s") {
			t.Errorf("got %v", err)
		}
		<-done
		if err := check(); err != nil {
			t.Errorf("after the turn: %v", err)
		}
	})
}

// systemd is the other end of sd_notify.
func systemd(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, path
}

func hear(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestNotify(t *testing.T) {
	c, path := systemd(t)
	n := NewNotifier(func(k string) string { return map[string]string{"NOTIFY_SOCKET": path}[k] }, 1)
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{n.Ready, "READY=1"},
		{n.Stopping, "STOPPING=1"},
		{n.Reloading, "RELOADING=1\nMONOTONIC_USEC="},
		{func() error { return n.Status("one\ntwo") }, "STATUS=one two"},
		{func() error { return n.Extend(time.Second) }, "EXTEND_TIMEOUT_USEC=1000000"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := hear(t, c); !strings.HasPrefix(got, step.want) {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
	if err := (Notifier{}).Ready(); err != nil {
		t.Errorf("without a socket: %v", err)
	}
}

func TestWatchdogIsForItsOwnProcess(t *testing.T) {
	env := map[string]string{"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "7"}
	get := func(k string) string { return env[k] }
	if got := NewNotifier(get, 7).watchdog; got != 20*time.Second {
		t.Errorf("own process: %s", got)
	}
	if got := NewNotifier(get, 8).watchdog; got != 0 {
		t.Errorf("another process: %s", got)
	}
}

func TestWatchdogTellsOnlyWhileHealthy(t *testing.T) {
	c, path := systemd(t)
	n := Notifier{socket: path, watchdog: time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	done := make(chan error, 1)
	go func() {
		done <- n.Watchdog(ctx, func() error {
			if calls++; calls > 1 {
				return errors.New("stuck")
			}
			return nil
		})
	}()
	if got := hear(t, c); got != "WATCHDOG=1" {
		t.Errorf("got %q", got)
	}
	if got := hear(t, c); got != "STATUS=not healthy: stuck" {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListenEndsAtSIGTERM(t *testing.T) {
	ctx, s, stop := Listen(t.Context())
	defer stop()
	kill := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(syscall.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
	}
	kill(syscall.SIGHUP)
	<-s.Reload
	kill(syscall.SIGUSR1)
	<-s.Dump
	if ctx.Err() != nil {
		t.Fatal("ended too early")
	}
	kill(syscall.SIGTERM)
	<-ctx.Done()
	var by Terminated
	if !errors.As(context.Cause(ctx), &by) || by.Signal != syscall.SIGTERM {
		t.Errorf("cause %v", context.Cause(ctx))
	}
}

func TestVersion(t *testing.T) {
	for in, want := range map[string]string{"": "devel", "(devel)": "devel", "v1.2.3": "1.2.3", "v0.0.0-2026+dirty": "0.0.0-2026+dirty"} {
		if got := version(&debug.BuildInfo{Main: debug.Module{Version: in}}); got != want {
			t.Errorf("version of %q: got %q, want %q", in, got, want)
		}
	}
	if Version() == "" {
		t.Error("no version")
	}
}
