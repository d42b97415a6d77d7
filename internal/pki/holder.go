package pki

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Credential is what one party proves itself by, and whom it believes.
type Credential struct {
	Key    *ecdsa.PrivateKey
	Chain  []*x509.Certificate // own certificate, then those that vouch for it
	Bundle []*x509.Certificate // authorities, newest first; more than one while the CA is rotated
}

// check finds a credential that nobody could use.
func (c Credential) check() error {
	if c.Key == nil || len(c.Chain) == 0 || len(c.Bundle) == 0 {
		return fmt.Errorf("credential: %w: key, certificate or authorities are missing", ErrInvalid)
	}
	if pub, ok := c.Chain[0].PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(&c.Key.PublicKey) {
		return fmt.Errorf("credential: %w: the key is not that of the certificate", ErrInvalid)
	}
	return nil
}

// RenewAt is when two thirds of a certificate's life are over: early enough for a cluster that is down for weeks.
func RenewAt(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// Holder holds a credential that is replaced while it is in use: what its tls.Configs use is what it holds at each handshake. It is
// safe for use by many goroutines.
type Holder struct {
	dir string
	now func() time.Time

	mu      sync.Mutex // guards what follows
	cred    Credential
	revoked []Revoked
	guests  map[net.Conn]*x509.Certificate // who came in by which certificate
}

// Files of a credential, in one folder.
const (
	certFile   = "host.crt"
	keyFile    = "host.key"
	bundleFile = "ca.crt"
)

// OpenHolder reads the credential in a folder, which need not be there. now is the clock.
func OpenHolder(dir string, now func() time.Time) (*Holder, error) {
	h := &Holder{dir: dir, now: now}
	cert, err := os.ReadFile(h.CertFile())
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	key, kerr := os.ReadFile(h.KeyFile())
	bundle, berr := os.ReadFile(h.CAFile())
	if err := errors.Join(err, kerr, berr); err != nil {
		return nil, fmt.Errorf("read this host's certificate: %w", err)
	}
	var c Credential
	c.Chain, err = ParseCerts(cert)
	c.Key, kerr = ParseKey(key)
	c.Bundle, berr = ParseCerts(bundle)
	if err := errors.Join(err, kerr, berr, c.check()); err != nil {
		return nil, fmt.Errorf("read this host's certificate in %s: %w: remove the folder and join again with a new token", dir, err)
	}
	h.cred = c
	h.readRevoked()
	return h, nil
}

// Paths of the files, for etcd, which reads them at each handshake.
func (h *Holder) CertFile() string { return filepath.Join(h.dir, certFile) }
func (h *Holder) KeyFile() string  { return filepath.Join(h.dir, keyFile) }
func (h *Holder) CAFile() string   { return filepath.Join(h.dir, bundleFile) }

// Get is the credential held now; ok=false: none.
func (h *Holder) Get() (c Credential, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cred, len(h.cred.Chain) > 0
}

// Leaf is the certificate held now, nil if none.
func (h *Holder) Leaf() *x509.Certificate {
	if c, ok := h.Get(); ok {
		return c.Chain[0]
	}
	return nil
}

// Key is the key to ask for certificates with: the one held, or of an earlier try, or a new one. It stays the same over renewals, so that the two files that
// etcd reads one after the other always fit. It is on disk before anyone is asked: an answer that is lost can be asked for again.
func (h *Holder) Key() (*ecdsa.PrivateKey, error) {
	if c, ok := h.Get(); ok {
		return c.Key, nil
	}
	if text, err := os.ReadFile(h.KeyFile()); err == nil {
		if key, err := ParseKey(text); err == nil {
			return key, nil
		}
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	text, err := KeyPEM(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of this host's key: %w", err)
	}
	return key, h.write(keyFile, text)
}

// Set takes a credential into use, on disk first. The key must be the one of Key.
func (h *Holder) Set(c Credential) error {
	if err := c.check(); err != nil {
		return err
	}
	key, err := KeyPEM(c.Key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of this host's certificate: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cred.Key == nil || !h.cred.Key.Equal(c.Key) {
		if err := h.write(keyFile, key); err != nil {
			return err
		}
	}
	// Whom to believe comes before what makes others change.
	if err := errors.Join(h.write(bundleFile, CertsPEM(c.Bundle...)), h.write(certFile, CertsPEM(c.Chain...))); err != nil {
		return err
	}
	h.cred = c
	return nil
}

// write replaces a file as a whole, and returns when it will survive a power loss.
func (h *Holder) write(name string, text []byte) error {
	path := filepath.Join(h.dir, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write this host's certificate: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write this host's certificate: %w", err)
	}
	return nil
}

// Server is the configuration of a listener: it shows the certificate, and checks that of the client if there is one. Whether one is needed is for the
// handler to say, since joining has none.
func (h *Holder) Server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, ok := h.Get()
		if !ok {
			return nil, errors.New("this host has no certificate yet")
		}
		return &tls.Config{
			VerifyConnection: func(s tls.ConnectionState) error {
				if g, ok := hello.Conn.(*guest); ok && len(s.PeerCertificates) > 0 {
					_ = h.enter(g, s.PeerCertificates[0]) // refused by Verify, in words
				}
				return nil
			},
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
			Certificates: []tls.Certificate{c.tls()},
			ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: Pool(c.Bundle...), Time: h.now,
			// A ticket would let a client in by a certificate that has ended meanwhile, or whose CA has.
			SessionTicketsDisabled: true,
		}, nil
	}}
}

