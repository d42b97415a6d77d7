package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// How long certificates are good for.
const (
	CALife   = 10 * 365 * 24 * time.Hour
	HostLife = 90 * 24 * time.Hour
	UserLife = 30 * 24 * time.Hour
	// skew is how far behind the issuer's a clock may be for a new certificate to be good there at once.
	skew = time.Hour
)

// CA is one authority with its key.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewKey makes a P-256 key: what every TLS library reads, and small beside RSA.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

// NewCA makes an authority that is good from now on. Its name differs from that of others, so that chains are found by name.
func NewCA(now time.Time) (CA, error) {
	key, err := NewKey()
	if err != nil {
		return CA{}, err
	}
	t := template(now, CALife)
	t.Subject = pkix.Name{Organization: []string{"fleet"}, CommonName: "fleet CA " + rand.Text()[:8]}
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	cert, err := sign(t, t, &key.PublicKey, key)
	return CA{cert, key}, err
}

// Cross is next's certificate as c signs it: who trusts only c accepts what next issues, if this comes with it.
func (c CA) Cross(next CA) (*x509.Certificate, error) {
	t := *next.Cert
	t.SerialNumber = serial()
	t.AuthorityKeyId = c.Cert.SubjectKeyId
	return sign(&t, c.Cert, &next.Key.PublicKey, c.Key)
}

// Issue signs a request. What it asks for beside its key and addresses counts for nothing: who is given by id. A certificate ends
// before its authority does.
func (c CA) Issue(r Request, id Identity, now time.Time) (*x509.Certificate, error) {
	if err := id.check(); err != nil {
		return nil, err
	}
	life := UserLife
	if id.Role.IsHost() {
		life = HostLife
	}
	t := template(now, life)
	if t.NotAfter.After(c.Cert.NotAfter) {
		t.NotAfter = c.Cert.NotAfter
	}
	if !t.NotAfter.After(now) {
		return nil, fmt.Errorf("issue a certificate for %s: the cluster's CA has ended on %s: make a new one with fleetctl ca rotate", id, c.Cert.NotAfter.Format(time.DateOnly))
	}
	t.Subject = pkix.Name{Organization: []string{"fleet"}, OrganizationalUnit: []string{string(id.Role)}, CommonName: id.Name}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if id.NoVote {
		t.Subject.OrganizationalUnit = append(t.Subject.OrganizationalUnit, noVote)
	}
	if id.Role.IsHost() {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		t.DNSNames = []string{HostName(id.Name)}
		for _, a := range r.Addrs {
			t.IPAddresses = append(t.IPAddresses, a.AsSlice())
		}
	}
	if id.Role == Voter {
		t.DNSNames = append(t.DNSNames, VoterName)
	}
	return sign(t, c.Cert, r.key, c.Key)
}

func template(now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{SerialNumber: serial(), NotBefore: now.Add(-skew).UTC(), NotAfter: now.Add(life).UTC()}
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f           // positive
	return new(big.Int).SetBytes(b[:])
}

func sign(t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", t.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

// Hash names an authority by its key: what a token pins.
func Hash(ca *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(ca.RawSubjectPublicKeyInfo) }
