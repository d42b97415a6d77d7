package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fleet-init/fleet/functional/host"
)

// up makes the cluster and starts the web servers on it. Arguments are the number of hosts and the folder with what
// build.sh install made. If any of it fails, nothing stays.
func (t tool) up(ctx context.Context, args []string) error {
	n, err := hostCount(args)
	if err != nil {
		return err
	}
	switch c, err := host.Open(id); {
	case err == nil && c.Alive():
		fmt.Fprintf(t.out, "a cluster of %d hosts is up already\n", len(c.Hosts()))
		t.next()
		return nil
	case err == nil:
		if err := c.Close(); err != nil { // what a restart of the machine left
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	begin := time.Now()
	c, err := host.Start(ctx, host.Options{
		ID: id, Outlive: true, Hosts: n, Install: args[1], Files: host.FleetFiles(n, ""),
		Log: func(format string, a ...any) { fmt.Fprintf(t.out, format+"\n", a...) },
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%d hosts up after %.1f s\n", n, time.Since(begin).Seconds())
	if err := t.populate(ctx, c, n); err != nil {
		return errors.Join(err, t.journals(c), c.Close())
	}
	fmt.Fprintf(t.out, "all running after %.1f s\n", time.Since(begin).Seconds())
	t.next()
	return nil
}

// populate waits for the cluster to form, starts what the tour needs and shows it.
func (t tool) populate(ctx context.Context, c *host.Cluster, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := host.WaitFor(ctx, "all hosts in fleetctl list-machines", func(ctx context.Context) error {
		out, err := t.output(ctx, c, "list-machines", "--no-legend")
		if got := strings.Count(out, "\n"); err == nil && got != n {
			err = fmt.Errorf("%d of %d are there", got, n)
		}
		return err
	})
	if err != nil {
		return err
	}
	start := []string{"start"}
	for i := range 3 {
		start = append(start, filepath.Join(t.examples, fmt.Sprintf("web@%d.service", i+1)))
	}
	for _, args := range [][]string{start, {"list-machines"}, {"list-units"}} {
		fmt.Fprintf(t.out, "\n$ fleetctl %s\n", strings.Join(args, " "))
		out, err := t.output(ctx, c, args...)
		fmt.Fprint(t.out, out)
		if err != nil {
			return err
		}
	}
	return nil
}

func (t tool) output(ctx context.Context, c *host.Cluster, args ...string) (string, error) {
	cmd, err := t.command(ctx, c, args...)
	if err != nil {
		return "", err
	}
	return host.Finish(cmd)
}

// journals is the end of what fleetd said on each host, as an error for people.
func (t tool) journals(c *host.Cluster) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var all error
	for _, h := range c.Hosts() {
		text, err := h.Journal(ctx, "fleetd.service")
		all = errors.Join(all, fmt.Errorf("fleetd on %s:\n%s", h.Name, host.Tail(text, 15)), err)
	}
	return all
}

// next says what to type now.
func (t tool) next() {
	fmt.Fprintf(t.out, `
Now try:
  alias fleetctl='%[1]s ctl'
  fleetctl list-units
  %[1]s enter h1 curl -s http://h1:8001/      # which host has web@1.service? see list-units
  %[1]s kill h1                               # pull a plug, and see its units come back elsewhere:
  fleetctl list-units
  %[1]s boot h1
  %[1]s enter h2                              # a shell on a host: systemctl, journalctl, …
  %[1]s down                                  # remove everything
`, t.build)
}
