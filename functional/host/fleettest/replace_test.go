package fleettest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/api"
)

// versioned is a unit that writes down what becomes of it. more is sections after [Service].
func versioned(v, more string) string {
	return fmt.Sprintf("[Service]\nType=exec\nExecStart=/bin/sh -c 'echo %%N start %[1]s >>/run/k-log; exec sleep infinity'\n"+
		"ExecStop=/bin/sh -c 'sleep 0.2; echo %%N stop %[1]s >>/run/k-log'\nExecStopPost=/bin/sh -c 'sleep 0.1; echo %%N post %[1]s >>/run/k-log'\n", v) + more
}

// wantLog waits until a host's log holds these lines and nothing else, and empties it.
func (r *rig) wantLog(h *host.Host, lines ...string) {
	r.t.Helper()
	want := strings.Join(lines, "\n")
	r.wait("the log on "+h.Name, func() error {
		out, err := h.Run(r.ctx, "cat", "/run/k-log")
		return orElse(err, need(strings.TrimSpace(out) == want, "it holds\n"+out))
	})
	h.Must(r.t, "rm", "/run/k-log")
}

// during collects what the cluster tells of a unit while something is done, until the unit is launched with another text.
func (r *rig) during(h *host.Host, name string, do func()) []api.Unit {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	s, err := r.api(h).Watch(ctx, 0, name)
	r.must(err)
	defer s.Close()
	var before string
	for {
		e, err := s.Next()
		r.must(err)
		if e.Unit != nil {
			before = e.Unit.Hash
		}
		if e.Sync {
			break
		}
	}
	do()
	var told []api.Unit
	for {
		e, err := s.Next()
		r.must(err)
		if e.Unit != nil {
			told = append(told, *e.Unit)
		}
		if e.State != nil && e.State.Hash != before && e.State.SystemdActiveState == "active" && e.State.Launched {
			return told
		}
	}
}

