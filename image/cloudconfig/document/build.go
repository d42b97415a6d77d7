package document

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// lines notes where each file stands: the shapes have no place for it.
func (in *raw) lines(top *yaml.Node) {
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value != "write_files" {
			continue
		}
		for j, n := range top.Content[i+1].Content {
			if j < len(in.Files) {
				in.Files[j].line = n.Line
			}
		}
	}
}

// build makes a Document of what was read, with legacy names turned into ours, and checks what holds between keys.
func (r *reader) build(in raw, top *yaml.Node) Document {
	d := Document{
		Hostname: in.Hostname, EtcHosts: in.EtcHosts != "", Keys: in.Keys, Users: in.Users, Join: in.Fleet.Join,
		Units: append(r.renamed(in.CoreOS.Units, lineOf(top, "coreos")), in.Fleet.Units...), OEM: in.CoreOS.OEM, Addresses: in.Fleet.Addresses,
	}
	for _, f := range in.Files {
		d.Files = append(d.Files, r.file(f))
	}
	r.twice(d, lineOf(top, "users"))
	r.units(d.Units, max(lineOf(top, "coreos"), lineOf(top, "fleet")))
	r.settings(&d, in, lineOf(top, "coreos"), lineOf(top, "fleet"))
	return d
}

func lineOf(top *yaml.Node, key string) int {
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == key {
			return top.Content[i].Line
		}
	}
	return 0
}

func (r *reader) file(f rawFile) File {
	out := File{Path: f.Path, Source: f.Source, SHA256: strings.ToLower(f.SHA256), Owner: f.Owner, Mode: 0o644, Line: f.line}
	if f.Mode != "" {
		out.Mode = parseMode(f.Mode)
	}
	if f.Source == "" {
		if f.SHA256 != "" {
			r.say(f.line, Error, "give the source too", "%s: sha256 is of a source", f.Path)
		}
		content, err := decode(f.Content, f.Encoding)
		if err != nil {
			r.say(f.line, Error, "", "%s: content is not %s: %v", f.Path, f.Encoding, err)
		}
		out.Content = content
		return out
	}
	switch {
	case f.SHA256 == "":
		r.say(f.line, Error, "add sha256: what sha256sum prints of it", "%s: a source needs its hash", f.Path)
	case f.Content != "" || f.Encoding != "":
		r.say(f.line, Error, "leave one of them out", "%s has a source and a content", f.Path)
	}
	return out
}

// decode unpacks a content. gzip can stand here without base64 only if YAML brought it as !!binary.
func decode(content, encoding string) ([]byte, error) {
	data := []byte(content)
	var err error
	if strings.Contains(encoding, "b64") || strings.Contains(encoding, "base64") {
		if data, err = unbase64(content); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(encoding, "gz") {
		return gunzip(data)
	}
	return data, nil
}

func unbase64(s string) ([]byte, error) {
	s = strings.Map(func(c rune) rune {
		if strings.ContainsRune(" \t\r\n", c) {
			return -1
		}
		return c
	}, s)
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("it is not base64: %w", err)
	}
	return data, nil
}

// gunzip unpacks up to MaxSize: a few KiB can hold gigabytes.
func gunzip(data []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("it is not gzip: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("it is not whole: %w", err)
	}
	if len(out) > MaxSize {
		return nil, errTooLarge
	}
	return out, nil
}

// twice finds what two entries would fight about.
func (r *reader) twice(d Document, users int) {
	paths := map[string]bool{}
	for _, f := range d.Files {
		if paths[f.Path] {
			r.say(f.Line, Error, "leave one out", "two files are %s", f.Path)
		}
		paths[f.Path] = true
	}
	for _, f := range d.Files {
		for dir := path.Dir(f.Path); len(dir) > 1; dir = path.Dir(dir) {
			if paths[dir] {
				r.say(f.Line, Error, "", "%s is a file and a folder", dir)
			}
		}
		if strings.HasPrefix(f.Path, "/etc/systemd/system/") || strings.HasPrefix(f.Path, "/run/systemd/") {
			r.say(f.Line, Warning, "write it as an entry of units, which also reloads and starts it", "%s is a unit file", f.Path)
		}
	}
	names := map[string]bool{}
	for _, u := range d.Users {
		if names[u.Name] {
			r.say(users, Error, "leave one out", "two users are named %s", u.Name)
		}
		names[u.Name] = true
	}
}

