package fleettest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// says waits until a host's API answers 503 with these words, and systemctl status holds them too.
func (r *rig) says(h *host.Host, words ...string) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%s to say %q", h.Name, words), func() error {
		req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://fleet/fleet/v1/machines", nil)
		r.must(err)
		resp, err := h.UnixHTTP("/run/fleet.sock").Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		status := r.property(h, "fleetd.service", "StatusText")
		for _, w := range words {
			if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), w) || !strings.Contains(status, w) {
				return fmt.Errorf("the answer is %d %s, the status %q", resp.StatusCode, text, status)
			}
		}
		return nil
	})
	r.journalSays(h, "fleetd.service", words...)
}

// newHost makes one more host with files of its own, and switches it on.
func (r *rig) newHost(files map[string]string) *host.Host {
	r.t.Helper()
	h, err := r.New(r.ctx)
	r.must(err)
	r.must(h.WriteFiles(r.ctx, files))
	r.must(h.Boot(r.ctx))
	return h
}

func TestSecondHostWithTheSameMachineIDIsToldSo(t *testing.T) {
	t.Parallel()
	r := boot(t, 3, usual)
	h := r.Host(1)
	r.write(h, map[string]string{"d@.service": service("")})
	units := instances("d", 6)
	r.ctl(h, append([]string{"start"}, units...)...)
	r.once(units...)
	first := r.Host(2)
	hosts := r.Hosts()
	before := map[*host.Host]map[string]string{}
	for _, h := range hosts {
		before[h] = r.running(h)
	}
	undisturbed := func(r *rig) {
		r.t.Helper()
		r.machines(hosts...)
		for _, h := range hosts {
			r.same(h, before[h])
		}
	}
	r.sub("cloned image", func(r *rig) {
		clone := r.newHost(map[string]string{"/etc/machine-id": first.MachineID + "\n"})
		// It has no key of that machine's: no voter gives it a certificate, and a person has to say which of the two it is.
		r.journalSays(clone, "fleetd.service", first.MachineID, "is in the cluster already", "systemd-machine-id-setup", "join-token create --name")
		undisturbed(r)
		if n := r.running(clone); len(n) != 0 {
			r.t.Errorf("the clone runs %v", n)
		}
		// What it says helps. (In a container systemd-machine-id-setup would take the ID from outside again.)
		clone.Must(r.t, "sh", "-c", "rm /etc/machine-id && systemd-id128 new >/etc/machine-id && systemctl restart fleetd")
		r.machines(r.Hosts()...)
		r.must(clone.PowerOff(r.ctx))
	})
	r.sub("copied disk", func(r *rig) {
		tar, err := first.Sh(r.ctx, "tar -C / -c var/lib/fleet || [ $? = 1 ]") // 1: a file changed meanwhile
		r.must(err)
		copied := r.newHost(map[string]string{"/copy": tar, "/etc/machine-id": first.MachineID + "\n",
			"/etc/systemd/system/uncopy.service": "[Unit]\nBefore=fleetd.service\n[Service]\nType=oneshot\n" +
				"ExecStart=/bin/tar -C / -xf /copy\n", "/etc/systemd/system/fleetd.service.d/a.conf": "[Unit]\nRequires=uncopy.service\n"})
		r.says(copied, "copy", first.IP)
		undisturbed(r)
		if n := r.running(copied); len(n) != 0 {
			r.t.Errorf("the copy runs %v", n)
		}
		copied.Must(r.t, "sh", "-c", "rm /etc/systemd/system/fleetd.service.d/a.conf; systemctl daemon-reload; systemctl stop fleetd; "+
			"rm -r /var/lib/fleet /etc/machine-id; systemd-id128 new >/etc/machine-id; systemctl start fleetd")
		r.machines(append(hosts, copied)...)
	})
	for _, h := range hosts {
		r.same(h, before[h])
	}
}

func TestHostWithAWrongAddressToJoinSaysSo(t *testing.T) {
	t.Parallel()
	right := host.FleetFiles(2, usual)
	r := bootFiles(t, 1, right)
	r.machines(r.Host(1))
	files := right(2)
	const at = "/etc/credstore/fleet.join-token"
	token := files[at]
	files[at] = strings.ReplaceAll(token, "@h1:2378,h2:2378", "@h7:2378")
	h := r.newHost(files)
	r.says(h, "joining by token", "h7:2378")
	if state := r.property(h, "fleetd.service", "ActiveState"); state != "activating" {
		t.Errorf("fleetd is %s, though it is not ready", state)
	}
	r.must(h.WriteFile(r.ctx, at, token))
	h.Must(t, "systemctl", "restart", "fleetd.service")
	r.machines(r.Hosts()...)
}

