package pki

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTokensSurvivePrinting(t *testing.T) {
	ca := newCA(t)
	for _, endpoints := range [][]string{{"10.0.0.1:2378"}, {"h1:2378", "[fd00::1]:2378", "10.0.0.3:99"}} {
		want := NewToken(Hash(ca.Cert), endpoints)
		got, err := ParseToken(want.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if !IsToken(want.String()) || IsToken("10.0.0.1") || strings.ContainsAny(want.String(), " '\"$\\;&|") {
			t.Errorf("%s is no word for a shell", want)
		}
	}
}

func TestDamagedTokensAreRefusedWithoutRepeatingThem(t *testing.T) {
	whole := NewToken(Hash(newCA(t).Cert), []string{"10.0.0.1:2378"}).String()
	for _, bad := range []string{
		"", "fleet1.", whole[1:], whole[:20], whole[:len(whole)-5], strings.Replace(whole, "@", "", 1), strings.Replace(whole, ".", "..", 2),
		strings.Split(whole, "@")[0] + "@", whole + ",", whole + ",x", whole + ":1", strings.Replace(whole, "fleet1", "fleet2", 1), whole + " ", "x" + strings.Repeat("y", 5000),
		strings.ToLower(whole), whole + ",10.0.0.2:99999", whole + ",10.0.0.2:0",
	} {
		_, err := ParseToken(bad)
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
			continue
		}
		if parts := strings.Split(whole, "."); strings.Contains(err.Error(), parts[3][:20]) {
			t.Errorf("the secret stands in %v", err)
		}
	}
}

func TestSecretsAreComparedByHash(t *testing.T) {
	token := NewToken(Hash(newCA(t).Cert), []string{"h:1"})
	hash := SecretHash(token.Secret)
	if !SecretIs(token.Secret, hash) || SecretIs(token.Secret+"x", hash) || SecretIs("", "") || SecretIs(hash, hash) {
		t.Error("a secret is mistaken")
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	good, err := NewRequest(key, []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRequest(good)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, r.Addrs, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	forged := append([]byte{}, block.Bytes...)
	forged[len(forged)-1] ^= 1
	many, err := NewRequest(key, make([]netip.Addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	any, err := NewRequest(key, []netip.Addr{netip.IPv4Unspecified()})
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for name, text := range map[string][]byte{
		"empty": nil, "no PEM": []byte("x"), "a certificate": encode("CERTIFICATE", block.Bytes), "two": append(append([]byte{}, good...), many...),
		"RSA": encode("CERTIFICATE REQUEST", der), "signed by another": encode("CERTIFICATE REQUEST", forged), "any address": any,
		"too long": append(append([]byte{}, good...), make([]byte, maxRequest)...),
	} {
		if _, err := ParseRequest(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("fleet1.AAAA.bbbb.CCCC@h:1")
	f.Add(NewToken([32]byte{1}, []string{"10.0.0.1:2378", "[fd00::1]:2378"}).String())
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			return
		}
		if token.String() != s {
			t.Errorf("%q prints as %q", s, token)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	text, err := NewRequest(key, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err == nil && (r.key == nil || len(r.Addrs) > maxAddrs || r.KeyHash() == "") {
			t.Errorf("%q was taken", b)
		}
	})
}

func FuzzParseCerts(f *testing.F) {
	ca, err := NewCA(start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(CertsPEM(ca.Cert))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseCerts(b)
		if err != nil {
			return
		}
		for _, c := range list {
			_, _ = IdentityOf(c)
		}
		if again, err := ParseCerts(CertsPEM(list...)); err != nil || len(again) != len(list) {
			t.Errorf("%d certificates are %d when printed: %v", len(list), len(again), err)
		}
	})
}
