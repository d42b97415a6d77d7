package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fleet-init/fleet/fleetd/agent"
	"github.com/fleet-init/fleet/fleetd/engine"
	"github.com/fleet-init/fleet/fleetd/guard"
	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/audit"
	"github.com/fleet-init/fleet/internal/authority"
	"github.com/fleet-init/fleet/internal/conf"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/registry"
	daemon "github.com/fleet-init/fleet/internal/run"
	"github.com/fleet-init/fleet/internal/systemd"
)

// run is fleetd from its configuration to its end.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	c, res, err := parseConfig(args, env, os.ReadFile)
	switch {
	case err != nil:
		return err
	case res.Version:
		fmt.Fprintln(stdout, "fleetd version "+daemon.Version())
		return nil
	case res.Help:
		fmt.Fprint(stdout, conf.Usage(c.program()))
		return nil
	}
	log, level := newLog(c, stderr)
	for _, w := range res.Warnings {
		log.Warn(w)
	}
	// From here on signals are ours: one that comes while the host is still being put together ends it in good order.
	told, signals, stop := daemon.Listen(ctx)
	defer stop()
	h, err := build(c, log, level)
	if err != nil {
		return err
	}
	h.reread = func() (Config, conf.Result, error) { return parseConfig(args, env, os.ReadFile) }
	h.stdout = stdout
	return errors.Join(h.run(told, signals), h.systemd.Close())
}

// newLog writes for the journal, which adds the time.
func newLog(c Config, w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	setLevel(level, c)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})), level
}

func setLevel(level *slog.LevelVar, c Config) {
	level.Set(slog.LevelInfo)
	if c.Verbosity > 0 {
		level.Set(slog.LevelDebug)
	}
}

// host is everything a fleetd is made of. build makes it, top to bottom; run in serve.go runs it.
type host struct {
	cfg      Config
	log      *slog.Logger
	level    *slog.LevelVar
	id       identity
	notify   daemon.Notifier
	member   *member.Member
	store    kv.Store
	registry *registry.Registry
	presence *presence
	systemd  *systemd.Systemd
	guard    *guard.Feeder
	agent    *agent.Agent
	leader   *engine.Leader // nil: disable_engine
	metrics  *metrics
	hosts    *hosts
	obeyed   *continuity
	trust    *trust // nil: insecure
	deeds    *audit.Log[api.Deed]
	api      http.Handler
	reread   func() (Config, conf.Result, error)
	stdout   io.Writer

	departing atomic.Bool // the agent's loop has ended or will: it does not answer any more
}

func build(c Config, log *slog.Logger, level *slog.LevelVar) (*host, error) {
	h := &host{cfg: c, log: log, level: level, notify: daemon.NewNotifier(os.Getenv, os.Getpid())}
	var err error
	if h.id, err = identify("/etc", "/proc", c.DataDir); err != nil {
		return nil, err
	}
	machine, err := describe(c, h.id)
	if err != nil {
		return nil, err
	}
	machine.IP = publicIP(c, hostAddrs())
	mc := memberConfig(c, machine.Name)
	h.seats(&mc)
	if err := h.certificates(&mc); err != nil {
		return nil, err
	}
	if h.member, err = member.New(mc, log); err != nil {
		return nil, err
	}
	if h.obeyed, err = newContinuity(c.DataDir, h.member.Origin, log); err != nil {
		return nil, err
	}
	h.metrics = newMetrics()
	h.store = h.metrics.counted(etcd.New(h.member.Client()))
	h.registry = registry.New(h.store, c.EtcdKeyPrefix, log)
	h.deeds = audit.New[api.Deed](h.store, c.EtcdKeyPrefix+"audit/", log)
	if h.trust != nil {
		h.trust.authority = authority.New(h.store, c.EtcdKeyPrefix+"pki/", time.Now)
		h.trust.member = func() bool {
			role := h.member.Status().Role
			return role == member.Voter || role == member.Learner
		}
	}
	h.presence = newPresence(h.registry, registry.Hello{
		Machine: machine, Instance: h.id.installation, Boot: h.id.boot,
	}, c.AgentTTL, log)

	h.systemd = systemd.New(systemd.Options{User: c.SystemdUser, Log: log})
	beside := filepath.Dir(filepath.Clean(c.UnitsDirectory))
	disk, err := agent.OpenDir(c.UnitsDirectory, filepath.Join(beside, "started"), filepath.Join(beside, "drop-ins"), log)
	if err != nil {
		return nil, fmt.Errorf("units_directory: %w: it must be writable", err)
	}
	if h.guard, err = guard.NewFeeder(filepath.Join(beside, filepath.Base(guard.File)), guard.Now); err != nil {
		return nil, fmt.Errorf("units_directory: %w: it must be writable", err)
	}
	h.presence.renewed = h.renewed
	h.obeyed.keep(h.guard.Hold, settleTime(c.AgentTTL))
	h.agent = agent.New(agent.Config{
		Machine: h.id.machine, Systemd: h.systemd, Signals: h.systemd, Files: h.registry, Disk: tokens{disk, h.obeyed.floor}, Log: log,
		Addresses: agent.AddressFiles("/run/fleet-netns/units"), Restart: h.systemd.Restart,
		Lease: h.guard, Freezer: h.systemd,
	})
	h.hosts = newHosts(h)
	if !c.DisableEngine {
		h.leader = engine.NewLeader(engine.Config{
			Self: h.id.machine, Version: machine.Version, TTL: leaderTTL(c.AgentTTL), Store: h.registry, Log: log,
			OnTurn: h.metrics.observeTurn, BrakeShare: c.RescheduleBrake,
		})
		h.metrics.add(h.leader.Counters)
	}
	return h, nil
}
