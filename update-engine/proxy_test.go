package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleet-init/fleet/update-engine/slot"
)

// TestProxiesAreHonoured runs mirror and the daemon where releases can be reached by a proxy only: everything that they fetch (signed state, payloads)
// comes by it, with the range that was asked for.
func TestProxiesAreHonoured(t *testing.T) {
	p := newPublisher(t)
	p.publish(t, "2.0.0", "1.0.0")
	files := http.FileServerFS(os.DirFS(p.dir))
	var mu sync.Mutex // guards asked
	asked := map[string]bool{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "releases.invalid" {
			http.Error(w, "not by a proxy", http.StatusBadRequest)
			return
		}
		mu.Lock()
		asked[strings.Split(r.URL.Path, "/")[1]] = true
		mu.Unlock()
		files.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	self, err := os.Executable()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	program := func(args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, self, args...)
		// In a process of its own: net/http reads these once.
		c.Env = []string{"UPDATE_ENGINE_TEST_PROGRAM=1", "HTTP_PROXY=" + proxy.URL, "NO_PROXY=elsewhere.invalid", "PATH=" + os.Getenv("PATH")}
		return c
	}
	seen := func(who string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		for _, dir := range []string{"metadata", "targets", "payloads"} {
			if !asked[dir] {
				t.Errorf("%s fetched nothing of %s by the proxy: %v", who, dir, asked)
			}
		}
		clear(asked)
	}
	if out, err := program("mirror", "http://releases.invalid", filepath.Join(t.TempDir(), "copy"), "--root", p.root).CombinedOutput(); err != nil {
		t.Fatalf("mirror: %v: %s", err, out)
	}
	seen("mirror")

	// A short path: a socket's may have 108 bytes.
	dir, err := os.MkdirTemp("", "ue")
	must(t, err)
	defer os.RemoveAll(dir)
	m := newMachine(t, p)
	socket := filepath.Join(dir, "s")
	daemon := program("--mirrors=http://releases.invalid", "--root="+p.root, "--state-dir="+dir, "--socket="+socket, "--slots="+m.slots.Root, "--health-dir="+dir+"/none", "--health-command=",
		"--strategy=off", "--interval=0s", "--gate-time=0s", "--dbus=", "--api-socket="+dir+"/none", "--gate-units=", "--arch=amd64", "--slot=a", "--release=1.0.0", "--boot-id=1", "--config=/dev/null")
	out, err := daemon.StderrPipe()
	must(t, err)
	must(t, daemon.Start())
	said := make(chan string)
	go func() { b, _ := io.ReadAll(out); said <- string(b) }()
	defer func() {
		cancel()
		text := <-said
		_ = daemon.Wait() // killed, as we wished
		t.Log(text)
	}()
	var last error
	for ctx.Err() == nil { // it comes up when it does
		if _, last = cmd(t, "apply", "--socket", socket); last == nil || !strings.Contains(last.Error(), "ask the daemon") && !strings.Contains(last.Error(), "busy") {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	must(t, last)
	seen("the daemon")
	f, err := m.slots.Image(slot.B)
	must(t, err)
	defer f.Close()
	b := make([]byte, imageSize)
	if _, err := f.ReadAt(b, 0); err != nil || sumOf(b) != sumOf(image("2.0.0")) {
		t.Errorf("the slot holds something else: %v", err)
	}
}
