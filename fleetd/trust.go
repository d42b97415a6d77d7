package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/authority"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/pki"
)

// trust is this host's certificate: how it came to it, and how it keeps it. docs/decisions/0013-identity.md says what it is worth.
// Files are in pki/ under data_dir: host.crt, host.key, ca.crt; cluster.json (where voters are); on voters ca.json, a copy of the
// store's record of the CA.
type trust struct {
	log       *slog.Logger
	machine   fleet.MachineID
	dir       string
	token     string
	external  bool
	addrs     func() []netip.Addr // of this host, for its certificate
	addr      func() string       // of its member; "" if it has none
	member    func() bool         // whether this host is one of the store's members now; nil: not known
	now       func() time.Time
	holder    *pki.Holder
	authority *authority.Authority // set once there is a store

	mu      sync.Mutex // guards what follows
	known   cluster
	waits   string        // what is waited for, for people; empty: nothing
	changed chan struct{} // closed when waits changes, then made anew
}

// watch is what is waited for, with a channel that is closed when that has changed.
func (t *trust) watch() (string, <-chan struct{}) {
	if t == nil {
		return "", nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waits, t.changed
}

// wait notes what is waited for; new tells whether it is something else than before.
func (t *trust) wait(what string) (isNew bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waits == what {
		return false
	}
	t.waits = what
	close(t.changed)
	t.changed = make(chan struct{})
	return true
}

// cluster is what a host remembers of the others, to find them again.
type cluster struct {
	V      int      `json:"v"`
	Voters []string `json:"voters,omitempty"` // host:port of the API
	Stores []string `json:"stores,omitempty"` // host:port of the store
}

// newTrust reads what an earlier process left. token may be empty.
func newTrust(c Config, machine fleet.MachineID, token string, now func() time.Time, log *slog.Logger) (*trust, error) {
	t := &trust{log: log, machine: machine, dir: filepath.Join(c.DataDir, "pki"), token: token, external: len(c.EtcdServers) > 0, now: now,
		known: cluster{V: 1}, changed: make(chan struct{})}
	t.addrs = func() []netip.Addr { return certAddrs(c, hostAddrs()) }
	t.addr = func() string { return memberAddr(c, hostAddrs()) }
	if err := errors.Join(os.MkdirAll(t.dir, 0o700), os.Chmod(t.dir, 0o700)); err != nil {
		return nil, fmt.Errorf("make data_dir: %w: it must be a directory that root may write to", err)
	}
	var err error
	if t.holder, err = pki.OpenHolder(t.dir, now); err != nil {
		return nil, err
	}
	if err := t.read("cluster.json", &t.known); err != nil {
		return nil, err
	}
	return t, nil
}

// certAddrs are the addresses in a host's certificate: those others reach it at.
func certAddrs(c Config, all []netip.Prefix) (list []netip.Addr) {
	for _, p := range all {
		if a := p.Addr(); (c.MemberIP.IsValid() && c.MemberIP.Contains(a) || a == c.PublicIP || a.IsLoopback()) && len(list) < 16 {
			list = append(list, a)
		}
	}
	return list
}

func memberAddr(c Config, all []netip.Prefix) string {
	for _, p := range all {
		if c.MemberIP.IsValid() && c.MemberIP.Contains(p.Addr()) {
			return p.Addr().String()
		}
	}
	return ""
}

// tls says where etcd reads the certificate.
func (t *trust) tls() member.TLS {
	return member.TLS{CertFile: t.holder.CertFile(), KeyFile: t.holder.KeyFile(), CAFile: t.holder.CAFile(), Voter: pki.VoterName, Seat: t.seat}
}

// identity is whom the certificate here speaks for; the zero one if there is none.
func (t *trust) identity() pki.Identity {
	leaf := t.holder.Leaf()
	if leaf == nil {
		return pki.Identity{}
	}
	id, err := pki.IdentityOf(leaf)
	if err != nil {
		return pki.Identity{} // of a newer fleet: counts as none
	}
	return id
}

// admit sees to it that there is a certificate before the store is started, and says which hosts of the store to join by; none: this is the first.
// With an etcd elsewhere there is nothing to do yet. It waits as long as those who could give one do not answer.
func (t *trust) admit(ctx context.Context) (stores []string, err error) {
	if t.external {
		return nil, nil
	}
	leaf := t.holder.Leaf()
	why := ""
	switch {
	case leaf == nil:
	case !t.now().Before(leaf.NotAfter):
		why = fmt.Sprintf("its certificate ended on %s, and the clock here says %s", leaf.NotAfter.Format("2006-01-02 15:04 UTC"), t.now().UTC().Format("2006-01-02 15:04 UTC"))
	case t.now().Before(leaf.NotBefore):
		return nil, fmt.Errorf("this host's certificate is good from %s on, and the clock here says %s: set the clock (timedatectl) and restart fleetd",
			leaf.NotBefore.Format("2006-01-02 15:04 UTC"), t.now().UTC().Format("2006-01-02 15:04 UTC"))
	case t.identity().Name != string(t.machine):
		why = "its certificate is for machine ID " + t.identity().Name + ", which has changed since"
	default:
		return t.voters().Stores, nil
	}
	switch {
	case leaf != nil && t.renewAlone():
		return t.voters().Stores, nil
	case t.token != "":
		return t.joinByToken(ctx)
	case leaf != nil:
		return nil, fmt.Errorf("this host cannot prove who it is: %s: make a token on another host (fleetctl join-token create), and here: fleetctl join TOKEN", why)
	}
	return nil, t.beFirst()
}

// beFirst makes the cluster's CA, or takes the one that was made beforehand (seed.json), and this host's own certificate. The CA is kept in a
// file until it is in the store, so that a crash in between does not make another.
func (t *trust) beFirst() error {
	var seed authority.Seed
	if err := t.read("seed.json", &seed); err != nil {
		return err
	}
	if seed.V == 0 {
		var err error
		if seed, err = authority.EmptySeed(t.now()); err != nil {
			return err
		}
		if err := t.write("seed.json", seed); err != nil {
			return err
		}
		t.log.Info("first host of a cluster: its CA is made")
	}
	ca, _, err := seed.Parse()
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(t.dir, "seed.json"), err)
	}
	return t.selfIssue(ca, ca.Cert)
}

