package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role is what the holder of a certificate is to the cluster. It stands in the certificate's subject (OU).
type Role string

const (
	Voter    Role = "voter"    // a host that holds the store's data
	Host     Role = "host"     // any other host
	Admin    Role = "admin"    // a person: everything the API offers
	Operator Role = "operator" // a person: units, no membership
	Viewer   Role = "viewer"   // a person: looking
)

// ErrInvalid is what all errors about something given from outside are: a token, a request, a certificate.
var ErrInvalid = errors.New("not valid")

// Roles are all roles that a token can give. A voter's is given by the cluster alone.
func Roles() []Role { return []Role{Host, Admin, Operator, Viewer} }

// ParseRole reads a role that a token can give.
func ParseRole(s string) (Role, error) {
	if r := Role(s); slices.Contains(Roles(), r) {
		return r, nil
	}
	return "", fmt.Errorf("role %q: %w: use host, admin, operator or viewer", s, ErrInvalid)
}

// IsHost tells hosts from people.
func (r Role) IsHost() bool { return r == Voter || r == Host }

// noVote is the second OU of a host that shall never vote.
const noVote = "no-vote"

// Identity is whom a certificate speaks for.
type Identity struct {
	Role   Role
	Name   string // of a host its machine ID, 32 hex digits; of a person whatever the token said
	NoVote bool   // a host that never gets a seat among the voters
}

func (i Identity) String() string { return string(i.Role) + " " + i.Name }

// Names in certificates. They stand for what a host is, so that its address may change.
const (
	// VoterName is in the certificates of voters: whoever asks the store, or for a certificate, asks for this name.
	VoterName = "voter.fleet.internal"
	domain    = ".fleet.internal"
)

// HostName is the name in a host's certificates by which other hosts make sure that it is that one.
func HostName(machine string) string { return machine + domain }

// IdentityOf reads a certificate that was verified before.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	id := Identity{Name: c.Subject.CommonName}
	for _, unit := range c.Subject.OrganizationalUnit {
		switch {
		case unit == noVote:
			id.NoVote = true
		case id.Role == "" && (Role(unit) == Voter || slices.Contains(Roles(), Role(unit))):
			id.Role = Role(unit)
		default:
			return Identity{}, fmt.Errorf("certificate of %q: %w: its role %q is not known: was it issued by a newer fleet?", id.Name, ErrInvalid, unit)
		}
	}
	return id, id.check()
}

// check holds every identity to what a certificate may carry.
func (i Identity) check() error {
	switch {
	case i.Role == "":
		return fmt.Errorf("certificate of %q: %w: it has no role", i.Name, ErrInvalid)
	case i.Role != Voter && !slices.Contains(Roles(), i.Role):
		return fmt.Errorf("certificate of %q: %w: there is no role %q", i.Name, ErrInvalid, i.Role)
	case i.Role.IsHost() && !IsMachine(i.Name):
		return fmt.Errorf("certificate for host %q: %w: use its machine ID, 32 hex digits", i.Name, ErrInvalid)
	case !i.Role.IsHost() && !isName(i.Name):
		return fmt.Errorf("certificate for %q: %w: use a name of at most 64 letters, digits and .-_@", i.Name, ErrInvalid)
	case i.NoVote && i.Role != Host:
		return fmt.Errorf("certificate of %q: %w: only a host without a seat can be one that never votes", i.Name, ErrInvalid)
	}
	return nil
}

// IsMachine tells whether s is a machine ID as /etc/machine-id has it.
func IsMachine(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

func isName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(".-_@", r))
	})
}