// renamed gives units of the ancestors the names of those that do their work here.
func (r *reader) renamed(units []Unit, line int) []Unit {
	var out []Unit
	for _, u := range units {
		switch u.Name {
		case "fleet.service":
			u.Name = "fleetd.service"
		case "flanneld.service":
			u.Name = "netd.service"
		case "etcd.service", "etcd2.service", "etcd-member.service":
			r.say(line, Warning, "the store is built into fleetd", "%s has no meaning here", u.Name)
			continue
		case "locksmithd.service":
			r.say(line, Warning, "update-engine asks for the permit to reboot by itself", "%s has no meaning here", u.Name)
			continue
		}
		out = append(out, u)
	}
	return out
}

func (r *reader) units(units []Unit, line int) {
	names := map[string]bool{}
	for _, u := range units {
		switch {
		case names[u.Name]:
			r.say(line, Error, "put them together", "two units are named %s", u.Name)
		case u.Mask && u.Content != "":
			r.say(line, Error, "leave one out", "%s is masked and has a content", u.Name)
		case u.Network() && (u.Enable || u.Command != ""):
			r.say(line, Warning, "networkd reads all its files anew by itself", "%s: enable and command do nothing for it", u.Name)
		}
		names[u.Name] = true
		parts := map[string]bool{}
		for _, p := range u.DropIns {
			if parts[p.Name] {
				r.say(line, Error, "put them together", "%s has two drop-ins %s", u.Name, p.Name)
			}
			parts[p.Name] = true
		}
	}
}

// settings gathers what the daemons are told, under their own names for it.
func (r *reader) settings(d *Document, in raw, coreos, ours int) {
	d.Settings = map[Daemon]map[string]string{}
	put := func(daemon Daemon, line int, key, value string) {
		if d.Settings[daemon] == nil {
			d.Settings[daemon] = map[string]string{}
		}
		if old, there := d.Settings[daemon][key]; there && old != value {
			r.say(line, Error, "leave one out", "%s of %s is set twice, differently", key, daemon)
		}
		d.Settings[daemon][key] = value
	}
	all := func(daemon Daemon, line int, values map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(values)) {
			put(daemon, line, key, values[key])
		}
	}
	if in.CoreOS.Fleet["etcd_servers"] != "" {
		r.say(coreos, Warning, "without it fleetd carries its own store, and hosts join by fleet: {join: TOKEN}", "coreos.fleet.etcd_servers: an etcd of your own is used")
	}
	all(Fleetd, coreos, in.CoreOS.Fleet)
	all(Fleetd, ours, in.Fleet.Fleetd)
	all(Fleetd, ours, in.Fleet.Etcd)
	if token := d.Settings[Fleetd]["join_token"]; token != "" {
		if d.Join != "" && d.Join != token {
			r.say(ours, Error, "leave one out", "fleet.join and fleet.fleetd.join_token differ")
		}
		d.Join = token // it is a secret: it goes the way of secrets, and not into a file of settings
	}
	delete(d.Settings[Fleetd], "join_token")
	// flanneld's flag has a shorter name than its setting had.
	if name, there := in.CoreOS.Flannel["interface"]; there {
		delete(in.CoreOS.Flannel, "interface")
		put(Netd, coreos, "iface", name)
	}
	all(Netd, coreos, in.CoreOS.Flannel)
	all(Netd, ours, in.Fleet.Netd)
	all(Update, ours, in.Fleet.Update)
	r.legacyUpdate(in, coreos, put)
	if s := in.Fleet.Reboot; true {
		for key, value := range map[string]string{"strategy": s.Strategy, "group": s.Group, "window": strings.Join(s.Window, ",")} {
			if value != "" {
				put(Update, ours, key, value)
			}
		}
	}
}

// legacyUpdate turns locksmith's and update_engine's settings into update-engine's.
func (r *reader) legacyUpdate(in raw, line int, put func(Daemon, int, string, string)) {
	for _, key := range slices.Sorted(maps.Keys(in.CoreOS.Locksmith)) {
		value := in.CoreOS.Locksmith[key]
		switch key {
		case "group":
			put(Update, line, "group", value)
		case "window_start":
			length := in.CoreOS.Locksmith["window_length"]
			if length == "" {
				r.say(line, Error, "say for how long", "coreos.locksmith.window_start without window_length")
				continue
			}
			put(Update, line, "window", value+" +"+length)
		case "window_length":
			if in.CoreOS.Locksmith["window_start"] == "" {
				r.say(line, Error, "say from when", "coreos.locksmith.window_length without window_start")
			}
		default:
			r.say(line, Warning, "permits are kept in the cluster's own store", "coreos.locksmith.%s has no meaning here", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(in.CoreOS.Update)) {
		value := in.CoreOS.Update[key]
		switch key {
		case "reboot_strategy":
			put(Update, line, "strategy", value)
		case "group":
			put(Update, line, "channel", value)
		case "server":
			put(Update, line, "omaha", value)
		}
	}
}
