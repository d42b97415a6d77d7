package trust

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Key is an Ed25519 key; Private is nil where only the public half is at hand.
type Key struct {
	Public  ed25519.PublicKey
	Private ed25519.PrivateKey
}

// NewKey makes a key.
func NewKey() (Key, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	return Key{pub, priv}, err
}

const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
)

// PEM gives both halves as PEM (PKCS #8 and PKIX), private empty where there is none.
func (k Key) PEM() (private, public []byte, err error) {
	b, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return nil, nil, err
	}
	public = pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: b})
	if k.Private != nil {
		if b, err = x509.MarshalPKCS8PrivateKey(k.Private); err != nil {
			return nil, nil, err
		}
		private = pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: b})
	}
	return private, public, nil
}

// ParseKey reads what PEM wrote, either half.
func ParseKey(b []byte) (Key, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return Key{}, errors.New("no PEM block")
	}
	var v any
	var err error
	switch block.Type {
	case privateBlock:
		v, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case publicBlock:
		v, err = x509.ParsePKIXPublicKey(block.Bytes)
	default:
		err = fmt.Errorf("PEM block %q: want %q or %q", block.Type, privateBlock, publicBlock)
	}
	if err != nil {
		return Key{}, err
	}
	switch k := v.(type) {
	case ed25519.PrivateKey:
		return Key{k.Public().(ed25519.PublicKey), k}, nil
	case ed25519.PublicKey:
		return Key{Public: k}, nil
	}
	return Key{}, fmt.Errorf("%T: only Ed25519 keys are used", v)
}

// ID is the key's name in the metadata.
func (k Key) ID() (string, error) {
	m, err := metadata.KeyFromPublicKey(k.Public)
	if err != nil {
		return "", err
	}
	return m.ID()
}

func (k Key) signer() (signature.Signer, error) {
	if k.Private == nil {
		return nil, errors.New("the private half is needed to sign")
	}
	return signature.LoadSigner(k.Private, crypto.Hash(0))
}
