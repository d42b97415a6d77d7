package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/conf"
	"github.com/fleet-init/fleet/internal/pki"
)

// Config is everything that can be set for fleetd. keys documents each field and gives it its default.
type Config struct {
	Verbosity int

	// The store: an etcd elsewhere, if EtcdServers is not empty; else the member that fleetd carries.
	EtcdServers        []string
	EtcdRequestTimeout time.Duration
	EtcdCAFile         string
	EtcdCertFile       string
	EtcdKeyFile        string
	EtcdUsername       string
	EtcdPassword       string
	EtcdKeyPrefix      string
	DataDir            string
	EtcdSocket         string
	Join               []string
	JoinToken          string
	Insecure           bool
	ClusterSize        int
	VoterGrace         time.Duration
	VoterZoneKey       string
	StoreQuota         int
	BackupInterval     time.Duration
	BackupKeep         int
	MemberIP           netip.Prefix
	PeerPort           int
	ClientPort         int
	HostPort           int

	// This machine, as the others see it.
	Name     string
	PublicIP netip.Addr
	Metadata map[string]string

	// How it works.
	AgentTTL        time.Duration
	EngineInterval  time.Duration
	RescheduleBrake int
	DisableEngine   bool
	DisableWatches  bool
	UnitsDirectory  string
	SystemdUser     bool
	TokenLimit      int
	APISocket       string
	APIListen       string
	// FleetLockListen is for hosts that are none of ours and share the reboot permits.
	FleetLockListen string
	// RebootAlarm is how long a machine may be away with a reboot permit before somebody should look.
	RebootAlarm time.Duration
}

