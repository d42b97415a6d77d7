package fleettest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/api"
)

// ofOld is a fleet.conf as fleet's users have it: quoted or not, seconds as numbers, empty where nothing is meant. It holds every key
// that works without an etcd of one's own and a user's systemd.
const ofOld = `# our hosts in the west
verbosity=1
; since the outage in March
etcd_request_timeout=3.0
etcd_key_prefix="/_coreos.com/fleet/"
public_ip="10.1.2.3"
metadata="region=west, az=west-1, region=us-west"
agent_ttl="6s"
engine_reconcile_interval=8
token_limit=50
disable_engine=false
disable_watches=false
enable_grpc=true
units_directory="/run/fleet/units/"
systemd_user=false
verify_units=false
authorized_keys_file="~/.ssh/authorized_keys"
etcd_cafile=""
etcd_certfile=
etcd_keyfile=
etcd_username=
etcd_password=
`

// Files and variables that were written for fleet set ours.
func TestFleetdTakesFleetsSettings(t *testing.T) {
	t.Parallel()
	r := bootFiles(t, 1, func(i int) map[string]string {
		files := host.FleetFiles(1, "")(i)
		files["/etc/fleet/fleet.conf"] = "# nothing is set\n\n# metadata=\"\"\n"
		return files
	})
	h := r.Host(1)
	restart := func(r *rig) {
		r.t.Helper()
		h.Must(r.t, "sh", "-c", "systemctl daemon-reload && systemctl restart fleet.service")
		r.machines(h)
	}
	r.machines(h)
	r.write(h, map[string]string{"s.service": service("")})
	r.ctl(h, "start", "s.service")
	before := r.running(h)

	r.sub("file", func(r *rig) {
		// With the prefix of old its keys are elsewhere: the unit stays with the other prefix, for later.
		h.Must(r.t, "cp", "/etc/fleet/fleet.conf", "/etc/fleet/before.conf")
		r.must(h.WriteFile(r.ctx, "/etc/fleet/fleet.conf", strings.ReplaceAll(ofOld, "/_coreos.com/fleet/", "/fleet/")))
		restart(r)
		if out := r.ctl(h, "list-machines", "--no-legend", "--fields=ip,metadata"); out != "10.1.2.3\taz=west-1,region=us-west" {
			r.t.Errorf("the machine is %q", out)
		}
		r.journalSays(h, "fleetd.service", "level=DEBUG", "enable_grpc", "verify_units", "authorized_keys_file")
	})
	r.sub("environment, as cloud-config wrote it", func(r *rig) {
		r.must(h.WriteFile(r.ctx, "/run/systemd/system/fleet.service.d/20-cloudinit.conf", `[Service]
Environment="FLEET_AGENT_TTL=5s"
Environment="FLEET_ENGINE_RECONCILE_INTERVAL=4"
Environment="FLEET_ETCD_REQUEST_TIMEOUT=2.5"
Environment="FLEET_METADATA=region=us-west,az=us-west-1"
Environment="FLEET_PUBLIC_IP=10.4.5.6"
Environment="FLEET_VERBOSITY=1"
Environment="FLEET_TOKEN_LIMIT=1"
`))
		restart(r)
		if out := r.ctl(h, "list-machines", "--no-legend", "--fields=ip,metadata"); out != "10.4.5.6\taz=us-west-1,region=us-west" {
			r.t.Errorf("the machine is %q", out)
		}
		r.write(h, map[string]string{"second.service": service("")})
		r.ctl(h, "submit", "second.service")
		var page map[string]any
		if r.get(h, "/fleet/v1/units", &page); page["nextPageToken"] == nil {
			r.t.Errorf("pages of one item have no next: %v", page)
		}
		h.Must(r.t, "rm", "-r", "/run/systemd/system/fleet.service.d")
	})
	r.sub("another file", func(r *rig) {
		r.must(h.WriteFiles(r.ctx, map[string]string{
			"/etc/systemd/system/fleetd.service.d/file.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/fleetd -config /etc/elsewhere.conf\n",
			"/etc/elsewhere.conf":                            "metadata = from=elsewhere\n",
		}))
		restart(r)
		if out := r.ctl(h, "list-machines", "--no-legend", "--fields=metadata"); out != "from=elsewhere" {
			r.t.Errorf("metadata is %q", out)
		}
		out, text, code := r.try(h, "fleetd", "-config", "/etc/not-there.conf")
		if code == 0 || !strings.Contains(text, "/etc/not-there.conf") {
			r.t.Errorf("a file that is not there: %d %s%s", code, out, text)
		}
	})
	r.sub("engine that is disabled places nothing", func(r *rig) {
		r.must(h.WriteFile(r.ctx, "/etc/elsewhere.conf", "disable_engine=true\n"))
		restart(r)
		r.write(h, map[string]string{"waits.service": service("")})
		r.refused(h, 1, []string{"waits.service"}, "start", "--block-attempts=1", "waits.service")
		r.must(h.WriteFile(r.ctx, "/etc/elsewhere.conf", ""))
		restart(r)
		r.once("waits.service")
		r.ctl(h, "destroy", "waits.service")
	})
	r.sub("etcd of old that is not there any more", func(r *rig) {
		r.must(h.WriteFile(r.ctx, "/etc/elsewhere.conf", `etcd_servers=["http://127.0.0.1:2379", "http://127.0.0.1:4001"]`+"\n"))
		h.Must(r.t, "systemctl", "restart", "--no-block", "fleetd.service")
		r.says(h, "etcd_servers", "http://127.0.0.1:2379, http://127.0.0.1:4001", "brings its own")
		r.must(h.WriteFile(r.ctx, "/etc/elsewhere.conf", ""))
		restart(r)
	})
	r.sub("version and wrong words", func(r *rig) {
		for _, args := range [][]string{{"-version"}, {"--version"}, {"version"}} {
			if out, text, code := r.try(h, "fleetd", args...); code != 0 || !strings.HasPrefix(out, "fleetd version ") {
				r.t.Errorf("fleetd %v: %d %s%s", args, code, out, text)
			}
		}
		if out, text, code := r.try(h, "fleetd", "serve"); code == 0 || !strings.Contains(out+text, "serve") {
			r.t.Errorf("fleetd serve: %d %s%s", code, out, text)
		}
	})
	r.same(h, before)
}

