package bus

import (
	"bufio"
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

// daemon starts a message bus of the test's own, and returns its address.
func daemon(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Fatal("dbus-daemon is missing: install dbus-daemon")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--session", "--nofork", "--nopidfile", "--address=unix:tmpdir="+t.TempDir(), "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestOldClientsFindWhatTheyKnow(t *testing.T) {
	address := daemon(t)
	now := Status{Checked: 1700000000, Progress: 0.5, Operation: Loading, Version: "2.0.0", Size: 1 << 30, Running: "1.0.0"}
	var mu sync.Mutex // guards now, asked: the bus calls from elsewhere
	asked := []string{}
	s, err := Serve(t.Context(), address, Calls{
		Attempt: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, "attempt")
			return nil
		},
		Reset: func(context.Context) error { return errors.New("too late") },
	}, func() Status {
		mu.Lock()
		defer mu.Unlock()
		return now
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Serve(t.Context(), address, Calls{}, func() Status { return now }); err == nil {
		t.Error("two updaters on one bus")
	}
	c, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := c.Object(Name, Path)
	var got Status
	if err := o.Call(iface+".GetStatus", 0).Store(&got.Checked, &got.Progress, &got.Operation, &got.Version, &got.Size); err != nil {
		t.Fatal(err)
	}
	got.Running = now.Running
	if diff := cmp.Diff(now, got); diff != "" {
		t.Error(diff)
	}
	err = o.Call(iface+".AttemptUpdate", 0).Err
	mu.Lock()
	if err != nil || len(asked) != 1 {
		t.Error(err, asked)
	}
	mu.Unlock()
	if err := o.Call(iface+".ResetStatus", 0).Err; err == nil || err.Error() != "too late" {
		t.Error(err)
	}

	if err := c.AddMatchSignal(dbus.WithMatchInterface(iface)); err != nil {
		t.Fatal(err)
	}
	signals := make(chan *dbus.Signal, 10)
	c.Signal(signals)
	mu.Lock()
	now.Operation, now.Progress, now.Reason = NeedReboot, 1, "waiting for a permit"
	mu.Unlock()
	if err := s.Changed(now); err != nil {
		t.Fatal(err)
	}
	sig := <-signals
	want := []any{now.Checked, now.Progress, now.Operation, now.Version, now.Size}
	if diff := cmp.Diff(want, sig.Body); sig.Name != iface+".StatusUpdate" || diff != "" {
		t.Errorf("%s %s", sig.Name, diff)
	}
	v, err := o.GetProperty(iface + ".Reason")
	if err != nil || v.Value() != now.Reason {
		t.Error(v, err)
	}
	if err := o.SetProperty(iface+".Reason", dbus.MakeVariant("x")); err == nil {
		t.Error("a property could be written")
	}
}
