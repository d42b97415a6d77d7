package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/fleet-init/fleet/internal/unit"
)

// portMapping is portmap's form.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
}

// ports are those on the command line and those that the unit's own text publishes.
func (u units) ports(name string, words []string) ([]portMapping, error) {
	var all []unit.Port
	for _, w := range words {
		p, err := unit.ParsePort(w)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	f, err := u.text(name)
	if err != nil {
		return nil, err
	}
	if f != nil {
		n, err := f.Network(unit.Name(name))
		if err != nil {
			return nil, unit.InFile(name, err)
		}
		all = append(all, n.Publish...)
	}
	var out []portMapping
	for _, p := range all {
		out = append(out, portMapping{int(p.Host), int(p.Inside), p.Protocol})
	}
	return out, nil
}

// text is the unit's file as systemd finds it; nil if there is none, as for namespaces made by hand. It is read when the unit starts: a
// drop-in with the ports would be in force only after systemd was reloaded.
func (u units) text(name string) (*unit.File, error) {
	// An instance's text is its own if it has one, else its template's, as for systemd.
	names := []string{name}
	if t, ok := unit.Name(name).Template(); ok {
		names = append(names, string(t))
	}
	for _, file := range names {
		for _, dir := range u.c.UnitDirs {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read what %s publishes: %w", name, err)
			}
			f, err := unit.Parse(text)
			return f, unit.InFile(file, err)
		}
	}
	return nil, nil
}

// free reports a port of the host that somebody has: another unit, or a program that listens on it. The plugin would publish it all
// the same, and one of the two would get no more connections.
func (u units) free(ctx context.Context, ports []portMapping) error {
	if len(ports) == 0 {
		return nil
	}
	all, err := u.cni.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("list published ports: %w", err)
	}
	// The plugin's own memory says who publishes what: it outlives netd, and what a crash left in it is sorted out below.
	owner := map[string]string{} // published port → unit
	for _, a := range all {
		by, ours := unitOf(a.NetNS)
		if a.Network != cniNetwork || !ours {
			continue
		}
		given, _ := a.CapabilityArgs["portMappings"].([]any)
		for _, g := range given {
			if m, ok := g.(map[string]any); ok {
				owner[fmt.Sprint(m["hostPort"], "/", m["protocol"])] = by
			}
		}
	}
	for _, p := range ports {
		port := fmt.Sprint(p.HostPort, "/", p.Protocol)
		by := owner[port]
		if by != "" && !exists(filepath.Join(nsDir, nsName(by))) {
			// Its namespace is gone without its helper's knowing.
			if err := u.del(ctx, by); err != nil {
				return err
			}
			by = ""
		}
		if by != "" {
			return fmt.Errorf("port %s of this host is published by %s already: choose another, or keep the two apart with Conflicts=", port, by)
		}
		if err := listenable(p); err != nil {
			return fmt.Errorf("port %s of this host is taken by a program that listens on it: choose another: %w", port, err)
		}
	}
	return nil
}

// exists also takes what cannot be looked at for absent; what uses it then fails with the reason.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// listenable tries to listen, and stops at once. What Go cannot listen on is taken for free.
func listenable(p portMapping) error {
	at := ":" + strconv.Itoa(p.HostPort)
	switch p.Protocol {
	case "tcp":
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		return l.Close()
	case "udp":
		l, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		return l.Close()
	}
	return nil
}