// keys binds every setting to its field, sets the default there, and is the text of --help.
func (c *Config) keys() []conf.Key {
	return []conf.Key{
		conf.Int("verbosity", &c.Verbosity, 0, 0, 9, "log more: 1 = debug"),

		conf.Strings("etcd_servers", &c.EtcdServers, nil,
			"URLs of an existing etcd to use instead of the built-in member", checkURL),
		conf.Duration("etcd_request_timeout", &c.EtcdRequestTimeout, 3*time.Second, 100*time.Millisecond,
			"how long one request to the store may take"),
		conf.String("etcd_cafile", &c.EtcdCAFile, "", "CA that signed the certificates of etcd_servers (PEM file)"),
		conf.String("etcd_certfile", &c.EtcdCertFile, "", "client certificate for etcd_servers (PEM file)"),
		conf.String("etcd_keyfile", &c.EtcdKeyFile, "", "key of etcd_certfile (PEM file)"),
		conf.String("etcd_username", &c.EtcdUsername, "", "user at etcd_servers"),
		conf.String("etcd_password", &c.EtcdPassword, "", "password of etcd_username; better set in the environment than as flag"),
		conf.String("etcd_key_prefix", &c.EtcdKeyPrefix, "/fleet/", "all keys of this cluster start with this"),

		conf.String("data_dir", &c.DataDir, "/var/lib/fleet", "where the built-in member keeps its data; must survive reboots"),
		conf.String("etcd_socket", &c.EtcdSocket, "/run/fleet/etcd.sock", "unix socket where etcd clients of this host find the store"),
		conf.Strings("join", &c.Join, nil,
			"a join token; with insecure, running hosts of the cluster, host or host:port; none: this is the first host", checkJoin),
		conf.String("join_token", &c.JoinToken, "",
			"token of fleetctl join-token create, to join by; better given as the systemd credential fleet.join-token"),
		conf.Bool("insecure", &c.Insecure, false, "no certificates: whoever reaches the ports of member_ip can do anything; for tests"),
		conf.Int("cluster_size", &c.ClusterSize, 3, 1, 5, "hosts that vote in the store: 1, 3 or 5; the others stand by"),
		conf.Duration("voter_grace", &c.VoterGrace, 2*time.Minute, 10*time.Second,
			"a voter that has not answered for this long loses its seat to a host that stands by"),
		conf.String("voter_zone_key", &c.VoterZoneKey, "zone", "metadata key that tells which hosts fail together: voters are spread over its values"),
		conf.Int("store_quota", &c.StoreQuota, 2048, 16, 8192, "MiB that the store's file may grow to on this host; the same on all hosts"),
		conf.Duration("backup_interval", &c.BackupInterval, 24*time.Hour, 0,
			"a host that votes saves the store this often to data_dir/backups; 0: never"),
		conf.Int("backup_keep", &c.BackupKeep, 7, 1, 1000, "how many of these backups are kept"),
		conf.Network("member_ip", &c.MemberIP,
			"this host's address for the other hosts of the cluster, or the network it is in; none: other hosts cannot join"),
		conf.Int("peer_port", &c.PeerPort, 2380, 1, 65535, "port on member_ip for the other members"),
		conf.Int("client_port", &c.ClientPort, 2379, 1, 65535, "port on member_ip for the etcd clients of other hosts"),
		conf.Int("host_port", &c.HostPort, 2378, 1, 65535, "port on member_ip of the API over TLS, for people, other hosts, and to join by"),

		conf.String("name", &c.Name, "", "name of this host in lists; none: its host name"),
		conf.Addr("public_ip", &c.PublicIP, "address to publish for this machine; none: that of the default route"),
		conf.Map("metadata", &c.Metadata, "key=value,key=value that units can ask for"),

		conf.Duration("agent_ttl", &c.AgentTTL, 10*time.Second, 2*time.Second,
			"a machine that has not been heard of for this long is gone"),
		conf.Duration("engine_reconcile_interval", &c.EngineInterval, 2*time.Second, 100*time.Millisecond,
			"plan at least this often, besides at every change"),
		conf.Int("reschedule_brake", &c.RescheduleBrake, 33, 0, 100,
			"when 3 or more machines, and this percent of all, vanish at once, their units stay where they are until enough are back; 0: never"),
		conf.Bool("disable_engine", &c.DisableEngine, false, "never lead; if no host leads nothing is placed"),
		conf.Bool("disable_watches", &c.DisableWatches, false, "accepted, without effect: watches cost little now"),
		conf.String("units_directory", &c.UnitsDirectory, "/run/fleet/units/", "where the text of placed units is written"),
		conf.Bool("systemd_user", &c.SystemdUser, false, "use the user's systemd instead of the system's"),
		conf.Int("token_limit", &c.TokenLimit, 100, 1, 100000, "most items on one page of an API answer"),
		conf.String("api_socket", &c.APISocket, "/run/fleet.sock", "unix socket of the API where systemd passes none"),
		conf.String("api_listen", &c.APIListen, "", "also serve the API over TLS on this TCP address:port; none: not"),
		conf.String("fleetlock_listen", &c.FleetLockListen, "",
			"serve reboot permits to FleetLock clients (Zincati) on this TCP address:port, without protection; none: not"),
		conf.Duration("reboot_alarm", &c.RebootAlarm, 15*time.Minute, time.Second,
			"alarm when a machine that got a reboot permit has not come back for this long; it keeps the permit"),

		conf.Gone("verify_units", "units are no longer signed"),
		conf.Gone("authorized_keys_file", "units are no longer signed"),
		conf.Gone("enable_grpc", "the store is fast enough without it"),
	}
}

// program is the table that conf.Parse takes, bound to c.
func (c *Config) program() conf.Program {
	return conf.Program{Name: "fleetd", Env: "FLEET_", File: "/etc/fleet/fleet.conf", Keys: c.keys()}
}

// parseConfig reads the configuration and checks what one key alone cannot tell.
func parseConfig(args, env []string, read func(string) ([]byte, error)) (Config, conf.Result, error) {
	var c Config
	res, err := conf.Parse(c.program(), args, env, read)
	if err != nil || res.Help || res.Version {
		return c, res, err
	}
	if c.DisableWatches {
		res.Warnings = append(res.Warnings, "disable_watches has no effect: remove it")
	}
	if c.EtcdServers != nil && c.Join != nil {
		res.Warnings = append(res.Warnings, "join has no effect beside etcd_servers: remove one of the two")
	}
	if c.Insecure {
		res.Warnings = append(res.Warnings, "insecure is set: whoever reaches this host's ports can do anything on every host of the cluster")
	}
	// A token holds commas, which separate what is in a list.
	if len(c.Join) > 0 && pki.IsToken(c.Join[0]) {
		c.JoinToken, c.Join = cmp.Or(c.JoinToken, strings.Join(c.Join, ",")), nil
	}
	// Prefixes are cut off and put before keys as they are: one form only.
	c.EtcdKeyPrefix = "/" + strings.Trim(c.EtcdKeyPrefix, "/") + "/"
	if c.EtcdKeyPrefix == "//" {
		c.EtcdKeyPrefix = "/"
	}
	return c, res, c.check()
}

