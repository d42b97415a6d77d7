package fleettest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/fleet"
)

// What users get wrong is said at once, by name, and changes nothing.
func TestFaultyUnitsAreRefusedOrFailAlone(t *testing.T) {
	t.Parallel()
	r := boot(t, 2, usual)
	h := r.Host(1)
	r.write(h, map[string]string{"good.service": service("")})
	r.ctl(h, "start", "good.service")
	good := r.once("good.service")["good.service"]
	before := r.running(good)

	r.sub("file that does not parse", func(r *rig) {
		r.write(h, map[string]string{"torn.service": "[Service\nExecStart=/bin/true\n"})
		r.refused(h, 1, []string{"torn.service:1:"}, "start", "torn.service", "good.service")
		r.unknown("torn.service")
	})
	r.sub("unknown fleet option", func(r *rig) {
		r.write(h, map[string]string{"typo.service": service("[X-Fleet]\nMachineIDs=1\n")})
		r.refused(h, 1, []string{"typo.service", "MachineIDs"}, "start", "typo.service")
		r.unknown("typo.service")
	})
	r.sub("template started as such", func(r *rig) {
		r.write(h, map[string]string{"many@.service": service("")})
		r.refused(h, 1, []string{"many@.service", "template", "many@1.service"}, "start", "many@.service")
	})
	r.sub("service without ExecStart", func(r *rig) {
		r.write(h, map[string]string{"empty.service": "[Service]\nRestart=always\n"})
		r.refused(h, 1, []string{"empty.service", "bad unit file setting"}, "start", "empty.service")
	})
	r.sub("program that is not there", func(r *rig) {
		r.write(h, map[string]string{"absent.service": "[Service]\nType=exec\nExecStart=/nonexistent/program\n"})
		r.refused(h, 1, []string{"absent.service", "failed"}, "start", "absent.service")
		// Without Type=exec systemd itself takes the fork for a success. The state tells, and so does the next start.
		r.write(h, map[string]string{"simple.service": "[Service]\nExecStart=/nonexistent/program\n"})
		r.tryCtl(h, "start", "simple.service")
		r.wait("the failure to be told", func() error {
			state, err := r.stateOf(h, "simple.service")
			return orElse(err, need(state == "failed", "it is told to be "+state))
		})
		r.refused(h, 1, []string{"simple.service", "failed", "exit-code"}, "start", "simple.service")
		r.ctl(h, "destroy", "absent.service", "simple.service")
		r.unknown("absent.service")
	})
	r.sub("no machine takes it", func(r *rig) {
		r.write(h, map[string]string{"picky.service": service("[X-Fleet]\nMachineMetadata=disk=ssd\n")})
		// It is told at once: with a wait of its own the test's deadline would have been the answer.
		r.refused(h, 1, []string{"picky.service", "disk", short(r.Host(1)), short(r.Host(2))}, "start", "picky.service")
	})
	r.sub("good.service never noticed", func(r *rig) {
		r.same(good, before)
		if _, _, code := r.tryCtl(h, "list-units"); code != 0 {
			r.t.Errorf("list-units: exit code %d", code)
		}
	})
	r.sub("machine that takes it comes up by new metadata", func(r *rig) {
		r.must(r.Host(2).WriteFile(r.ctx, "/etc/fleet/fleet.conf", host.FleetFiles(2, usual)(2)["/etc/fleet/fleet.conf"]+"metadata = disk=ssd\n"))
		r.Host(2).Must(r.t, "systemctl", "reload", "fleetd.service")
		if at := r.once("picky.service")["picky.service"]; at.Name != "h2" {
			r.t.Errorf("it is on %s", at.Name)
		}
		r.same(good, before)
	})
	r.sub("body of 10 MB", func(r *rig) { r.hugeBody(h) })
	r.sub("fleetctl without fleetd", func(r *rig) {
		h.Must(r.t, "systemctl", "stop", "fleetd.service")
		r.refused(h, 1, []string{"/var/run/fleet.sock", "fleetd"}, "list-units")
		h.Must(r.t, "systemctl", "start", "fleetd.service")
		r.machines(r.Hosts()...)
	})
}

func short(h *host.Host) string { return fleet.MachineID(h.MachineID).Short() }

// unknown fails the test if the cluster knows the unit.
func (r *rig) unknown(unit string) {
	r.t.Helper()
	s, err := r.snapshot()
	r.must(err)
	for n := range s.Units {
		if string(n) == unit {
			r.t.Errorf("the cluster knows %s", unit)
		}
	}
}

