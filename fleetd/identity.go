package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/fleet-init/fleet/internal/fleet"
	daemon "github.com/fleet-init/fleet/internal/run"
)

// identity is what tells this host, this installation and this boot apart from others.
type identity struct {
	machine      fleet.MachineID
	installation string // made once, kept in data_dir; a copied disk shares it
	boot         string // the kernel's boot ID; a host that shares a copied disk has another
}

// identify reads who this host is. etc and proc are "/etc" and "/proc", but for tests.
func identify(etc, proc, dataDir string) (identity, error) {
	var id identity
	raw, err := os.ReadFile(filepath.Join(etc, "machine-id"))
	if err != nil {
		return id, fmt.Errorf("read the machine ID: %w: run systemd-machine-id-setup", err)
	}
	text := strings.TrimSpace(string(raw))
	if b, err := hex.DecodeString(text); err != nil || len(b) != 16 || text != strings.ToLower(text) {
		return id, fmt.Errorf("%s/machine-id holds %q, not 32 hex digits: remove it and run systemd-machine-id-setup", etc, text)
	}
	id.machine = fleet.MachineID(text)
	boot, err := os.ReadFile(filepath.Join(proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return id, fmt.Errorf("read the boot ID: %w", err)
	}
	// Containers share their host's boot ID: the time process 1 started (field 22) tells their boots apart.
	stat, err := os.ReadFile(filepath.Join(proc, "1/stat"))
	if err != nil {
		return id, fmt.Errorf("read when this host started: %w", err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const starttime = 22 - 3 // counted from the field after the name, which is the third
	if len(fields) <= starttime {
		return id, fmt.Errorf("%s/1/stat is cut short", proc)
	}
	id.boot = strings.TrimSpace(string(boot)) + "-" + fields[starttime]
	id.installation, err = installation(dataDir)
	return id, err
}

// installation reads the word that names this installation, or makes it. It is written aside and linked into place, so that a crash
// leaves either none or a whole one.
func installation(dir string) (string, error) {
	path := filepath.Join(dir, "installation")
	b, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read from data_dir: %w: it must be a directory that root may read and write", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make data_dir: %w: it must be a directory that root may write to", err)
	}
	word := rand.Text()
	tmp, err := os.CreateTemp(dir, ".installation-")
	if err != nil {
		return "", fmt.Errorf("write to data_dir: %w: it must be writable and not full", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(word + "\n")
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("write to data_dir: %w: it must be writable and not full", err)
	}
	return word, nil
}

// describe is the machine as it tells the others, apart from what may change while it runs (see publicIP).
func describe(c Config, id identity) (fleet.Machine, error) {
	m := fleet.Machine{ID: id.machine, Name: c.Name, Metadata: c.Metadata, Version: daemon.Version()}
	if m.Name == "" {
		var err error
		if m.Name, err = os.Hostname(); err != nil {
			return m, fmt.Errorf("read the host name: %w: set name=", err)
		}
	}
	return m, nil
}

// publicIP is the address to publish: the configured one, else the member's, else that from which the default route
// leaves, else the first global one of this host. The invalid address when there is none.
func publicIP(c Config, addrs []netip.Prefix) netip.Addr {
	if c.PublicIP.IsValid() {
		return c.PublicIP
	}
	if c.MemberIP.IsValid() {
		for _, a := range addrs {
			if c.MemberIP.Contains(a.Addr()) {
				return a.Addr()
			}
		}
	}
	// Connecting a datagram socket sends nothing: the kernel only looks up the route. The addresses are for documentation.
	for _, dest := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		if conn, err := net.Dial("udp", dest); err == nil {
			from := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
			_ = conn.Close()
			return from
		}
	}
	for _, a := range addrs {
		if a.Addr().IsGlobalUnicast() {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// hostAddrs lists the addresses of this host's interfaces, IPv4 first, as the kernel orders them.
func hostAddrs() []netip.Prefix {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil // the caller has nothing better to do without than with none
	}
	var v4, v6 []netip.Prefix
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil:
		case p.Addr().Is4():
			v4 = append(v4, p)
		default:
			v6 = append(v6, p)
		}
	}
	return append(v4, v6...)
}
