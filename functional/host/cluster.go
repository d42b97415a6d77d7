package host

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed script layer
var scripts embed.FS

const (
	runBase     = "/run/fleet-host"     // what is known of running clusters, one folder each
	diskBase    = "/var/tmp/fleet-host" // what their hosts wrote, one folder each
	groupPrefix = "/fleet-host-"        // control groups of hosts: this, the cluster's ID, a dot, the host's name
	network     = "172.31.80."          // the same in every cluster: none is seen outside its namespace
	gateway     = network + "1"
)

// Options say what a cluster is made of.
type Options struct {
	Hosts int    // booted by Start; more can come with Add
	Tree  string // what every host's root is, as build.sh tree makes it; never written
	// Files are written on host i (from 1) before its first boot: path → content. A script ("#!") and a
	// program are executable. May be nil.
	Files func(i int) map[string]string
	Log   func(format string, args ...any) // nil = silent
	// ID names the cluster's folders; empty = made from the process ID. Only a cluster with an ID can outlive its maker.
	ID string
	// Outlive keeps the cluster when this process ends; Open finds it again, Close removes it.
	Outlive bool
}

// Cluster is a bridge with hosts on it. Its methods may be called from several goroutines.
type Cluster struct {
	opt     Options
	state   state
	cgroups []string
	owner   io.Closer // the keeper reads the other end; nil for a cluster found by Open
	keeper  *exec.Cmd

	mu    sync.Mutex // hosts, and the state file
	hosts []*Host
}

// state is what another process needs to find the cluster.
type state struct {
	ID     string     `json:"id"`
	Tree   string     `json:"tree"`
	Lower  string     `json:"lower"` // overlayfs's lowerdir: layer/, the tree, the tools of tests
	Owner  process    `json:"owner"` // zero if the cluster has none
	Keeper process    `json:"keeper"`
	Holder process    `json:"holder"`
	Hosts  []identity `json:"hosts"`
}