// hugeBody sends what no unit is. The answer is a refusal, and the memory of the daemon does not follow.
func (r *rig) hugeBody(h *host.Host) {
	r.t.Helper()
	body := bytes.Repeat([]byte(`{"name":"huge.service","options":[`), 10<<20/34)
	for _, path := range []string{"units/huge.service", "batch"} {
		method := map[bool]string{true: http.MethodPost, false: http.MethodPut}[path == "batch"]
		req, err := http.NewRequestWithContext(r.ctx, method, "http://fleet/fleet/v1/"+path, bytes.NewReader(body))
		r.must(err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := h.UnixHTTP("/run/fleet.sock").Do(req)
		r.must(err)
		text, err := io.ReadAll(resp.Body)
		r.must(err)
		resp.Body.Close()
		if resp.StatusCode/100 != 4 {
			r.t.Errorf("%s: status %d: %s", path, resp.StatusCode, text)
		}
	}
	r.unknown("huge.service")
}

// All kinds of units run, each as systemd means it.
func TestUnitsOfEveryKindRun(t *testing.T) {
	t.Parallel()
	r := boot(t, 2, usual)
	h := r.Host(1)
	here := "[X-Fleet]\nMachineID=" + h.MachineID + "\n"
	r.write(h, map[string]string{
		"k-timed.service":     "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'date >>/run/k-timed'\n" + here,
		"k-timed.timer":       "[Timer]\nOnActiveSec=1ms\nAccuracySec=1ms\n" + here,
		"k-door.socket":       "[Socket]\nListenStream=/run/k-door\n" + here,
		"k-door.service":      service(here),
		"k-seen.path":         "[Path]\nPathExists=/run/k-seen\n" + here,
		"k-seen.service":      "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch /run/k-seen-ran\n" + here,
		"run-kmount.mount":    "[Mount]\nWhat=tmpfs\nWhere=/run/kmount\nType=tmpfs\n" + here,
		"k-all.target":        "[Unit]\nDescription=all\n" + here,
		"k-part.slice":        "[Slice]\nTasksMax=50\n" + here,
		"k-in.service":        service("Slice=k-part.slice\n" + here),
		"k-wanted.service":    service("[Install]\nWantedBy=k-all.target\n" + here),
		"k-everywhere.socket": "[Socket]\nListenStream=/run/k-everywhere\nAccept=yes\n[X-Fleet]\nGlobal=true\n",
		// Two words of one line that systemd would take for a comment or lose if the text were changed on its way.
		"k-quoted.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo \"a  ; b # %% $$((6*7))\" \\\n  >/run/k-quoted'\n" + here,
	})
	r.ctl(h, "load", "k-timed.service", "k-door.service", "k-seen.service", "k-wanted.service")
	active := []string{"k-timed.timer", "k-door.socket", "k-seen.path", "run-kmount.mount", "k-part.slice", "k-in.service", "k-all.target", "k-quoted.service"}
	r.ctl(h, append([]string{"start"}, active...)...)
	r.wait("all units to be active", func() error {
		now := r.running(h)
		for _, u := range active {
			if now[u] == "" {
				return fmt.Errorf("%s is not", u)
			}
		}
		return nil
	})
	r.sub("timer starts its service", func(r *rig) { r.exists(h, "/run/k-timed") })
	r.sub("socket starts its service", func(r *rig) {
		conn, err := h.DialUnix(r.ctx, "/run/k-door")
		r.must(err)
		conn.Close()
		r.wait("the service", func() error { return need(r.running(h)["k-door.service"] != "", "it does not run") })
	})
	r.sub("path starts its service", func(r *rig) {
		h.Must(r.t, "touch", "/run/k-seen")
		r.exists(h, "/run/k-seen-ran")
	})
	r.sub("mount is mounted", func(r *rig) { h.Must(r.t, "mountpoint", "/run/kmount") })
	r.sub("service is in its slice", func(r *rig) {
		if at := r.property(h, "k-in.service", "ControlGroup"); !strings.Contains(at, "/k-part.slice/") {
			r.t.Errorf("it is in %s", at)
		}
	})
	r.sub("unit with Install is wanted by its target", func(r *rig) {
		if out := r.property(h, "k-all.target", "Wants"); !strings.Contains(out, "k-wanted.service") {
			r.t.Errorf("the target wants %q", out)
		}
		if out := h.Must(r.t, "systemctl", "is-enabled", "k-wanted.service"); out != "enabled-runtime" {
			r.t.Errorf("it is %s", out)
		}
	})
	r.sub("text arrives as it was written", func(r *rig) {
		r.exists(h, "/run/k-quoted")
		if out := h.Must(r.t, "cat", "/run/k-quoted"); out != "a  ; b # % 42" {
			r.t.Errorf("it ran as %q", out)
		}
	})
	r.sub("global unit runs everywhere, also on a host that joins", func(r *rig) {
		r.ctl(h, "start", "k-everywhere.socket")
		r.everywhere("k-everywhere.socket")
		_, err := r.Add(r.ctx)
		r.must(err)
		r.machines(r.Hosts()...)
		r.everywhere("k-everywhere.socket")
	})
	r.sub("destroyed units leave nothing", func(r *rig) {
		all := []string{"destroy", "k-everywhere.socket", "k-timed.service", "k-door.service", "k-seen.service", "k-wanted.service"}
		r.ctl(h, append(all, active...)...)
		for _, h := range r.Hosts() {
			r.leavesNothing(h)
		}
	})
}

func need(ok bool, otherwise string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%s", otherwise)
}

func (r *rig) exists(h *host.Host, path string) {
	r.t.Helper()
	r.wait(path, func() error { _, err := h.Run(r.ctx, "test", "-e", path); return err })
}

// everywhere waits until a unit is active on all hosts.
func (r *rig) everywhere(unit string) {
	r.t.Helper()
	r.wait(unit+" everywhere", func() error {
		at := hostNames(r.places()[unit])
		return need(len(at) == len(r.Hosts()), fmt.Sprintf("it is on %v", at))
	})
}

// leavesNothing waits until the host has no trace of a fleet unit: no file, no link, no run, no failure.
func (r *rig) leavesNothing(h *host.Host) {
	r.t.Helper()
	r.wait("no trace of units on "+h.Name, func() error {
		out, err := h.Sh(r.ctx, `ls -A /run/fleet/units /run/fleet/started /run/fleet/drop-ins | grep -v : ; find /run/systemd/system -lname '/run/fleet/*'
			systemctl list-units --all --plain --no-legend 'k-*' 'u-*' 'q-*' 'run-k*' 'k@*' 'q@*'`)
		if out = strings.TrimSpace(out); err == nil && out != "" {
			err = fmt.Errorf("there is %s", out)
		}
		return err
	})
}

// Where units go, on machines that differ.
func TestUnitsGoWhereTheirSectionSays(t *testing.T) {
	t.Parallel()
	files := func(i int) map[string]string {
		return host.FleetFiles(3, fmt.Sprintf("%smetadata = rack=r%d,disk=%s\n", usual, i, []string{"ssd", "hdd", "ssd"}[i-1]))(i)
	}
	r := bootFiles(t, 3, files).formed()
	h := r.Host(1)
	r.write(h, map[string]string{
		"rack.service":   service("[X-Fleet]\nMachineMetadata=rack=r2\n"),
		"fast.service":   service("[X-Fleet]\nMachineMetadata=disk=ssd\nMachineMetadata=rack=r3\nMachineMetadata=\"rack=r2\"\n"),
		"side@.service":  service("[X-Fleet]\nMachineOf=rack.service\n"),
		"apart@.service": service("[X-Fleet]\nConflicts=apart@*.service\n"),
		"ssd.service":    service("[X-Fleet]\nGlobal=true\nMachineMetadata=disk=ssd\n"),
		"fixed.service":  service(fixed(r.Host(3))),
	})
	r.ctl(h, "submit", "side@.service", "apart@.service")
	units := []string{"rack.service", "fast.service", "side@1.service", "side@2.service", "apart@1.service", "apart@2.service", "apart@3.service", "fixed.service"}
	r.ctl(h, append([]string{"start", "ssd.service"}, units...)...)
	at := r.once(units...)
	for u, want := range map[string]string{"rack.service": "h2", "fast.service": "h3", "side@1.service": "h2", "side@2.service": "h2", "fixed.service": "h3"} {
		if at[u].Name != want {
			t.Errorf("%s is on %s, not on %s", u, at[u].Name, want)
		}
	}
	if got := hostNames(r.places()["ssd.service"]); !slices.Equal(got, []string{"h1", "h3"}) {
		t.Errorf("the global unit is on %v", got)
	}
	apart := map[string]bool{}
	for i := 1; i <= 3; i++ {
		apart[at[fmt.Sprintf("apart@%d.service", i)].Name] = true
	}
	if len(apart) != 3 {
		t.Errorf("units that conflict are on %v", apart)
	}
	r.refused(h, 1, []string{"apart@4.service", short(r.Host(1)), short(r.Host(2)), short(r.Host(3))}, "start", "apart@4.service")

	// The sidekicks' machine goes: where their main unit cannot go they do not go either, and come back with it.
	r.must(r.Host(2).PowerOff(r.ctx))
	r.machines(r.Host(1), r.Host(3))
	r.keptOn(h, r.Host(2), "rack.service")
	for u, on := range r.places() {
		if strings.HasPrefix(u, "side@") || u == "rack.service" {
			t.Errorf("%s runs on %v", u, hostNames(on))
		}
	}
	r.must(r.Host(2).Boot(r.ctx))
	again := r.once(units...)
	for u, was := range at {
		if again[u].Name != was.Name {
			t.Errorf("%s was on %s, is on %s", u, was.Name, again[u].Name)
		}
	}
	r.ctl(h, "destroy", "apart@4.service")
	r.settled()
}
