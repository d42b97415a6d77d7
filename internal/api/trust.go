package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The words of the routes by which hosts and people get and keep their certificates. What is behind them is main's.

// JoinRequest is the body of POST join: a token's ID and secret, and a request for a certificate.
type JoinRequest struct {
	ID      string    `json:"id"`
	Secret  string    `json:"secret"`
	Request string    `json:"request"`             // PEM
	Machine string    `json:"machineID,omitempty"` // of a host
	Clock   time.Time `json:"clock,omitzero"`      // of who asks: a wrong one is told before it does harm
}

// CertificateRequest is the body of POST certificate and POST seat: what one has a certificate for already.
type CertificateRequest struct {
	Request string `json:"request"` // PEM
}

// Certificate is the answer to all three.
type Certificate struct {
	Chain      string   `json:"chain,omitempty"`  // PEM, own first; empty: no seat is free
	Bundle     string   `json:"bundle,omitempty"` // PEM, the authorities to believe
	Generation int      `json:"generation,omitempty"`
	Role       Role     `json:"role,omitempty"`
	Name       string   `json:"name,omitempty"`
	Voters     []string `json:"voters,omitempty"` // host:port where voters serve this API
	Stores     []string `json:"stores,omitempty"` // host:port where voters serve the store
}

// CA is the answer to GET ca and POST ca.
type CA struct {
	Generation int       `json:"generation"`
	Bundle     string    `json:"bundle"`
	Rotating   time.Time `json:"rotating,omitzero"` // since when
	// Late machines and people have no certificate of the newest CA yet; told to admins while the CA is rotated.
	Late   []string `json:"late,omitempty"`
	People []string `json:"people,omitempty"`
	Voters []string `json:"voters,omitempty"`
	// Revoked is what counts for nothing though it has not ended, for hosts; RevokedID names the list in a question.
	Revoked   []RevokedCertificates `json:"revoked,omitempty"`
	RevokedID string                `json:"revokedID,omitempty"`
}

// RevokedCertificates are those of one key, or with an empty key all that one machine or person got up to a moment.
type RevokedCertificates struct {
	Key    string    `json:"key,omitempty"` // hash of the key, hex
	Role   Role      `json:"role,omitempty"`
	Name   string    `json:"name"`
	Serial string    `json:"serial,omitempty"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until"` // by then all of them have ended
	By     string    `json:"by,omitempty"`
}

// IssuedCertificate is one of the answer to GET certificates: the newest of a key.
type IssuedCertificate struct {
	Serial  string    `json:"serial"` // hex
	Key     string    `json:"key"`    // hash of its key, hex
	Role    Role      `json:"role"`
	Name    string    `json:"name"`
	Token   string    `json:"token,omitempty"` // ID of the join token; empty: not known
	Issued  time.Time `json:"issued"`
	Until   time.Time `json:"until"`
	Revoked time.Time `json:"revoked,omitzero"`
	By      string    `json:"by,omitempty"` // who revoked it
}

// Certificates is the answer to GET certificates, by name.
type Certificates struct {
	Certificates []IssuedCertificate `json:"certificates"`
}

// Revocation is the answer to DELETE certificates/{name}.
type Revocation struct {
	Revoked []RevokedCertificates `json:"revoked"`
}

// CAChange is the body of POST ca.
type CAChange struct {
	Finish bool `json:"finish,omitempty"` // stop believing the old CA; else a new one is made
	Force  bool `json:"force,omitempty"`  // also while some machines are late
}

// TokenRequest is the body of POST tokens. The zero values are the usual ones.
type TokenRequest struct {
	Role   Role   `json:"role"`
	Name   string `json:"name,omitempty"`
	TTL    string `json:"ttl,omitempty"`  // Go duration
	Uses   int    `json:"uses,omitempty"` // 0: one
	NoVote bool   `json:"noVote,omitempty"`
}

// Token is a join token in a list. Printed is there in the answer to POST tokens only.
type Token struct {
	Printed string    `json:"token,omitempty"`
	ID      string    `json:"id"`
	Role    Role      `json:"role"`
	Name    string    `json:"name,omitempty"`
	NoVote  bool      `json:"noVote,omitempty"`
	Uses    int       `json:"uses"`
	Used    int       `json:"used"`
	Expires time.Time `json:"expires"`
	Created time.Time `json:"created"`
	By      string    `json:"by,omitempty"`
}

// Tokens is the answer to GET tokens.
type Tokens struct {
	Tokens []Token `json:"tokens"`
}

