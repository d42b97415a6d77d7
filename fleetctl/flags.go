package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
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

// fromEnv are the flags that also come from the environment, as FLEETCTL_<NAME>. The last two are fleet's and mean nothing now.
func fromEnv() []string {
	return []string{"endpoint", "request-timeout", "debug", "ca-file", "cert-file", "key-file", "driver", "experimental-api"}
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

	fs.BoolVarP(&o.full, "full", "l", false, "print machine IDs and hashes in full")
	fs.BoolVar(&o.noLegend, "no-legend", false, "print no header line")
	fs.StringVar(&o.fields, "fields", "", "columns to print, comma-separated")
	fs.BoolVar(&o.json, "json", false, "print JSON as the API has it")
	fs.BoolVar(&o.noBlock, "no-block", false, "do not wait until the units are there")
	fs.IntVar(&o.blockAttempts, "block-attempts", 0, "wait at most this many times 2 s; 0: as long as it takes")
	fs.BoolVar(&o.replace, "replace", false, "replace units whose local file differs from the registry's")

	for _, old := range []struct{ name, only string }{{"driver", "API"}, {"experimental-api", "true"}, {"sign", ""}} {
		fs.Var(&ignored{only: old.only}, old.name, "")
		f := fs.Lookup(old.name)
		f.Hidden = true
		if old.name != "driver" {
			f.NoOptDefVal = "true"
		}
	}
	return fs
}

// parse reads flags and environment into a.opts and a.given. It returns the other words.
func (a *app) parse(args, env []string) (words []string, err error) {
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
// the names --l for --full.
func (a *app) longFlags(fs *pflag.FlagSet, args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if arg == "--l" || strings.HasPrefix(arg, "--l=") {
			args[i] = "--full" + strings.TrimPrefix(arg, "--l")
			continue
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
