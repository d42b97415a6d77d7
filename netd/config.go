package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/netd/overlay"
)

// Config is everything that can be set for netd: flannel's flags by their names, and a few of its own.
type Config struct {
	// The store. Without endpoints: fleet's socket where fleet is, else flannel's two.
	// Endpoints are URLs, unix://PATH for a socket. Key, certificate and CA are names of PEM files.
	EtcdEndpoints                         []string
	EtcdPrefix                            string
	EtcdKeyFile, EtcdCertFile, EtcdCAFile string
	EtcdUsername, EtcdPassword            string

	Want overlay.Want // --iface, --iface-regex, --iface-can-reach, --public-ip, --public-ipv6

	// SubnetFile is for others to read, in flannel's form. The lease is renewed RenewMargin before its end at the latest.
	SubnetFile  string
	RenewMargin time.Duration
	LeaseTTL    time.Duration
	Grace       time.Duration // peers that vanished with the store are reached this long

	// What leaves the overlay has this host's address (Masquerade); rules, routes and devices are looked through every Resync; Blackhole drops what
	// is for addresses of the own subnet that nobody has.
	Masquerade   bool
	NotRandom    bool // --ip-masq-fully-random-disable
	Resync       time.Duration
	ForwardRules bool
	Blackhole    bool

	// A port for probes from elsewhere; 0 for none. The socket always answers.
	HealthIP   netip.Addr
	HealthPort int

	StateDir      string // last known state and WireGuard key
	RunDir        string // sockets
	MachineIDFile string
	KeyFile       string   // $WIREGUARD_KEY_FILE
	CNIConf       string   // file to write; empty for none
	CNIInterface  string   // bridge or ptp
	CNIPlugins    []string // more of the list, at its end: bandwidth, tuning
	CNIBin        []string
	CNIState      string
	UnitDirs      []string // where systemd finds units' texts, the first first
	Verbosity     int
	Version       bool
}

// parseConfig reads flags and environment. A variable FLANNELD_<FLAG> counts where the flag is not given, as with flanneld.
// The rest of the arguments, if any, is a command.
func parseConfig(args, env []string) (c Config, rest []string, err error) {
	// The package prints nothing by itself: main prints the error, once.
	f := flag.NewFlagSet("netd", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	reach, public, public6, health := "", "", "", ""
	margin := 0
	resync := 0
	bind(f, &c, &reach, &public, &public6, &health, &margin, &resync)
	// Flags of flannel's other way to get a lease: units that carry them must hear that it is not there, not run without.
	for _, name := range []string{"kube-subnet-mgr", "kubeconfig-file", "kube-api-url", "kube-annotation-prefix", "net-config-path", "set-node-network-unavailable"} {
		f.Func(name, "not supported", func(s string) error {
			return errors.New("netd takes leases from etcd only: leave it out")
		})
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return c, nil, err
		}
		return c, nil, &fleet.InvalidError{What: "command line: " + err.Error(), Hint: "netd --help lists all flags"}
	}
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		if k == "WIREGUARD_KEY_FILE" {
			c.KeyFile = v
		}
		name, ours := strings.CutPrefix(k, "FLANNELD_")
		name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
		// A variable that is no flag of ours is somebody else's: flanneld's units set more than netd has.
		if !ours || given[name] || f.Lookup(name) == nil {
			continue
		}
		if err := f.Set(name, v); err != nil {
			return c, nil, &fleet.InvalidError{What: fmt.Sprintf("%s=%q: %v", k, v, err), Hint: "correct the variable or unset it"}
		}
	}
	c.Want.CanReach = reach
	c.RenewMargin, c.Resync = time.Duration(margin)*time.Minute, time.Duration(resync)*time.Second
	for _, a := range []struct {
		flag, val string
		out       *netip.Addr
		v6        bool
	}{{"public-ip", public, &c.Want.PublicIP, false}, {"public-ipv6", public6, &c.Want.PublicIPv6, true}, {"iface-can-reach", reach, new(netip.Addr), false}, {"healthz-ip", health, &c.HealthIP, false}} {
		if a.val == "" {
			continue
		}
		ip, err := netip.ParseAddr(a.val)
		if err != nil || strings.HasPrefix(a.flag, "public") && ip.Is6() != a.v6 {
			return c, nil, bad(a.flag, a.val, "want an IP address of that family")
		}
		*a.out = ip
	}
	return c, f.Args(), c.check(margin)
}