// get reads a page of a host's API.
func (r *rig) get(h *host.Host, path string, into any) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://fleet"+path, nil)
	r.must(err)
	resp, err := h.UnixHTTP("/run/fleet.sock").Do(req)
	r.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	r.must(err)
	if s, ok := into.(*string); ok {
		*s = string(text)
		return
	}
	r.must(json.Unmarshal(text, into))
}

// What an operator does to the daemon, and what it does for an operator.
func TestFleetdIsReloadedDumpedMeasuredAndDrained(t *testing.T) {
	t.Parallel()
	r := boot(t, 1, usual)
	h := r.Host(1)
	conf := host.FleetFiles(1, usual)(1)["/etc/fleet/fleet.conf"]
	r.write(h, map[string]string{"o.service": service("ExecStop=/bin/touch /run/o-stopped\n"), "picky.service": service("[X-Fleet]\nMachineMetadata=rack=new\n")})
	r.ctl(h, "start", "o.service")

	r.sub("reload takes metadata over and drops no connection", func(r *rig) {
		before, pid := r.running(h), r.property(h, "fleetd.service", "MainPID")
		stream, err := r.api(h).Watch(r.ctx, 0)
		r.must(err)
		defer stream.Close()
		r.until(stream, "all that is there", func(e api.Event) bool { return e.Sync })
		conn, err := h.DialUnix(r.ctx, "/run/fleet.sock")
		r.must(err)
		defer conn.Close()
		read := bufio.NewReader(conn)
		ask := func() {
			r.t.Helper()
			_, err := io.WriteString(conn, "GET /fleet/v1/machines HTTP/1.1\r\nHost: fleet\r\n\r\n")
			r.must(err)
			resp, err := http.ReadResponse(read, nil)
			r.must(err)
			_, err = io.Copy(io.Discard, resp.Body)
			r.must(err)
			if resp.StatusCode != http.StatusOK {
				r.t.Errorf("status %d", resp.StatusCode)
			}
		}
		ask()
		r.must(h.WriteFile(r.ctx, "/etc/fleet/fleet.conf", conf+"metadata = rack=new\n"))
		h.Must(r.t, "systemctl", "reload", "fleet.service")
		r.until(stream, "the new metadata", func(e api.Event) bool { return e.Machine != nil && e.Machine.Metadata["rack"] == "new" })
		ask()
		// What is wrong changes nothing, and is told.
		r.must(h.WriteFile(r.ctx, "/etc/fleet/fleet.conf", conf+"metadatum = rack=wrong\n"))
		h.Must(r.t, "systemctl", "reload", "fleet.service")
		r.journalSays(h, "fleetd.service", "metadatum")
		ask()
		if now := r.property(h, "fleetd.service", "MainPID"); now != pid {
			r.t.Errorf("it was process %s, is %s", pid, now)
		}
		r.same(h, before)
		r.must(h.WriteFile(r.ctx, "/etc/fleet/fleet.conf", conf))
		h.Must(r.t, "systemctl", "reload", "fleet.service")
	})
	r.sub("SIGUSR1 prints the state as one line of JSON", func(r *rig) {
		r.must(h.Signal(r.ctx, "fleetd.service", "USR1"))
		r.wait("the line", func() error {
			out, err := h.Sh(r.ctx, "journalctl -u fleetd.service -o cat | grep '^{' | tail -n 1")
			var state struct {
				Version  string
				Presence *struct{ Machine string }
				Member   map[string]any
				Agent    map[string]any
			}
			if err == nil {
				err = json.Unmarshal([]byte(out), &state)
			}
			return orElse(err, need(state.Version != "" && state.Presence != nil && len(state.Member) > 0 && strings.Contains(out, "o.service"), out))
		})
	})
	r.sub("metrics have the names that dashboards know", func(r *rig) {
		var text string
		r.get(h, "/metrics", &text)
		for _, name := range strings.Fields(`fleet_engine_leader_start_time fleet_engine_task_count_total fleet_engine_task_failure_count_total
			fleet_engine_reconcile_count_total fleet_engine_reconcile_failure_count_total fleet_engine_reconcile_duration_second_count
			fleet_registry_operation_count_total fleet_registry_operation_failed_count_total fleet_registry_operation_duration_second_count
			go_goroutines process_cpu_seconds_total`) {
			if !strings.Contains(text, "\n"+name+" ") && !strings.Contains(text, "\n"+name+"{") {
				r.t.Errorf("there is no %s", name)
			}
		}
	})
	r.sub("stop drains, and start brings the units back", func(r *rig) {
		h.Must(r.t, "systemctl", "stop", "fleet.service")
		if left := r.running(h); len(left) != 0 {
			r.t.Errorf("there run %v", left)
		}
		h.Must(r.t, "test", "-e", "/run/o-stopped")
		r.leavesNothing(h)
		if result := r.property(h, "fleetd.service", "Result"); result != "success" {
			r.t.Errorf("it ended with %s", result)
		}
		h.Must(r.t, "systemctl", "start", "fleet.service")
		r.once("o.service")
	})
}