func TestUnusableDataDirectoryIsSaid(t *testing.T) {
	t.Parallel()
	files := func(i int) map[string]string {
		f := host.FleetFiles(1, usual)(i)
		f["/etc/systemd/system/fleetd.service.d/a.conf"] = "[Service]\nReadOnlyPaths=/var/lib/fleet\n"
		return f
	}
	r := bootFiles(t, 1, files)
	h := r.Host(1)
	r.sub("read-only", func(r *rig) {
		r.journalSays(h, "fleetd.service", "data_dir", "read-only file system", "writable")
		h.Must(r.t, "sh", "-c", "rm /etc/systemd/system/fleetd.service.d/a.conf; systemctl daemon-reload; systemctl restart fleetd")
		r.machines(h)
	})
	r.sub("port taken", func(r *rig) {
		h.Must(r.t, "systemctl", "stop", "fleetd.service")
		h.Must(r.t, "systemd-run", "--unit=taker", "systemd-socket-activate", "-l", h.IP+":2380", "/bin/cat")
		r.wait("the port to be taken", func() error {
			out, err := h.Run(r.ctx, "sh", "-c", "grep -i :094C /proc/net/tcp || :")
			return orElse(err, need(out != "", "it is not"))
		})
		h.Must(r.t, "systemctl", "--no-block", "start", "fleetd.service")
		r.journalSays(h, "fleetd.service", "2380", "address already in use", "peer_port")
		h.Must(r.t, "systemctl", "stop", "taker.service")
		r.machines(h)
	})
	r.sub("of a user's choice that does not exist and may not be made", func(r *rig) {
		conf := host.FleetFiles(1, usual)(1)["/etc/fleet/fleet.conf"]
		r.must(h.WriteFile(r.ctx, "/etc/fleet/fleet.conf", conf+"data_dir = /usr/fleet\n"))
		h.Must(r.t, "systemctl", "--no-block", "restart", "fleetd.service")
		r.journalSays(h, "fleetd.service", "data_dir", "/usr/fleet")
		r.must(h.WriteFile(r.ctx, "/etc/fleet/fleet.conf", conf))
		r.machines(h)
	})
}

// A voter whose disk is full is lost to the store, not to the cluster: its units run on, the others go on, and with room it is back.
func TestFullDataDirectoryStopsNoUnit(t *testing.T) {
	t.Parallel()
	r := bootFiles(t, 3, func(i int) map[string]string {
		f := host.FleetFiles(3, usual)(i)
		if i != 2 { // the first one's CA is in that folder
			return f
		}
		f["/etc/systemd/system/var-lib-fleet.mount"] = "[Mount]\nWhat=tmpfs\nWhere=/var/lib/fleet\nType=tmpfs\nOptions=size=180m,mode=0700\n"
		f["/etc/systemd/system/fleetd.service.d/a.conf"] = "[Unit]\nRequiresMountsFor=/var/lib/fleet\n"
		return f
	}).formed()
	h := r.Host(2)
	r.write(r.Host(1), map[string]string{"f@.service": service("")})
	units := instances("f", 6)
	r.ctl(r.Host(1), append([]string{"start"}, units...)...)
	r.once(units...)
	before := map[*host.Host]map[string]string{}
	for _, h := range r.Hosts() {
		before[h] = r.running(h)
	}
	fill := func() { h.Must(t, "sh", "-c", "cat /dev/zero >/var/lib/fleet/filler 2>/dev/null || :") }
	fill()
	// Whatever etcd has put aside for itself is used up by writes.
	r.wait("the member to meet the full disk", func() error {
		fill()
		for i := range 4 {
			r.write(r.Host(1), map[string]string{fmt.Sprintf("fill%d.service", i): fmt.Sprintf("[Service]\nExecStart=/bin/true\n[X-Text]\nWord=%s\n", strings.Repeat("x", 1<<19))})
			r.tryCtl(r.Host(1), "submit", fmt.Sprintf("fill%d.service", i))
			r.tryCtl(r.Host(1), "destroy", fmt.Sprintf("fill%d.service", i))
		}
		text, err := h.Journal(r.ctx, "fleetd.service")
		return orElse(err, need(strings.Contains(text, "use data_dir /var/lib/fleet"), "it has not"))
	})
	r.journalSays(h, "fleetd.service", "no space left on device")
	r.machines(r.others(h)...)
	r.wait("its units elsewhere", func() error {
		at := r.places()
		for u := range before[h] {
			if len(at[u]) != 2 {
				return fmt.Errorf("%s is on %v", u, hostNames(at[u]))
			}
		}
		return nil
	})
	for _, o := range r.Hosts() {
		r.same(o, before[o])
	}
	h.Must(t, "rm", "/var/lib/fleet/filler")
	r.machines(r.Hosts()...)
	r.once(units...)
	r.settled()
	for _, h := range r.others(h) {
		r.same(h, before[h])
	}
}