// selfIssue makes this host's own certificate, as a voter.
func (t *trust) selfIssue(ca pki.CA, bundle ...*x509.Certificate) error {
	key, text, err := t.request()
	if err != nil {
		return err
	}
	r, err := pki.ParseRequest(text)
	if err != nil {
		return err
	}
	leaf, err := ca.Issue(r, pki.Identity{Role: pki.Voter, Name: string(t.machine)}, t.now())
	if err != nil {
		return err
	}
	return t.holder.Set(pki.Credential{Key: key, Chain: append([]*x509.Certificate{leaf}, bundle...), Bundle: bundle})
}

// renewAlone is for a cluster that was off for longer than its certificates: its voters would never reach a quorum to ask for new ones. Each holds the
// CA anyway, so it may as well use it.
func (t *trust) renewAlone() bool {
	if t.identity().Role != pki.Voter {
		return false
	}
	var seed authority.Seed
	if err := t.read("ca.json", &seed); err != nil || seed.V == 0 {
		return false
	}
	ca, _, err := seed.Parse()
	if err != nil {
		return false
	}
	cred, _ := t.holder.Get()
	if err := t.selfIssue(ca, cred.Bundle...); err != nil {
		t.log.Error("certificate not renewed", "err", err)
		return false
	}
	t.log.Warn("the certificate of this host was of no use any more: it has made itself a new one, as a voter can")
	return true
}

func (t *trust) request() (key *ecdsa.PrivateKey, text []byte, err error) {
	if key, err = t.holder.Key(); err != nil {
		return nil, nil, err
	}
	text, err = pki.NewRequest(key, t.addrs())
	return key, text, err
}

