package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fleet-init/fleet/functional/host"
)

// up makes the cluster and starts the web servers on it. Arguments are the number of hosts and the root tree that build.sh
// tree made. If any of it fails, nothing stays.
func (t tool) up(ctx context.Context, args []string) error {
	n, err := hostCount(args)
	if err != nil {
		return err
	}
	switch c, err := host.Open(t.id); {
	case err == nil && c.Alive():
		fmt.Fprintf(t.out, "a cluster of %d hosts is up already\n", len(c.Hosts()))
		t.next(c, "h1")
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
		ID: t.id, Outlive: true, Hosts: n, Tree: args[1], Files: host.FleetFiles(n, ""),
		Log: func(format string, a ...any) { fmt.Fprintf(t.out, format+"\n", a...) },
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%d hosts up after %.1f s\n", n, time.Since(begin).Seconds())
	err = t.populate(ctx, c, n)
	at := ""
	if err == nil {
		at, err = t.ask(ctx, c)
	}
	if err != nil {
		return errors.Join(err, t.journals(c), c.Close())
	}
	fmt.Fprintf(t.out, "\nall running after %.1f s\n", time.Since(begin).Seconds())
	t.next(c, at)
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
	for _, args := range [][]string{{"submit", "web@.service"}, {"start", "web@1.service", "web@2.service", "web@3.service"}, {"list-machines"}, {"list-units"}} {
		fmt.Fprintf(t.out, "\n$ fleetctl %s\n", strings.Join(args, " "))
		out, err := t.output(ctx, c, args...)
		fmt.Fprint(t.out, out)
		if err != nil {
			return err
		}
	}
	return nil
}

// ask finds out which host each web server runs on by asking all, as a user would, and shows the answers. It returns the name of the
// host that web@1.service runs on.
func (t tool) ask(ctx context.Context, c *host.Cluster) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	at := map[int]string{}
	fmt.Fprintln(t.out)
	for port := 8001; port <= 8003; port++ {
		err := host.WaitFor(ctx, fmt.Sprintf("a web server on port %d of some host", port), func(ctx context.Context) error {
			for _, h := range c.Hosts() {
				url := fmt.Sprintf("http://%s:%d/", h.Name, port)
				if page, err := fetch(ctx, c, url); err == nil {
					fmt.Fprintf(t.out, "$ curl %s\n%s", url, page)
					at[port] = h.Name
					return nil
				}
			}
			return errors.New("none answers")
		})
		if err != nil {
			return "", err
		}
	}
	return at[8001], nil
}

func fetch(ctx context.Context, c *host.Cluster, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.HTTP().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return string(page), err
}

func (t tool) output(ctx context.Context, c *host.Cluster, args ...string) (string, error) {
	cmd, err := t.command(ctx, c, args...)
	if err != nil {
		return "", err
	}
	cmd.Dir = t.examples // where fleetctl looks for unit files
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

// next says what to type now. Host at is the one to kill.
func (t tool) next(c *host.Cluster, at string) {
	other := at // there may be but one
	for _, h := range c.Hosts() {
		if h.Name != at {
			other = h.Name
			break
		}
	}
	path, err := filepath.Abs(t.build)
	if err != nil {
		path = t.build
	}
	fmt.Fprintf(t.out, `
Now try:
  alias fleetctl='%[4]s ctl'
  fleetctl list-units
  %[1]s enter %[3]s curl -s http://%[2]s:8001/
  %[1]s kill %[2]s             # pulls its plug: what ran there comes back on another
  fleetctl list-units
  %[1]s boot %[2]s
  %[1]s enter %[3]s            # a shell on a host: systemctl, journalctl, ...
  %[1]s down                 # removes everything
`, t.build, at, other, path)
}
