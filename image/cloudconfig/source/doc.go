// Package source finds a host's user-data and what its cloud says of it: the kernel's command line, a config drive, a file, a cloud's metadata
// service. Which of them is asked is decided from facts of the host, in one fixed order, and the first that has something is the only one: what a
// host becomes must not depend on which server is faster today.
package source

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Found is what a source has. UserData may be empty.
type Found struct {
	Source    string // for people: "http://…", "config drive at …"
	UserData  []byte
	Hostname  string
	Keys      []string          // SSH keys for core
	Addresses map[string]string // public_ipv4, private_ipv4, public_ipv6, private_ipv6
}

// ErrNone: the source is not there, or has nothing.
var ErrNone = errors.New("no such source")

// Source is one place to ask.
type Source struct {
	Name    string
	Network bool // it needs one
	Fetch   func(context.Context) (Found, error)
}

// Facts are what decides which sources there are.
type Facts struct {
	Cmdline string            // the kernel's
	DMI     map[string]string // sys_vendor, product_name, bios_vendor, chassis_asset_tag
	Drives  []Drive           // file systems with a label of a config drive
	Files   []string          // documents that lie on this host
}

// Order lists the sources of this host, the one that goes first at the front: a URL on the kernel's command line, because somebody typed it; a
// config drive, because somebody attached it; a file; the cloud. client asks servers.
func Order(f Facts, client *Client, mount func(Drive) (string, func(), error)) ([]Source, error) {
	var out []Source
	line, err := parseCmdline(f.Cmdline)
	if err != nil {
		return nil, err
	}
	if line.url != "" {
		out = append(out, URL(client, line.url, line.sha256))
	}
	for _, d := range f.Drives {
		out = append(out, Source{Name: d.String(), Fetch: func(context.Context) (Found, error) {
			dir, done, err := mount(d)
			if err != nil {
				return Found{}, fmt.Errorf("mount the %s: %w", d, err)
			}
			defer done()
			found, err := readDrive(dir)
			found.Source = d.String()
			return found, err
		}})
	}
	for _, name := range f.Files {
		out = append(out, File(name))
	}
	platform := line.platform
	if platform == "" {
		platform = platformOf(f.DMI)
	}
	if platform != "" {
		cloud, err := Cloud(client, platform, "")
		if err != nil {
			return nil, fmt.Errorf("fleet.platform= on the kernel's command line: %w", err)
		}
		out = append(out, cloud)
	}
	return out, nil
}

// cmdline is what the kernel's command line says of cloud-config.
type cmdline struct{ url, sha256, platform string }

func parseCmdline(s string) (cmdline, error) {
	var c cmdline
	for _, word := range strings.Fields(s) {
		key, value, _ := strings.Cut(word, "=")
		switch strings.ReplaceAll(key, "_", "-") {
		case "cloud-config-url":
			c.url = value
		case "cloud-config-sha256":
			c.sha256 = value
		case "fleet.platform", "ignition.platform.id":
			c.platform = value
		}
	}
	switch {
	case c.url == "" && c.sha256 != "":
		return c, errors.New("cloud-config-sha256= on the kernel's command line is of no cloud-config-url=")
	case c.platform == "metal" || c.platform == "qemu" || c.platform == "none":
		c.platform = "" // Ignition's words for a host without a service to ask
	}
	return c, nil
}

// platformOf tells by the firmware's words whose cloud this is. The words are those that systemd-detect-virt and the clouds' own documents name.
func platformOf(dmi map[string]string) string {
	vendor, product := dmi["sys_vendor"], dmi["product_name"]
	switch {
	case strings.HasPrefix(vendor, "Amazon EC2") || strings.HasSuffix(dmi["bios_vendor"], "amazon"):
		return "ec2"
	case product == "Google Compute Engine":
		return "gce"
	case vendor == "DigitalOcean":
		return "digitalocean"
	case strings.HasPrefix(product, "OpenStack"), strings.HasPrefix(dmi["chassis_asset_tag"], "OpenStack"):
		return "openstack"
	}
	return ""
}