// Start makes a cluster and boots its hosts in parallel. The tools that tests look at hosts with are made first if the cache has none, which takes
// a minute and needs the network. When it fails, nothing is left behind.
func Start(ctx context.Context, opt Options) (*Cluster, error) {
	if opt.Log == nil {
		opt.Log = func(string, ...any) {}
	}
	if err := Missing(); err != nil {
		return nil, err
	}
	if err := sweep(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(opt.Tree, "usr")); err != nil {
		return nil, fmt.Errorf("the hosts' root tree, which build.sh tree makes: %w", err)
	}
	beside, err := ensureBeside(ctx, opt.Log)
	if err != nil {
		return nil, err
	}
	groups, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	c := &Cluster{opt: opt, cgroups: groups, state: state{ID: opt.ID, Tree: opt.Tree}}
	if !opt.Outlive {
		c.state.Owner = processOf(os.Getpid())
	}
	if err := c.claim(); err != nil {
		return nil, err
	}
	c.state.Lower = strings.Join([]string{filepath.Join(c.runDir(), "layer"), opt.Tree, filepath.Join(beside, "tools")}, ":")
	if err := c.fill(); err != nil {
		return nil, errors.Join(err, c.clear())
	}
	if err := c.startKeeper(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.AddN(ctx, opt.Hosts); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// claim makes the cluster's folder, and by that its ID ours.
func (c *Cluster) claim() error {
	if c.opt.ID == "" && c.opt.Outlive {
		return errors.New("make a cluster: one that outlives its maker needs an ID, to be found again by")
	}
	err := insist(func() error {
		if err := os.MkdirAll(runBase, 0o755); err != nil || c.opt.ID != "" {
			return errors.Join(err, os.Mkdir(c.runDir(), 0o755))
		}
		dir, err := os.MkdirTemp(runBase, "t"+strconv.Itoa(os.Getpid())+"-")
		c.state.ID = filepath.Base(dir)
		return err
	})
	if err != nil {
		return fmt.Errorf("make a cluster: %w", err)
	}
	return nil
}

// insist repeats f while a folder vanishes under it: the last cluster takes the folder above its own away, at any moment.
func insist(f func() error) error {
	for {
		if err := f(); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
}

// fill writes what has to be there before any process is started.
func (c *Cluster) fill() error {
	// First of all, so that nobody is left to guess whose folder this is.
	if err := c.save(); err != nil {
		return err
	}
	if err := os.CopyFS(c.runDir(), scripts); err != nil {
		return fmt.Errorf("write the harness's scripts: %w", err)
	}
	// /run forgets when the machine restarts, disks do not.
	if err := os.RemoveAll(c.diskDir()); err != nil {
		return fmt.Errorf("clear away old disks: %w", err)
	}
	if err := insist(func() error { return os.MkdirAll(c.diskDir(), 0o755) }); err != nil {
		return fmt.Errorf("make the hosts' disks: %w", err)
	}
	return nil
}

// startKeeper starts the processes that own the cluster's namespaces, and waits until the bridge is up.
func (c *Cluster) startKeeper(ctx context.Context) error {
	stdin, owner, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	argv := scoped(c.state.ID, "sh", c.script("keeper.sh"), c.runDir(), c.diskDir(), c.script(""), gateway+"/24")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "CGROUPS="+strings.Join(c.cgroups, " "))
	cmd.Stdin = stdin
	// Its own session: ^C on a terminal must not tear the network from under hosts that are being shut down.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log, err := os.Create(filepath.Join(c.runDir(), "keeper.log"))
	if err != nil {
		return err
	}
	defer log.Close() // read by its handle: a keeper that fails removes the file
	cmd.Stdout, cmd.Stderr = log, log
	tree, err := inUse(c.state.Tree)
	if err != nil {
		return err
	}
	defer tree.Close()
	cmd.ExtraFiles = []*os.File{tree}
	if c.opt.Outlive {
		// The keeper gets both ends of the pipe: its stdin never ends.
		cmd.ExtraFiles = append(cmd.ExtraFiles, owner)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the keeper: %w", err)
	}
	c.keeper, c.owner = cmd, owner
	if c.opt.Outlive {
		owner.Close()
	}
	c.state.Keeper = processOf(cmd.Process.Pid)
	err = WaitFor(ctx, "the cluster's bridge", func(context.Context) error {
		if !c.state.Keeper.alive() {
			text, _ := io.ReadAll(io.NewSectionReader(log, 0, 4096))
			return Final(fmt.Errorf("the keeper ended: %s", text))
		}
		_, err := os.Stat(filepath.Join(c.runDir(), "up"))
		return err
	})
	if err != nil {
		return err
	}
	holder, err := grandchild(cmd.Process.Pid)
	if err != nil {
		return err
	}
	c.state.Holder = processOf(holder)
	return c.save()
}

// inUse opens the tree with a lock that lasts while any process has this file open: mkimage clears away only trees that nobody holds.
func inUse(tree string) (*os.File, error) {
	f, err := os.Open(tree)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", tree, err)
	}
	return f, nil
}

// Open finds a cluster that another process made. It is os.ErrNotExist if there is none with this ID.
func Open(id string) (*Cluster, error) {
	c := &Cluster{opt: Options{ID: id, Log: func(string, ...any) {}}, state: state{ID: id}}
	text, err := os.ReadFile(filepath.Join(c.runDir(), "state.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &c.state); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(c.runDir(), "state.json"), err)
	}
	if c.cgroups, err = cgroupRoots(); err != nil {
		return nil, err
	}
	for _, id := range c.state.Hosts {
		c.hosts = append(c.hosts, &Host{cluster: c, identity: id})
	}
	return c, nil
}

// Add makes one more host and boots it.
func (c *Cluster) Add(ctx context.Context) (*Host, error) {
	h, err := c.New(ctx)
	if err != nil {
		return nil, err
	}
	return h, h.Boot(ctx)
}

// AddN makes n more hosts and boots them in parallel.
func (c *Cluster) AddN(ctx context.Context, n int) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		// The names are given in order, before anything runs at once.
		h, err := c.New(ctx)
		if err != nil {
			errs[i] = err
			break
		}
		wg.Go(func() { errs[i] = h.Boot(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Hosts returns all hosts, in the order they were made.
func (c *Cluster) Hosts() []*Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Host(nil), c.hosts...)
}

// Host returns host i, counted from 1: Host(1) is h1. A number that does not exist is a fault of the test, and panics.
func (c *Cluster) Host(i int) *Host { return c.Hosts()[i-1] }

// Named returns the host with a name, such as h2, or nil.
func (c *Cluster) Named(name string) *Host {
	for _, h := range c.Hosts() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Alive reports whether the cluster's namespaces are there. Those of a cluster found by Open may be gone.
func (c *Cluster) Alive() bool { return c.state.Holder.alive() }

// Close removes the cluster: its processes, namespaces, mounts, control groups and folders. A second call does nothing.
func (c *Cluster) Close() error {
	if c.owner != nil {
		c.owner.Close()
	}
	if c.keeper != nil {
		// With an owner's pipe closed the holder ends by itself, unless the cluster was to outlive us.
		c.state.Holder.kill()
		_ = c.keeper.Wait()
		c.keeper = nil
	} else {
		c.state.Holder.kill()
		c.state.Keeper.wait(10 * time.Second)
	}
	return c.clear()
}

// clear removes what a keeper that was killed itself could not.
func (c *Cluster) clear() error {
	for _, root := range c.cgroups {
		dirs, _ := filepath.Glob(root + groupPrefix + c.state.ID + ".*")
		for _, d := range dirs {
			removeGroup(d)
		}
	}
	err := errors.Join(os.RemoveAll(c.diskDir()), os.RemoveAll(c.runDir()))
	_, _ = os.Remove(runBase), os.Remove(diskBase) // the last one turns the light off
	return err
}

// sweep removes what clusters left whose owner and keeper both died by violence.
func sweep() error {
	dirs, _ := filepath.Glob(filepath.Join(runBase, "*"))
	for _, dir := range dirs {
		c, err := Open(filepath.Base(dir))
		if info, e := os.Stat(dir); err != nil && e == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.RemoveAll(dir) // its maker died within its first milliseconds
		}
		if err != nil || c.state.Owner == (process{}) || c.state.Owner.alive() || c.state.Keeper.alive() {
			continue // being made, outliving its maker, in use, or about to go by itself
		}
		if err := c.Close(); err != nil {
			return fmt.Errorf("clear away what a dead test left in %s: %w", dir, err)
		}
	}
	return nil
}

func (c *Cluster) runDir() string            { return filepath.Join(runBase, c.state.ID) }
func (c *Cluster) diskDir() string           { return filepath.Join(diskBase, c.state.ID) }
func (c *Cluster) script(name string) string { return filepath.Join(c.runDir(), "script", name) }

// save writes the state file; it is complete or not there.
func (c *Cluster) save() error {
	text, err := json.MarshalIndent(c.state, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(c.runDir(), "state.json")
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Gateway is the bridge's own address: what listens there is reached by every host, whatever cuts there are between them.
func (c *Cluster) Gateway() string { return gateway }
