package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const machine = "0123456789abcdef0123456789abcdef"

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newCA(t *testing.T) CA {
	t.Helper()
	ca, err := NewCA(start)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// hold puts a certificate of ca for id into a holder whose clock is now.
func hold(t *testing.T, ca CA, id Identity, now *time.Time, chain ...*x509.Certificate) *Holder {
	t.Helper()
	h, err := OpenHolder(t.TempDir(), func() time.Time { return *now })
	if err != nil {
		t.Fatal(err)
	}
	reissue(t, h, ca, id, *now, chain...)
	return h
}

func reissue(t *testing.T, h *Holder, ca CA, id Identity, now time.Time, chain ...*x509.Certificate) {
	t.Helper()
	key, err := h.Key()
	if err != nil {
		t.Fatal(err)
	}
	text, err := NewRequest(key, []netip.Addr{netip.MustParseAddr("10.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(r, id, now)
	if err != nil {
		t.Fatal(err)
	}
	bundle := []*x509.Certificate{ca.Cert}
	if c, ok := h.Get(); ok {
		bundle = c.Bundle
	}
	if err := h.Set(Credential{Key: key, Chain: append([]*x509.Certificate{cert}, append(chain, ca.Cert)...), Bundle: bundle}); err != nil {
		t.Fatal(err)
	}
}

// believe replaces whom a holder believes.
func believe(t *testing.T, h *Holder, list ...*x509.Certificate) {
	t.Helper()
	c, _ := h.Get()
	c.Bundle = list
	if err := h.Set(c); err != nil {
		t.Fatal(err)
	}
}

// meet has both shake hands, and returns the identity that the server saw and both errors.
func meet(t *testing.T, server, client *tls.Config) (Identity, error, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type seen struct {
		id  Identity
		err error
	}
	told := make(chan seen, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			told <- seen{err: err}
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		if err := c.Handshake(); err != nil {
			told <- seen{err: err}
			return
		}
		var s seen
		if certs := c.ConnectionState().PeerCertificates; len(certs) > 0 {
			s.id, s.err = IdentityOf(certs[0])
		}
		_, _ = c.Write([]byte("x"))
		told <- s
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, client)
	err = c.Handshake()
	if err == nil { // TLS 1.3 tells the client of a refusal with the first bytes
		_, err = c.Read(make([]byte, 1))
	}
	raw.Close()
	s := <-told
	return s.id, s.err, err
}

func TestHostsAndPeopleProveWhoTheyAre(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	now := start
	voter := hold(t, ca, Identity{Role: Voter, Name: machine}, &now)
	late := start.Add(91 * 24 * time.Hour)
	early := start.Add(-2 * time.Hour)
	for _, row := range []struct {
		name           string
		client         *Holder
		ask            string
		want           Identity
		server, atHome string // parts of errors
	}{
		{"a voter", hold(t, ca, Identity{Role: Voter, Name: machine}, &now), VoterName, Identity{Role: Voter, Name: machine}, "", ""},
		{"a host that never votes", hold(t, ca, Identity{Role: Host, Name: machine, NoVote: true}, &now), VoterName, Identity{Role: Host, Name: machine, NoVote: true}, "", ""},
		{"a person", hold(t, ca, Identity{Role: Operator, Name: "ann"}, &now), VoterName, Identity{Role: Operator, Name: "ann"}, "", ""},
		{"a host that asks for that machine", hold(t, ca, Identity{Role: Host, Name: machine}, &now), HostName(machine), Identity{Role: Host, Name: machine}, "", ""},
		{"a host that asks for another", hold(t, ca, Identity{Role: Host, Name: machine}, &now), HostName(strings.Repeat("f", 32)), Identity{}, "", "not " + strings.Repeat("f", 32)},
		{"a host of another cluster", hold(t, other, Identity{Role: Host, Name: machine}, &now), VoterName, Identity{}, "", "another cluster"},
		{"a host whose clock is a season ahead", hold(t, ca, Identity{Role: Host, Name: machine}, &late), VoterName, Identity{}, "", "ended on 2026-05-30"},
		{"a host whose clock is behind", hold(t, ca, Identity{Role: Host, Name: machine}, &early), VoterName, Identity{}, "", "set the clock"},
	} {
		id, serr, cerr := meet(t, voter.Server(), row.client.Client(row.ask))
		if row.atHome == "" && (serr != nil || cerr != nil) {
			t.Errorf("%s: %v, %v", row.name, serr, cerr)
		}
		if row.atHome != "" && (cerr == nil || !strings.Contains(cerr.Error(), row.atHome)) {
			t.Errorf("%s: %v, want %q", row.name, cerr, row.atHome)
		}
		if diff := cmp.Diff(row.want, id); row.atHome == "" && diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
	}
	none, err := OpenHolder(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if id, serr, _ := meet(t, voter.Server(), &tls.Config{InsecureSkipVerify: true}); serr != nil || id != (Identity{}) {
		t.Errorf("without a certificate one may come in, as nobody: %v %v", id, serr)
	}
	if _, serr, cerr := meet(t, none.Server(), voter.Client(VoterName)); serr == nil || cerr == nil {
		t.Error("a host without a certificate serves")
	}
}

// A client whose certificate has ended, or is of a CA that nobody believes any more, is refused by the server, whatever the client thinks.
func TestServersRefuseWhatHasEnded(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	now := start
	server := hold(t, ca, Identity{Role: Voter, Name: machine}, &now)
	for name, client := range map[string]*Holder{
		"other CA": hold(t, other, Identity{Role: Admin, Name: "eve"}, &now),
	} {
		believe(t, client, ca.Cert)
		if _, serr, cerr := meet(t, server.Server(), client.Client(VoterName)); serr == nil || cerr == nil {
			t.Errorf("%s: let in", name)
		}
	}
	client := hold(t, ca, Identity{Role: Admin, Name: "ann"}, &now)
	cred, _ := client.Get()
	if err := server.Verify(cred.Chain); err != nil {
		t.Error(err)
	}
	now = start.Add(UserLife + time.Minute)
	if err := server.Verify(cred.Chain); err == nil || !strings.Contains(err.Error(), "ended on") {
		t.Errorf("a connection outlives its certificate: %v", err)
	}
}

// The CA is changed step by step; at each step everybody still understands everybody.
func TestRotationKeepsEverybodyTogether(t *testing.T) {
	old, next := newCA(t), newCA(t)
	cross, err := old.Cross(next)
	if err != nil {
		t.Fatal(err)
	}
	now := start
	id := Identity{Role: Voter, Name: machine}
	a, b := hold(t, old, id, &now), hold(t, old, id, &now)
	ok := func(step string) {
		t.Helper()
		for _, pair := range [][2]*Holder{{a, b}, {b, a}} {
			if _, serr, cerr := meet(t, pair[0].Server(), pair[1].Client(VoterName)); serr != nil || cerr != nil {
				t.Errorf("%s: %v, %v", step, serr, cerr)
			}
		}
	}
	ok("before")
	believe(t, a, next.Cert, old.Cert)
	reissue(t, a, next, id, now, cross)
	ok("one has a new certificate, the other has heard of nothing")
	believe(t, b, next.Cert, old.Cert)
	ok("both have heard of it")
	reissue(t, b, next, id, now, cross)
	believe(t, a, next.Cert)
	ok("one believes the new CA only")
	believe(t, b, next.Cert)
	ok("both do")
	stale := hold(t, old, id, &now)
	if _, serr, cerr := meet(t, a.Server(), stale.Client(VoterName)); serr == nil && cerr == nil {
		t.Error("a certificate of the old CA is still accepted")
	}
}

func TestATokenPinsItsCluster(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	now := start
	clock := func() time.Time { return now }
	voter := hold(t, ca, Identity{Role: Voter, Name: machine}, &now)
	host := hold(t, ca, Identity{Role: Host, Name: machine}, &now)
	if _, serr, cerr := meet(t, voter.Server(), Pinned(Hash(ca.Cert), clock)); serr != nil || cerr != nil {
		t.Errorf("%v %v", serr, cerr)
	}
	if _, _, err := meet(t, voter.Server(), Pinned(Hash(other.Cert), clock)); !errors.Is(err, ErrOtherCA) {
		t.Errorf("another cluster's voter: %v", err)
	}
	// Whoever stole the key of a host without a vote must not hear secrets of tokens.
	if _, _, err := meet(t, host.Server(), Pinned(Hash(ca.Cert), clock)); err == nil || !strings.Contains(err.Error(), "address that of a voter") {
		t.Errorf("a host that does not vote hears the token: %v", err)
	}
	// While the CA is rotated, tokens of before work on.
	next := newCA(t)
	cross, err := ca.Cross(next)
	if err != nil {
		t.Fatal(err)
	}
	rotated := hold(t, next, Identity{Role: Voter, Name: machine}, &now, cross, ca.Cert)
	if _, serr, cerr := meet(t, rotated.Server(), Pinned(Hash(ca.Cert), clock)); serr != nil || cerr != nil {
		t.Errorf("during a rotation: %v %v", serr, cerr)
	}
}

func TestCertificatesSayNoMoreThanTheyMay(t *testing.T) {
	ca := newCA(t)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := NewRequest(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []Identity{
		{}, {Role: "root", Name: "x"}, {Role: Host, Name: "h1"}, {Role: Host, Name: machine + "0"}, {Role: Admin}, {Role: Admin, Name: "a b"},
		{Role: Admin, Name: strings.Repeat("a", 65)}, {Role: Voter, Name: machine, NoVote: true},
	} {
		if _, err := ca.Issue(r, id, start); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", id, err)
		}
	}
	c, err := ca.Issue(r, Identity{Role: Viewer, Name: "ann"}, start)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.DNSNames)+len(c.IPAddresses) != 0 || c.IsCA || len(c.ExtKeyUsage) != 1 {
		t.Errorf("a person's certificate is good for a server: %v", c.DNSNames)
	}
	if got, want := RenewAt(c), start.Add(20*24*time.Hour-time.Hour/3); got.Sub(want).Abs() > time.Hour {
		t.Errorf("renewed at %v, want %v", got, want)
	}
	if c, err = ca.Issue(r, Identity{Role: Host, Name: machine}, start.Add(CALife-time.Hour)); err != nil || c.NotAfter.After(ca.Cert.NotAfter) {
		t.Errorf("a certificate outlives its CA: %v", err)
	}
	if _, err = ca.Issue(r, Identity{Role: Host, Name: machine}, start.Add(CALife+time.Hour)); err == nil || !strings.Contains(err.Error(), "fleetctl ca rotate") {
		t.Errorf("a CA that has ended issues: %v", err)
	}
}

func TestHolderIsFoundAgain(t *testing.T) {
	ca := newCA(t)
	now := start
	h := hold(t, ca, Identity{Role: Host, Name: machine}, &now)
	again, err := OpenHolder(h.dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Leaf().Equal(h.Leaf()) {
		t.Error("another certificate")
	}
	before, _ := h.Get()
	reissue(t, h, ca, Identity{Role: Voter, Name: machine}, now)
	if after, _ := h.Get(); !after.Key.Equal(before.Key) {
		t.Error("the key changed with a renewal: etcd reads both files one after the other")
	}
	// A key that was made for a request whose answer never came is used again.
	dir := t.TempDir()
	first, err := OpenHolder(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := first.Key()
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenHolder(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := second.Key(); err != nil || !k.Equal(key) {
		t.Errorf("another key: %v", err)
	}
	strange, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cred, _ := h.Get()
	cred.Key = strange
	if err := h.Set(cred); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key of another certificate: %v", err)
	}
}
