package document

import (
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// kind is the shape of a value.
type kind string

const (
	text   kind = "string"
	flag   kind = "boolean"
	mode   kind = "mode"   // octal, as a string or a number
	scalar kind = "scalar" // text, number or flag: a setting
	list   kind = "array"  // of item
	table  kind = "object" // of fields
	words  kind = "words"  // a table of scalars: a daemon's settings
)

// field is a key that a table may have. Keys are written with "_"; "-" is read as the same.
type field struct {
	name   string
	kind   kind
	item   *field              // of a list; its name is empty
	fields []field             // of a table, or of words
	check  func(string) string // of a scalar: what is wrong with it, or ""
	must   bool                // the table is nothing without it
	doc    string
	gone   string // it has no meaning any more: why, and what to do instead
}

// root is the whole language, in the order of the documentation.
func root() field {
	return field{kind: table, fields: []field{
		{name: "hostname", kind: text, check: isHostname, doc: "name of this host"},
		{name: "ssh_authorized_keys", kind: list, item: &field{kind: text, check: isKey}, doc: "SSH keys that may log in as core"},
		{name: "manage_etc_hosts", kind: text, check: oneOf("localhost"), doc: "localhost: write /etc/hosts with the host's name"},
		{name: "users", kind: list, item: &field{kind: table, fields: userFields()}, doc: "users to make on the first boot"},
		{name: "write_files", kind: list, item: &field{kind: table, fields: fileFields()}, doc: "files to write"},
		{name: "coreos", kind: table, fields: coreosFields(), doc: "the namespace of coreos-cloudinit"},
		{name: "fleet", kind: table, fields: fleetFields(), doc: "the namespace of this project"},
	}}
}

func userFields() []field {
	return []field{
		{name: "name", kind: text, check: isUser, must: true, doc: "login name"},
		{name: "gecos", kind: text, check: isGecos, doc: "full name"},
		{name: "passwd", kind: text, check: isHash, doc: "hash of the password as in /etc/shadow; without it there is none"},
		{name: "homedir", kind: text, check: isAbsolute, doc: "home folder; without it /home/NAME"},
		{name: "no_create_home", kind: flag, doc: "make no home folder"},
		{name: "primary_group", kind: text, check: isUser, doc: "group of new files; without it one of the user's name"},
		{name: "groups", kind: list, item: &field{kind: text, check: isUser}, doc: "more groups"},
		{name: "no_user_group", kind: flag, doc: "make no group of the user's name"},
		{name: "system", kind: flag, doc: "a user for a service, with a number below 1000"},
		{name: "no_log_init", kind: flag, doc: "stay out of lastlog and faillog"},
		{name: "shell", kind: text, check: isAbsolute, doc: "login shell"},
		{name: "ssh_authorized_keys", kind: list, item: &field{kind: text, check: isKey}, doc: "SSH keys that may log in as this user"},
		{name: "inactive", kind: scalar, gone: "coreos-cloudinit did nothing with it"},
		{name: "lock_passwd", kind: scalar, gone: "a user without passwd has no password"},
		{name: "sudo", kind: scalar, gone: "write a file under /etc/sudoers.d, or add the group sudo"},
		{name: "selinux_user", kind: scalar, gone: "coreos-cloudinit did nothing with it"},
		{name: "ssh_import_id", kind: scalar, gone: "name the keys themselves in ssh_authorized_keys"},
		{name: "coreos_ssh_import_github", kind: scalar, gone: "keys are not fetched from elsewhere: name them in ssh_authorized_keys"},
		{name: "coreos_ssh_import_github_users", kind: list, item: &field{kind: scalar}, gone: "keys are not fetched from elsewhere: name them in ssh_authorized_keys"},
		{name: "coreos_ssh_import_url", kind: scalar, gone: "keys are not fetched from elsewhere: name them in ssh_authorized_keys"},
	}
}

func fileFields() []field {
	return []field{
		{name: "path", kind: text, check: isWritable, must: true, doc: "where to; folders on the way are made"},
		{name: "content", kind: text, doc: "what stands in it"},
		{name: "encoding", kind: text, check: oneOf(encodings()...), doc: "how content is encoded: b64, gz (gzip in base64 or as YAML binary), gz+b64"},
		{name: "source", kind: text, check: isURL, doc: "http or https URL to fetch it from, instead of content; needs sha256"},
		{name: "sha256", kind: text, check: isSHA256, doc: "SHA-256 of what source gives"},
		{name: "owner", kind: text, check: isOwner, doc: "user or user:group; without it root:root"},
		{name: "permissions", kind: mode, check: isMode, doc: "mode, octal; without it 0644"},
	}
}

// UnitFields are in both namespaces.
func unitFields() []field {
	return []field{
		{name: "name", kind: text, check: isUnit, must: true, doc: "with its type: web.service, eth0.network"},
		{name: "content", kind: text, doc: "the unit file; without it the one that the host has"},
		{name: "enable", kind: flag, doc: "as systemctl enable"},
		{name: "runtime", kind: flag, doc: "until the next boot only: under /run"},
		{name: "mask", kind: flag, doc: "as systemctl mask"},
		{name: "command", kind: text, check: oneOf("start", "stop", "restart", "reload", "try-restart", "reload-or-restart", "reload-or-try-restart"), doc: "what to do with it, once all is written; nobody waits for the end"},
		{name: "drop_ins", kind: list, doc: "parts of the unit in files of their own", item: &field{kind: table, fields: []field{
			{name: "name", kind: text, check: isDropIn, must: true, doc: "file name that ends in .conf"},
			{name: "content", kind: text, must: true, doc: "the part"},
		}}},
	}
}

func coreosFields() []field {
	const store = "the store is built into fleetd: remove it, and let the host join a cluster with fleet: {join: TOKEN}"
	return []field{
		{name: "units", kind: list, item: &field{kind: table, fields: unitFields()}, doc: "systemd units"},
		{name: "fleet", kind: words, fields: fleetdSettings(), doc: "settings of fleetd"},
		{name: "flannel", kind: words, fields: join(netdSettings(), plain("interface")), doc: "settings of netd"},
		{name: "etcd", kind: words, gone: store},
		{name: "etcd2", kind: words, gone: store},
		{name: "locksmith", kind: words, fields: locksmithSettings(), doc: "settings of update-engine under locksmith's names"},
		{name: "update", kind: table, doc: "updates of the host", fields: []field{
			{name: "reboot_strategy", kind: text, check: oneOf("best-effort", "etcd-lock", "reboot", "off", "permit", "immediate"), doc: "when a new release may boot"},
			{name: "group", kind: text, check: isWord, doc: "channel that is followed"},
			{name: "server", kind: text, check: isURLOrNothing, doc: "Omaha server"},
		}},
		{name: "oem", kind: table, doc: "what stands in /etc/oem-release", fields: []field{
			{name: "id", kind: text, check: isLine}, {name: "name", kind: text, check: isLine}, {name: "version_id", kind: text, check: isLine},
			{name: "home_url", kind: text, check: isLine}, {name: "bug_report_url", kind: text, check: isLine},
		}},
	}
}

func fleetFields() []field {
	return []field{
		{name: "join", kind: text, check: isToken, doc: "token of fleetctl join-token create: the cluster to join"},
		{name: "fleetd", kind: words, fields: fleetdSettings(), doc: "settings of fleetd, as in fleet.conf"},
		{name: "etcd", kind: words, fields: storeSettings(), doc: "those of fleetd's settings that are about the store"},
		{name: "netd", kind: words, fields: netdSettings(), doc: "settings of netd: its flags"},
		{name: "update", kind: words, fields: updateSettings(), doc: "settings of update-engine, as in update.conf"},
		{name: "reboot", kind: table, doc: "when this host may reboot into a new release", fields: []field{
			{name: "strategy", kind: text, check: oneOf("permit", "immediate", "off", "etcd-lock", "reboot", "best-effort"), doc: "when a staged release may boot"},
			{name: "window", kind: list, item: &field{kind: text, check: isLine}, doc: "times: \"[days] HH:MM +length [zone]\""},
			{name: "group", kind: text, check: isWord, doc: "hosts that share reboot permits"},
		}},
		{name: "units", kind: list, item: &field{kind: table, fields: unitFields()}, doc: "systemd units"},
		{name: "addresses", kind: table, doc: "where variables come from that no data source knows: an interface, a network that one has an address in, or the address itself", fields: []field{
			{name: "public_ipv4", kind: text, check: isPlace}, {name: "private_ipv4", kind: text, check: isPlace},
			{name: "public_ipv6", kind: text, check: isPlace}, {name: "private_ipv6", kind: text, check: isPlace},
		}},
	}
}

func encodings() []string {
	return []string{"", "b64", "base64", "gz", "gzip", "gz+b64", "gz+base64", "gzip+b64", "gzip+base64"}
}

// The checks say what a value should be, or nothing.

func matches(pattern, want string) func(string) string {
	re := regexp.MustCompile(pattern)
	return func(s string) string {
		if re.MatchString(s) {
			return ""
		}
		return want
	}
}

func isHostname(s string) string {
	return matches(`^[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*$`, "use letters, digits, '-' and '.', at most 63 between two dots")(s)
}
func isUser(s string) string {
	return matches(`^[a-z_][a-z0-9_-]{0,31}\$?$`, "use small letters, digits, '_' and '-', at most 32")(s)
}
func isGecos(s string) string {
	return matches(`^[^:\n]*$`, "it stands on a line of /etc/passwd: without ':'")(s)
}
func isHash(s string) string {
	return matches(`^[^:\s]*$`, "give the hash, as in /etc/shadow (openssl passwd -6)")(s)
}
func isKey(s string) string  { return matches(`^[^\n]+\n?$`, "one key, on one line")(s) }
func isLine(s string) string { return matches(`^[^\n]*$`, "one line")(s) }
func isWord(s string) string { return matches(`^[^\s"\\]+$`, "one word")(s) }
func isOwner(s string) string {
	return matches(`^[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?$`, "write user or user:group")(s)
}
func isMode(s string) string {
	return matches(`^0?[0-7]{3,4}$`, "write three or four octal digits: 0644")(s)
}
func isSHA256(s string) string {
	return matches(`^[0-9a-fA-F]{64}$`, "64 hexadecimal digits, as sha256sum prints them")(s)
}
func isToken(s string) string {
	return matches(`^\S+$`, "paste the token as fleetctl join-token create printed it")(s)
}
func isUnit(s string) string {
	return matches(`^[A-Za-z0-9:_.@\\-]+\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope|network|netdev|link)$`,
		"a unit's name with its type, such as web.service")(s)
}
func isDropIn(s string) string {
	return matches(`^[^/\s]+\.conf$`, "a file name that ends in .conf")(s)
}

func isAbsolute(s string) string {
	if !path.IsAbs(s) || path.Clean(s) != s {
		return "write an absolute path, without '..' and doubled '/'"
	}
	return ""
}

// isWritable refuses what a host cannot write, before it tries.
func isWritable(s string) string {
	if wrong := isAbsolute(s); wrong != "" {
		return wrong
	}
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/proc", "/sys", "/dev"} {
		if s == dir || strings.HasPrefix(s, dir+"/") {
			return dir + " is not written to: put it under /etc, /opt, /var or /home"
		}
	}
	if s == "/" {
		return "name a file"
	}
	return ""
}

func isURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "write an http or https URL"
	}
	return ""
}

func isURLOrNothing(s string) string {
	if s == "" {
		return ""
	}
	return isURL(s)
}

func isPlace(s string) string {
	if _, err := netip.ParseAddr(s); err == nil {
		return ""
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return ""
	}
	return matches(`^[A-Za-z0-9_.:-]{1,15}$`, "write an interface, a network or an address")(s)
}

func oneOf(words ...string) func(string) string {
	return func(s string) string {
		for _, w := range words {
			if s == w {
				return ""
			}
		}
		var shown []string
		for _, w := range words {
			if w != "" {
				shown = append(shown, w)
			}
		}
		return "use " + strings.Join(shown, ", ")
	}
}

// parseMode reads an octal mode; the table has checked it.
func parseMode(s string) uint32 {
	n, _ := strconv.ParseUint(s, 8, 32)
	return uint32(n)
}
