package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/conf"
	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// Config is everything that can be set for update-engine.
type Config struct {
	Verbosity int
	Socket    string
	StateDir  string

	Product, Arch, Channel string
	Mirrors                []string
	Root                   string
	Omaha, OmahaApp        string
	RateLimit              int
	Interval               time.Duration
	Downgrade              bool
	PreventLateFallback    bool
	MaxAttempts            int

	Slots, Slot, Release string
	Options              string
	Tries                int

	Strategy      string
	Window        []string
	Group         string
	EtcdServers   []string
	EtcdCAFile    string
	EtcdCertFile  string
	EtcdKeyFile   string
	EtcdUsername  string
	EtcdPassword  string
	EtcdKeyPrefix string
	DrainTimeout  time.Duration
	RebootCommand string
	ResetCommand  string
	BootID        string

	DBus          string
	MetricsListen string
	OmahaListen   string
	OmahaReleases string

	PeerListen string
	PeerCache  int
	PKIDir     string

	APISocket    string
	Retry        time.Duration
	UserDeadline time.Duration

	HealthDir     string
	HealthCommand string
	GateUnits     []string
	GateTime      time.Duration
	GateTimeout   time.Duration
}

// The strategies; reboot, etcd-lock and best-effort are locksmith's names.
const (
	immediate = "immediate"
	permit    = "permit"
	off       = "off"
)

func (c *Config) keys() []conf.Key {
	return []conf.Key{
		conf.Int("verbosity", &c.Verbosity, 0, 0, 9, "log more: 1 = debug"),
		conf.String("socket", &c.Socket, "/run/fleet/update-engine.sock", "unix socket where the commands find the daemon"),
		conf.String("dbus", &c.DBus, "unix:path=/run/dbus/system_bus_socket", "address of the message bus for com.coreos.update1; none: not"),
		conf.String("metrics_listen", &c.MetricsListen, "", "serve /metrics on this TCP address:port; none: only on the socket and by the command metrics"),
		conf.String("state_dir", &c.StateDir, "/var/lib/update-engine", "what must survive reboots and lie outside both slots"),

		conf.String("product", &c.Product, "fleet", "product whose releases are taken"),
		conf.String("arch", &c.Arch, runtime.GOARCH, "architecture whose releases are taken"),
		conf.String("channel", &c.Channel, "stable", "channel that is followed"),
		conf.Strings("mirrors", &c.Mirrors, nil, "http, https or file URLs of release directories, in the order of preference; none: no updates", checkMirror),
		conf.String("omaha", &c.Omaha, "", "URL of an Omaha server such as Nebraska that decides which release this host takes and when; none: the channel does"),
		conf.String("omaha_app", &c.OmahaApp, "", "application ID at that server"),
		conf.String("root", &c.Root, "/usr/share/fleet/root.json", "root metadata: who may sign; without it nothing is taken"),
		conf.String("omaha_listen", &c.OmahaListen, "", "answer Omaha clients (Flatcar) on this TCP address:port, without protection; none: not"),
		conf.String("omaha_releases", &c.OmahaReleases, "/etc/fleet/omaha.json", "the releases for those clients: a JSON list of app, arch, track, version, codebases, file, size, sha256"),
		conf.String("peer_listen", &c.PeerListen, auto, "hand frames on to other hosts of the cluster, over TLS, on this address:port; auto: once this host has "+
			"its certificate, on port "+strconv.Itoa(peerPort)+" of the address where the others reach its fleetd; off: every host loads all from the mirrors"),
		conf.Int("peer_cache", &c.PeerCache, 1<<30, 4<<20, 1<<40, "most bytes of frames to keep for others; an eighth of the disk stays free anyway"),
		conf.Int("rate_limit", &c.RateLimit, 0, 0, 1<<40, "most bytes a second to load from the mirrors; 0: no limit"),
		conf.Duration("interval", &c.Interval, 45*time.Minute, 0, "time between two checks; 0: only by hand"),
		conf.Bool("downgrade", &c.Downgrade, false, "take an older release when the channel has nothing newer"),
		conf.Bool("prevent_late_fallback", &c.PreventLateFallback, false, "once a release has proven itself, nobody can go back to the older one"),
		conf.Int("max_attempts", &c.MaxAttempts, 12, 1, 1000, "stagings of one release before it is given up"),

		conf.String("slots", &c.Slots, auto, "where the slots are: a disk or disk image with a GPT, a folder (boot/, slots/), or auto: the disk that this host booted from, else "+slotFolder),
		conf.String("slot", &c.Slot, "", "running slot, a or b; none: fleet.slot= of the kernel's command line"),
		conf.String("release", &c.Release, "", "running version; none: fleet.version= of the kernel's command line"),
		conf.String("kernel_options", &c.Options, "", "more for the kernel's command line of a new boot entry"),
		conf.Int("tries", &c.Tries, 3, 1, 100, "starts that a new release has to prove itself"),

		conf.Word("strategy", &c.Strategy, permit, "when a staged release may boot", immediate, permit, off, "reboot", "etcd-lock", "best-effort"),
		conf.Strings("window", &c.Window, nil, `times at which the host may reboot: "[days] HH:MM +length [zone]"; none: always`, checkWindow),
		conf.String("group", &c.Group, "default", "hosts that share reboot permits"),
		conf.Strings("etcd_servers", &c.EtcdServers, []string{"unix:///run/fleet/etcd.sock"}, "the store that holds the permits", nil),
		conf.String("etcd_cafile", &c.EtcdCAFile, "", "CA that signed the certificates of etcd_servers (PEM file)"),
		conf.String("etcd_certfile", &c.EtcdCertFile, "", "client certificate for etcd_servers (PEM file)"),
		conf.String("etcd_keyfile", &c.EtcdKeyFile, "", "key of etcd_certfile (PEM file)"),
		conf.String("etcd_username", &c.EtcdUsername, "", "user at etcd_servers"),
		conf.String("etcd_password", &c.EtcdPassword, "", "password of etcd_username; better set in the environment than as flag"),
		conf.String("etcd_key_prefix", &c.EtcdKeyPrefix, "/fleet/", "all keys of this cluster start with this"),
		conf.Duration("drain_timeout", &c.DrainTimeout, 15*time.Minute, time.Second, "how long units may take to move elsewhere before the permit is given back"),
		conf.String("pki_dir", &c.PKIDir, "/var/lib/fleet/pki", "where fleetd keeps this host's certificate"),
		conf.String("api_socket", &c.APISocket, "/run/fleet.sock", "unix socket of this host's fleetd, which gives the permits"),
		conf.Duration("retry", &c.Retry, 5*time.Minute, time.Second, "time between two questions for a permit, and after a staging that failed"),
		conf.Duration("user_deadline", &c.UserDeadline, time.Hour, 0,
			"how long a reboot waits for people who are logged in and for programs that hold logind's shutdown lock"),
		conf.String("reboot_command", &c.RebootCommand, "systemctl reboot --check-inhibitors=no", "what reboots the host in good order"),

		conf.String("reset_command", &c.ResetCommand, "systemctl reboot --force", "what restarts a host on trial that is not well, at once"),
		conf.String("boot_id", &c.BootID, "", "a word that differs from boot to boot; none: one that is drawn and kept beside the socket, in /run"),

		conf.String("health_dir", &c.HealthDir, "/etc/fleet/health.d", "programs that must end with 0 for a boot to count as good"),
		conf.String("health_command", &c.HealthCommand, "systemd-run --quiet --wait --pipe --collect --property=RuntimeMaxSec=25s",
			"words before each of those programs, here so that they run outside of this daemon's own limits; none: none"),
		conf.Strings("gate_units", &c.GateUnits, []string{"fleetd.service", "netd.service"},
			"units that must be up for a boot to count as good, where the host starts them", nil),
		conf.Duration("gate_time", &c.GateTime, time.Minute, 0, "how long all must be well"),
		conf.Duration("gate_timeout", &c.GateTimeout, 10*time.Minute, time.Second, "after which a trial that is not well is ended"),
	}
}

