package systemd

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/godbus/dbus/v5"
)

// TestOwnJobHelper is the program of the service that TestOwnJob starts: it notes on SIGTERM which job systemd runs on it.
func TestOwnJobHelper(t *testing.T) {
	out := os.Getenv("FLEET_TEST_OWNJOB")
	if out == "" {
		t.Log("runs as a service only")
		return
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	note(t, out, "ready")
	<-term
	s := New(Options{})
	kind, err := s.OwnJob(context.Background())
	note(t, out, "["+kind+"]")
	if err := errors.Join(err, s.Close()); err != nil {
		note(t, out, err.Error())
	}
}

// note adds a word to a file.
func note(t *testing.T, path, word string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(word + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOwnJob(t *testing.T) {
	if os.Getenv("FLEET_TEST_SYSTEMD") == "" {
		t.Log("FLEET_TEST_SYSTEMD is not set: needs a real systemd")
		return
	}
	b := realBench(t)
	s := b.sys.(*Systemd)
	defer b.clear()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "job")
	b.load(b.write("ft-own.service", "[Service]\nEnvironment=FLEET_TEST_OWNJOB="+out+"\nExecStart="+self+" -test.run=^TestOwnJobHelper$\n"))
	b.start("ft-own.service")
	b.until("ready", func() bool { return noted(out) == "ready" })
	conn, err := s.connected()
	if err != nil {
		t.Fatal(err)
	}
	var job dbus.ObjectPath
	if err := conn.call(t.Context(), "RestartUnit", []any{&job}, "ft-own.service", "replace"); err != nil {
		t.Fatal(err)
	}
	b.until("restarted", func() bool { return noted(out) == "ready [restart] ready" })
	if err := conn.call(t.Context(), "KillUnit", nil, "ft-own.service", "main", int32(syscall.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	b.becomes("ft-own.service", "loaded inactive dead success")
	b.start("ft-own.service")
	b.until("started again", func() bool { return noted(out) == "ready [restart] ready [] ready" })
	b.stop("ft-own.service")
	b.becomes("ft-own.service", "loaded inactive dead success")
	if got := noted(out); got != "ready [restart] ready [] ready [stop]" {
		t.Errorf("noted: %s", got)
	}
}

func noted(path string) string {
	text, _ := os.ReadFile(path) // not there yet: nothing noted
	return strings.Join(strings.Fields(string(text)), " ")
}
