package fleettest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// state is what the cluster tells of a unit on a host: load, active and sub state.
func (r *rig) state(h *host.Host, unit string) (string, error) {
	states, _, err := r.api(h).States(r.ctx)
	for _, s := range states {
		if s.Name == unit && s.MachineID == h.MachineID {
			return s.SystemdLoadState + " " + s.SystemdActiveState + " " + s.SystemdSubState, err
		}
	}
	return "not told", err
}

func (r *rig) told(h *host.Host, unit, want string) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%s to be told as %q", unit, want), func() error {
		state, err := r.state(h, unit)
		return orElse(err, need(state == want, "it is told as "+state))
	})
}

// Every type of unit is started, told, stopped and unloaded, and is gone then; what this host cannot run says so.
func TestEveryTypeOfUnitComesAndGoes(t *testing.T) {
	t.Parallel()
	r := boot(t, 1, usual)
	h := r.Host(1)
	for _, kind := range []struct {
		unit, text, active string
		with               map[string]string // units that it needs loaded
	}{
		{unit: "k-t.service", text: service(""), active: "active running"},
		{unit: "k-t.socket", text: "[Socket]\nListenStream=/run/k-t\n", active: "active listening", with: map[string]string{"k-t.service": service("")}},
		{unit: "k-t.timer", text: "[Timer]\nOnActiveSec=1h\n", active: "active waiting", with: map[string]string{"k-t.service": service("")}},
		{unit: "k-t.path", text: "[Path]\nPathExists=/run/nowhere\n", active: "active waiting", with: map[string]string{"k-t.service": service("")}},
		{unit: "run-kt.mount", text: "[Mount]\nWhat=tmpfs\nWhere=/run/kt\nType=tmpfs\n", active: "active mounted"},
		{unit: "k-t.target", text: "[Unit]\nDescription=t\n", active: "active active"},
		{unit: "k-t.slice", text: "[Slice]\nTasksMax=50\n", active: "active active"},
		{unit: "k@t.socket", text: "[Socket]\nListenStream=/run/k-%i\nAccept=no\n", active: "active listening", with: map[string]string{"k@t.service": service("")}},
	} {
		r.sub(kind.unit, func(r *rig) {
			r.write(h, map[string]string{kind.unit: kind.text})
			r.write(h, kind.with)
			all := []string{kind.unit}
			for other := range kind.with {
				r.ctl(h, "load", other)
				r.told(h, other, "loaded inactive dead")
				all = append(all, other)
			}
			if out := r.ctl(h, "start", kind.unit); !strings.HasPrefix(out, "Unit "+kind.unit+" launched on ") {
				r.t.Errorf("start says %q", out)
			}
			r.told(h, kind.unit, "loaded "+kind.active)
			if out := h.Must(r.t, "systemctl", "is-active", kind.unit); out != "active" {
				r.t.Errorf("systemd says %s", out)
			}
			if out := r.ctl(h, "status", kind.unit); !strings.Contains(out, strings.Replace(kind.active, " ", " (", 1)+")") {
				r.t.Errorf("status says %s", out)
			}
			r.ctl(h, "stop", kind.unit)
			r.told(h, kind.unit, "loaded inactive dead")
			r.ctl(h, "restart", kind.unit) // from loaded it is a start
			r.told(h, kind.unit, "loaded "+kind.active)
			r.ctl(h, append([]string{"unload"}, all...)...)
			r.leavesNothing(h)
			r.ctl(h, append([]string{"destroy"}, all...)...)
		})
	}
	h.Must(t, "test", "!", "-e", "/run/kt/x") // the mount point is the operator's, what was mounted is gone
	r.sub("types that a container's systemd does not run", func(r *rig) {
		h.Must(r.t, "sh", "-c", "head -c 1M /dev/zero >/root/kswap")
		r.write(h, map[string]string{
			"run-kauto.automount": "[Automount]\nWhere=/run/kauto\n", "run-kauto.mount": "[Mount]\nWhat=tmpfs\nWhere=/run/kauto\nType=tmpfs\n",
			"root-kswap.swap": "[Swap]\nWhat=/root/kswap\n",
		})
		r.ctl(h, "load", "run-kauto.mount")
		for _, u := range []string{"run-kauto.automount", "root-kswap.swap"} {
			_, kind, _ := strings.Cut(u, ".")
			r.refused(h, 1, []string{u, "start job: unsupported (this machine's systemd cannot start " + kind + " units"}, "start", u)
			if out, said, code := r.tryCtl(h, "status", u); code != 3 || !strings.Contains(out, "Reason: start job: unsupported") {
				r.t.Errorf("status: %d %s%s", code, out, said)
			}
		}
		r.ctl(h, "destroy", "run-kauto.automount", "run-kauto.mount", "root-kswap.swap")
		r.leavesNothing(h)
	})
	r.sub("types that are no files", func(r *rig) {
		for _, u := range []string{"k-t.scope", "k-t.device"} {
			r.write(h, map[string]string{u: "[Unit]\nDescription=t\n"})
			r.refused(h, 1, []string{u}, "start", u)
			r.ctl(h, "destroy", u)
		}
		r.leavesNothing(h)
	})
}