// Client is the configuration for speaking to whoever has a certificate for that name (VoterName, HostName); "" is the name that the dialer sets.
func (h *Holder) Client(name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name, Time: h.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, ok := h.Get()
			if !ok {
				return new(tls.Certificate), nil // none
			}
			t := c.tls()
			return &t, nil
		},
		InsecureSkipVerify: true, // by VerifyConnection, with the authorities of now
		VerifyConnection: func(s tls.ConnectionState) error {
			c, _ := h.Get()
			if err := verify(s, Pool(c.Bundle...), cmp.Or(name, s.ServerName), h.now()); err != nil {
				return err
			}
			return h.Revoked(s.PeerCertificates[0])
		},
	}
}

func (c Credential) tls() tls.Certificate {
	t := tls.Certificate{PrivateKey: c.Key, Leaf: c.Chain[0]}
	for _, cert := range c.Chain {
		t.Certificate = append(t.Certificate, cert.Raw)
	}
	return t
}

// Pinned is the configuration for speaking to a voter of the cluster that a token is of, without knowing its CA yet: that comes with the handshake
// and is held against the token's hash.
func Pinned(hash [sha256.Size]byte, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: VoterName, Time: now,
		InsecureSkipVerify: true, // by VerifyConnection
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, c := range s.PeerCertificates {
				if c.IsCA && Hash(c) == hash && c.CheckSignatureFrom(c) == nil {
					return verify(s, Pool(c), VoterName, now())
				}
			}
			return ErrOtherCA
		},
	}
}

// ErrOtherCA is a server that is not of the cluster that a token or a certificate is of.
var ErrOtherCA = errors.New("what answers there is of another cluster, or the cluster's CA was rotated since: check the address, and ask for a new token (fleetctl join-token create)")

// verify checks the other side's certificate as crypto/tls would, with errors that say what to do.
func verify(s tls.ConnectionState, roots *x509.CertPool, name string, now time.Time) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the other side has no certificate")
	}
	if name == "" {
		return errors.New("whom to speak to is not known") // an empty name would match any
	}
	leaf := s.PeerCertificates[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: Pool(s.PeerCertificates[1:]...), DNSName: name, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return Explain(err, now)
}

// Explain says of an error about a certificate what a person can do.
func Explain(err error, now time.Time) error {
	var invalid x509.CertificateInvalidError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	clock := now.UTC().Format("2006-01-02 15:04 UTC")
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
		return fmt.Errorf("the certificate of %s is good from %s on, and the clock here says %s: set the clock (timedatectl)",
			invalid.Cert.Subject.CommonName, invalid.Cert.NotBefore.Format("2006-01-02 15:04 UTC"), clock)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of %s ended on %s, and the clock here says %s: if the clock is right, join that host again with a new token",
			invalid.Cert.Subject.CommonName, invalid.Cert.NotAfter.Format("2006-01-02 15:04 UTC"), clock)
	case errors.As(err, &authority):
		return ErrOtherCA
	case errors.As(err, &name):
		return fmt.Errorf("what answers there is %s, not %s: is the address that of a voter of the cluster?", name.Certificate.Subject.CommonName, name.Host)
	}
	return err
}

// Verify holds a client's certificate, with what came with it, against the authorities and the clock of now.
func (h *Holder) Verify(chain []*x509.Certificate) error {
	c, ok := h.Get()
	if !ok {
		return errors.New("this host has no certificate yet")
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: Pool(c.Bundle...), Intermediates: Pool(chain[1:]...), CurrentTime: h.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Explain(err, h.now())
	}
	return h.Revoked(chain[0])
}
