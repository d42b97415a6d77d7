package document

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The daemons' settings as their --help has them. What one value alone can be wrong in is found here, with its line, before anything of the host is
// changed; the daemons' own tests hold these tables against what they take. What several must be together only the daemon knows.

func setting(name string, check func(string) string) field {
	return field{name: name, kind: scalar, check: check}
}

// plain are settings that may be any line.
func plain(names ...string) (list []field) {
	for _, n := range names {
		list = append(list, setting(n, isLine))
	}
	return list
}

func join(lists ...[]field) (all []field) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// storeSettings are those of fleetd's settings that say where the store is and who votes in it.
func storeSettings() []field {
	return join(etcdSettings(), plain("data_dir", "etcd_socket", "join", "join_token", "voter_zone_key"), []field{
		setting("etcd_request_timeout", isSpan(100*time.Millisecond)), setting("insecure", isTruth), setting("cluster_size", isCount(1, 5)),
		setting("voter_grace", isSpan(10*time.Second)), setting("store_quota", isCount(16, 8192)), setting("backup_interval", isSpan(0)),
		setting("backup_keep", isCount(1, 1000)), setting("member_ip", isNetwork), setting("peer_port", isCount(1, 65535)),
		setting("client_port", isCount(1, 65535)), setting("host_port", isCount(1, 65535)),
	})
}

// etcdSettings are fleetd's and update-engine's words for an etcd.
func etcdSettings() []field {
	return plain("etcd_servers", "etcd_cafile", "etcd_certfile", "etcd_keyfile", "etcd_username", "etcd_password", "etcd_key_prefix")
}

func fleetdSettings() []field {
	const unsigned = "units are no longer signed"
	return join(storeSettings(), plain("name", "metadata", "units_directory", "api_socket", "api_listen", "fleetlock_listen"), []field{
		setting("verbosity", isCount(0, 9)), setting("public_ip", isAddr), setting("agent_ttl", isSpan(2*time.Second)),
		setting("reschedule_brake", isCount(0, 100)), setting("engine_reconcile_interval", isSpan(100*time.Millisecond)), setting("disable_engine", isTruth),
		setting("disable_watches", isTruth), setting("systemd_user", isTruth), setting("token_limit", isCount(1, 100000)), setting("reboot_alarm", isSpan(time.Second)),
		{name: "verify_units", kind: scalar, gone: unsigned}, {name: "authorized_keys_file", kind: scalar, gone: unsigned},
		{name: "enable_grpc", kind: scalar, gone: "the store is fast enough without it"},
	})
}

func updateSettings() []field {
	return join(etcdSettings(), plain("socket", "state_dir", "product", "arch", "channel", "mirrors", "omaha", "omaha_app", "omaha_listen", "omaha_releases", "root",
		"slots", "release", "kernel_options", "window", "group", "api_socket", "pki_dir", "reboot_command", "reset_command", "boot_id", "health_dir", "health_command",
		"gate_units", "dbus", "metrics_listen", "peer_listen"), []field{
		setting("verbosity", isCount(0, 9)), setting("rate_limit", isCount(0, 1<<40)), setting("interval", isSpan(0)), setting("downgrade", isTruth),
		setting("prevent_late_fallback", isTruth), setting("max_attempts", isCount(1, 1000)), setting("slot", oneOf("", "a", "b")), setting("tries", isCount(1, 100)),
		setting("strategy", oneOf("immediate", "permit", "off", "reboot", "etcd-lock", "best-effort")), setting("drain_timeout", isSpan(time.Second)),
		setting("retry", isSpan(time.Second)), setting("user_deadline", isSpan(0)), setting("gate_time", isSpan(0)), setting("gate_timeout", isSpan(time.Second)),
		setting("peer_cache", isCount(4<<20, 1<<40)),
	})
}

