package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Token lets its holder get a certificate. Printed it is
//
//	fleet1.<hash of the CA, base64url>.<id>.<secret>@host:port,host:port
//
// one word without blanks or characters that a shell minds.
type Token struct {
	CA        [sha256.Size]byte // Hash of the authority that the endpoints must prove to be of
	ID        string            // names it in lists; no secret
	Secret    string
	Endpoints []string // host:port of voters
}

const (
	tokenStart = "fleet1."
	idLen      = 8
	secretLen  = 26 // rand.Text: 130 bits
	maxToken   = 4096
)

// NewToken makes a token of a fresh ID and secret.
func NewToken(ca [sha256.Size]byte, endpoints []string) Token {
	return Token{CA: ca, ID: strings.ToLower(rand.Text()[:idLen]), Secret: rand.Text(), Endpoints: endpoints}
}

// IsToken tells a token, whole or not, from other words such as host names.
func IsToken(s string) bool { return strings.HasPrefix(s, tokenStart) }

func (t Token) String() string {
	return tokenStart + base64.RawURLEncoding.EncodeToString(t.CA[:]) + "." + t.ID + "." + t.Secret + "@" + strings.Join(t.Endpoints, ",")
}

// ParseToken reads a token. Errors never repeat it: they end up in logs.
func ParseToken(s string) (Token, error) {
	bad := func(why string) (Token, error) {
		return Token{}, fmt.Errorf("join token: %w: %s; copy it whole, as fleetctl join-token create printed it", ErrInvalid, why)
	}
	if len(s) > maxToken {
		return bad("it is too long")
	}
	rest, ok := strings.CutPrefix(s, tokenStart)
	if !ok {
		return bad("it does not begin with " + tokenStart)
	}
	words, endpoints, ok := strings.Cut(rest, "@")
	parts := strings.Split(words, ".")
	if !ok || len(parts) != 3 {
		return bad("a part of it is missing")
	}
	var t Token
	hash, err := base64.RawURLEncoding.Strict().DecodeString(parts[0])
	if err != nil || len(hash) != len(t.CA) {
		return bad("the part that names the cluster's CA is damaged")
	}
	copy(t.CA[:], hash)
	t.ID, t.Secret, t.Endpoints = parts[1], parts[2], strings.Split(endpoints, ",")
	if !isWord(t.ID, idLen, "abcdefghijklmnopqrstuvwxyz234567") || !isWord(t.Secret, secretLen, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") {
		return bad("its ID or secret is damaged")
	}
	for _, e := range t.Endpoints {
		host, port, err := net.SplitHostPort(e)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/ \t\n@") {
			return bad("after the @ come host:port, with commas between")
		}
	}
	return t, nil
}

func isWord(s string, length int, alphabet string) bool {
	return len(s) == length && strings.Trim(s, alphabet) == ""
}

// SecretHash is what the cluster keeps of a secret. A random secret of 130 bits needs no salt and no slow hash.
func SecretHash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// SecretIs compares a secret with what SecretHash made of the right one, in a time that tells nothing of either.
func SecretIs(secret, hash string) bool {
	return subtle.ConstantTimeCompare([]byte(SecretHash(secret)), []byte(hash)) == 1
}