func TestReplaceHappensInPlace(t *testing.T) {
	t.Parallel()
	files := func(i int) map[string]string {
		return host.FleetFiles(2, fmt.Sprintf("%smetadata = disk=%s\n", usual, []string{"ssd", "hdd"}[i-1]))(i)
	}
	r := bootFiles(t, 2, files).formed()
	h1, h2 := r.Host(1), r.Host(2)

	r.sub("on the same machine, without being anywhere else in between", func(r *rig) {
		r.write(h1, map[string]string{"k-app.service": versioned("one", ""), "k-fill.service": service(fixed(h2))})
		r.ctl(h1, "start", "k-fill.service")
		r.ctl(h1, "start", "k-app.service")
		at := r.once("k-app.service")["k-app.service"]
		r.wantLog(at, "k-app start one")
		// By now the other machine would be the better one: a new placement would go there.
		r.ctl(h1, "destroy", "k-fill.service")
		r.write(h1, map[string]string{"k-more.service": service(fixed(at))})
		r.ctl(h1, "start", "k-more.service")
		r.write(h1, map[string]string{"k-app.service": versioned("two", "")})
		told := r.during(h1, "k-app.service", func() { r.ctl(h1, "start", "--replace", "k-app.service") })
		for _, u := range told {
			if u.DesiredState != "launched" || u.MachineID != at.MachineID || u.CurrentState == "inactive" {
				r.t.Errorf("on the way it was %s, %s on %s", u.DesiredState, u.CurrentState, u.MachineID)
			}
		}
		r.wantLog(at, "k-app stop one", "k-app post one", "k-app start two")
		if now := r.once("k-app.service")["k-app.service"]; now.Name != at.Name {
			r.t.Errorf("it moved from %s to %s", at.Name, now.Name)
		}
		if out := r.ctl(h1, "start", "--replace", "k-app.service"); !strings.Contains(out, "nothing to replace") {
			r.t.Errorf("the same text again: %s", out)
		}
	})
	r.sub("it moves when the new text does not fit there", func(r *rig) {
		from := r.once("k-app.service")["k-app.service"]
		to := r.others(from)[0]
		disk := map[string]string{"h1": "ssd", "h2": "hdd"}[to.Name]
		r.write(h1, map[string]string{"k-app.service": versioned("three", "[X-Fleet]\nMachineMetadata=disk="+disk+"\n")})
		r.ctl(h1, "start", "--replace", "k-app.service")
		if at := r.once("k-app.service")["k-app.service"]; at.Name != to.Name {
			r.t.Errorf("it is on %s", at.Name)
		}
		r.wantLog(to, "k-app start three")
		r.wantLog(from, "k-app stop two", "k-app post two")
		r.write(h1, map[string]string{"k-app.service": versioned("four", "[X-Fleet]\nMachineMetadata=disk=tape\n")})
		r.refused(h1, 1, []string{"k-app.service", "disk", short(h1), short(h2)}, "start", "--replace", "k-app.service")
		r.ctl(h1, "destroy", "k-app.service", "k-more.service")
	})
	r.sub("only loaded, it is loaded again", func(r *rig) {
		r.write(h1, map[string]string{"k-idle.service": versioned("one", fixed(h2))})
		r.ctl(h1, "load", "k-idle.service")
		r.write(h1, map[string]string{"k-idle.service": versioned("two", fixed(h2))})
		r.ctl(h1, "load", "--replace", "k-idle.service")
		r.wait("the new text", func() error {
			out, err := h2.Run(r.ctx, "systemctl", "cat", "k-idle.service")
			return orElse(err, need(strings.Contains(out, "start two"), out))
		})
		if r.running(h2)["k-idle.service"] != "" {
			r.t.Error("it runs")
		}
		r.ctl(h1, "destroy", "k-idle.service")
	})
	r.sub("instance takes its template's new text", func(r *rig) {
		r.write(h1, map[string]string{"k@.service": versioned("one", fixed(h2))})
		r.ctl(h1, "submit", "k@.service")
		r.ctl(h1, "start", "k@1.service", "k@2.service", "k@3.service")
		h2.Must(r.t, "rm", "/run/k-log")
		r.write(h1, map[string]string{"k@.service": versioned("two", fixed(h2))})
		if _, said, _ := r.tryCtl(h1, "start", "--replace", "k@2.service"); !strings.Contains(said, "template k@.service in the registry differs") {
			r.t.Errorf("start --replace says %q", said)
		}
		r.wantLog(h2, "k@2 stop one", "k@2 post one", "k@2 start two")
	})
	r.sub("replaced template replaces its instances one after another", func(r *rig) {
		before := r.running(h2)
		out := r.ctl(h1, "submit", "--replace", "k@.service")
		if strings.Contains(out, "k@2") {
			r.t.Errorf("what has the text already is touched: %s", out)
		}
		r.wantLog(h2, "k@1 stop one", "k@1 post one", "k@1 start two", "k@3 stop one", "k@3 post one", "k@3 start two")
		if r.running(h2)["k@2.service"] != before["k@2.service"] {
			r.t.Error("k@2.service was restarted")
		}
	})
	r.sub("one that fails stops the rest, and the old text takes back", func(r *rig) {
		before := r.running(h2)
		r.write(h1, map[string]string{"k@.service": strings.Replace(versioned("bad", fixed(h2)), "exec sleep infinity", "exec /nonexistent", 1) + "[Service]\nType=notify\n"})
		r.refused(h1, 1, []string{"k@1.service", "failed", "0 of 3 instances", "fleetctl submit --replace k@.service"}, "submit", "--replace", "k@.service")
		now := r.running(h2)
		if now["k@2.service"] != before["k@2.service"] || now["k@3.service"] != before["k@3.service"] {
			r.t.Error("those behind it were touched")
		}
		r.write(h1, map[string]string{"k@.service": versioned("two", fixed(h2))})
		r.ctl(h1, "submit", "--replace", "k@.service")
		r.wait("k@1.service to run again", func() error { return need(r.running(h2)["k@1.service"] != "", "it does not") })
		if r.running(h2)["k@3.service"] != before["k@3.service"] {
			r.t.Error("taking back touched what was right")
		}
		r.ctl(h1, "destroy", "k@1.service", "k@2.service", "k@3.service", "k@.service")
		r.leavesNothing(h2)
	})
}

