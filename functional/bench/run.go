package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/functional/host"
)

// bench is a cluster under measurement.
type bench struct {
	cluster *host.Cluster
	out     io.Writer
	sizes   []int
	many    int
	runs    int
	images  []int  // MiB
	tree    string // root tree of the hosts
	window  time.Duration
	ttl     time.Duration
}

// part is one group of figures.
type part struct {
	name  string
	what  string
	run   func(*bench, context.Context) error
	alone bool // needs no hosts
}

func parts() []part {
	return []part{
		{"one", "one unit, from the command to its end", (*bench).one, false},
		{"start", "many units beside bare systemd", (*bench).start, false},
		{"list", "list-units", (*bench).list, false},
		{"wide", "lists of many units, on a warm fleetd", (*bench).wide, false},
		{"rest", "cost at rest", (*bench).rest, false},
		{"failover", "a host loses its power", (*bench).failover, false},
		{"apply", "a release into a slot", (*bench).apply, true},
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	b := &bench{out: out}
	flags.StringVar(&b.tree, "tree", "", "root tree that build.sh tree made")
	only := flags.StringSlice("part", nil, "only these parts")
	flags.IntSliceVar(&b.sizes, "units", []int{300, 1000}, "how many units")
	flags.IntVar(&b.many, "many", 10000, "how many units the part wide has")
	flags.IntSliceVar(&b.images, "images", []int{256, 1024}, "MiB of the images that are applied")
	flags.IntVar(&b.runs, "runs", 3, "times each figure is taken; the median is printed")
	flags.DurationVar(&b.window, "window", 20*time.Second, "how long the cost at rest is watched")
	flags.DurationVar(&b.ttl, "agent-ttl", 10*time.Second, "agent_ttl of the hosts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var alone, together []part
	for _, p := range parts() {
		switch wanted := len(*only) == 0 || slices.Contains(*only, p.name); {
		case wanted && p.alone:
			alone = append(alone, p)
		case wanted:
			together = append(together, p)
		}
	}
	if b.tree, err = filepath.Abs(b.tree); err != nil {
		return err
	}
	if err := b.each(ctx, alone); err != nil || len(together) == 0 {
		return err
	}
	b.cluster, err = host.Start(ctx, host.Options{
		Hosts: 3, Tree: b.tree, Files: host.FleetFiles(3, "agent_ttl = "+b.ttl.String()+"\n"),
		Log: func(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.Close()) }()
	if err := b.form(ctx); err != nil {
		return err
	}
	return b.each(ctx, together)
}

func (b *bench) each(ctx context.Context, list []part) error {
	for _, p := range list {
		fmt.Fprintf(b.out, "\n### %s\n\n", p.what)
		if err := p.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// form waits until all hosts are in the cluster and vote, and brings the templates onto the first.
func (b *bench) form(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := host.WaitFor(ctx, "three machines and voters", func(ctx context.Context) error {
		out, err := b.first().Sh(ctx, "fleetctl list-machines --no-legend && systemctl show -P StatusText fleetd")
		if err == nil && (strings.Count(out, "\n") != 4 || !strings.Contains(out, "voter of 3")) {
			err = errors.New(out)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.first().WriteFile(ctx, "/root/load@.service", text)
}

// text is the workload everywhere: what it costs is systemd's own work.
const text = "[Unit]\nDescription=load %i\n\n[Service]\nExecStart=/bin/sleep infinity\n"

func (b *bench) first() *host.Host { return b.cluster.Host(1) }

// names gives n instances' names.
func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("load@%d.service", i+1)
	}
	return all
}

// ctl runs fleetctl on the first host, in /root where the template is, and returns how long it took.
func (b *bench) ctl(ctx context.Context, args ...string) (time.Duration, error) {
	begin := time.Now()
	_, err := b.first().Sh(ctx, "cd /root && exec fleetctl "+strings.Join(args, " ")+" >/dev/null")
	return time.Since(begin), err
}

// clear takes all units away and waits until they are gone.
func (b *bench) clear(ctx context.Context, n int) error {
	_, err := b.ctl(ctx, append([]string{"destroy"}, names(n)...)...)
	return err
}

// median of some durations; they are sorted.
func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

// spread prints a median with its extremes.
func spread(ds []time.Duration) string {
	m := median(ds)
	return fmt.Sprintf("%s [%s–%s]", short(m), short(ds[0]), short(ds[len(ds)-1]))
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}
