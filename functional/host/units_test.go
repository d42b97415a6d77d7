package host

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/unit"
)

// root returns the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := moduleRoot()
	must(t, err)
	return dir
}

// shipped returns the unit files of a folder below the module's root.
func shipped(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := map[string]string{}
	dir := filepath.Join(root(t), folder)
	for _, name := range names(dir) {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			files[name] = readFile(t, dir, name)
		}
	}
	if len(files) == 0 {
		t.Fatalf("%s holds no files", folder)
	}
	return files
}

func TestShippedUnitsAreUnitsThatFleetTakes(t *testing.T) {
	for _, folder := range []string{"units", "units/examples"} {
		for name, text := range shipped(t, folder) {
			n, err := unit.ParseName(name)
			if err != nil {
				t.Errorf("%s/%s: %v", folder, name, err)
			}
			f, err := unit.Parse([]byte(text))
			if err != nil {
				t.Errorf("%s/%s: %v", folder, name, err)
				continue
			}
			if err := unit.Validate(f, n); err != nil {
				t.Errorf("%s/%s: %v", folder, name, err)
			}
			if _, err := unit.NeedsOf(f.Options, n); err != nil {
				t.Errorf("%s/%s: %v", folder, name, err)
			}
		}
	}
}

// onHost boots a host that has all shipped units, and a program that stands in for fleetd where only its unit is looked at.
func onHost(t *testing.T, fleetd string) (*Cluster, *Host) {
	t.Helper()
	c := ForTest(t, Options{Hosts: 1, Files: func(int) map[string]string {
		files := map[string]string{"/usr/bin/fleetd": fleetd}
		for _, name := range []string{"netd", "update-engine", "fleet-guard", "cloud-config"} {
			files["/usr/bin/"+name] = "#!/bin/sh\n"
		}
		for name, text := range shipped(t, "units") {
			files["/usr/lib/systemd/system/"+name] = text
		}
		for name, text := range shipped(t, "units/examples") {
			files["/etc/systemd/system/"+name] = text
		}
		for name, text := range shipped(t, "units/sysusers.d") {
			files["/usr/lib/sysusers.d/"+name] = text
		}
		return files
	}})
	return c, c.Host(1)
}

func TestSystemdFindsNoFaultInShippedUnits(t *testing.T) {
	t.Parallel()
	_, h := onHost(t, "#!/bin/sh\n")
	for _, folder := range []string{"units", "units/examples"} {
		for name := range shipped(t, folder) {
			name = strings.Replace(name, "@.", "@1.", 1)
			out, err := h.Sh(Context(t), "systemd-analyze verify --recursive-errors=no --man=no "+name+" 2>&1")
			if err != nil || out != "" {
				t.Errorf("%s: %v %s", name, err, out)
			}
		}
	}
	t.Logf("%s", h.Must(t, "sh", "-c", "systemd-analyze security --no-pager fleetd.service | tail -1"))
}

func TestExampleWebServersSayWhoTheyAre(t *testing.T) {
	t.Parallel()
	c, h := onHost(t, "#!/bin/sh\n")
	h.Must(t, "systemctl", "start", "web@1.service", "web@12.service", "web-watch@1.service")
	for i, port := range map[int]int{1: 8001, 12: 8012} {
		want(t, "answer", get(t, c, fmt.Sprintf("http://h1:%d/", port)), fmt.Sprintf("web@%d.service on h1\n", i))
	}
	h.Must(t, "systemctl", "stop", "web@1.service")
	if out, err := h.Run(Context(t), "systemctl", "is-active", "web-watch@1.service"); err == nil {
		t.Errorf("the sidekick stays when its server goes: %s", out)
	}
}

func TestExampleSocketPassesConnectionsOn(t *testing.T) {
	t.Parallel()
	c, h := onHost(t, "#!/bin/sh\n")
	h.Must(t, "systemctl", "start", "web@1.service", "front.socket")
	want(t, "answer through the socket", get(t, c, "http://h1:8000/"), "web@1.service on h1\n")
}

// get waits for the page of a server that is just starting.
func get(t *testing.T, c *Cluster, url string) (body string) {
	t.Helper()
	must(t, WaitFor(Context(t), url, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return Final(err)
		}
		resp, err := c.HTTP().Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		body = string(text)
		return err
	}))
	return body
}

// A stand-in that says it is ready; it may write only where the real one may.
const standIn = `#!/bin/sh
set -e
echo x >/var/lib/fleet/x
echo x >/run/fleet/x
echo x >/run/systemd/system/x.service
! echo x >/etc/x 2>/dev/null
! echo x >/usr/x 2>/dev/null
systemd-notify --ready --status="$LISTEN_FDNAMES"
while :; do systemd-notify WATCHDOG=1; sleep 5; done
`

func TestSocketStaysOverRestartsAndGoesWithAStop(t *testing.T) {
	t.Parallel()
	_, h := onHost(t, standIn)
	ctx := Context(t)
	// Only because the stand-in's notifications come from a child.
	must(t, h.WriteFile(ctx, "/etc/systemd/system/fleetd.service.d/a.conf", "[Service]\nNotifyAccess=all\n"))
	h.Must(t, "systemctl", "enable", "--now", "fleetd.service", "fleet.socket")
	want(t, "what fleetd was passed", h.Must(t, "systemctl", "show", "--value", "-pStatusText", "fleetd.service"), "fleet.socket")
	want(t, "who may use the socket", h.Must(t, "stat", "-c", "%a %U %G", "/run/fleet.sock"), "660 root fleet")
	want(t, "old name", h.Must(t, "systemctl", "show", "--value", "-pId", "fleet.service"), "fleetd.service")

	inode := h.Must(t, "stat", "-c", "%i", "/run/fleet.sock")
	h.Must(t, "systemctl", "restart", "fleetd.service")
	want(t, "socket after a restart", h.Must(t, "stat", "-c", "%i", "/run/fleet.sock"), inode)
	want(t, "units' texts after a restart", h.Must(t, "cat", "/run/fleet/x"), "x")

	h.Must(t, "systemctl", "stop", "fleetd.service")
	// systemctl waits for the service only; the socket's turn is after it.
	must(t, WaitFor(ctx, "the socket to go", func(ctx context.Context) error {
		if out, err := h.Run(ctx, "systemctl", "is-active", "fleet.socket"); err == nil {
			return fmt.Errorf("it is %s", out)
		}
		return nil
	}))
	h.Must(t, "systemctl", "start", "fleetd.service")
	h.Must(t, "systemctl", "is-active", "fleet.socket")
}
