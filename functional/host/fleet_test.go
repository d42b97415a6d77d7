package host

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// fleetctl runs the installed command on a host, in the folder of the example units.
func fleetctl(t *testing.T, h *Host, args string) string {
	t.Helper()
	return h.Must(t, "sh", "-c", "cd /usr/share/doc/fleet/examples && exec fleetctl "+args)
}

// where returns the hosts that answer on a port with a unit's page.
func where(ctx context.Context, c *Cluster, port int) (hosts []string) {
	for _, h := range c.Hosts() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/", h.Name, port), nil)
		if err != nil {
			return nil
		}
		if !h.On() {
			continue
		}
		resp, err := c.HTTP().Do(req)
		if err != nil {
			continue
		}
		page, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if strings.TrimSpace(string(page)) == fmt.Sprintf("web@%d.service on %s", port-8000, h.Name) {
			hosts = append(hosts, h.Name)
		}
	}
	return hosts
}

// The promise of the first page: three instances run on three hosts, and run on when one dies.
func TestThreeHostsAreOneInitSystem(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{Hosts: 3, Files: FleetFiles(3, "agent_ttl = 3s\n")})
	ctx := Context(t)
	must(t, WaitFor(ctx, "three machines", func(ctx context.Context) error {
		out, err := c.Host(1).Run(ctx, "fleetctl", "list-machines", "--no-legend")
		if err == nil && strings.Count(out, "\n") != 3 {
			err = fmt.Errorf("there are %q", out)
		}
		return err
	}))
	fleetctl(t, c.Host(1), "start web@1.service web@2.service web@3.service")
	seen := map[string]int{}
	for port := 8001; port <= 8003; port++ {
		must(t, WaitFor(ctx, fmt.Sprintf("one answer on port %d", port), func(ctx context.Context) error {
			at := where(ctx, c, port)
			if len(at) != 1 {
				return fmt.Errorf("it comes from %v", at)
			}
			seen[at[0]] = port
			return nil
		}))
	}
	if len(seen) != 3 {
		t.Fatalf("three instances are not on three hosts: %v", seen)
	}
	// h1 leads and began the store: its loss is the worst.
	must(t, c.Host(1).PowerOff(ctx))
	must(t, WaitFor(ctx, "the dead host's instance elsewhere", func(ctx context.Context) error {
		if at := where(ctx, c, seen["h1"]); len(at) != 1 {
			return fmt.Errorf("it answers from %v", at)
		}
		return nil
	}))
	must(t, c.Host(1).Boot(ctx))
	must(t, WaitFor(ctx, "the host back in the list", func(ctx context.Context) error {
		out, err := c.Host(2).Run(ctx, "fleetctl", "list-machines", "--no-legend")
		if err == nil && strings.Count(out, "\n") != 3 {
			err = fmt.Errorf("there are %q", out)
		}
		return err
	}))
}

// Restarting the daemon, also by its watchdog, is no event for what runs.
func TestUnitsRunOnWhileFleetdIsRestarted(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{Hosts: 1, Files: FleetFiles(1, "")})
	h, ctx := c.Host(1), Context(t)
	must(t, WaitFor(ctx, "fleetd", func(ctx context.Context) error {
		_, err := h.Run(ctx, "systemctl", "is-active", "fleetd.service")
		return err
	}))
	fleetctl(t, h, "start web@1.service")
	pid, err := h.MainPID(ctx, "web@1.service")
	must(t, err)
	h.Must(t, "systemctl", "restart", "fleetd.service")
	want(t, "unit's file", h.Must(t, "systemctl", "show", "--value", "-pLoadState", "web@1.service"), "loaded")
	again, err := h.MainPID(ctx, "web@1.service")
	must(t, err)
	if again != pid || pid == 0 {
		t.Errorf("main process was %d, is %d", pid, again)
	}
	// Hardening must not stand in the way of any verb.
	fleetctl(t, h, "stop web@1.service")
	fleetctl(t, h, "destroy web@1.service")
	if out := h.Must(t, "sh", "-c", "journalctl -u fleetd -p warning --no-pager | grep -iE 'permission|read-only|not permitted' || :"); out != "" {
		t.Errorf("fleetd was denied something: %s", out)
	}
	if _, err := h.ReadFile(ctx, filepath.Join("/run/fleet/units", "web@1.service")); err == nil {
		t.Error("the destroyed unit's file is still there")
	}
}