func TestRestartOfUnitsWhereTheyAre(t *testing.T) {
	t.Parallel()
	r := boot(t, 2, usual)
	h1, h2 := r.Host(1), r.Host(2)
	r.write(h1, map[string]string{
		"k-app.service":  versioned("one", fixed(h2)),
		"k-part.service": service("[Unit]\nPartOf=k-app.service\nAfter=k-app.service\n" + fixed(h2)),
		"k-rest.service": service(fixed(h2)),
		"k-all.service":  service("[X-Fleet]\nGlobal=true\n"),
	})
	r.ctl(h1, "start", "k-app.service", "k-part.service", "k-rest.service", "k-all.service")
	r.everywhere("k-all.service")
	r.wantLog(h2, "k-app start one")

	r.sub("one unit, with what is part of it", func(r *rig) {
		before := r.running(h2)
		told := ""
		ctx, cancel := context.WithCancel(r.ctx)
		defer cancel()
		s, err := r.api(h1).Watch(ctx, 0, "k-app.service")
		r.must(err)
		defer s.Close()
		r.ctl(h1, "restart", "k-app.service")
		r.wantLog(h2, "k-app stop one", "k-app post one", "k-app start one")
		after := r.running(h2)
		for _, u := range []string{"k-app.service", "k-part.service"} {
			if after[u] == "" || after[u] == before[u] {
				r.t.Errorf("%s was not restarted", u)
			}
		}
		for _, u := range []string{"k-rest.service", "k-all.service"} {
			if after[u] != before[u] {
				r.t.Errorf("%s was restarted, too", u)
			}
		}
		for told == "" {
			e, err := s.Next()
			r.must(err)
			if e.Unit != nil && e.Unit.DesiredState != "launched" {
				r.t.Errorf("on the way it was %s", e.Unit.DesiredState)
			}
			if e.State != nil && e.State.Restarted > 0 {
				told = e.State.SystemdActiveState
			}
		}
		if told != "active" {
			r.t.Errorf("the restart was told as over when the unit was %s", told)
		}
	})
	r.sub("what does not run is started", func(r *rig) {
		h2.Must(r.t, "systemctl", "stop", "k-rest.service")
		r.told(h2, "k-rest.service", "loaded inactive dead")
		r.ctl(h1, "restart", "k-rest.service")
		if r.running(h2)["k-rest.service"] == "" {
			r.t.Error("restart returned, and it does not run")
		}
	})
	r.sub("fleetd that is killed meanwhile does not do it twice", func(r *rig) {
		h2.Must(r.t, "rm", "-f", "/run/k-log")
		_, err := r.api(h1).Restart(r.ctx, api.RestartOrder{Name: "k-app.service"})
		r.must(err)
		r.wait("its stop", func() error { _, err := h2.Run(r.ctx, "grep", "stop", "/run/k-log"); return err })
		r.must(h2.Signal(r.ctx, "fleetd.service", "KILL"))
		r.machines(r.Hosts()...)
		r.settled()
		r.wantLog(h2, "k-app stop one", "k-app post one", "k-app start one")
	})
	r.sub("one that fails says so", func(r *rig) {
		r.write(h1, map[string]string{"k-bad.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'test -e /run/k-good || { echo not good; false; }'\n" + fixed(h2)})
		h2.Must(r.t, "touch", "/run/k-good")
		r.ctl(h1, "start", "k-bad.service")
		h2.Must(r.t, "rm", "/run/k-good")
		r.refused(h1, 1, []string{"k-bad.service", "failed", "not good"}, "restart", "k-bad.service")
		h2.Must(r.t, "touch", "/run/k-good")
		r.ctl(h1, "restart", "k-bad.service")
	})
	r.sub("global unit on every machine, or on one", func(r *rig) {
		runs := func() (all []string) {
			for _, h := range r.Hosts() {
				all = append(all, r.running(h)["k-all.service"])
			}
			return all
		}
		before := runs()
		if out := r.ctl(h1, "restart", "k-all.service"); out != "Triggered global unit k-all.service restart" {
			r.t.Errorf("it says %q", out)
		}
		after := runs()
		if before[0] == after[0] || before[1] == after[1] || slices.Contains(after, "") {
			r.t.Errorf("runs were %v, are %v", before, after)
		}
		r.ctl(h1, "restart", "--machine", short(h2), "k-all.service")
		if one := runs(); one[0] != after[0] || one[1] == after[1] {
			r.t.Errorf("runs were %v, are %v", after, one)
		}
		r.refused(h1, 1, []string{"k-rest.service is on none of these machines"}, "restart", "--machine", short(h1), "k-rest.service")
	})
	r.sub("status, journal and ssh of a global unit", func(r *rig) { r.looksAtGlobal(h1, h2) })
	r.sub("at the end nothing is left", func(r *rig) {
		r.ctl(h1, "destroy", "k-app.service", "k-part.service", "k-rest.service", "k-all.service", "k-bad.service")
		for _, h := range r.Hosts() {
			r.leavesNothing(h)
		}
	})
}

