package fleettest

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/fleet-init/fleet/functional/host"
)

// peopleAreWaitedFor has one host take a release while somebody is logged in there and a program holds logind's shutdown lock: it says whom it waits
// for, and goes at the deadline.
func (u *updating) peopleAreWaitedFor(version, base string, h *host.Host) {
	u.rig.t.Helper()
	u.must(h.WriteFile(u.ctx, "/etc/systemd/system/backup.service",
		"[Service]\nExecStart=systemd-inhibit --what=shutdown --mode=block --who=backup --why=running sleep infinity\n"))
	h.Must(u.rig.t, "systemctl", "daemon-reload")
	h.Must(u.rig.t, "systemctl", "start", "backup.service")
	u.wait("the lock of the backup", func() error {
		out, err := h.Run(u.ctx, "systemd-inhibit", "--list", "--no-legend")
		return orElse(err, need(strings.Contains(out, "backup"), out))
	})
	leave := u.logIn(h)
	u.publish(version, base, nil)
	u.rollout(map[string]any{"do": "start", "version": version, "pace": "emergency", "percent": 100, "canary": "canary", "canary_good": 100})
	u.offer()
	waits := func(for_ ...string) {
		u.rig.t.Helper()
		u.wait(h.Name+" to say for whom it waits", func() error {
			all, err := u.reports()
			for _, who := range for_ {
				if why := all[h.Name].Why; err == nil && !strings.Contains(why, who) {
					err = fmt.Errorf("it says %q, not %q", why, who)
				}
			}
			return err
		})
	}
	waits("waiting for root on pts/7, backup: running, until ")
	leave()
	waits("waiting for backup: running, until ")
	if out := h.Must(u.rig.t, "cat", "/usr/share/fleet-os/version"); out != base {
		u.rig.t.Errorf("%s did not wait: it has the files of %s", h.Name, out)
	}
	conf, err := h.ReadFile(u.ctx, "/etc/fleet/update.conf")
	u.must(err)
	u.must(h.WriteFile(u.ctx, "/etc/fleet/update.conf", conf+"user_deadline = 1s\n"))
	h.Must(u.rig.t, "systemctl", "restart", "update-engine.service")
	u.proven(version, h)
	u.journalSays(h, "update-engine.service", "the reboot waits no longer")
	u.must(h.WriteFile(u.ctx, "/etc/fleet/update.conf", conf))
}

// logIn opens a session as a login would, with logind's own call: the hosts have no PAM module for it. It lasts until leave is called.
func (u *updating) logIn(h *host.Host) (leave func()) {
	u.rig.t.Helper()
	h.Must(u.rig.t, "systemd-run", "--quiet", "--unit=person", "sleep", "infinity")
	pid, err := strconv.ParseUint(u.property(h, "person.service", "MainPID"), 10, 32)
	u.must(err)
	path, err := h.Path("/run/dbus/system_bus_socket")
	u.must(err)
	bus, err := dbus.Dial("unix:path="+path, dbus.WithContext(u.ctx)) // one that takes file descriptors: the session lasts as long as the one of the answer
	u.must(err)
	u.must(bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}))
	u.must(bus.Hello())
	type property struct {
		Name  string
		Value dbus.Variant
	}
	call := bus.Object("org.freedesktop.login1", "/org/freedesktop/login1").CallWithContext(u.ctx, "org.freedesktop.login1.Manager.CreateSession", 0,
		uint32(0), uint32(pid), "login", "tty", "user", "", "", uint32(0), "pts/7", "", false, "", "", []property{})
	u.must(call.Err)
	session, ok := call.Body[0].(string)
	if !ok {
		u.rig.t.Fatalf("logind answers %v", call.Body)
	}
	return func() {
		u.rig.t.Helper()
		u.must(bus.Object("org.freedesktop.login1", "/org/freedesktop/login1").CallWithContext(u.ctx, "org.freedesktop.login1.Manager.TerminateSession", 0, session).Err)
		u.must(bus.Close())
	}
}
