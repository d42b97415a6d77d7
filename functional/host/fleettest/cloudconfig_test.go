package fleettest

import (
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// The document of the first boot, and what becomes of it later.
const firstDocument = `#cloud-config
hostname: cc-1
manage_etc_hosts: localhost
ssh_authorized_keys: [ssh-ed25519 AAAAC3 one]
users:
  - {name: ada, gecos: Ada L., passwd: "$6$salt$hash", groups: [video, web], ssh_authorized_keys: [ssh-ed25519 AAAAC3 two]}
write_files:
  - {path: /home/ada/hello, owner: "ada:web", permissions: "0640", content: hers}
  - {path: /opt/bin/tool, permissions: "4755", content: "#!/bin/sh\n"}
  - {path: /etc/issue, content: ours}
coreos:
  fleet: {metadata: "region=eu,disk=ssd", verify_units: false}
  update: {group: beta}
fleet:
  fleetd: {name: h1}
  addresses: {private_ipv4: host0}
  units:
    - {name: 30-dummy.network, content: "[Match]\nName=nothing0\n"}
    - name: hello.service
      enable: true
      command: start
      content: "[Service]\nExecStart=/bin/sh -c 'echo I am at $private_ipv4; exec sleep infinity'\nExecStop=/bin/touch /run/hello-stopped\n[Install]\nWantedBy=multi-user.target\n"
      drop_ins: [{name: 10-more.conf, content: "[Service]\nEnvironment=MORE=1\n"}]
    - {name: unwanted.service, mask: true}
`

// A host is what its document says from its first boot on, and what the document no longer says is taken back.
func TestHostConfiguresItself(t *testing.T) {
	t.Parallel()
	files := host.FleetFiles(1, usual)
	r := bootFiles(t, 1, func(i int) map[string]string {
		f := files(i)
		f["/etc/fleet/cloud-config.yaml"] = firstDocument
		f["/etc/issue"] = "of the release\n"
		return f
	})
	h := r.Host(1)
	sh := func(line string) string { r.t.Helper(); return h.Must(r.t, "sh", "-c", line) }
	same := func(line, want string) {
		r.t.Helper()
		if got := sh(line); got != want {
			r.t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	r.machines(h)

	r.sub("the first boot", func(s *rig) {
		r.t = s.t
		r.wait("the unit to run", func() error { return need(r.property(h, "hello.service", "ActiveState") == "active", "not yet") })
		same("uname -n", "cc-1")
		same("id -nG ada", "ada video web")
		same("getent shadow ada | cut -d: -f2", "$6$salt$hash")
		same("stat -c '%U:%G %a' /home/ada/hello; stat -c %a /opt/bin/tool; stat -c %U /home/ada", "ada:web 640\n4755\nada")
		same("cat /etc/ssh/cloud-config/core /etc/ssh/cloud-config/ada", "ssh-ed25519 AAAAC3 one\nssh-ed25519 AAAAC3 two")
		same("readlink /etc/systemd/system/unwanted.service; systemctl is-enabled hello.service", "/dev/null\nenabled")
		same("stat -c %a /run/cloud-config/fleetd.env; cat /run/cloud-config/update-engine.env", "600\nFLEET_UPDATE_CHANNEL=\"beta\"")
		same("systemctl show -P Environment hello.service", "MORE=1")
		same("systemctl show -P FragmentPath hello.service", "/etc/systemd/system/hello.service")
		if out := r.ctl(h, "list-machines", "--fields", "metadata", "--no-legend"); strings.TrimSpace(out) != "disk=ssd,region=eu" {
			r.t.Errorf("the cluster knows %q", out)
		}
		log := sh("journalctl -u hello.service -o cat")
		if address := sh("ip -4 -o addr show dev host0 | awk '{print $4}' | cut -d/ -f1"); !strings.Contains(log, "I am at "+address) {
			r.t.Errorf("the unit says %q, the address is %s", log, address)
		}
		r.journalSays(h, "cloud-config.service", "warning: coreos.fleet.verify_units has no meaning here")
		same("cloud-config apply; cloud-config diff", "") // nothing is left to do
	})

	r.sub("a changed document", func(s *rig) {
		r.t = s.t
		text := strings.NewReplacer("infinity", "1000000", "region=eu", "region=us", "  - {path: /etc/issue, content: ours}\n", "").Replace(firstDocument)
		r.must(h.WriteFiles(r.ctx, map[string]string{"/etc/fleet/cloud-config.yaml": text}))
		diff := sh("cloud-config diff")
		for _, w := range []string{"write /etc/systemd/system/hello.service 0644 root:root  (its content differs)", "restore /etc/issue", "restart hello.service", "try-restart fleetd.service"} {
			if !strings.Contains(diff, w) {
				r.t.Errorf("%q is not in:\n%s", w, diff)
			}
		}
		same("cat /etc/issue", "ours") // diff changes nothing
		sh("cloud-config apply")
		r.wait("the new unit", func() error {
			out, err := h.Sh(r.ctx, "ls /run/hello-stopped && pgrep -fx 'sleep 1000000'")
			return orElse(err, need(out != "", "not yet"))
		})
		same("cat /etc/issue", "of the release")
		r.wait("the cluster to know", func() error {
			out, _, _ := r.tryCtl(h, "list-machines", "--fields", "metadata", "--no-legend")
			return need(strings.Contains(out, "region=us"), out)
		})
	})

	r.sub("a bad document changes nothing, and the next boot has the last good one", func(s *rig) {
		r.t = s.t
		bad := strings.Replace(firstDocument, "hostname: cc-1", "hostnam: cc-2\nwrite_files: 5", 1)
		r.must(h.WriteFiles(r.ctx, map[string]string{"/etc/fleet/cloud-config.yaml": bad}))
		out, stderr, code := r.try(h, "cloud-config", "validate", "/etc/fleet/cloud-config.yaml")
		for _, w := range []string{`line 2: error: unknown key "hostnam" in the document; did you mean hostname?`, "line 3: error: write_files must be a list"} {
			if code != 2 || out != "" || !strings.Contains(stderr, w) {
				r.t.Errorf("%d %q: %q is not in:\n%s", code, out, w, stderr)
			}
		}
		if _, _, code := r.try(h, "cloud-config", "apply"); code != 2 {
			r.t.Errorf("apply of a bad document ends with %d", code)
		}
		r.must(h.PowerOff(r.ctx))
		r.must(h.Boot(r.ctx))
		r.machines(h)
		r.wait("the unit to run", func() error { return need(r.property(h, "hello.service", "ActiveState") == "active", "not yet") })
		same("uname -n; pgrep -fcx 'sleep 1000000'", "cc-1\n1")
		same("systemctl is-failed cloud-config.service", "failed")
		r.journalSays(h, "cloud-config.service", "applying the last document that was good", "line 3: error: write_files must be a list")
		if issue := sh("cat /run/issue.d/60-cloud-config.issue"); !strings.Contains(issue, "the document has errors") {
			r.t.Errorf("the console says %q", issue)
		}
	})
}
