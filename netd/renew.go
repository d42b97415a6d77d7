package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// renew starts units anew whose addresses are of a subnet that this host has no more, one after the other: nobody reaches them by those, and they reach
// nobody. Units whose addresses fit are left alone. systemd calls it when the network list changes (fleet-netns-renew.path).
func (u units) renew(ctx context.Context, out io.Writer) error {
	// A unit that does not come up again must not be restarted for ever, nor keep the others from their addresses.
	tried := map[string]bool{}
	var errs []error
	for {
		// Read anew each time: the subnet may change again while a unit takes its time.
		list, err := u.list()
		if errors.Is(err, os.ErrNotExist) {
			return errors.Join(errs...) // the network was cleaned up: there is no other address to be had
		}
		if err != nil {
			return err
		}
		name, ip, err := u.stranded(list, tried)
		if err != nil || name == "" {
			return errors.Join(append(errs, err)...)
		}
		tried[name] = true
		fmt.Fprintf(out, "%s: its address %s is of no subnet that this host has now: it is restarted for another\n", name, ip)
		// The unit is bound to its namespace and restarts with it, in the right order; restarted alone it would keep its address. One that is
		// stopped meanwhile stays so.
		cmd := exec.CommandContext(ctx, "systemctl", "try-restart", "fleet-netns@"+name+".service")
		if text, err := cmd.CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("restart %s for another address: %w: %s", name, err, strings.TrimSpace(string(text))))
		}
	}
}

// stranded finds the first unit, by name, with an address outside of what the list gives out; "" when there is none.
func (u units) stranded(list *libcni.NetworkConfigList, tried map[string]bool) (name string, ip netip.Addr, err error) {
	ranges, err := rangesOf(list)
	if err != nil {
		return "", ip, err
	}
	files, err := os.ReadDir(filepath.Join(u.c.CNIState, "units"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", ip, fmt.Errorf("list units with addresses: %w", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(u.addressFile(f.Name()))
		if err != nil || tried[f.Name()] || strings.HasPrefix(f.Name(), ".") {
			continue // taken back this moment, or being written
		}
		for _, w := range strings.Fields(string(text)) {
			if ip, err := netip.ParseAddr(w); err == nil && !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(ip) }) {
				return f.Name(), ip, nil
			}
		}
	}
	return "", ip, nil
}

// rangesOf are the subnets that a network list gives addresses of.
func rangesOf(list *libcni.NetworkConfigList) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, p := range list.Plugins {
		if p.Network.IPAM.Type == "" {
			continue
		}
		var conf struct {
			IPAM struct {
				Ranges [][]struct{ Subnet netip.Prefix }
			}
		}
		if err := json.Unmarshal(p.Bytes, &conf); err != nil {
			return nil, fmt.Errorf("read the network list: %w", err)
		}
		for _, set := range conf.IPAM.Ranges {
			for _, r := range set {
				out = append(out, r.Subnet)
			}
		}
	}
	return out, nil
}