func netdSettings() []field {
	return join(plain("etcd_endpoints", "etcd_prefix", "etcd_keyfile", "etcd_certfile", "etcd_cafile", "etcd_username", "etcd_password", "iface", "iface_regex",
		"subnet_file", "state_dir", "run_dir", "machine_id_file", "cni_conf", "cni_plugins", "cni_bin", "cni_state", "unit_dirs", "vmodule", "log_backtrace_at"), []field{
		setting("iface_can_reach", isAddr), setting("public_ip", isAddr4), setting("public_ipv6", isAddr6), setting("healthz_ip", isAddr),
		setting("subnet_lease_renew_margin", isCount(1, 1439)), setting("subnet_lease_ttl", isDuration(time.Second)), setting("vanished_peers_grace", isDuration(0)),
		setting("ip_masq", isTruth), setting("ip_masq_fully_random_disable", isTruth), setting("iptables_resync", isCount(1, math.MaxInt32)),
		setting("iptables_forward_rules", isTruth), setting("ip_blackhole_route", isTruth), setting("healthz_port", isCount(0, 65535)),
		setting("cni_interface", oneOf("bridge", "ptp")), setting("v", isCount(0, 99)), setting("logtostderr", isTruth),
	})
}

func locksmithSettings() []field {
	return plain("endpoint", "etcd_cafile", "etcd_certfile", "etcd_keyfile", "etcd_username", "etcd_password", "group", "window_start", "window_length")
}

func settingsOf(d Daemon) []field {
	switch d {
	case Netd:
		return netdSettings()
	case Update:
		return updateSettings()
	}
	return fleetdSettings()
}

// Settings is how many settings a document knows of a daemon.
func Settings(d Daemon) int { return len(settingsOf(d)) }

// WrongSetting says what is wrong with a daemon's setting, or "": that there is none of that name, or what the value should be.
func WrongSetting(d Daemon, name, value string) string {
	i := slices.IndexFunc(settingsOf(d), func(f field) bool { return f.name == name })
	if i < 0 {
		return "there is none of that name"
	}
	if check := settingsOf(d)[i].check; check != nil {
		return check(value)
	}
	return ""
}

func isTruth(s string) string {
	if _, err := strconv.ParseBool(strings.ToLower(s)); err != nil {
		return "write true or false"
	}
	return ""
}

func isCount(lo, hi int) func(string) string {
	return func(s string) string {
		if n, err := strconv.Atoi(s); err != nil || n < lo || n > hi {
			return fmt.Sprintf("use a whole number from %d to %d", lo, hi)
		}
		return ""
	}
}

// isSpan takes a bare number for seconds, as fleet did.
func isSpan(lo time.Duration) func(string) string {
	return func(s string) string {
		if _, err := strconv.ParseFloat(s, 64); err == nil {
			s += "s"
		}
		return isDuration(lo)(s)
	}
}

// isDuration has to have its unit, as flannel's flags.
func isDuration(lo time.Duration) func(string) string {
	return func(s string) string {
		if d, err := time.ParseDuration(s); err != nil || d < lo {
			return fmt.Sprintf("use a span of time such as 10s or 1m30s, at least %s", lo)
		}
		return ""
	}
}

func isAddr(s string) string {
	if _, err := netip.ParseAddr(s); s != "" && err != nil {
		return "use an IP address such as 10.0.0.1"
	}
	return ""
}

func isAddr4(s string) string {
	if a, err := netip.ParseAddr(s); s != "" && (err != nil || !a.Is4()) {
		return "use an IPv4 address such as 10.0.0.1"
	}
	return ""
}

func isAddr6(s string) string {
	if a, err := netip.ParseAddr(s); s != "" && (err != nil || !a.Is6()) {
		return "use an IPv6 address such as fd00::1"
	}
	return ""
}

func isNetwork(s string) string {
	if _, err := netip.ParsePrefix(s); err != nil && isAddr(s) != "" {
		return "use an IP address such as 10.0.0.1, or a network such as 10.0.0.0/24"
	}
	return ""
}
