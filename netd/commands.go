package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/netd/link"
	"github.com/fleet-init/fleet/netd/subnet"
)

// storeLimit is how long a command waits for the store.
const storeLimit = 10 * time.Second

// withStore calls f with the store for as long as a command waits for it.
func withStore(ctx context.Context, c Config, f func(context.Context, subnet.Store) error) error {
	client, err := dialEtcd(c)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	return f(ctx, etcd.New(client))
}

// admin is the operator's hand on the store that these flags name.
func (c Config) admin(s subnet.Store) subnet.Admin {
	return subnet.Admin{Store: s, Prefix: strings.TrimRight(c.EtcdPrefix, "/")}
}

// config shows or stores the network's configuration.
func config(ctx context.Context, c Config, args []string, out io.Writer) error {
	if len(args) > 1 {
		return &fleet.InvalidError{What: "config: arguments", Hint: "netd config [FILE]"}
	}
	var text []byte
	if len(args) == 1 {
		var err error
		if text, err = readConfig(args[0], out); err != nil {
			return err
		}
	}
	return withStore(ctx, c, func(ctx context.Context, s subnet.Store) error {
		if text != nil {
			return c.admin(s).SetConfig(ctx, text)
		}
		stored, err := c.admin(s).Config(ctx)
		if err == nil && stored == nil {
			err = errors.New(`no network is configured: put it into a file, like {"Network": "10.5.0.0/16"}, and store it with netd config FILE`)
		}
		if err == nil {
			_, err = fmt.Fprintf(out, "%s\n", strings.TrimSpace(string(stored)))
		}
		return err
	})
}

// checkConfig looks at a file and touches no store: for a pull request's checks, or a machine that is no host.
func checkConfig(_ context.Context, _ Config, args []string, out io.Writer) error {
	if len(args) != 1 {
		return &fleet.InvalidError{What: "check-config without a file", Hint: "netd check-config FILE"}
	}
	_, err := readConfig(args[0], out)
	return err
}

// readConfig reads and checks a configuration and prints what it comes to.
func readConfig(file string, out io.Writer) ([]byte, error) {
	text, err := os.ReadFile(file)
	if file == "-" {
		text, err = io.ReadAll(os.Stdin)
	}
	if err != nil {
		return nil, err
	}
	nc, unknown, err := subnet.ParseConfig(text)
	if err != nil {
		return nil, err
	}
	if len(unknown) > 0 {
		return nil, &fleet.InvalidError{What: "keys " + strings.Join(unknown, ", "), Hint: "nothing reads them: correct or remove them"}
	}
	for _, p := range []network.Pool{nc.V4, nc.V6} {
		if p.On() {
			fmt.Fprintf(out, "%s: subnets of /%d from %s to %s\n", p.Network, p.SubnetLen, p.Min, p.Max)
		}
	}
	return text, nil
}

// reserve ties a subnet to an address. The address, not the machine, because a host that is to come has no ID yet; and because flannel does.
func reserve(ctx context.Context, c Config, args []string, _ io.Writer) error {
	if len(args) != 2 {
		return &fleet.InvalidError{What: "reserve: arguments", Hint: "netd reserve SUBNET[,SUBNET6] ADDRESS"}
	}
	v4, v6, err := subnets(args[0])
	if err != nil {
		return err
	}
	to, err := netip.ParseAddr(args[1])
	if err != nil {
		return &fleet.InvalidError{What: fmt.Sprintf("address %q", args[1]), Hint: "give the address that the host's peers send to, as netd status shows it"}
	}
	return withStore(ctx, c, func(ctx context.Context, s subnet.Store) error { return c.admin(s).Reserve(ctx, v4, v6, to) })
}

// unreserve turns a reservation into a subnet like any other.
func unreserve(ctx context.Context, c Config, args []string, _ io.Writer) error {
	if len(args) != 1 {
		return &fleet.InvalidError{What: "unreserve: arguments", Hint: "netd unreserve SUBNET[,SUBNET6]"}
	}
	v4, v6, err := subnets(args[0])
	if err != nil {
		return err
	}
	return withStore(ctx, c, func(ctx context.Context, s subnet.Store) error { return c.admin(s).Unreserve(ctx, v4, v6) })
}

// subnets reads one of each family at most.
func subnets(word string) (v4, v6 netip.Prefix, err error) {
	for _, w := range strings.Split(word, ",") {
		p, err := netip.ParsePrefix(w)
		if err != nil || p != p.Masked() {
			return v4, v6, &fleet.InvalidError{What: fmt.Sprintf("subnet %q", w), Hint: "want its first address and length, like 10.5.20.0/24"}
		}
		if p.Addr().Is4() {
			v4 = p
		} else {
			v6 = p
		}
	}
	return v4, v6, nil
}

// cleanup undoes everything that netd made in the kernel, and removes what would have others believe that there still is a network. It is for a
// host where the daemon is stopped: a running one would repair it all within seconds. With --release the lease goes too.
func cleanup(ctx context.Context, c Config, args []string, out io.Writer) error {
	kernel, err := openKernel(c, func(*exec.Cmd) {})
	if err != nil {
		return err
	}
	defer kernel.Close()
	rep, err := link.New(kernel).Clean(ctx)
	for _, s := range rep.Steps {
		fmt.Fprintln(out, s)
	}
	if err != nil {
		return err
	}
	gone, err := kernel.RemoveBridge(cniBridge)
	if err != nil {
		return err
	}
	if gone {
		fmt.Fprintln(out, "delete device", cniBridge)
	}
	if err := (files{c: c}).remove(); err != nil {
		return err
	}
	if len(args) == 0 || args[0] != "--release" {
		return nil
	}
	machine, err := machineID(c.MachineIDFile)
	if err != nil {
		return err
	}
	return withStore(ctx, c, func(ctx context.Context, s subnet.Store) error {
		return subnet.NewKeeper(subnet.Options{Store: s, Prefix: c.admin(s).Prefix, Machine: machine, Log: logger(c)}).Release(ctx)
	})
}