// check finds settings that do not go together. All that is wrong comes at once, as conf.Error.
func (c *Config) check() error {
	var errs conf.Error
	fail := func(format string, a ...any) { errs = append(errs, fmt.Sprintf(format, a...)) }
	if c.ClusterSize%2 == 0 {
		fail("cluster_size = %d: an even number of voters survives no more losses than one less; use 1, 3 or 5", c.ClusterSize)
	}
	if c.EtcdServers == nil && c.Join != nil && !c.MemberIP.IsValid() {
		fail("join is set but member_ip is not: set member_ip to this host's address that the others reach, or to their network")
	}
	if c.Join != nil && !c.Insecure {
		fail("join names hosts: join by a token instead (on another host: fleetctl join-token create; here: fleetctl join TOKEN), or set insecure=true where the network is trusted")
	}
	if c.JoinToken != "" {
		if _, err := pki.ParseToken(c.JoinToken); err != nil {
			fail("%v", err)
		}
		if c.Insecure {
			fail("join_token and insecure do not go together: take one out")
		}
		if c.EtcdServers == nil && !c.MemberIP.IsValid() {
			fail("join_token is set but member_ip is not: set member_ip to this host's address that the others reach, or to their network")
		}
	}
	if c.MemberIP.IsValid() && c.MemberIP.Addr().IsUnspecified() {
		fail("member_ip = %s: the others need an address to reach; name one, or the network it is in", c.MemberIP)
	}
	if c.PeerPort == c.ClientPort {
		fail("peer_port and client_port are both %d: use two ports", c.PeerPort)
	}
	if c.HostPort == c.PeerPort || c.HostPort == c.ClientPort {
		fail("host_port is %d, as peer_port or client_port: use a port of its own", c.HostPort)
	}
	if (c.EtcdCertFile == "") != (c.EtcdKeyFile == "") {
		fail("etcd_certfile and etcd_keyfile belong together: set both or none")
	}
	if c.EtcdPassword != "" && c.EtcdUsername == "" {
		fail("etcd_password is set but etcd_username is not: set both or none")
	}
	for _, p := range [][2]string{{"data_dir", c.DataDir}, {"etcd_socket", c.EtcdSocket}, {"units_directory", c.UnitsDirectory}} {
		if !strings.HasPrefix(p[1], "/") {
			fail("%s = %q: use an absolute path", p[0], p[1])
		}
	}
	if c.APIListen != "" {
		if _, _, err := net.SplitHostPort(c.APIListen); err != nil {
			fail(`api_listen = %q: use address:port, such as "127.0.0.1:49153"`, c.APIListen)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

func checkURL(s string) error {
	if u, err := url.Parse(s); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf(`use a URL such as "https://10.0.0.1:2379"`)
	}
	return nil
}

// checkJoin takes a token, or a part of one, and hosts.
func checkJoin(s string) error {
	if _, endpoint, whole := strings.Cut(s, "@"); pki.IsToken(s) && whole {
		s = endpoint
	}
	return checkHost(s)
}

func checkHost(s string) error {
	host, port := s, "0"
	if _, err := netip.ParseAddr(s); err != nil && strings.Contains(s, ":") {
		if host, port, err = net.SplitHostPort(s); err != nil {
			return fmt.Errorf(`use host or host:port, such as "10.0.0.1" or "[fd00::1]:2379"`)
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" || strings.ContainsAny(host, "/ ") {
		return fmt.Errorf(`use host or host:port, such as "10.0.0.1" or "[fd00::1]:2379"`)
	}
	return nil
}
