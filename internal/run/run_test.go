package run

import (
	"context"
	"errors"
	"io"
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

func TestManyWakesAreOne(t *testing.T) {
	wake, doWake := Wake()
	for range 3 {
		doWake()
	}
	<-wake
	select {
	case <-wake:
		t.Error("woken twice")
	default:
	}
	doWake()
	<-wake
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
