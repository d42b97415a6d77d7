package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/run"
	"github.com/fleet-init/fleet/netd/link"
	"github.com/fleet-init/fleet/netd/overlay"
	"github.com/fleet-init/fleet/netd/subnet"
)

// command is what follows the flags; without any netd is the daemon.
type command struct {
	name, args, summary string
	run                 func(ctx context.Context, c Config, args []string, out io.Writer) error
}

// commands is the table of all there is to call; help prints it.
func commands() []command {
	return []command{
		{"", "", "join this host into the network, and stay", daemon},
		{"status", "[--json] [--probe]", "show this host's lease, backend and peers", status},
		{"cleanup", "[--release]", "remove all that netd made in the kernel; with --release give the subnet back too", cleanup},
		{"config", "[FILE]", "show the network's configuration; with a file (- is standard input) check it and store it for all hosts", config},
		{"check-config", "FILE", "only check one", checkConfig},
		{"reserve", "SUBNET[,SUBNET6] ADDRESS", "keep a subnet for the host with that address, for good", reserve},
		{"unreserve", "SUBNET[,SUBNET6]", "end that", unreserve},
		{"netns", "add|del NAME [PORT:PORT...] | gc [NAME...] | renew", "make or remove a unit's network namespace with an address of this host's subnet; renew: restart units whose addresses are of another", netnsCommand},
		{"wireguard", "DEVICE MTU DIR", "carry a WireGuard device in user space (started by the daemon)", serveWireGuard},
	}
}

// exitCode tells systemd a wrong configuration (78, EX_CONFIG) from everything else.
func exitCode(err error) int {
	if errors.Is(err, fleet.ErrInvalid) {
		return 78
	}
	return 1
}

// dispatch is what main calls: it finds the command and runs it.
func dispatch(ctx context.Context, args, env []string, out io.Writer) error {
	c, rest, err := parseConfig(args, env)
	if errors.Is(err, flag.ErrHelp) {
		return help(out)
	}
	if err != nil {
		return err
	}
	if c.Version {
		_, err := fmt.Fprintln(out, run.Version())
		return err
	}
	// No word is the daemon, as with flanneld.
	name := ""
	if len(rest) > 0 {
		name, rest = rest[0], rest[1:]
	}
	for _, cmd := range commands() {
		if cmd.name == name {
			return cmd.run(ctx, c, rest, out)
		}
	}
	return &fleet.InvalidError{What: fmt.Sprintf("command %q", name), Hint: "netd --help lists all"}
}

// help prints commands and flags.
func help(out io.Writer) error {
	fmt.Fprintf(out, "netd gives this host a subnet and joins all hosts' subnets into one network.\n\nUsage: netd [flags] [command]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(out, "  netd %s %s\n        %s\n", c.name, c.args, c.summary)
	}
	fmt.Fprintf(out, "\nFlags (flannel's, each also as a variable FLANNELD_<FLAG>):\n")
	f := flag.NewFlagSet("netd", flag.ContinueOnError)
	f.SetOutput(out)
	var s string
	var n int
	bind(f, &Config{}, &s, &s, &s, &s, &n, &n)
	f.PrintDefaults()
	return nil
}

// logger writes to standard error, which is the journal's under systemd.
func logger(c Config) *slog.Logger {
	level := slog.LevelInfo
	if c.Verbosity > 0 {
		level = slog.LevelDebug
	}
	// systemd puts the time on each line itself.
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// openKernel connects to this host's kernel under the marks of this configuration.
func openKernel(c Config, waitFor func(*exec.Cmd)) (*link.Real, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	dir := filepath.Join(c.RunDir, "wireguard")
	return link.Open(link.Options{Instance: c.EtcdPrefix, Table: tableName(c.EtcdPrefix), RunDir: dir,
		StartWireGuard: link.StartWireGuard(program, dir, []string{"wireguard"}, os.Environ(), waitFor)})
}

// tableName lets several daemons of different networks share a host.
func tableName(prefix string) string {
	if prefix == "/coreos.com/network" {
		return "netd"
	}
	return "netd" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, prefix)
}

