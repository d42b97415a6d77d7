package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// inProcess makes a cluster with one machine and a folder with the unit files.
func inProcess(t *testing.T, files map[string]string) (c *cluster, env []string, dir string) {
	t.Helper()
	sockets, err := os.MkdirTemp("", "fleetctl") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	c = newCluster(t, filepath.Join(sockets, "fleet.sock"))
	t.Cleanup(func() {
		c.stop()
		_ = os.RemoveAll(sockets)
	})
	if err := c.machine(string(here), "10.0.0.2", nil); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return c, []string{"FLEETCTL_ENDPOINT=unix://" + c.socket}, dir
}

// waitFor blocks until a unit's observation is as wanted.
func (c *cluster) waitFor(t *testing.T, name unit.Name, active string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := c.reg.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	key := fleet.Key{Machine: here, Unit: name}
	for changes := c.reg.Watch(ctx, s); s.Observed[key].Active != active; {
		if change := <-changes; change.Err != nil {
			t.Fatal(change.Err)
		}
		if s, err = c.reg.Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

const forever = "[Service]\nType=oneshot\nExecStart=/bin/forever\n"

// fleetd is restarted while fleetctl waits: it finds the new one and sees the unit come up.
func TestWaitSurvivesARestartOfFleetd(t *testing.T) {
	c, env, dir := inProcess(t, map[string]string{"slow.service": forever})
	var out, errs bytes.Buffer
	code := make(chan int)
	go func() {
		code <- run(t.Context(), []string{"start", filepath.Join(dir, "slow.service")}, env, strings.NewReader(""), &out, &errs)
	}()
	c.waitFor(t, "slow.service", "activating")
	c.restartServer(t)
	s, err := c.reg.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := s.Observed[fleet.Key{Machine: here, Unit: "slow.service"}]
	o.Active, o.Sub = "active", "exited"
	if err := c.reg.Report(t.Context(), c.presences[here], []fleet.Observation{o}, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 0 || out.String() != "Unit slow.service launched on 1f2e3d4c.../10.0.0.2\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", got, out.String(), errs.String())
	}
}

func TestInterruptSaysWhatGoesOn(t *testing.T) {
	_, env, dir := inProcess(t, map[string]string{"slow@.service": forever})
	var out, errs bytes.Buffer
	args := []string{"start", "--no-block", filepath.Join(dir, "slow@1.service"), filepath.Join(dir, "slow@2.service")}
	if code := run(t.Context(), args, env, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatal(code, errs.String())
	}
	a, errs2 := connected(t, env)
	w, err := a.watch(t.Context(), []string{"slow@1.service", "slow@2.service"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	var goals []*goal
	for _, n := range w.names {
		goals = append(goals, &goal{name: n, verb: "start", target: fleet.Launched, hash: w.world.Units[n].Hash, changed: true})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code := w.wait(ctx, goals)
	want := "Interrupted. The cluster goes on bringing slow@1.service and 1 more to launched in the background; " +
		"to see how far it is: fleetctl list-unit-files\n"
	if code != exitInterrupted || errs2.String() != want {
		t.Errorf("exit code %d, stderr %q", code, errs2.String())
	}
}

func TestInterruptWhileConnecting(t *testing.T) {
	_, env, _ := inProcess(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	if code := run(ctx, []string{"list-units"}, env, strings.NewReader(""), &out, &errs); code != exitInterrupted || !strings.HasPrefix(errs.String(), "Interrupted.") {
		t.Errorf("exit code %d, stderr %q", code, errs.String())
	}
}

// connected is an app as it is when its command runs.
func connected(t *testing.T, env []string) (*app, *bytes.Buffer) {
	t.Helper()
	var out, errs bytes.Buffer
	a := newApp(strings.NewReader(""), &out, &errs)
	if _, err := a.parse(nil, env); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.client, err = a.dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.client.Close)
	return a, &errs
}

// On a terminal one line counts the units; what is printed takes its place.
func TestProgress(t *testing.T) {
	var out, errs bytes.Buffer
	a := newApp(strings.NewReader(""), &out, &errs)
	a.tty = true
	w := &wait{watcher: &watcher{app: a}, all: 1000, open: map[string]*pending{}}
	for _, n := range []string{"a.service", "b.service"} {
		w.open[n] = &pending{goal: &goal{name: n, target: fleet.Launched}}
	}
	w.draw()
	w.warn("Something happened")
	w.draw()
	delete(w.open, "a.service")
	w.draw()
	w.clear()
	w.clear()
	want := "\r\x1b[K998/1000 launched\r\x1b[KSomething happened\n\r\x1b[K998/1000 launched\r\x1b[K999/1000 launched\r\x1b[K"
	if errs.String() != want {
		t.Errorf("got %q\nwant %q", errs.String(), want)
	}
}

// A hundred instances are one request, and each gets its line.
func TestManyUnitsAreOneRequest(t *testing.T) {
	_, env, dir := inProcess(t, map[string]string{"web@.service": "[Service]\nExecStart=/bin/web %i\n"})
	args := []string{"--debug", "start"}
	for i := range 100 {
		args = append(args, filepath.Join(dir, "web@"+string(rune('a'+i/10))+string(rune('a'+i%10))+".service"))
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, env, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatal(code, errs.String())
	}
	if n := strings.Count(out.String(), " launched on "); n != 100 {
		t.Errorf("%d units launched: %s", n, out.String())
	}
	if n := strings.Count(errs.String(), "DEBUG POST batch"); n != 1 {
		t.Errorf("%d batches: %s", n, errs.String())
	}
}
