package desired

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// Where things of ours stand. What lies under /run is gone by itself with the next boot.
const (
	settingsDir = "/run/cloud-config"
	tokenFile   = "/etc/credstore/fleet.join-token"
	keysDir     = "/etc/ssh/cloud-config"
	// Target is pulled up last: it wants all units that are to be started, so that they are one transaction.
	Target = "cloud-config.target"
	// ScriptFile is a document that is a program.
	ScriptFile = settingsDir + "/script"
)

// From says what a host must look like that has this document. Sources of files have been fetched into their contents.
func From(d document.Document) Desired {
	out := Desired{Hostname: d.Hostname, Users: d.Users, Script: d.Script}
	for _, f := range d.Files {
		out.Files = append(out.Files, File{Path: f.Path, Content: f.Content, Mode: f.Mode, Owner: owner(f.Owner), Stage: Plain})
	}
	if len(d.Script) > 0 {
		out.plain(ScriptFile, 0o700, string(d.Script))
	}
	out.host(d)
	out.keys(d)
	out.settings(d)
	for _, u := range d.Units {
		out.unit(u)
	}
	out.target()
	// A file that the user writes himself goes before one that we would make of a setting.
	seen := map[string]bool{}
	out.Files = slices.DeleteFunc(out.Files, func(f File) bool {
		twice := seen[f.Path]
		seen[f.Path] = true
		return twice
	})
	slices.SortStableFunc(out.Files, func(a, b File) int { return int(a.Stage) - int(b.Stage) })
	return out
}

// owner spells a file's owner in full: chown of a user alone leaves the group as it is, and that is root's.
func owner(s string) string {
	switch user, group, both := strings.Cut(s, ":"); {
	case s == "":
		return "root:root"
	case both:
		return user + ":" + group
	default:
		return user + ":root"
	}
}

func (out *Desired) plain(path string, mode uint32, content string) {
	out.Files = append(out.Files, File{Path: path, Content: []byte(content), Mode: mode, Owner: "root:root", Stage: Plain})
}

func (out *Desired) host(d document.Document) {
	if d.Hostname != "" {
		out.plain("/etc/hostname", 0o644, d.Hostname+"\n")
	}
	if d.EtcHosts {
		// coreos-cloudinit wrote one line and so lost localhost for IPv6, and for IPv4 where the host had a name.
		name := d.Hostname
		if short, _, dotted := strings.Cut(name, "."); dotted {
			name += " " + short
		}
		text := "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
		if name != "" {
			text += "127.0.1.1 " + name + "\n"
		}
		out.plain("/etc/hosts", 0o644, text)
	}
	if len(d.OEM) > 0 {
		var b strings.Builder
		for _, k := range []string{"id", "name", "version_id", "home_url", "bug_report_url"} {
			if v := d.OEM[k]; v != "" {
				fmt.Fprintf(&b, "%s=%s\n", strings.ToUpper(k), quote(v))
			}
		}
		out.plain("/etc/oem-release", 0o644, b.String())
	}
}

// keys go into files of our own that sshd is told of, so that those which people keep in their homes are left alone.
func (out *Desired) keys(d document.Document) {
	all := map[string][]string{}
	if len(d.Keys) > 0 {
		all["core"] = d.Keys
	}
	for _, u := range d.Users {
		if len(u.Keys) > 0 {
			all[u.Name] = append(slices.Clone(all[u.Name]), u.Keys...)
		}
	}
	if len(all) == 0 {
		return
	}
	for _, n := range slices.Sorted(maps.Keys(all)) {
		var b strings.Builder
		for _, k := range all[n] {
			fmt.Fprintln(&b, strings.TrimSpace(k))
		}
		out.plain(path.Join(keysDir, n), 0o644, b.String())
	}
	out.plain("/etc/ssh/sshd_config.d/20-cloud-config.conf", 0o644,
		"# Keys of cloud-config, beside those that people keep in their homes.\nAuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2 "+keysDir+"/%u\n")
}

// settings become variables in a file that only root reads: systemctl show tells everybody what Environment= says.
func (out *Desired) settings(d document.Document) {
	for _, daemon := range document.Daemons() {
		var part strings.Builder
		if values := d.Settings[daemon]; len(values) > 0 {
			file := path.Join(settingsDir, string(daemon)+".env")
			var b strings.Builder
			for _, key := range slices.Sorted(maps.Keys(values)) {
				fmt.Fprintf(&b, "%s%s=%s\n", prefix(daemon), strings.ToUpper(key), quote(values[key]))
			}
			out.plain(file, 0o600, b.String())
			fmt.Fprintf(&part, "EnvironmentFile=%s\n", file)
		}
		if daemon == document.Fleetd && d.Join != "" {
			out.plain(tokenFile, 0o600, d.Join+"\n")
			fmt.Fprintf(&part, "LoadCredential=fleet.join-token:%s\n", tokenFile)
		}
		if part.Len() > 0 {
			out.part(string(daemon)+".service", "20-cloud-config.conf", "[Service]\n"+part.String(), true)
		}
	}
}

func prefix(d document.Daemon) string {
	switch d {
	case document.Netd:
		return "FLANNELD_"
	case document.Update:
		return "FLEET_UPDATE_"
	}
	return "FLEET_"
}

// quote makes one word of a value, as systemd reads files of variables, and shells read os-release.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}

func dirOf(u document.Unit) string {
	base, kind := "/etc", "system"
	if u.Runtime {
		base = "/run"
	}
	if u.Network() {
		kind = "network"
	}
	return path.Join(base, "systemd", kind)
}

func (out *Desired) unit(u document.Unit) {
	stage := Units
	if u.Network() {
		stage = Network
	}
	file := File{Path: path.Join(dirOf(u), u.Name), Mode: 0o644, Owner: "root:root", Stage: stage}
	switch {
	case u.Mask:
		file.Link = "/dev/null"
		out.Files = append(out.Files, file)
	case u.Content != "":
		file.Content = []byte(u.Content)
		out.Files = append(out.Files, file)
	}
	for _, p := range u.DropIns {
		f := File{Path: path.Join(dirOf(u), u.Name+".d", p.Name), Content: []byte(p.Content), Mode: 0o644, Owner: "root:root", Stage: stage}
		out.Files = append(out.Files, f)
	}
	if u.Network() || u.Mask {
		return
	}
	if u.Enable {
		out.Enable = append(out.Enable, u.Name)
	}
	if u.Command != "" {
		out.Commands = append(out.Commands, Command{u.Command, u.Name})
	}
}

func (out *Desired) part(unit, name, content string, runtime bool) {
	dir := dirOf(document.Unit{Name: unit, Runtime: runtime})
	out.Files = append(out.Files, File{Path: path.Join(dir, unit+".d", name), Content: []byte(content), Mode: 0o644, Owner: "root:root", Stage: Units})
}

// target is made anew with each document: under /run, since what it wants holds for this boot.
func (out *Desired) target() {
	var wants []string
	for _, c := range out.Commands {
		if c.Verb == "start" {
			wants = append(wants, c.Unit)
		}
	}
	if len(wants) == 0 {
		return
	}
	text := "# All units that cloud-config starts, so that systemd sees them together and orders them.\n[Unit]\nDescription=Units of cloud-config\n"
	for _, w := range wants {
		text += "Wants=" + w + "\n"
	}
	out.Files = append(out.Files, File{Path: path.Join("/run/systemd/system", Target), Content: []byte(text), Mode: 0o644, Owner: "root:root", Stage: Units})
}