// daemon joins this host into the network and stays until a signal. It ends by itself only when it never came so far that something would be lost: with a
// wrong configuration, no free subnet, an address that another machine has. Whatever it made stays behind on purpose: packets flow while nobody is here.
func daemon(parent context.Context, c Config, _ []string, _ io.Writer) error {
	// From here on a signal ends us in good order.
	ctx, _, stop := run.Listen(parent)
	defer stop()
	log := logger(c)
	machine, err := machineID(c.MachineIDFile)
	if err != nil {
		return err
	}
	private, public, err := wireguardKey(c)
	if err != nil {
		return err
	}
	client, err := dialEtcd(c)
	if err != nil {
		return err
	}
	defer client.Close()
	kernel, err := openKernel(c, func(cmd *exec.Cmd) {
		if err := cmd.Wait(); err != nil { // with its device it ends in good order
			log.Warn("user-space WireGuard has ended", "err", err)
		}
	})
	if err != nil {
		return err
	}
	defer kernel.Close()
	files := files{c: c}
	n := &node{c: c, log: log, kernel: kernel, linker: link.New(kernel), files: files, notify: run.NewNotifier(os.Getenv, os.Getpid()),
		self: overlay.Self{Machine: machine, Version: run.Version(), KernelWireGuard: kernel.HasWireGuard(), PrivateKey: private, PublicKey: public,
			Masquerade: c.Masquerade, FullyRandom: !c.NotRandom, Blackhole: c.Blackhole}}
	// A state that cannot be read is no reason to leave the host without a network: the store has it all.
	previous, err := files.lastKnown()
	if err != nil {
		log.Warn("last known state is not usable, starting without", "err", err)
	}
	n.keeper = subnet.NewKeeper(subnet.Options{Store: etcd.New(client), Prefix: strings.TrimRight(c.EtcdPrefix, "/"), Machine: machine, Describe: n.describe,
		Previous: previous, TTL: c.LeaseTTL, Margin: c.RenewMargin, Grace: c.Grace, Log: log})
	n.start(previous)
	server, err := listen(c, n)
	if err != nil {
		return err
	}
	// One that fails ends the others, and systemd starts us anew.
	g := run.NewGroup(ctx)
	wake, poke := run.Wake()
	g.Go("watch the kernel", func(ctx context.Context) error { return kernel.Watch(ctx, poke) })
	g.Go("keep the lease", n.keeper.Run)
	g.Go("keep the network", func(ctx context.Context) error { return n.loop(ctx, wake) })
	g.Go("serve", server.run)
	return g.Wait()
}

// machineID reads what tells this machine from others for good: subnet, MAC and lease are found again by it.
func machineID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the machine ID: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" || id == "uninitialized" {
		return "", fmt.Errorf("read the machine ID: %s is empty: run systemd-machine-id-setup", path)
	}
	return id, nil
}

// dialEtcd makes a client; it does not wait for etcd to be there.
func dialEtcd(c Config) (*clientv3.Client, error) {
	// Keep-alives find a store that is gone without a word, such as one behind a firewall that forgot us.
	cfg := clientv3.Config{Endpoints: c.EtcdEndpoints, DialTimeout: 5 * time.Second, DialKeepAliveTime: 10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second, Logger: zap.NewNop()}
	if len(cfg.Endpoints) == 0 {
		// Decided once and by something that does not come and go with the daemon: a host that has fleet has this directory.
		cfg.Endpoints = []string{"unix:///run/fleet/etcd.sock"}
		if _, err := os.Stat("/run/fleet"); err != nil {
			cfg.Endpoints = []string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}
		}
	}
	login := etcd.Login{CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile, Username: c.EtcdUsername, Password: c.EtcdPassword}
	var err error
	if cfg.TLS, err = login.TLS(); err != nil {
		return nil, err
	}
	return login.Dial(cfg)
}

// serveWireGuard is the process that carries packets where the kernel cannot. The daemon starts it and it outlives the daemon.
func serveWireGuard(parent context.Context, c Config, args []string, _ io.Writer) error {
	if len(args) != 3 {
		return &fleet.InvalidError{What: "wireguard: wrong arguments", Hint: "the daemon starts this"}
	}
	var mtu int
	if _, err := fmt.Sscan(args[1], &mtu); err != nil {
		return &fleet.InvalidError{What: "MTU " + args[1], Hint: "want a number"}
	}
	ctx, _, stop := run.Listen(parent)
	defer stop()
	return link.ServeWireGuard(ctx, args[2], args[0], mtu, logger(c))
}

// firstAddr is a subnet's first usable address with its length, as subnet.env has it.
func firstAddr(s netip.Prefix) netip.Prefix { return netip.PrefixFrom(s.Addr().Next(), s.Bits()) }