// [Install] means what it means without fleet: links until the host's next boot, by which other units pull the unit up.
func TestInstallSectionIsSystemds(t *testing.T) {
	t.Parallel()
	r := boot(t, 2, usual)
	h := r.Host(2)
	from := r.Host(1)
	here := fixed(h)
	r.write(from, map[string]string{
		"k-main.service":  service(here),
		"k-wants.service": service("[Install]\nWantedBy=k-main.service\n" + here),
		"k-needs.service": service("[Install]\nRequiredBy=k-main.service\nAlias=k-other.service\n" + here),
		"k-up.service":    service("[Install]\nWantedBy=multi-user.target\n" + here),
		"k@.service":      service("[Install]\nWantedBy=k-pull@%i.service\n" + here),
		"k-pull@.service": service(here),
	})
	wanted := []string{"k-wants.service", "k-needs.service"}
	r.ctl(from, append([]string{"load", "k-main.service", "k-up.service", "k@1.service"}, wanted...)...)

	r.sub("starting the other pulls it up; to fleet it stays loaded", func(r *rig) {
		r.ctl(from, "start", "k-main.service", "k-pull@1.service")
		for _, u := range append(wanted, "k@1.service") {
			r.told(h, u, "loaded active running")
		}
		out := r.ctl(from, "list-unit-files", "--fields=unit,dstate,state", "--no-legend")
		for _, u := range wanted {
			if !strings.Contains(strings.Join(strings.Fields(out), " "), u+" loaded loaded") {
				r.t.Errorf("%s is not loaded: %s", u, out)
			}
		}
		r.settled()
		if got := r.running(h); got["k-wants.service"] == "" {
			r.t.Error("it was stopped for its target state")
		}
	})
	r.sub("a target that is up already has done its pulling", func(r *rig) {
		if out := h.Must(r.t, "systemctl", "is-enabled", "k-up.service"); out != "enabled-runtime" {
			r.t.Errorf("it is %s", out)
		}
		r.told(h, "k-up.service", "loaded inactive dead")
	})
	r.sub("an alias is a name of it", func(r *rig) {
		if out := r.property(h, "k-needs.service", "Names"); !slices.Contains(strings.Fields(out), "k-other.service") {
			r.t.Errorf("its names are %s", out)
		}
		if out := h.Must(r.t, "systemctl", "is-active", "k-other.service"); out != "active" {
			r.t.Errorf("by its alias it is %s", out)
		}
	})
	r.sub("what is required stops what requires it", func(r *rig) {
		h.Must(r.t, "systemctl", "stop", "k-needs.service")
		r.told(h, "k-main.service", "loaded inactive dead")
		r.ctl(from, "restart", "k-main.service")
		r.told(h, "k-needs.service", "loaded active running")
	})
	r.sub("another text wants no more", func(r *rig) {
		r.write(from, map[string]string{"k-wants.service": service(here)})
		r.ctl(from, "load", "--replace", "k-wants.service")
		r.wantProperty(h, "k-main.service", "Wants", "")
		if out, err := h.Run(r.ctx, "systemctl", "is-enabled", "k-wants.service"); strings.TrimSpace(out) != "linked-runtime" {
			r.t.Errorf("it is %s, %v", out, err)
		}
	})
	r.sub("without those that are gone the other starts", func(r *rig) {
		r.ctl(from, "destroy", "k-needs.service")
		r.ctl(from, "restart", "k-main.service")
		r.told(h, "k-main.service", "loaded active running")
		if out := r.property(h, "k-main.service", "Requires"); strings.Contains(out, "k-needs") {
			r.t.Errorf("it requires %s", out)
		}
	})
	r.sub("nothing is left, and nobody has to reload systemd for that", func(r *rig) {
		r.ctl(from, "destroy", "k-main.service", "k-wants.service", "k-up.service", "k@1.service", "k-pull@1.service")
		r.leavesNothing(h)
		if out := h.Must(r.t, "sh", "-c", "find /run/systemd/system -name 'k-*' -o -name 'k@*'"); out != "" {
			r.t.Errorf("there is %s", out)
		}
	})
	r.sub("after the host's next boot it is as it was, loaded", func(r *rig) {
		r.write(from, map[string]string{"k-up.service": service("[Install]\nWantedBy=multi-user.target\n" + here)})
		r.ctl(from, "load", "k-up.service")
		r.must(h.Reboot(r.ctx))
		r.machines(r.Hosts()...)
		r.told(h, "k-up.service", "loaded inactive dead") // the boot was over before: loaded means not started
		r.ctl(from, "destroy", "k-up.service")
	})
}
