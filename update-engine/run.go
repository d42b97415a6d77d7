package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/internal/conf"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/rollout"
	lib "github.com/fleet-init/fleet/internal/run"
	"github.com/fleet-init/fleet/update-engine/omaha"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// run is a command, or without one the daemon from its configuration to its end.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") && args[0] != "version" {
		for _, c := range commands() {
			if c.name == args[0] {
				return c.run(ctx, job{args: args[1:], env: env, stdout: stdout, command: c})
			}
		}
		return fmt.Errorf("unknown command %q; update-engine --help lists them", args[0])
	}
	c, res, err := parseConfig(args, env, os.ReadFile)
	switch {
	case err != nil:
		return err
	case res.Version:
		fmt.Fprintln(stdout, "update-engine version "+lib.Version())
		return nil
	case res.Help:
		fmt.Fprint(stdout, usage(), conf.Usage(c.program()))
		return nil
	}
	log := newLog(c, stderr)
	for _, w := range res.Warnings {
		log.Warn(w)
	}
	ctx, _, stop := lib.Listen(ctx)
	defer stop()
	return serve(ctx, c, log)
}

func newLog(c Config, w io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if c.Verbosity > 0 {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{} // the journal has it
		}
		return a
	}}))
}

// identity is who this host is, and what runs.
type identity struct {
	machine, boot string
	slot          slot.Name
	version       string
}

func identify(c Config) (identity, error) {
	words, err := told("/")
	if err != nil {
		return identity{}, err
	}
	var id identity
	if id.slot, id.version, err = runningOf(c, words); err != nil {
		return id, err
	}
	if id.boot = c.BootID; id.boot == "" {
		if id.boot, err = bootWord(filepath.Join(filepath.Dir(c.Socket), "update-engine.boot")); err != nil {
			return id, err
		}
	}
	if id.machine, err = word("/etc/machine-id"); err != nil && !inCluster(c) && c.Omaha == "" {
		err = nil // nobody is told
	}
	return id, err
}

// serve builds the daemon, top to bottom, and runs it.
func serve(ctx context.Context, c Config, log *slog.Logger) error {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return fmt.Errorf("make state_dir: %w", err)
	}
	unlock, err := lock(filepath.Join(c.StateDir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	id, err := identify(c)
	if err != nil {
		return err
	}
	slots, err := openSlots(c.Slots, id.slot)
	if err != nil {
		return err
	}
	h := &host{cfg: c, log: log, slots: slots, running: id.version, now: time.Now, logins: people, reboot: rebooter(c.RebootCommand, c.ResetCommand),
		client: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 30 * time.Second, MaxIdleConnsPerHost: 2}}}
	if h.windows, err = c.windows(); err != nil {
		return err
	}
	if c.Omaha != "" {
		h.omaha = newOmahaLink(c, h, id.machine, id.boot)
	}
	var all *cluster // nil: this host is on its own
	if inCluster(c) {
		conf, err := c.login().TLS()
		if err != nil {
			return err
		}
		client, err := newEtcd(ctx, c, c.EtcdServers, conf)
		if err != nil {
			return err
		}
		defer client.Close()
		if all, err = joinCluster(c, client, id, log); err != nil {
			return err
		}
		h.permits = all
		if c.Strategy != permit {
			h.permits = onlooker{all}
		}
	}
	if c.PeerListen != off && all != nil {
		h.share = newSharing(c, h, all.id, all)
	}
	first, err := h.started(id.boot)
	if err != nil {
		return err
	}
	return h.live(ctx, id, all, first)
}

// live runs the daemon and all that speaks to it.
func (h *host) live(ctx context.Context, id identity, all *cluster, first update.Fact) error {
	c, log := h.cfg, h.log
	d := newDaemon(log, filepath.Join(c.StateDir, "state.json"), h.do, h.now)
	ctl := newControl(d, h.slots, func(url string) { h.from.Store(&url) })
	l, err := listen(c.Socket)
	if err != nil {
		return err
	}
	notify := lib.NewNotifier(os.Getenv, os.Getpid())
	self := rollout.Host{Machine: id.machine, Channel: rolloutOf(c), Group: c.Group, Slot: string(id.slot)}
	rep := newReporter(log, filepath.Join(c.StateDir, "history.json"), h.slots, self, h.now)
	rep.journal = toJournal
	ctl.history = rep.events
	onChange := []func(update.State){d.changed, rep.changed}
	if c.DBus != "" {
		tell, err := onBus(ctx, c.DBus, d, log, func() int64 { return h.size.Load() })
		if err != nil {
			log.Info("not on the message bus", "reason", err)
		} else {
			onChange = append(onChange, tell)
		}
	}
	d.changed = func(s update.State) {
		for _, tell := range onChange {
			tell(s)
		}
		if err := notify.Status(line(s)); err != nil {
			log.Debug("tell systemd", "err", err)
		}
	}
	g := lib.NewGroup(ctx)
	if h.share != nil {
		h.share.tell, ctl.share = rep.shares, h.share.Share
		g.Go("peers", func(ctx context.Context) error { return h.share.serve(ctx, c) })
	}
	if c.MetricsListen != "" {
		g.Go("metrics", func(ctx context.Context) error { return ctl.serveMetrics(ctx, c.MetricsListen) })
	}
	g.Go("control", func(ctx context.Context) error { return ctl.serve(ctx, l) })
	g.Go("daemon", func(ctx context.Context) error { return d.run(ctx, first) })
	if all != nil && c.OmahaListen != "" {
		g.Go("omaha", func(ctx context.Context) error {
			return serveOmaha(ctx, c.OmahaListen, &decider{log, all.rollouts, readForeign(c.OmahaReleases), h.now})
		})
	}
	if all != nil {
		rep.publish = all.rollouts.Publish
		g.Go("report", rep.run)
		g.Go("orders", func(ctx context.Context) error {
			all.rollouts.Obey(ctx, id.machine, obey(d), func(err error) { log.Debug("orders of the cluster", "err", err) })
			return nil
		})
	}
	return errors.Join(notify.Ready(), g.Wait())
}

