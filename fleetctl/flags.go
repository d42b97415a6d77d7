package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/internal/api"
)

// options are the values of all flags of all commands: a word means the same wherever it is taken.
type options struct {
	endpoint       string
	requestTimeout time.Duration
	debug          bool
	caFile         string
	certFile       string
	keyFile        string
	help           bool
	version        bool

	full          bool
	noLegend      bool
	fields        string
	json          bool
	noBlock       bool
	blockAttempts int
	replace       bool
	dropIn        string

	lines    int
	follow   bool
	output   string
	since    string
	priority string
	machine  string

	tunnel       string
	sshUser      string
	sshTimeout   time.Duration
	sshPort      int
	strictHost   bool
	knownHosts   string
	forwardAgent bool
	unit         string
	os           osOptions
	trust        trustOptions
	store        storeOptions
}

// ignored takes flags of fleet that have lost their meaning, so that scripts that give them go on.
type ignored struct{ only string }

func (v *ignored) String() string { return "" }
func (v *ignored) Type() string   { return "" }
func (v *ignored) Set(s string) error {
	if v.only != "" && !strings.EqualFold(s, v.only) {
		return fmt.Errorf("only %s is left: fleetctl speaks to fleetd, never to its store", v.only)
	}
	return nil
}

// seconds is a time span as a Go duration (5s) or, as in fleet, a number of seconds (3.0).
type seconds struct{ d *time.Duration }

func (v seconds) String() string { return v.d.String() }
func (v seconds) Type() string   { return "time" }
func (v seconds) Set(s string) error {
	d, err := time.ParseDuration(s)
	if f, ferr := strconv.ParseFloat(s, 64); ferr == nil {
		d, err = time.Duration(f*float64(time.Second)), nil
	}
	if err != nil || d <= 0 {
		return errors.New("use a time such as 5s, or a number of seconds")
	}
	*v.d = d
	return nil
}

// fromEnv are the flags that also come from the environment, as FLEETCTL_<NAME>. Those of the last line are fleet's and mean nothing now.
func fromEnv() []string {
	return []string{"endpoint", "request-timeout", "debug", "context", "ca-file", "cert-file", "key-file",
		"tunnel", "ssh-username", "ssh-timeout", "strict-host-key-checking", "known-hosts-file",
		"driver", "experimental-api", "etcd-key-prefix", "etcd-keyfile", "etcd-certfile", "etcd-cafile"}
}

// globalFlags are taken by every command.
func globalFlags() []string { return append(fromEnv(), "help", "version") }

// define declares every flag of every command.
func define(o *options) *pflag.FlagSet {
	fs := pflag.NewFlagSet("fleetctl", pflag.ContinueOnError)
	fs.Usage = func() {}
	fs.StringVar(&o.endpoint, "endpoint", "unix:///var/run/fleet.sock", "fleetd to speak to: unix:///path, http://host:port or https://host:port")
	o.requestTimeout = 10 * time.Second
	fs.Var(seconds{&o.requestTimeout}, "request-timeout", "how long fleetd may take to answer one request")
	fs.BoolVar(&o.debug, "debug", false, "print each request on stderr")
	fs.StringVar(&o.caFile, "ca-file", "", "certificate authority that https endpoints are checked by")
	fs.StringVar(&o.certFile, "cert-file", "", "own certificate for https endpoints")
	fs.StringVar(&o.keyFile, "key-file", "", "key of the certificate")
	fs.BoolVarP(&o.help, "help", "h", false, "print help")
	fs.BoolVarP(&o.version, "version", "v", false, "print the version")

	fs.BoolVarP(&o.full, "full", "l", false, "print machine IDs and hashes in full; edit: the unit itself, no drop-in")
	fs.BoolVar(&o.noLegend, "no-legend", false, "print no header line")
	fs.StringVar(&o.fields, "fields", "", "columns to print, comma-separated")
	fs.BoolVar(&o.json, "json", false, "print JSON as the API has it")
	fs.BoolVar(&o.noBlock, "no-block", false, "do not wait until the units are there")
	fs.IntVar(&o.blockAttempts, "block-attempts", 0, "wait at most this many times 2 s; 0: as long as it takes")
	fs.BoolVar(&o.replace, "replace", false, "replace units whose local file differs from the registry's")

	fs.StringVar(&o.dropIn, "drop-in", "", "file name of the drop-in to edit; none: override.conf")

	o.lines = 10
	fs.VarP(lineCount{&o.lines}, "lines", "n", "how many of the newest log lines to print, or all")
	fs.BoolVarP(&o.follow, "follow", "f", false, "go on printing log lines as they come")
	fs.StringVarP(&o.output, "output", "o", "short", "how to print log lines, as with journalctl: "+strings.Join(api.LogModes(), ", "))
	fs.StringVarP(&o.since, "since", "S", "", "log lines from then on: \"2026-03-01 12:00\", today, -2h")
	fs.StringVarP(&o.priority, "priority", "p", "", "log lines as grave as that or graver: emerg to debug, or 0 to 7")
	fs.StringVar(&o.machine, "machine", "", "on this machine: the begin of its ID, its address or name")

	defineSSH(fs, o)
	defineOS(fs, &o.os)
	defineTrust(fs, &o.trust)
	defineStore(fs, &o.store)

	for _, old := range []struct{ name, only string }{{"driver", "API"}, {"experimental-api", "true"}, {"sign", ""}, {"sudo", ""},
		{"etcd-key-prefix", ""}, {"etcd-keyfile", ""}, {"etcd-certfile", ""}, {"etcd-cafile", ""}} {
		fs.Var(&ignored{only: old.only}, old.name, "")
		f := fs.Lookup(old.name)
		f.Hidden = true
		if old.name != "driver" && !strings.HasPrefix(old.name, "etcd-") {
			f.NoOptDefVal = "true"
		}
	}
	return fs
}

