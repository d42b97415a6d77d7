package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/ssh/sshtest"
	"github.com/fleet-init/fleet/internal/unit"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fleetctl": main})
}

// The scripts of testdata run fleetctl as a process against a cluster of their own. UPDATE_GOLDEN=1 rewrites the outputs
// they compare.
//
//	machine ID IP [k=v...]  adds a machine
//	log MACHINE UNIT TEXT   adds an entry to that machine's journal
//	mute MACHINE            makes that machine's journal fail
//	sshd NAME               starts an SSH server, its port in $NAME; all servers let in the key of $HOME, and are known there
//	did NAME TEXT           wants that as the server's last acts, joined by commas, which are then forgotten
//	code N fleetctl ...     wants that exit code
//	usage fleetctl ...      wants the exit code of a usage error
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(env *testscript.Env) error {
			// A socket's path may have 107 bytes, and a script's work folder may be longer.
			dir, err := os.MkdirTemp("", "fleetctl")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(dir) })
			c := newCluster(t, filepath.Join(dir, "fleet.sock"))
			env.Defer(c.stop)
			env.Setenv("FLEETCTL_ENDPOINT", "unix://"+c.socket)
			env.Setenv("SOCKET", c.socket)
			env.Setenv("TZ", "UTC")
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Values["sshd"] = &servers{tb: t, named: map[string]*sshtest.Server{}, told: map[string]int{}}
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each fleetctl of a -race run waits a second before it ends
			env.Values["cluster"] = c
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"machine": func(ts *testscript.TestScript, _ bool, args []string) {
				metadata := map[string]string{}
				for _, kv := range args[2:] {
					k, v, _ := strings.Cut(kv, "=")
					metadata[k] = v
				}
				ts.Check(ts.Value("cluster").(*cluster).machine(args[0], args[1], metadata))
			},
			"log": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Value("cluster").(*cluster).journal.add(fleet.MachineID(args[0]), unit.Name(args[1]), strings.Join(args[2:], " "))
			},
			"mute": func(ts *testscript.TestScript, _ bool, args []string) {
				j := ts.Value("cluster").(*cluster).journal
				j.mu.Lock()
				defer j.mu.Unlock()
				j.silent[fleet.MachineID(args[0])] = true
			},
			"sshd": startServer,
			"did":  checkServer,
			"code": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				wantCode(ts, want, args[1:])
			},
			"usage": func(ts *testscript.TestScript, _ bool, args []string) { wantCode(ts, exitUsage, args) },
		},
	})
}

func wantCode(ts *testscript.TestScript, want int, args []string) {
	err := ts.Exec(args[0], args[1:]...)
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d: %v", code, want, err)
	}
}

// servers are the SSH servers of one script, with one key for all.
type servers struct {
	tb    *testing.T
	key   ssh.PublicKey
	named map[string]*sshtest.Server
	told  map[string]int // how much of a server's log a script has seen
}

func startServer(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value("sshd").(*servers)
	dir := filepath.Join(ts.Getenv("HOME"), ".ssh")
	if s.key == nil {
		signer, text := sshtest.Key(s.tb)
		s.key = signer.PublicKey()
		ts.Check(os.MkdirAll(dir, 0o700))
		ts.Check(os.WriteFile(filepath.Join(dir, "id_ed25519"), text, 0o600))
	}
	srv := sshtest.New(s.tb, s.key)
	s.named[args[0]] = srv
	f, err := os.OpenFile(filepath.Join(dir, "known_hosts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	ts.Check(err)
	_, err = f.WriteString(knownhosts.Line([]string{srv.Addr}, srv.HostKey) + "\n")
	ts.Check(errors.Join(err, f.Close()))
	_, port, err := net.SplitHostPort(srv.Addr)
	ts.Check(err)
	ts.Setenv(args[0], port)
}

func checkServer(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value("sshd").(*servers)
	all := s.named[args[0]].Log()
	got := strings.Join(all[s.told[args[0]]:], ", ")
	s.told[args[0]] = len(all)
	if got != args[1] {
		ts.Fatalf("server %s did %q, want %q", args[0], got, args[1])
	}
}
