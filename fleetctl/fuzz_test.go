package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// looking are commands that print what the cluster answers.
func looking() [][]string {
	return [][]string{
		{"list-units"}, {"list-units", "-l", "--full"}, {"list-machines"}, {"list-machines", "-l"}, {"list-unit-files"}, {"status"}, {"status", "a.service"},
		{"network"}, {"members"}, {"updates"}, {"reboot", "status"}, {"join-token", "list"}, {"audit"}, {"whoami"}, {"ca", "show"}, {"list-units", "--json"},
		{"stop", "--no-block", "a.service"}, {"destroy", "a.service"}, {"set-metadata", "x", "a=b"}, {"cat", "a.service"}, {"journal", "a.service"}, {"restart", "a.service"},
	}
}

// FuzzAnswers has a server answer fleetctl anything: it ends with one of its exit codes, and what it says of it is text that cannot take the
// user's terminal over.
func FuzzAnswers(f *testing.F) {
	dir, err := os.MkdirTemp("", "fz") // a socket's path must be short
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		f.Fatal(err)
	}
	var status int
	var answer []byte // one request at a time is asked by the target, which waits for its end
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(answer) // fleetctl may have hung up
	})}
	go func() { _ = server.Serve(l) }()
	f.Cleanup(func() { _ = server.Close() })
	for i := range looking() {
		f.Add(uint8(i), uint16(200), []byte(`{"units":[{"name":"a.service","desiredState":"launched","currentState":"loaded","options":[]}],"states":[{"name":"a.service","machineID":"x\u001b[2J","systemdSubState":"running"}],"machines":[{"id":"x","primaryIP":"\u0007","metadata":{"a":"\n"}}],"revision":3}`))
		f.Add(uint8(i), uint16(200), []byte(`{"revision":3,"unit":{"name":"a.service"}}`+"\n"+`{"revision":3,"sync":true}`+"\n"))
		f.Add(uint8(i), uint16(503), []byte(`{"error":{"code":503,"message":"\u001b]0;x\u0007"}}`))
	}
	f.Fuzz(func(t *testing.T, which uint8, code uint16, b []byte) {
		status, answer = 200+int(code)%400, b
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		args := looking()[int(which)%len(looking())]
		var out, errs bytes.Buffer
		got := run(ctx, append([]string{"--endpoint", "unix://" + socket, "--request-timeout", "0.2"}, args...), []string{"HOME=" + dir}, strings.NewReader(""), &out, &errs)
		if got < 0 || got > 125 {
			t.Errorf("%v: exit code %d", args, got)
		}
		if got != exitOK && errs.Len() == 0 && out.Len() == 0 {
			t.Errorf("%v: exit code %d without a word", args, got)
		}
		// The texts of units and JSON are passed on as they are.
		if args[0] != "cat" && args[len(args)-1] != "--json" {
			for _, text := range []string{out.String(), errs.String()} {
				if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }); i >= 0 {
					t.Errorf("%v prints %q", args, text[max(0, i-40):min(len(text), i+40)])
				}
			}
		}
	})
}

// FuzzContexts reads the file of contexts: an error names it, and what is taken is written back as it was.
func FuzzContexts(f *testing.F) {
	f.Add([]byte(`{"v":1,"current":"work","contexts":{"work":{"voters":["10.0.0.1:2378"]}}}`))
	f.Add([]byte(`{"contexts":null,"current":"gone"}`))
	f.Add([]byte(`{"contexts":{"../x":{"endpoint":"x"}}}`))
	home := f.TempDir()
	path := filepath.Join(home, ".config/fleet/contexts.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := openContexts([]string{"HOME=" + home})
		if err != nil {
			if !strings.Contains(err.Error(), "contexts") {
				t.Errorf("%v does not name the file", err)
			}
			return
		}
		if err := c.save(); err != nil {
			t.Fatal(err)
		}
		again, err := openContexts([]string{"HOME=" + home})
		if err != nil || again.Current != c.Current || len(again.Known) != len(c.Known) {
			t.Errorf("%+v was read back as %+v, %v", c, again, err)
		}
	})
}
