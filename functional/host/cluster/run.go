package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fleet-init/fleet/functional/host"
)

// usual names the one cluster that build.sh keeps; FLEET_CLUSTER names another.
const usual = "up"

// patience is the most that any verb takes but the first up, which makes the root tree.
const patience = 2 * time.Minute

// tool is what the verbs need from outside.
type tool struct {
	out      io.Writer
	fleetctl string // path of the command
	examples string // folder of example units
	build    string // how the user calls build.sh
	id       string // of the cluster
}

func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	t := tool{out: out, fleetctl: getenv("FLEETCTL"), examples: getenv("EXAMPLES"), build: getenv("BUILD"), id: cmp.Or(getenv("FLEET_CLUSTER"), usual)}
	verbs := map[string]func(context.Context, []string) error{
		"up": t.up, "down": t.down, "enter": t.enter, "kill": t.kill, "boot": t.boot, "ctl": t.ctl,
	}
	if len(args) == 0 || verbs[args[0]] == nil {
		return errors.New("cluster is called by build.sh: see build.sh help")
	}
	return verbs[args[0]](ctx, args[1:])
}

// open finds the cluster, and says what to do if there is none.
func (t tool) open() (*host.Cluster, error) {
	c, err := host.Open(t.id)
	if errors.Is(err, os.ErrNotExist) || err == nil && !c.Alive() {
		return nil, fmt.Errorf("no cluster is up: start one with %s up", t.build)
	}
	return c, err
}

// named finds one host of the cluster by the first argument.
func (t tool) named(args []string, usage string) (*host.Host, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("which host? %s %s", t.build, usage)
	}
	c, err := t.open()
	if err != nil {
		return nil, err
	}
	h := c.Named(args[0])
	if h == nil {
		var names []string
		for _, h := range c.Hosts() {
			names = append(names, h.Name)
		}
		return nil, fmt.Errorf("there is no host %s: there are %s", args[0], strings.Join(names, ", "))
	}
	return h, nil
}

func (t tool) down(context.Context, []string) error {
	c, err := host.Open(t.id)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(t.out, "no cluster is up")
		return nil
	} else if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	fmt.Fprintln(t.out, "the cluster and all it made are gone")
	return nil
}

func (t tool) kill(ctx context.Context, args []string) error {
	h, err := t.named(args, "kill HOST")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := h.PowerOff(ctx); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s has lost its power; %s boot %s switches it on again\n", h.Name, t.build, h.Name)
	return nil
}

func (t tool) boot(ctx context.Context, args []string) error {
	h, err := t.named(args, "boot HOST")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begin := time.Now()
	if err := h.Boot(ctx); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s is up after %.1f s\n", h.Name, time.Since(begin).Seconds())
	return nil
}

// enter becomes a command on a host, a shell if none is given.
func (t tool) enter(ctx context.Context, args []string) error {
	h, err := t.named(args, "enter HOST [COMMAND...]")
	if err != nil {
		return err
	}
	argv := args[1:]
	if len(argv) == 0 {
		argv = []string{"bash", "--login"}
	}
	cmd, err := h.Command(ctx, argv[0], argv[1:]...)
	if err != nil {
		return err
	}
	// The first of two lines of one name would count.
	env := slices.DeleteFunc(cmd.Env, func(line string) bool { return strings.HasPrefix(line, "TERM=") })
	return become(cmd, append(env, "TERM="+os.Getenv("TERM")))
}

// ctl becomes fleetctl, speaking to the first host whose fleetd listens.
func (t tool) ctl(ctx context.Context, args []string) error {
	c, err := t.open()
	if err != nil {
		return err
	}
	cmd, err := t.command(ctx, c, args...)
	if err != nil {
		return err
	}
	return become(cmd, os.Environ())
}

// command returns fleetctl as it is called here: in the cluster's network, on the API socket of a host.
func (t tool) command(ctx context.Context, c *host.Cluster, args ...string) (*exec.Cmd, error) {
	for _, h := range c.Hosts() {
		conn, err := h.DialUnix(ctx, "/run/fleet.sock")
		if err != nil {
			continue
		}
		conn.Close()
		socket, err := h.Path("/run/fleet.sock")
		if err != nil {
			return nil, err
		}
		return c.Command(ctx, t.fleetctl, append([]string{"--endpoint=unix://" + socket}, args...)...), nil
	}
	return nil, fmt.Errorf("no host is on with a fleetd that listens: try %s boot h1", t.build)
}

func become(cmd *exec.Cmd, env []string) error {
	path, err := exec.LookPath(cmd.Path)
	if err != nil {
		return err
	}
	return syscall.Exec(path, cmd.Args, env)
}

func hostCount(args []string) (int, error) {
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 || n > 50 {
		return 0, fmt.Errorf("%q hosts: give a number from 1 to 50", args[0])
	}
	return n, nil
}
