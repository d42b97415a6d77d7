package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	types "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/netd/subnet"
)

// The name of the network in CNI's words, and the bridge that workloads of this host share.
const (
	cniNetwork = "netd"
	cniBridge  = "netd0"
	cniLink    = "/etc/cni/net.d/10-netd.conflist" // where podman and others look; netd.service makes it lead to listPath
)

// listPath is the network list that netd itself uses for units.
func (c Config) listPath() string { return filepath.Join(c.RunDir, "netd.conflist") }

// conflist writes the CNI network list: for netd's own use and all that follow the link, and for others where --cni-conf says.
func (f files) conflist(v subnet.View, mtu int) error {
	b, err := json.MarshalIndent(networkList(f.c, v, mtu), "", "  ")
	if err != nil {
		return fmt.Errorf("write CNI network list: %w", err)
	}
	b = append(b, '\n')
	if err := writeFile(f.c.listPath(), b, 0o644); err != nil {
		return err
	}
	if f.c.CNIConf == "" {
		return nil
	}
	return writeFile(f.c.CNIConf, b, 0o644)
}

// object is JSON whose shape is CNI's and not ours.
type object = map[string]any

// networkList is what CNI's plugins are told: the cable (a bridge of all workloads or one for each), addresses from this host's subnet, a default route
// through the host, published ports, and what the flags add. mtu is in bytes, as overlay planned it.
func networkList(c Config, v subnet.View, mtu int) object {
	var ranges [][]object
	var routes []object
	if s := v.Own.V4; s.IsValid() {
		ranges, routes = append(ranges, []object{{"subnet": s.String()}}), append(routes, object{"dst": "0.0.0.0/0"})
	}
	if s := v.Own.V6; s.IsValid() {
		ranges, routes = append(ranges, []object{{"subnet": s.String()}}), append(routes, object{"dst": "::/0"})
	}
	cable := object{
		"type": "bridge", "bridge": cniBridge, "mtu": mtu, "isGateway": true, "hairpinMode": true,
		// The subnet may be another after a lost lease; the bridge must follow and not refuse every workload.
		"forceAddress": true,
	}
	if c.CNIInterface == "ptp" {
		cable = object{"type": "ptp", "mtu": mtu}
	}
	// The plugin's own masquerading knows this host's subnet only and would hide workloads from those of other hosts.
	cable["ipMasq"] = false
	// On a file system that a reboot empties: no workload survives one, and no address may stay taken by the dead.
	cable["ipam"] = object{"type": "host-local", "dataDir": filepath.Join(c.CNIState, "addresses"), "ranges": ranges, "routes": routes}
	plugins := []object{cable, {"type": "portmap", "capabilities": object{"portMappings": true}, "snat": true, "backend": "nftables"}}
	for _, p := range c.CNIPlugins {
		more := object{"type": p}
		if p == "bandwidth" {
			more["capabilities"] = object{"bandwidth": true}
		}
		plugins = append(plugins, more)
	}
	return object{"cniVersion": "1.0.0", "name": cniNetwork, "plugins": plugins}
}

// netnsCommand gives units their network namespaces.
func netnsCommand(ctx context.Context, c Config, args []string, out io.Writer) error {
	usage := &fleet.InvalidError{What: "netns: arguments", Hint: "netd netns add NAME [PORT:PORT[/udp]...] | del NAME | gc [NAME...] | renew"}
	if len(args) == 0 {
		return usage
	}
	u := units{c: c, cni: libcni.NewCNIConfigWithCacheDir(c.CNIBin, filepath.Join(c.CNIState, "cache"), nil)}
	switch verb, rest := args[0], args[1:]; {
	case verb == "add" && len(rest) > 0:
		return u.add(ctx, rest[0], rest[1:], out)
	case verb == "del" && len(rest) == 1:
		return u.del(ctx, rest[0])
	case verb == "gc":
		return u.gc(ctx, rest)
	case verb == "renew" && len(rest) == 0:
		return u.renew(ctx, out)
	}
	return usage
}

// units makes and removes the network namespaces of units, through CNI.
type units struct {
	c   Config
	cni *libcni.CNIConfig
}

// nsDir is where iproute2 keeps named namespaces, so that `ip netns exec` finds units.
const nsDir = "/run/netns"

// nsName is how `ip netns` lists a unit's namespace.
func nsName(unit string) string { return "fleet-" + unit }

// unitOf is the unit whose namespace this is.
func unitOf(ns string) (unit string, ours bool) {
	return strings.CutPrefix(ns, filepath.Join(nsDir, nsName("")))
}

