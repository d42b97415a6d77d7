package member

import (
	"context"
	"crypto/x509"
	"net"
)

// TLS is how this host and the others prove to each other who they are on the peer and the client port. The zero value: both ports are
// plain, as for tests and behind insecure=true. docs/decisions/0013-identity.md says who may do what, and why.
type TLS struct {
	// Own certificate with its chain, its key, and the authorities that others are checked by (PEM). The files are replaced as wholes while
	// fleetd runs: read them at each handshake.
	CertFile, KeyFile, CAFile string
	// Voter is the DNS name that stands in the certificates of voters and learners, and in no others: what the peer port asks of
	// its clients, and what is asked of whoever answers on a peer or client port. Addresses are not compared: they may change.
	Voter string
	// Seat asks the cluster for a seat among its voters. True: the files hold a voter's certificate now, an entry in the list of members may be
	// made. False: there is none free, stand by. It may be called again and again. nil: the list of members alone decides.
	Seat func(ctx context.Context) (bool, error)
	// Access says what the holder of a verified certificate may do on the client port. An error refuses everything. The unix socket is
	// not asked: who may open it is root here.
	Access func(*x509.Certificate) (Access, error)
	// Enter takes a connection over that has come in by a certificate, to end it when that is revoked; or says why it must not come in. nil: nobody asks.
	Enter func(net.Conn, *x509.Certificate) (net.Conn, error)
}

// On tells whether the ports are protected.
func (t TLS) On() bool { return t.CertFile != "" }

// Access is what one client may do to the store.
type Access struct {
	All         bool   // everything: a voter
	Read, Write []Span // keys; Write does not include Read
	// Known are keys that may be read one at a time by their whole name, never as a range or a watch, and only if MayKnow says so
	// (texts of units that are placed there). MayKnow asks the store; nil: any.
	Known   []Span
	MayKnow func(ctx context.Context, key string) bool
	// Mine are keys that may be written when they are absent, or when their present value holds this text, if the new value holds it too.
	// (Subnet leases: the key is the subnet, the value names the machine.)
	Mine     []Span
	MineText string
	// Names stands in each value of Mine that names somebody; one without it may be taken (a subnet that is reserved for an address). Empty: none may.
	Names string
	Once  []Span // may be written where there is nothing yet, or the same again
	Drop  []Span // may be deleted when their present value holds MineText
}

// Span is a range of keys as etcd has them: From to To (exclusive). To "" is the one key From; To "\x00" is all from From on.
type Span struct{ From, To string }

// JoinBy names the hosts to join by, in place of Config.Join. Call it before Run: joining by a token tells them only then.
func (m *Member) JoinBy(hosts []string) {
	if len(hosts) > 0 {
		m.cfg.Join = hosts
	}
}
