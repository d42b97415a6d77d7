package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Revoked is what counts for nothing though it has not ended: all certificates of one key, or all that one machine or person got up to a moment.
// By the key and not by the serial number, since a key stays the same over renewals: none of its certificates is overlooked.
type Revoked struct {
	Key    string    `json:"key,omitempty"`  // of the key, as KeyHash; empty: all of Role and Name
	Role   Role      `json:"role,omitempty"` // of a host the one that it had last: its voter's certificate and its others are meant alike
	Name   string    `json:"name"`
	Serial string    `json:"serial,omitempty"` // of the newest certificate of the key, hex, for people
	At     time.Time `json:"at"`               // whole seconds; without a key, what was issued up to then is meant
	Until  time.Time `json:"until"`            // by then all of them have ended
	By     string    `json:"by,omitempty"`
}

// ErrRevoked: the certificate was revoked by an admin.
var ErrRevoked = errors.New("the certificate was revoked")

// KeyHash names the key of a certificate, as Request.KeyHash names that of a request.
func KeyHash(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:8])
}

// Issued is when a certificate was made: it is good from a little earlier on.
func Issued(c *x509.Certificate) time.Time { return c.NotBefore.Add(skew) }

// Names tells whether all that this machine or person got up to a moment is meant. A host's certificates are meant alike, whatever its part in the store.
func (r Revoked) Names(id Identity) bool {
	return r.Key == "" && r.Name == id.Name && (r.Role == id.Role || r.Role.IsHost() && id.Role.IsHost())
}

// Covers tells whether a certificate is among those that are revoked.
func (r Revoked) Covers(c *x509.Certificate) bool {
	if r.Key != "" {
		return r.Key == KeyHash(c)
	}
	id, err := IdentityOf(c)
	return err == nil && r.Names(id) && !Issued(c).After(r.At)
}

func revoked(list []Revoked, c *x509.Certificate) error {
	for _, r := range list {
		if r.Covers(c) {
			return fmt.Errorf("%w on %s: ask for a new token (fleetctl join-token create)", ErrRevoked, r.At.UTC().Format("2006-01-02 15:04 UTC"))
		}
	}
	return nil
}

// revokedFile is beside the certificate, for update-engine, and for fleetd until it has heard from the others again.
const revokedFile = "revoked.json"

// readRevoked reads the file. One that is damaged counts as none: it is written anew as soon as the cluster answers, and a host that does not
// start for it would help nobody.
func (h *Holder) readRevoked() {
	text, err := os.ReadFile(filepath.Join(h.dir, revokedFile))
	var list []Revoked
	if err == nil && json.Unmarshal(text, &list) == nil {
		h.revoked = list
	}
}

// SetRevoked takes over what is revoked, on disk too, and ends the connections that came in by a certificate of it.
func (h *Holder) SetRevoked(list []Revoked) error {
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("write what is revoked: %w", err)
	}
	h.mu.Lock()
	if old, err := json.Marshal(h.revoked); err == nil && bytes.Equal(old, text) {
		h.mu.Unlock()
		return nil
	}
	h.revoked = slices.Clone(list)
	var gone []net.Conn
	for conn, leaf := range h.guests {
		if revoked(list, leaf) != nil {
			gone = append(gone, conn)
		}
	}
	err = h.write(revokedFile, append(text, '\n'))
	h.mu.Unlock()
	for _, conn := range gone {
		_ = conn.Close() // it takes itself off the list
	}
	return err
}

// Revoked says why a certificate is worth nothing, nil if nobody has revoked it.
func (h *Holder) Revoked(c *x509.Certificate) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return revoked(h.revoked, c)
}

// guest is a connection that ends when the certificate it came in by is revoked.
type guest struct {
	net.Conn
	holder *Holder
}

func (g *guest) Close() error {
	g.holder.mu.Lock()
	delete(g.holder.guests, net.Conn(g))
	g.holder.mu.Unlock()
	return g.Conn.Close()
}

// enter notes who has come in, or refuses.
func (h *Holder) enter(conn net.Conn, leaf *x509.Certificate) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := revoked(h.revoked, leaf); err != nil {
		return err
	}
	if h.guests == nil {
		h.guests = map[net.Conn]*x509.Certificate{}
	}
	h.guests[conn] = leaf
	return nil
}

// Enter is for doors that make the handshake themselves: the connection to go on with, or why that certificate is worth nothing.
func (h *Holder) Enter(conn net.Conn, leaf *x509.Certificate) (net.Conn, error) {
	g := &guest{conn, h}
	return g, h.enter(g, leaf)
}

// Listen puts TLS on a listener, as Server says. A certificate that is revoked is let in, so that Verify can say why it is of no use; if it is
// revoked later, its connections end.
func (h *Holder) Listen(l net.Listener) net.Listener {
	return tls.NewListener(lobby{l, h}, h.Server())
}

type lobby struct {
	net.Listener
	holder *Holder
}

func (l lobby) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guest{c, l.holder}, nil
}