func (c *Config) program() conf.Program {
	return conf.Program{Name: "update-engine", Env: "FLEET_UPDATE_", File: "/etc/fleet/update.conf", Keys: c.keys()}
}

func parseConfig(args, env []string, read func(string) ([]byte, error)) (Config, conf.Result, error) {
	var c Config
	res, err := conf.Parse(c.program(), args, env, read)
	if err != nil || res.Help || res.Version {
		return c, res, err
	}
	switch c.Strategy {
	case "reboot":
		c.Strategy = immediate
	case "etcd-lock", "best-effort":
		c.Strategy = permit
	}
	c.EtcdKeyPrefix = "/" + strings.Trim(c.EtcdKeyPrefix, "/") + "/"
	if c.Slot != "" && c.Slot != "a" && c.Slot != "b" {
		return c, res, conf.Error{fmt.Sprintf("slot = %q: use a or b", c.Slot)}
	}
	if c.PeerListen == "" {
		c.PeerListen = off
	}
	if c.PeerListen != auto && c.PeerListen != off {
		if a, err := netip.ParseAddrPort(c.PeerListen); err != nil || a.Addr().IsUnspecified() {
			return c, res, conf.Error{fmt.Sprintf("peer_listen = %q: use auto, off, or this host's own address and a port, such as 10.0.0.1:2377", c.PeerListen)}
		}
	}
	return c, res, nil
}

func (c Config) policy() update.Policy {
	return update.Policy{Interval: c.Interval, MaxBackoff: 4 * time.Hour, Retry: c.Retry, MaxAttempts: c.MaxAttempts,
		Reboots: c.Strategy != off, Downgrade: c.Downgrade, PreventLateFallback: c.PreventLateFallback}
}

// windows are parsed already once by the configuration's check.
func (c Config) windows() (reboot.Windows, error) {
	var out reboot.Windows
	for _, s := range c.Window {
		w, err := reboot.ParseWindow(s)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

func checkMirror(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "file" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf(`use a URL such as "https://releases.example.org/fleet" or "file:///media/usb/fleet"`)
	}
	return nil
}

func checkWindow(s string) error {
	_, err := reboot.ParseWindow(s)
	return err
}