// inCluster says whether this host belongs to a cluster: its strategy says so, or there is a fleetd. systemd makes its socket before it starts us.
func inCluster(c Config) bool {
	_, err := os.Stat(c.APISocket)
	return c.Strategy == permit || err == nil
}

// joinCluster is the way to the other hosts: the store on its socket for what is written down, fleetd for what must be known of the
// cluster to decide.
func joinCluster(c Config, client *clientv3.Client, id identity, log *slog.Logger) (*cluster, error) {
	all := newCluster(etcd.New(client), c.EtcdKeyPrefix, rolloutOf(c), c.Group, fleet.MachineID(id.machine), id.boot, log, time.Now)
	all.members, all.answers = membersOf(client), func(ctx context.Context, urls []string) (bool, bool) { return otherStores(ctx, urls, c) }
	var err error
	all.ask, err = askFleetd(c.APISocket)
	return all, err
}

func newOmahaLink(c Config, h *host, id, boot string) *omahaLink {
	return &omahaLink{server: c.Omaha, client: h.client, log: h.log, failed: map[string]bool{}, host: omaha.Host{AppID: c.OmahaApp, Version: h.running,
		Track: c.Channel, Board: c.Arch + "-usr", MachineID: id, BootID: boot}}
}

// rolloutOf names the rollout that this host goes by.
func rolloutOf(c Config) string { return c.Product + "." + c.Arch + "." + c.Channel }

// started is the fact with which the machine begins. A running slot without a boot entry (an image written by hand, the first
// start of all) gets one: it is the only thing that can boot.
func (h *host) started(boot string) (update.Fact, error) {
	if err := h.slots.Tidy(); err != nil {
		return update.Fact{}, err
	}
	st, err := h.slots.State()
	if err != nil {
		return update.Fact{}, err
	}
	e, ok := st.Entries[h.slots.Running]
	if !ok {
		if err := h.slots.MarkGood(slot.Release{Version: h.running}); err != nil {
			return update.Fact{}, err
		}
		e = slot.Entry{Left: slot.Good}
	}
	f := update.Fact{Kind: update.Started, Boot: boot, Version: h.running, Good: e.Left == slot.Good, Policy: h.cfg.policy(),
		Seed: uint64(h.now().UnixNano()) ^ seed(boot)}
	if o, ok := st.Entries[h.slots.Running.Other()]; ok && !o.Bootable() {
		f.Spent = update.Offer{Version: o.Release.Version, Manifest: o.Release.Manifest}
	}
	return f, nil
}

// seed mixes a word, so that hosts started in the same moment do not check in the same moment.
func seed(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(s) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// rebooter runs the configured commands. Force is for a host that is not well: nothing is asked, nothing is waited for long.
func rebooter(command, reset string) func(context.Context, bool) error {
	return func(ctx context.Context, force bool) error {
		f := strings.Fields(command)
		if force {
			f = strings.Fields(reset)
		}
		if len(f) == 0 {
			return errors.New("reboot_command or reset_command is empty")
		}
		out, err := exec.CommandContext(ctx, f[0], f[1:]...).CombinedOutput()
		if err != nil {
			return said(fmt.Errorf("%s: %w", strings.Join(f, " "), err), out)
		}
		return nil
	}
}

// bootWord is a word that differs from boot to boot: drawn once, and kept where nothing outlives a boot. The kernel's boot ID will not do:
// below ProtectKernelTunables= a container sees that of the machine under it, which stays the same when the container reboots
// (tried on systemd 252).
func bootWord(p string) (string, error) {
	w, err := word(p)
	if err == nil && w != "" {
		return w, nil
	}
	if w, err = word("/proc/sys/kernel/random/uuid"); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return "", err
	}
	return w, replace(p, []byte(w+"\n"))
}

// word reads a file of one word.
func word(p string) (string, error) {
	b, err := os.ReadFile(p)
	return strings.TrimSpace(string(b)), err
}

// lock keeps a second daemon from the same state.
func lock(p string) (unlock func(), err error) {
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another update-engine runs on this state_dir: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
