// Package document reads a cloud-config: YAML text in, one typed value and a list of problems with their lines out. It reads and
// writes nothing else. The language is that of coreos-cloudinit, with a namespace fleet: of our own; what differs: a key that nobody knows is
// told, an address that nobody knows is an error and not an empty word, and variables stand for themselves only inside strings, after parsing.
package document

import (
	"fmt"
	"slices"
	"strings"
)

// Document is what a host is told to be. Contents are decoded, variables replaced, legacy names ours.
type Document struct {
	Hostname  string
	EtcHosts  bool     // write /etc/hosts with the host's name
	Keys      []string // SSH keys of the user core
	Users     []User
	Files     []File
	Units     []Unit
	Settings  map[Daemon]map[string]string // key to value, as the daemon spells them
	Join      string                       // join token: a secret
	OEM       map[string]string            // /etc/oem-release
	Addresses map[string]string            // variable to an interface, a network or an address: where to find what no source says

	Script []byte // "#!": a program instead of all the above
}

// Daemon is one of ours that has settings.
type Daemon string

// The daemons, by the names of their units.
const (
	Fleetd Daemon = "fleetd"
	Netd   Daemon = "netd"
	Update Daemon = "update-engine"
)

// Daemons are all of them, in the order in which files for them are written.
func Daemons() []Daemon { return []Daemon{Fleetd, Netd, Update} }

// User is somebody who may log in. Of one who exists only the password and the keys are set.
type User struct {
	Name         string   `yaml:"name"`
	Gecos        string   `yaml:"gecos"`
	Passwd       string   `yaml:"passwd"` // as in /etc/shadow
	Homedir      string   `yaml:"homedir"`
	NoCreateHome bool     `yaml:"no_create_home"`
	PrimaryGroup string   `yaml:"primary_group"`
	Groups       []string `yaml:"groups"`
	NoUserGroup  bool     `yaml:"no_user_group"`
	System       bool     `yaml:"system"`
	NoLogInit    bool     `yaml:"no_log_init"`
	Shell        string   `yaml:"shell"`
	Keys         []string `yaml:"ssh_authorized_keys"`
}

// File is a file to write: Content is what stands in it, or Source where to fetch that, SHA256 (64 hexadecimal digits) of it.
type File struct {
	Path    string
	Content []byte
	Source  string
	SHA256  string
	Owner   string // user or user:group
	Mode    uint32 // as chmod takes it, with setuid, setgid and sticky
	Line    int
}

// Unit is a systemd unit, or a part of one.
type Unit struct {
	Name    string   `yaml:"name"`
	Content string   `yaml:"content"`
	Enable  bool     `yaml:"enable"`
	Runtime bool     `yaml:"runtime"`
	Mask    bool     `yaml:"mask"`
	Command string   `yaml:"command"`
	DropIns []DropIn `yaml:"drop_ins"`
}

// DropIn is a part of a unit, in a file of its own.
type DropIn struct {
	Name    string `yaml:"name"`
	Content string `yaml:"content"`
}

// Network reports whether the unit is networkd's and not systemd's.
func (u Unit) Network() bool {
	return slices.Contains([]string{"network", "netdev", "link"}, u.Name[strings.LastIndexByte(u.Name, '.')+1:])
}

// Level is how bad a problem is.
type Level string

// The levels. A document with an Error is never applied. An Unknown key is an error to who writes a document and a warning to the host that
// boots with it: a newer document must not keep an older host down.
const (
	Error   Level = "error"
	Unknown Level = "unknown"
	Warning Level = "warning"
)

// Problem is something wrong with a document.
type Problem struct {
	Line  int    `json:"line"` // from 1; 0: of the document as a whole
	Level Level  `json:"level"`
	What  string `json:"what"`
	Hint  string `json:"hint,omitempty"` // what to do
}

// String is the problem in one line: "line 3: error: …; …".
func (p Problem) String() string {
	level := p.Level
	if level == Unknown {
		level = Error
	}
	s := fmt.Sprintf("%s: %s", level, p.What)
	if p.Line > 0 {
		s = fmt.Sprintf("line %d: %s", p.Line, s)
	}
	if p.Hint != "" {
		s += "; " + p.Hint
	}
	return s
}

// Errors are those of the problems that keep a document from being applied; strict counts unknown keys among them.
func Errors(problems []Problem, strict bool) []Problem {
	var out []Problem
	for _, p := range problems {
		if p.Level == Error || strict && p.Level == Unknown {
			out = append(out, p)
		}
	}
	return out
}