// containerID names a unit in CNI's words, which have no @, : or \, and go into names of files, which have an end.
func containerID(unit string) string {
	id := strings.NewReplacer("_", "__", "@", "_a", ":", "_c", `\`, "_b").Replace(unit)
	if len(id) > 200 {
		sum := sha256.Sum256([]byte(unit))
		id = "_h" + hex.EncodeToString(sum[:])
	}
	return "fleet-" + id
}

// addressFile holds a unit's addresses, one a line, for the agent's report.
func (u units) addressFile(unit string) string { return filepath.Join(u.c.CNIState, "units", unit) }

// list reads the network list that the daemon wrote. Without one this host has no subnet, and no unit can have an address.
func (u units) list() (*libcni.NetworkConfigList, error) {
	l, err := libcni.ConfListFromFile(u.c.listPath())
	if err != nil {
		return nil, fmt.Errorf("this host has no subnet yet: is netd running? (systemctl status netd): %w", err)
	}
	return l, nil
}

// runtimeConf is one unit's part of a call to the plugins. The interface is eth0 in every namespace: programs expect it.
func runtimeConf(unit string, ports []portMapping) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: containerID(unit), NetNS: filepath.Join(nsDir, nsName(unit)), IfName: "eth0"}
	if len(ports) > 0 {
		rt.CapabilityArgs = map[string]any{"portMappings": ports}
	}
	return rt
}

// add makes the namespace anew and prints its addresses. Whatever an earlier one of the name left is taken back first.
func (u units) add(ctx context.Context, unit string, publish []string, out io.Writer) error {
	if unit == "" || strings.ContainsAny(unit, "/ \n") || strings.HasPrefix(unit, ".") {
		return &fleet.InvalidError{What: fmt.Sprintf("unit name %q", unit), Hint: "give the unit's own name"}
	}
	ports, err := u.ports(unit, publish)
	if err != nil {
		return err
	}
	list, err := u.list()
	if err != nil {
		return err
	}
	if err := u.del(ctx, unit); err != nil {
		return err
	}
	if err := u.free(ctx, ports); err != nil {
		return err
	}
	if err := makeNS(nsName(unit)); err != nil {
		return err
	}
	result, err := u.cni.AddNetworkList(ctx, list, runtimeConf(unit, ports))
	if err != nil {
		// A chain that broke off half-way has an address and a cable already.
		return errors.Join(fmt.Errorf("give %s an address: %w", unit, err), u.del(ctx, unit))
	}
	r, err := types.NewResultFromResult(result)
	if err != nil {
		return errors.Join(fmt.Errorf("read the CNI plugins' answer: %w", err), u.del(ctx, unit))
	}
	var text strings.Builder
	for _, ip := range r.IPs {
		fmt.Fprintln(&text, ip.Address.IP)
	}
	if err := writeFile(u.addressFile(unit), []byte(text.String()), 0o644); err != nil {
		return errors.Join(err, u.del(ctx, unit))
	}
	_, err = io.WriteString(out, text.String())
	return err
}

// del takes everything of a unit's network back; what is not there is no error.
func (u units) del(ctx context.Context, unit string) error {
	var errs []error
	// The list as it was when the address was given: netd's may have changed since.
	rt := runtimeConf(unit, nil)
	if list := u.cachedList(rt); list != nil {
		rt.CapabilityArgs = u.cachedPorts(unit)
		if err := u.cni.DelNetworkList(ctx, list, rt); err != nil {
			errs = append(errs, fmt.Errorf("take the address of %s back: %w", unit, err))
		}
	}
	if _, err := os.Stat(filepath.Join(nsDir, nsName(unit))); err == nil {
		if err := netns.DeleteNamed(nsName(unit)); err != nil {
			errs = append(errs, fmt.Errorf("remove the network namespace of %s: %w", unit, err))
		}
	}
	if err := os.Remove(u.addressFile(unit)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// cachedList is the list that the unit got its address by, or nil if it has none. libcni keeps it for just that.
func (u units) cachedList(rt *libcni.RuntimeConf) *libcni.NetworkConfigList {
	b, _, err := u.cni.GetNetworkListCachedConfig(&libcni.NetworkConfigList{Name: cniNetwork}, rt)
	if err != nil || b == nil {
		return nil
	}
	list, err := libcni.ConfListFromBytes(b)
	if err != nil {
		return nil
	}
	return list
}

// cachedPorts are what the unit published then: the plugin removes only what it is told again.
func (u units) cachedPorts(unit string) map[string]any {
	_, rt, err := u.cni.GetNetworkListCachedConfig(&libcni.NetworkConfigList{Name: cniNetwork}, runtimeConf(unit, nil))
	if err != nil || rt == nil {
		return nil
	}
	return rt.CapabilityArgs
}

// gc takes back what units hold that are not among the living, and have no namespace any more.
func (u units) gc(ctx context.Context, living []string) error {
	all, err := u.cni.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("list addresses given out: %w", err)
	}
	var errs []error
	for _, a := range all {
		unit, ours := unitOf(a.NetNS)
		if !ours || a.Network != cniNetwork || slices.Contains(living, unit) {
			continue
		}
		if len(living) == 0 && exists(a.NetNS) {
			continue
		}
		errs = append(errs, u.del(ctx, unit))
	}
	return errors.Join(errs...)
}

// makeNS makes a named network namespace, whose loopback is up: a unit reaches itself.
func makeNS(name string) error {
	done := make(chan error)
	go func() {
		// Not unlocked: the thread is in the new namespace and must end with the goroutine.
		runtime.LockOSThread()
		h, err := netns.NewNamed(name)
		if err == nil {
			err = errors.Join(loopbackUp(), h.Close())
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return nil
}

// loopbackUp works in the namespace of the thread that calls it.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
