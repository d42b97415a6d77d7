package fleettest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// dropIns are the files that systemd reads beside a unit's, without their folders.
func (r *rig) dropIns(h *host.Host, unit string) string {
	r.t.Helper()
	var names []string
	for _, p := range strings.Fields(r.property(h, unit, "DropInPaths")) {
		names = append(names, p[strings.LastIndexByte(p, '/')+1:])
	}
	return strings.Join(names, " ")
}

// wantProperty waits until a unit's property on a host is this.
func (r *rig) wantProperty(h *host.Host, unit, name, want string) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%s of %s on %s", name, unit, h.Name), func() error {
		out, err := h.Run(r.ctx, "systemctl", "show", "--value", "--property="+name, unit)
		return orElse(err, need(strings.TrimSpace(out) == want, "it is "+out))
	})
}

// Drop-ins beside a unit file are on its machine what they would be there without fleet.
func TestDropInsGoWithTheirUnit(t *testing.T) {
	t.Parallel()
	r := boot(t, 2, usual)
	h, on := r.Host(1), r.Host(2)
	r.write(h, map[string]string{
		"k@.service":              service("LimitNOFILE=1000\nNice=1\n" + fixed(on)),
		"k@.service.d/10-a.conf":  "# why\n[Service]\nNice=2\nEnvironment=A=all\n",
		"k@.service.d/30-c.conf":  "[Service]\nNice=3\n",
		"k@1.service.d/20-b.conf": "[Service]\nLimitNOFILE=2000\n",
		"k@1.service.d/30-c.conf": "# as 10-a.conf has it\n",
		// What wants a unit may stand in a drop-in, too.
		"k-want.service":            service(fixed(on)),
		"k-want.service.d/w.conf":   "[Install]\nWantedBy=k-all.target\n",
		"k-all.target":              "[Unit]\nDescription=all\n" + fixed(on),
		"k-one.service":             service(fixed(on)),
		"k-one.service.d/note.conf": "[Unit]\nDescription=noted\n",
	})
	// An operator's own, on the host, stays and has the last word by its name.
	on.Must(t, "mkdir", "-p", "/etc/systemd/system/k@.service.d")
	r.must(on.WriteFile(r.ctx, "/etc/systemd/system/k@.service.d/operator.conf", "[Service]\nTimeoutStopSec=7s\n"))
	r.ctl(h, "start", "k@1.service", "k@2.service", "k-one.service")
	r.ctl(h, "load", "k-want.service")

	r.sub("systemd has them", func(r *rig) {
		for _, want := range [][3]string{
			{"k@1.service", "Nice", "2"}, {"k@1.service", "LimitNOFILE", "2000"}, {"k@1.service", "Environment", "A=all"},
			{"k@2.service", "Nice", "3"}, {"k@2.service", "LimitNOFILE", "1000"}, {"k@2.service", "TimeoutStopUSec", "7s"},
			{"k-one.service", "Description", "noted"},
		} {
			r.wantProperty(on, want[0], want[1], want[2])
		}
		if got, want := r.dropIns(on, "k@1.service"), "fleet-unit-10-a.conf fleet-unit-20-b.conf operator.conf"; got != want {
			r.t.Errorf("systemd reads %q, not %q", got, want)
		}
	})
	r.sub("fleetctl cat prints them as systemctl cat does", func(r *rig) {
		want := "# k@1.service\n[Service]\nExecStart=/bin/sleep infinity\nLimitNOFILE=1000\nNice=1\n\n[X-Fleet]\nMachineID=" + on.MachineID +
			"\n\n# k@.service.d/10-a.conf\n[Service]\nNice=2\nEnvironment=A=all\n\n# k@1.service.d/20-b.conf\n[Service]\nLimitNOFILE=2000"
		if got := r.ctl(h, "cat", "k@1.service"); got != want {
			r.t.Errorf("it prints\n%s\nnot\n%s", got, want)
		}
	})
	r.sub("a target pulls up the unit whose drop-in says so", func(r *rig) {
		r.ctl(h, "start", "k-all.target")
		r.wait("k-want.service to run", func() error { return need(r.running(on)["k-want.service"] != "", "it does not") })
	})
	r.sub("restarted fleetd finds them as they are", func(r *rig) {
		before := r.running(on)
		on.Must(r.t, "systemctl", "restart", "fleetd.service")
		r.settled()
		r.same(on, before)
	})
	r.sub("changed drop-in is a changed unit", func(r *rig) {
		before := r.running(on)
		r.write(h, map[string]string{"k-one.service.d/note.conf": "[Unit]\nDescription=noted anew\n"})
		if _, said, _ := r.tryCtl(h, "start", "k-one.service"); !strings.Contains(said, "differs from the local file") {
			r.t.Errorf("start says %q", said)
		}
		r.same(on, before)
		r.ctl(h, "start", "--replace", "k-one.service")
		r.wantProperty(on, "k-one.service", "Description", "noted anew")
		r.wantProperty(on, "k-one.service", "NeedDaemonReload", "no")
		if r.running(on)["k-one.service"] == before["k-one.service"] {
			r.t.Error("it was not restarted")
		}
		delete(before, "k-one.service")
		r.same(on, before)
	})
	r.sub("drop-in that is gone is gone", func(r *rig) {
		h.Must(r.t, "rm", "/root/units/k-one.service.d/note.conf")
		r.ctl(h, "start", "--replace", "k-one.service")
		r.wantProperty(on, "k-one.service", "Description", "k-one.service")
		if got := r.dropIns(on, "k-one.service"); got != "" {
			r.t.Errorf("systemd still reads %s", got)
		}
	})
	r.sub("edit of a template rolls over its instances", func(r *rig) {
		r.ctl(h, "submit", "k@.service")
		before := r.running(on)
		r.edit(h, "[Service]\nNice=9\n", "--drop-in=25-nice", "k@.service")
		for _, u := range []string{"k@1.service", "k@2.service"} {
			r.wantProperty(on, u, "NeedDaemonReload", "no")
			if r.running(on)[u] == before[u] {
				r.t.Errorf("%s was not restarted", u)
			}
		}
		r.wantProperty(on, "k@1.service", "Nice", "9") // of its own, 30-c.conf takes the template's away
		r.wantProperty(on, "k@2.service", "Nice", "3")
		r.wantProperty(on, "k@1.service", "LimitNOFILE", "2000")
		if _, said, code := r.tryEdit(h, "[Service]\nNice=99\n[Servic\n", "k@1.service"); code != 1 || !strings.Contains(said, ":3: ") {
			r.t.Errorf("a faulty drop-in: %d, %s", code, said)
		}
		r.edit(h, "", "--drop-in=25-nice", "k@.service")
		r.wantProperty(on, "k@1.service", "Nice", "2")
	})
	r.sub("destroyed units leave nothing but what is the operator's", func(r *rig) {
		r.ctl(h, "destroy", "k@1.service", "k@2.service", "k@.service", "k-one.service", "k-want.service", "k-all.target")
		r.leavesNothing(on)
		if out := on.Must(r.t, "sh", "-c", "find /run/fleet/drop-ins /run/systemd/system -name '*k@*' -o -name '*k-*'; ls /etc/systemd/system/k@.service.d"); out != "operator.conf" {
			r.t.Errorf("there is %s", out)
		}
	})
}

// edit runs fleetctl edit with an editor that writes this text.
func (r *rig) edit(h *host.Host, text string, args ...string) {
	r.t.Helper()
	if out, said, code := r.tryEdit(h, text, args...); code != 0 {
		r.t.Fatalf("fleetctl edit %v: exit code %d\n%s%s", args, code, out, said)
	}
}

func (r *rig) tryEdit(h *host.Host, text string, args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	r.must(h.WriteFile(r.ctx, "/root/edited", text))
	r.must(h.WriteFile(r.ctx, "/root/editor", "#!/bin/sh\nexec cp /root/edited \"$1\"\n"))
	return r.try(h, "env", append([]string{"EDITOR=/root/editor", "fleetctl", "edit"}, args...)...)
}