// bad is a flag's value that cannot be, with what to write instead.
func bad(flag, val, hint string) error {
	return &fleet.InvalidError{What: fmt.Sprintf("--%s %q", flag, val), Hint: hint}
}

// check looks at what one flag's own syntax does not say: ranges, and flags that need each other. margin is in minutes, as it was given.
func (c Config) check(margin int) error {
	if margin < 1 || margin > 1439 {
		return bad("subnet-lease-renew-margin", fmt.Sprint(margin), "minutes, 1 to 1439")
	}
	// A short lease is for tests and for clusters whose hosts come and go by the minute; the usual margin means nothing to it.
	if c.LeaseTTL < time.Second || c.RenewMargin >= c.LeaseTTL && c.LeaseTTL >= 24*time.Hour {
		return bad("subnet-lease-ttl", c.LeaseTTL.String(), "more than a second and more than the renew margin")
	}
	if c.Resync < time.Second {
		return bad("iptables-resync", fmt.Sprint(int(c.Resync.Seconds())), "seconds, 1 or more")
	}
	if c.HealthPort < 0 || c.HealthPort > 65535 {
		return bad("healthz-port", fmt.Sprint(c.HealthPort), "a port, or 0 for none")
	}
	if c.Verbosity < 0 || c.Verbosity > 99 {
		return bad("v", fmt.Sprint(c.Verbosity), "0 to 99")
	}
	if c.CNIInterface != "bridge" && c.CNIInterface != "ptp" {
		return bad("cni-interface", c.CNIInterface, "use bridge or ptp")
	}
	for _, p := range c.CNIPlugins {
		if p != "bandwidth" && p != "tuning" {
			return bad("cni-plugins", p, "use bandwidth, tuning or both")
		}
	}
	for _, r := range c.Want.Regexps {
		if _, err := regexp.Compile(r); err != nil {
			return bad("iface-regex", r, err.Error())
		}
	}
	if (c.EtcdKeyFile == "") != (c.EtcdCertFile == "") {
		return &fleet.InvalidError{What: "--etcd-certfile without --etcd-keyfile or the other way round", Hint: "give both or neither"}
	}
	return nil
}