func defineSSH(fs *pflag.FlagSet, o *options) {
	fs.StringVar(&o.tunnel, "tunnel", "", "reach fleetd and machines by SSH through this host[:port]")
	fs.StringVar(&o.sshUser, "ssh-username", "", "user for SSH; none: that of ~/.ssh/config, else core")
	o.sshTimeout = 10 * time.Second
	fs.Var(seconds{&o.sshTimeout}, "ssh-timeout", "how long an SSH connection may take to come up")
	fs.IntVar(&o.sshPort, "ssh-port", 0, "port for SSH to machines; 0: that of ~/.ssh/config, else 22")
	fs.BoolVar(&o.strictHost, "strict-host-key-checking", true, "check the keys of SSH hosts")
	fs.StringVar(&o.knownHosts, "known-hosts-file", "~/.fleetctl/known_hosts", "keys of SSH hosts that were accepted")
	fs.BoolVarP(&o.forwardAgent, "forward-agent", "A", false, "let the machine use the keys of the ssh-agent here")
	fs.StringVar(&o.unit, "unit", "", "on the machine that has this unit")
}

// parse reads flags and environment into a.opts and a.given. It returns the other words.
func (a *app) parse(args, env []string) (words []string, err error) {
	a.env = env
	fs := define(&a.opts)
	args = a.longFlags(fs, args)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	fs.Visit(func(f *pflag.Flag) { a.given = append(a.given, f.Name) })
	for _, name := range fromEnv() {
		key := "FLEETCTL_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if value := lookup(env, key); value != "" && !fs.Changed(name) {
			if err := fs.Set(name, value); err != nil {
				return nil, fmt.Errorf("environment variable %s: %w", key, err)
			}
		}
	}
	return fs.Args(), nil
}

// longFlags turns what older fleetctls took into today's form: long flags with one dash (-no-block), with a notice, and
// the names --l, --f and --A for --full, --follow and --forward-agent.
func (a *app) longFlags(fs *pflag.FlagSet, args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if old, _, _ := strings.Cut(arg, "="); len(old) == 3 && strings.HasPrefix(old, "--") {
			if long := map[string]string{"--l": "--full", "--f": "--follow", "--A": "--forward-agent"}[old]; long != "" {
				args[i] = long + strings.TrimPrefix(arg, old)
				continue
			}
		}
		word, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") && len(word) > 1 && fs.Lookup(word) != nil {
			args[i] = "-" + arg
			a.warn("fleetctl: %s is taken as -%s", arg, arg)
		}
	}
	return args
}

// lookup returns the last value of key in env, as a shell would.
func lookup(env []string, key string) string {
	value := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, key+"="); ok {
			value = v
		}
	}
	return value
}
