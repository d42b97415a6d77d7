package faults

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// What a unit says reaches the log whole, in order, also over a connection that breaks, and its last word too.
func TestBeatsReachTheLog(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "fleet-beat")
	if out, err := exec.Command("go", "build", "-o", bin, "./beat").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	first := Collect(l)
	ready := filepath.Join(t.TempDir(), "notify")
	said, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: ready, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd := exec.Command(bin, addr, "u.service")
	cmd.Env = []string{"INVOCATION_ID=abc", "BEAT_MACHINE=m1", "FLEET_FENCING_TOKEN=7", "NOTIFY_SOCKET=" + ready}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }() // it has ended, if all went well
	word := make([]byte, 100)
	n, err := said.Read(word)
	if err != nil || string(word[:n]) != "READY=1" {
		t.Errorf("systemd was told %q: %v", word[:n], err)
	}
	some := func(c *Collector, n int) {
		t.Helper()
		err := host.WaitFor(t.Context(), "beats", func(context.Context) error {
			beats, err := c.Beats()
			if err == nil && len(beats) < n {
				err = os.ErrNotExist
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	some(first, 2)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	second := Collect(l)
	some(second, 2)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	err = host.WaitFor(t.Context(), "the last word", func(context.Context) error {
		if runs := second.Runs("u.service"); len(runs) != 1 || !runs[0].Ended {
			return os.ErrNotExist
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	beats, err := second.Beats()
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range beats {
		if b.Unit != "u.service" || b.Run != "abc" || b.Token != 7 || b.Machine != "m1" || i > 0 && (b.Count < beats[i-1].Count || b.At < beats[i-1].At) {
			t.Errorf("beat %d is %+v", i, b)
		}
	}
}

func TestALineThatIsNoBeatIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := Collect(l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("nonsense\n{\"unit\":\"cut short")); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	err = host.WaitFor(t.Context(), "the error", func(context.Context) error {
		if _, err := c.Beats(); err == nil {
			return os.ErrNotExist
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if beats, err := c.Beats(); len(beats) != 0 || !strings.Contains(err.Error(), "nonsense") || strings.Contains(err.Error(), "cut short") {
		t.Errorf("%v, %v", beats, err)
	}
}
