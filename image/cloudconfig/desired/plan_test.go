package desired

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

func parse(t *testing.T, text string) Desired {
	t.Helper()
	d, problems := document.Parse([]byte("#cloud-config\n"+text), document.Variables{Values: map[string]string{"private_ipv4": "10.0.0.7"}, Source: "the test"})
	if bad := document.Errors(problems, true); len(bad) > 0 {
		t.Fatal(bad)
	}
	return From(d)
}

// world is a host that does what a plan says, and nothing else.
type world struct {
	Seen
	state State
	aside map[string]There
}

func newWorld() *world {
	return &world{Seen: Seen{Boot: true, Hostname: "localhost", Files: map[string]There{}, Users: map[string]bool{"core": true}, Enabled: map[string]bool{}}, aside: map[string]There{}}
}

// apply plans and does, and returns the plan, one step a line.
func (w *world) apply(d Desired) string {
	steps, next := Plan(d, w.state, w.Seen)
	for _, s := range steps {
		switch s.Kind {
		case Write:
			if s.Keep {
				w.aside[s.File.Path] = w.Files[s.File.Path]
			}
			w.Files[s.File.Path] = There{Hash: s.File.Hash(), Mode: s.File.Mode, Owner: s.File.Owner}
		case Restore:
			w.Files[s.Path] = w.aside[s.Path]
		case Remove:
			delete(w.Files, s.Path)
		case AddUser:
			w.Users[s.User.Name] = true
		case SetName:
			w.Hostname = s.Words[0]
		case Enable:
			for _, u := range s.Words {
				w.Enabled[u] = true
			}
		case Disable:
			for _, u := range s.Words {
				delete(w.Enabled, u)
			}
		}
	}
	w.state = next
	return lines(steps)
}

func lines(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

func want(t *testing.T, got, text string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimLeft(text, "\n"), got); diff != "" {
		t.Error(diff)
	}
}

const whole = `
hostname: web-1
manage_etc_hosts: localhost
users:
  - {name: ada, passwd: $6$a, ssh_authorized_keys: [ssh-ed25519 A ada]}
write_files:
  - {path: /etc/motd, content: hello, owner: ada, permissions: 04755}
fleet:
  join: token
  fleetd: {metadata: 'a="b"'}
  units:
    - {name: 10-eth0.network, content: "[Match]\nName=eth0\n"}
    - {name: hello.service, enable: true, command: start, content: "[Service]\nExecStart=/bin/true\n", drop_ins: [{name: a.conf, content: "[Unit]\n"}]}
    - {name: other.service, command: restart}
    - {name: gone.service, mask: true}
`

func TestFirstBootThenNothing(t *testing.T) {
	w := newWorld()
	w.Files["/etc/hosts"] = There{Hash: "of the release", Mode: 0o644, Owner: "root:root"}
	d := parse(t, whole)
	want(t, w.apply(d), `
write /etc/systemd/network/10-eth0.network 0644 root:root  (it is not there)
add user ada
password ada
host name web-1  (it is localhost)
write /etc/motd 4755 ada:root  (it is not there)
write /etc/hostname 0644 root:root  (it is not there)
write /etc/hosts 0644 root:root  (something else is there)
write /etc/ssh/cloud-config/ada 0644 root:root  (it is not there)
write /etc/ssh/sshd_config.d/20-cloud-config.conf 0644 root:root  (it is not there)
write /run/cloud-config/fleetd.env 0600 root:root  (it is not there)
write /etc/credstore/fleet.join-token 0600 root:root  (it is not there)
write /run/systemd/system/fleetd.service.d/20-cloud-config.conf 0644 root:root  (it is not there)
write /etc/systemd/system/hello.service 0644 root:root  (it is not there)
write /etc/systemd/system/hello.service.d/a.conf 0644 root:root  (it is not there)
link /etc/systemd/system/gone.service to /dev/null  (it is not there)
write /run/systemd/system/cloud-config.target 0644 root:root  (it is not there)
enable hello.service
reload
restart other.service
start cloud-config.target
`)
	w.Boot, w.Networkd = false, true
	want(t, w.apply(d), "")

	// The next boot: what is under /run is gone.
	maps.DeleteFunc(w.Files, func(p string, _ There) bool { return strings.HasPrefix(p, "/run/") })
	w.Boot = true
	want(t, w.apply(d), `
write /run/cloud-config/fleetd.env 0600 root:root  (it is not there)
write /run/systemd/system/fleetd.service.d/20-cloud-config.conf 0644 root:root  (it is not there)
write /run/systemd/system/cloud-config.target 0644 root:root  (it is not there)
reload
restart other.service
start cloud-config.target
`)
}