// bind names every flag with its default. flannel's keep their names, units and defaults; the pointers are for values that become another type
// once all of them are known. help uses it too, so that no flag can be missing there.
func bind(f *flag.FlagSet, c *Config, reach, public, public6, health *string, margin, resync *int) {
	f.Func("etcd-endpoints", "comma separated; unix://PATH is a socket (default fleet's socket, or flannel's http://127.0.0.1:4001,http://127.0.0.1:2379 on hosts without fleet)", func(s string) error {
		c.EtcdEndpoints = slices.DeleteFunc(strings.Split(s, ","), func(e string) bool { return e == "" })
		return nil
	})
	f.StringVar(&c.EtcdPrefix, "etcd-prefix", "/coreos.com/network", "all keys of this network start with this")
	f.StringVar(&c.EtcdKeyFile, "etcd-keyfile", "", "key of the client certificate (PEM file)")
	f.StringVar(&c.EtcdCertFile, "etcd-certfile", "", "client certificate (PEM file)")
	f.StringVar(&c.EtcdCAFile, "etcd-cafile", "", "CA that signed the server's certificate (PEM file)")
	f.StringVar(&c.EtcdUsername, "etcd-username", "", "user at etcd")
	f.StringVar(&c.EtcdPassword, "etcd-password", "", "its password; better in FLANNELD_ETCD_PASSWORD")
	f.Func("iface", "interface, by name or address, that carries the overlay; may be repeated, the first that exists is taken", func(s string) error {
		c.Want.Ifaces = append(c.Want.Ifaces, s)
		return nil
	})
	f.Func("iface-regex", "the same by a regular expression on addresses, then names; may be repeated", func(s string) error {
		c.Want.Regexps = append(c.Want.Regexps, s)
		return nil
	})
	f.StringVar(reach, "iface-can-reach", "", "the interface that the route to this address uses")
	f.StringVar(public, "public-ip", "", "address that other hosts send to, if not the interface's own")
	f.StringVar(public6, "public-ipv6", "", "the same for IPv6")
	f.StringVar(&c.SubnetFile, "subnet-file", "/run/flannel/subnet.env", "where to write the subnet for others to read")
	f.IntVar(margin, "subnet-lease-renew-margin", 60, "renew the lease at least this many minutes before it ends")
	f.DurationVar(&c.LeaseTTL, "subnet-lease-ttl", 24*time.Hour, "how long the subnet stays this machine's without a renewal")
	f.DurationVar(&c.Grace, "vanished-peers-grace", 5*time.Minute, "reach peers this long that vanished right after the store was away, or most of them at once")
	f.BoolVar(&c.Masquerade, "ip-masq", false, "masquerade what leaves the overlay")
	f.BoolVar(&c.NotRandom, "ip-masq-fully-random-disable", false, "let the kernel keep source ports when it masquerades")
	f.IntVar(resync, "iptables-resync", 5, "seconds between checks of rules, routes and devices")
	f.BoolVar(&c.ForwardRules, "iptables-forward-rules", true, "say when a firewall drops forwarded packets of the overlay (an accept of netd's own would not overrule it)")
	f.BoolVar(&c.Blackhole, "ip-blackhole-route", false, "drop packets to addresses of this host's subnet that nobody has")
	f.StringVar(health, "healthz-ip", "0.0.0.0", "address for /healthz, /readyz and /metrics")
	f.IntVar(&c.HealthPort, "healthz-port", 0, "their port; 0 = off")
	f.StringVar(&c.StateDir, "state-dir", "/var/lib/netd", "last known state and WireGuard key")
	f.StringVar(&c.RunDir, "run-dir", "/run/netd", "sockets")
	f.StringVar(&c.MachineIDFile, "machine-id-file", "/etc/machine-id", "what tells this machine from others")
	f.StringVar(&c.CNIConf, "cni-conf", "", "file to write the CNI network list to as well, where no link leads to RUN-DIR/netd.conflist")
	c.CNIBin = []string{"/usr/lib/cni", "/opt/cni/bin"}
	f.Func("cni-bin", "directories of CNI plugins, comma separated (default /usr/lib/cni,/opt/cni/bin)", func(s string) error {
		c.CNIBin = strings.Split(s, ",")
		return nil
	})
	c.UnitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"}
	f.Func("unit-dirs", "directories of units that netns add reads Publish= from, comma separated (default systemd's)", func(s string) error {
		c.UnitDirs = strings.Split(s, ",")
		return nil
	})
	f.StringVar(&c.CNIInterface, "cni-interface", "bridge", "how units and containers are cabled: bridge, or ptp (a routed cable for each, and no limit of 1,024 a host)")
	f.Func("cni-plugins", "more CNI plugins for the list, comma separated: bandwidth (limits that a container asks for), tuning (its sysctls)", func(s string) error {
		c.CNIPlugins = strings.Split(s, ",")
		return nil
	})
	f.StringVar(&c.CNIState, "cni-state", "/run/fleet-netns", "addresses given to units and containers; on a file system that a reboot empties")
	f.IntVar(&c.Verbosity, "v", 0, "log more: 1 = debug")
	// klog's, which flanneld's units often carry; netd logs to standard error only.
	f.String("vmodule", "", "accepted, no effect")
	f.String("log_backtrace_at", "", "accepted, no effect")
	f.Bool("logtostderr", true, "accepted, no effect")
	f.BoolVar(&c.Version, "version", false, "print the version and end")
}
