package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
)

// maxRequest bounds what is parsed of a request, and maxAddrs what is taken over from it.
const (
	maxRequest = 8 << 10
	maxAddrs   = 16
)

// Request is a checked request for a certificate: its maker holds the key. Whose it will be is not in it.
type Request struct {
	key   *ecdsa.PublicKey
	Addrs []netip.Addr // where a host listens
}

// NewRequest makes the request (PEM) for a key.
func NewRequest(key *ecdsa.PrivateKey, addrs []netip.Addr) ([]byte, error) {
	t := x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"fleet"}}}
	for _, a := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.Unmap().AsSlice()))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &t, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ParseRequest reads what NewRequest made, and refuses what is not signed by its own key.
func ParseRequest(text []byte) (Request, error) {
	bad := func(why string) (Request, error) {
		return Request{}, fmt.Errorf("certificate request: %w: %s", ErrInvalid, why)
	}
	if len(text) > maxRequest {
		return bad("it is too long")
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return bad("it is not one PEM block of that kind")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return bad(err.Error())
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return bad("its key is not an ECDSA key on P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return bad("its signature is not of its own key")
	}
	r := Request{key: key}
	if len(csr.IPAddresses) > maxAddrs {
		return bad(fmt.Sprintf("it names more than %d addresses", maxAddrs))
	}
	for _, ip := range csr.IPAddresses {
		a, ok := netip.AddrFromSlice(ip)
		if !ok || a.IsUnspecified() || a.IsMulticast() {
			return bad(fmt.Sprintf("%v is no address of a host", ip))
		}
		r.Addrs = append(r.Addrs, a.Unmap())
	}
	return r, nil
}

// KeyHash names the key of a request: the same for all requests of one key.
func (r Request) KeyHash() string {
	der, err := x509.MarshalPKIXPublicKey(r.key)
	if err != nil {
		panic(err) // a key on P-256, as ParseRequest has seen
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8])
}