func TestWhatIsNoLongerListedGoes(t *testing.T) {
	w := newWorld()
	before := There{Hash: "of the release", Mode: 0o600, Owner: "root:shadow"}
	w.Files["/etc/hosts"] = before
	w.apply(parse(t, whole))
	w.Boot, w.Networkd = false, true
	w.Files["/etc/motd"] = There{Hash: "changed by hand", Mode: 0o644, Owner: "root:root"}
	want(t, w.apply(parse(t, "hostname: web-1\n")), `
stop hello.service  (no longer asked for)
remove /etc/credstore/fleet.join-token  (it is no longer asked for)
restore /etc/hosts  (it is no longer asked for)
leave /etc/motd  (it is no longer asked for, but was changed since)
remove /etc/ssh/cloud-config/ada  (it is no longer asked for)
remove /etc/ssh/sshd_config.d/20-cloud-config.conf  (it is no longer asked for)
remove /etc/systemd/network/10-eth0.network  (it is no longer asked for)
remove /etc/systemd/system/gone.service  (it is no longer asked for)
remove /etc/systemd/system/hello.service  (it is no longer asked for)
remove /etc/systemd/system/hello.service.d/a.conf  (it is no longer asked for)
remove /run/cloud-config/fleetd.env  (it is no longer asked for)
remove /run/systemd/system/cloud-config.target  (it is no longer asked for)
remove /run/systemd/system/fleetd.service.d/20-cloud-config.conf  (it is no longer asked for)
disable hello.service  (no longer asked for)
reload
reload net
try-restart fleetd.service
`)
	if w.Files["/etc/hosts"] != before {
		t.Errorf("/etc/hosts is %+v", w.Files["/etc/hosts"])
	}
	want(t, w.apply(parse(t, "hostname: web-1\n")), "")
}

func TestChangesOnALiveHost(t *testing.T) {
	w := newWorld()
	w.apply(parse(t, whole))
	w.Boot = false
	for _, row := range []struct{ name, old, new, want string }{
		{"a unit's text", "ExecStart=/bin/true", "ExecStart=/bin/false", `
write /etc/systemd/system/hello.service 0644 root:root  (its content differs)
enable hello.service
reload
restart hello.service
`},
		{"a drop-in", "[Unit]", "[Install]", `
write /etc/systemd/system/hello.service.d/a.conf 0644 root:root  (its content differs)
enable hello.service
reload
restart hello.service
`},
		{"a setting", `a="b"`, "a=c", `
write /run/cloud-config/fleetd.env 0600 root:root  (its content differs)
try-restart fleetd.service
`},
		{"a mode", "04755", "0755", "write /etc/motd 0755 ada:root  (it is 4755 ada:root)\n"},
		{"a password", "$6$a", "$6$b", "password ada\n"},
	} {
		changed := strings.Replace(whole, row.old, row.new, 1)
		copied := *w
		copied.Files, copied.Users, copied.Enabled = maps.Clone(w.Files), maps.Clone(w.Users), maps.Clone(w.Enabled)
		t.Run(row.name, func(t *testing.T) {
			d := parse(t, changed)
			want(t, copied.apply(d), row.want)
			want(t, copied.apply(d), "")
		})
	}
}

func TestAPasswordChangedOnTheHostStays(t *testing.T) {
	w := newWorld()
	d := parse(t, "users: [{name: ada, passwd: $6$a}]\n")
	want(t, w.apply(d), "add user ada\npassword ada\n")
	want(t, w.apply(d), "") // whatever passwd has done meanwhile
}

func TestContents(t *testing.T) {
	d := parse(t, whole)
	got := map[string]string{}
	for _, f := range d.Files {
		got[f.Path] = string(f.Content)
	}
	for path, text := range map[string]string{
		"/etc/hosts":                   "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 web-1\n",
		"/run/cloud-config/fleetd.env": `FLEET_METADATA="a=\"b\""` + "\n",
		"/run/systemd/system/fleetd.service.d/20-cloud-config.conf": "[Service]\nEnvironmentFile=/run/cloud-config/fleetd.env\nLoadCredential=fleet.join-token:/etc/credstore/fleet.join-token\n",
		"/etc/ssh/cloud-config/ada":                                 "ssh-ed25519 A ada\n",
	} {
		if diff := cmp.Diff(text, got[path]); diff != "" {
			t.Errorf("%s:\n%s", path, diff)
		}
	}
}

// Steps are shown to people and logged: no secret may stand in them.
func TestNoStepShowsASecret(t *testing.T) {
	out := newWorld().apply(parse(t, strings.NewReplacer("token", "s3cr3t", "$6$a", "s3cr3t").Replace(whole)))
	if strings.Contains(out, "s3cr3t") {
		t.Error(out)
	}
}

// Each example that the ancestors' users have can be planned, and planned again to nothing.
func TestTheDocumentsOfTheParser(t *testing.T) {
	files, _ := filepath.Glob("../document/testdata/*.yaml")
	if len(files) == 0 {
		t.Fatal("no documents")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d, problems := document.Parse(data, document.Variables{Values: map[string]string{"private_ipv4": "10.0.0.7", "public_ipv4": "192.0.2.7"}})
		if bad := document.Errors(problems, false); len(bad) > 0 {
			t.Fatal(bad)
		}
		w := newWorld()
		w.apply(From(d))
		w.Boot = false
		if again := w.apply(From(d)); again != "" {
			t.Errorf("%s: a second time:\n%s", file, again)
		}
	}
}