// Deeds is the answer to GET audit, oldest first.
type Deeds struct {
	Deeds []Deed `json:"deeds"`
}

// WhoAmI is the answer to GET whoami: what the API takes the caller for.
type WhoAmI struct {
	Role Role   `json:"role"`
	Name string `json:"name,omitempty"`
	From string `json:"from,omitempty"`
}

// ReadJSON reads a small body strictly.
func ReadJSON(w http.ResponseWriter, r *http.Request, out any) error {
	if err := jsonOnly(r); err != nil {
		return err
	}
	b, err := body(w, r, 64<<10)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return refuse(http.StatusBadRequest, "unable to decode body: "+err.Error())
	}
	return nil
}

// Join gets a certificate for a token. The connection must be to who the token says (pki.Pinned), nobody else may hear its secret.
func (c *Client) Join(ctx context.Context, j JoinRequest) (out Certificate, err error) {
	return out, c.do(ctx, http.MethodPost, "join", j, &out)
}

// Renew gets a new certificate for the one the client has.
func (c *Client) Renew(ctx context.Context, request []byte) (out Certificate, err error) {
	return out, c.do(ctx, http.MethodPost, "certificate", CertificateRequest{string(request)}, &out)
}

// Seat asks for a voter's certificate. One without a chain says that no seat is free.
func (c *Client) Seat(ctx context.Context, request []byte) (out Certificate, err error) {
	return out, c.do(ctx, http.MethodPost, "seat", CertificateRequest{string(request)}, &out)
}

// CA reads the state of the cluster's CA; with since it waits up to a minute until that is no longer the newest bundle, or revoked (a RevokedID) no
// longer what is revoked.
func (c *Client) CA(ctx context.Context, since, revoked string) (out CA, err error) {
	path := "ca"
	if since != "" {
		path += "?" + url.Values{"since": {since}, "revoked": {revoked}}.Encode()
	}
	return out, c.do(ctx, http.MethodGet, path, nil, &out)
}

// Certificates lists what was issued and has not ended.
func (c *Client) Certificates(ctx context.Context) ([]IssuedCertificate, error) {
	var out Certificates
	err := c.do(ctx, http.MethodGet, "certificates", nil, &out)
	return out.Certificates, err
}

// RevokeCertificate ends certificates before their time: all of a name, or those of one serial number or key.
func (c *Client) RevokeCertificate(ctx context.Context, word string, force bool) ([]RevokedCertificates, error) {
	path := "certificates/" + url.PathEscape(word)
	if force {
		path += "?force=true"
	}
	var out Revocation
	err := c.do(ctx, http.MethodDelete, path, nil, &out)
	return out.Revoked, err
}

// ChangeCA begins or ends a rotation.
func (c *Client) ChangeCA(ctx context.Context, change CAChange) (out CA, err error) {
	return out, c.do(ctx, http.MethodPost, "ca", change, &out)
}

// CreateToken makes a join token.
func (c *Client) CreateToken(ctx context.Context, t TokenRequest) (out Token, err error) {
	return out, c.do(ctx, http.MethodPost, "tokens", t, &out)
}

// ListTokens lists those that can be used.
func (c *Client) ListTokens(ctx context.Context) ([]Token, error) {
	var out Tokens
	err := c.do(ctx, http.MethodGet, "tokens", nil, &out)
	return out.Tokens, err
}

// RevokeToken ends one.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	var out Tokens
	return c.do(ctx, http.MethodDelete, "tokens/"+url.PathEscape(id), nil, &out)
}

// Audit reads the newest n deeds, oldest first.
func (c *Client) Audit(ctx context.Context, n int) ([]Deed, error) {
	var out Deeds
	err := c.do(ctx, http.MethodGet, "audit?lines="+strconv.Itoa(n), nil, &out)
	return out.Deeds, err
}

// WhoAmI asks what the API takes this client for.
func (c *Client) WhoAmI(ctx context.Context) (out WhoAmI, err error) {
	return out, c.do(ctx, http.MethodGet, "whoami", nil, &out)
}

// DialAny returns a client of whichever of several fleetds answers first (host:port, over TLS with t). A voter that is down is passed over.
func DialAny(hosts []string, t *tls.Config, o Options) (*Client, error) {
	if len(hosts) == 0 {
		return nil, fmt.Errorf("no address of a voter is known")
	}
	o.TLS, o.Dial = t, dialAny(hosts)
	c, err := Dial("https://"+hosts[0], o)
	if err == nil && len(hosts) > 1 {
		c.shown = "https://" + hosts[0] + " and others"
	}
	return c, err
}