// until reads a watch until an event is the one that is waited for.
func (r *rig) until(s *api.Stream, what string, is func(api.Event) bool) {
	r.t.Helper()
	for {
		e, err := s.Next()
		if err != nil {
			r.t.Fatalf("watch for %s: %v", what, err)
		}
		if is(e) {
			return
		}
	}
}

// systemd_user: the fleetd of a user runs units in the user's own systemd, as the user.
func TestFleetdOfAUserRunsUnitsOfTheUser(t *testing.T) {
	t.Parallel()
	r := bootFiles(t, 1, nil)
	h := r.Host(1)
	r.must(h.WriteFile(r.ctx, "/home/joe/fleet.conf", `systemd_user=true
units_directory=/run/joe/fleet/units
data_dir=/home/joe/fleet
etcd_socket=/run/joe/etcd.sock
api_socket=/run/joe/fleet.sock
`))
	h.Must(t, "sh", "-c", `useradd --uid 1000 joe && chown -R joe:joe /home/joe && install -d -o joe -g joe -m 700 /run/joe
		run() { systemd-run --quiet --uid=joe -p Type=notify -p Delegate=yes -p Environment=XDG_RUNTIME_DIR=/run/joe "$@"; }
		run --unit=joe /lib/systemd/systemd --user
		run --unit=joefleet /usr/bin/fleetd -config /home/joe/fleet.conf`)
	r.write(h, map[string]string{"mine.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/touch /run/joe/mine\n"})
	const endpoint = "--endpoint=unix:///run/joe/fleet.sock"
	r.ctl(h, endpoint, "start", "mine.service")
	if owner := h.Must(t, "stat", "-c", "%U", "/run/joe/mine"); owner != "joe" {
		t.Errorf("the unit ran as %s", owner)
	}
	if out := r.ctl(h, endpoint, "list-units", "--no-legend", "--fields=unit,load,active,sub"); out != "mine.service\tloaded\tactive\texited" {
		t.Errorf("it lists %q", out)
	}
	if out := h.Must(t, "stat", "-c", "%a %U", "/run/joe/fleet.sock"); out != "600 joe" {
		t.Errorf("its socket is %s", out)
	}
	r.ctl(h, endpoint, "destroy", "mine.service")
	if out := fmt.Sprint(h.Must(t, "ls", "/run/joe/fleet/units")); out != "" {
		t.Errorf("it left %s", out)
	}
}