// looksAtGlobal runs the commands that look at a unit on one that is on two machines: on both, and on one chosen.
func (r *rig) looksAtGlobal(h1, h2 *host.Host) {
	r.t.Helper()
	said := service("ExecStartPre=/bin/sh -c 'echo I am on $(hostname)'\n[X-Fleet]\nGlobal=true\n")
	r.write(h1, map[string]string{"k-says.service": said})
	r.ctl(h1, "start", "k-says.service")
	for _, h := range r.Hosts() {
		r.journalSays(h, "k-says.service", "I am on "+h.Name)
	}
	if out := r.ctl(h1, "status", "k-says.service"); !strings.Contains(out, short(h1)) || !strings.Contains(out, short(h2)) {
		r.t.Errorf("status says %s", out)
	}
	if out := r.ctl(h1, "status", "--machine", short(h2), "k-says.service"); strings.Contains(out, short(h1)) || !strings.Contains(out, short(h2)) {
		r.t.Errorf("status of one says %s", out)
	}
	if out := r.ctl(h1, "journal", "k-says.service"); !strings.Contains(out, "on h1") || !strings.Contains(out, "on h2") {
		r.t.Errorf("journal says %s", out)
	}
	if out := r.ctl(h1, "journal", "--machine", short(h2), "k-says.service"); strings.Contains(out, "on h1") || !strings.Contains(out, "on h2") {
		r.t.Errorf("journal of one says %s", out)
	}
	key := h1.Must(r.t, "sh", "-c", "mkdir -p /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 <>/dev/null && cat /root/.ssh/id_ed25519.pub")
	for _, h := range r.Hosts() {
		h.Must(r.t, "sh", "-c", "mkdir -p /root/.ssh && echo '"+key+"' >/root/.ssh/authorized_keys && chmod -R go= /root/.ssh")
	}
	ssh := []string{"--ssh-username=root", "--strict-host-key-checking=false", "ssh"}
	if out := r.ctl(h1, append(ssh, "k-says.service", "hostname")...); out != "h1\nh2" && out != "h2\nh1" {
		r.t.Errorf("ssh says %q", out)
	}
	if out := r.ctl(h1, append(ssh, "--unit", "k-says.service", "--machine", short(h2), "hostname")...); out != "h2" {
		r.t.Errorf("ssh to one says %q", out)
	}
	r.refused(h1, 1, []string{"the unit is on 2 machines", "--machine"}, append(ssh, "k-says.service")...)
	r.ctl(h1, "destroy", "k-says.service")
}