// joinByToken asks the voters that the token names for a certificate, until one answers. A refusal is final: only a person can help.
func (t *trust) joinByToken(ctx context.Context) ([]string, error) {
	token, err := pki.ParseToken(t.token)
	if err != nil {
		return nil, err
	}
	key, text, err := t.request()
	if err != nil {
		return nil, err
	}
	c, err := api.DialAny(token.Endpoints, pki.Pinned(token.CA, t.now), api.Options{Timeout: 20 * time.Second})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer t.wait("")
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		got, err := c.Join(ctx, api.JoinRequest{ID: token.ID, Secret: token.Secret, Request: string(text), Machine: string(t.machine), Clock: t.now()})
		if err == nil {
			if len(got.Voters) == 0 {
				got.Voters = token.Endpoints
			}
			if err := t.take(got, key); err != nil {
				return nil, err
			}
			t.log.Info("joined by token", "token", token.ID)
			return got.Stores, nil
		}
		var refused *api.Error
		if errors.As(err, &refused) && (refused.Code == 403 || refused.Code == 400) {
			return nil, fmt.Errorf("join by token %s: %w", token.ID, err)
		}
		if errors.Is(err, pki.ErrOtherCA) {
			return nil, fmt.Errorf("join by token %s: %w", token.ID, pki.ErrOtherCA)
		}
		if t.wait("joining by token " + token.ID + ": " + err.Error()) {
			t.log.Warn("joining by token does not succeed yet", "token", token.ID, "err", err)
		}
		if !pause.For(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

// take puts a certificate that was given into use.
func (t *trust) take(got api.Certificate, key *ecdsa.PrivateKey) error {
	chain, err := pki.ParseCerts([]byte(got.Chain))
	bundle, berr := pki.ParseCerts([]byte(got.Bundle))
	if err := errors.Join(err, berr); err != nil {
		return fmt.Errorf("certificate from the cluster: %w", err)
	}
	// Where the others are comes first: a host with a certificate that knows nobody would be a first host.
	t.remember(cluster{V: 1, Voters: got.Voters, Stores: got.Stores})
	return t.holder.Set(pki.Credential{Key: key, Chain: chain, Bundle: bundle})
}

func (t *trust) voters() cluster {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known
}

// remember notes where voters are; lists that are empty change nothing.
func (t *trust) remember(c cluster) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(c.Voters) == 0 {
		c.Voters = t.known.Voters
	}
	if len(c.Stores) == 0 {
		c.Stores = t.known.Stores
	}
	if slices.Equal(c.Voters, t.known.Voters) && slices.Equal(c.Stores, t.known.Stores) {
		return
	}
	c.V = 1
	t.known = c
	if err := t.write("cluster.json", c); err != nil {
		t.log.Warn("cannot remember where the voters are", "err", err)
	}
}

// seat asks for a voter's certificate, as member.TLS.Seat.
func (t *trust) seat(ctx context.Context) (bool, error) {
	switch id := t.identity(); {
	case id.Role == pki.Voter:
		return true, nil
	case id.NoVote:
		return false, nil
	}
	key, text, err := t.request()
	if err != nil {
		return false, err
	}
	var got api.Certificate
	err = t.ask(func(c *api.Client) (err error) { got, err = c.Seat(ctx, text); return err })
	if err != nil || got.Chain == "" {
		return false, err
	}
	if err := t.take(got, key); err != nil {
		return false, err
	}
	t.log.Info("this host has a seat among the voters")
	return true, nil
}

// ask calls f with a client of the voters.
func (t *trust) ask(f func(*api.Client) error) error {
	c, err := api.DialAny(t.voters().Voters, t.holder.Client(pki.VoterName), api.Options{Timeout: 90 * time.Second})
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// keepCopy keeps the CA beside the store, see renewAlone.
func (t *trust) keepCopy(s authority.State) error {
	seed, err := s.Seed()
	if err != nil || t.external {
		return err
	}
	return t.write("ca.json", seed)
}

// read reads a file of ours into v, which stays as it is if there is none.
func (t *trust) read(name string, v any) error {
	text, err := os.ReadFile(filepath.Join(t.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Join(t.dir, name), err)
	}
	return nil
}

func (t *trust) write(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(t.dir, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write to data_dir: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write to data_dir: %w", err)
	}
	return nil
}

// bundleID names a set of authorities in a question.
func bundleID(bundle string) string { return pki.SecretHash(bundle)[:16] }

// tokenOf finds the join token: in the configuration, or where systemd has put the credential.
func tokenOf(c Config, getenv func(string) string, read func(string) ([]byte, error)) (string, error) {
	if c.JoinToken != "" {
		return c.JoinToken, nil
	}
	dir := getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", nil
	}
	text, err := read(filepath.Join(dir, "fleet.join-token"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the credential fleet.join-token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
