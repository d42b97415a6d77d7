package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pki"
)

// is tells whether a certificate is revoked, by what the store says.
func (r *rig) is(c *x509.Certificate) bool {
	r.Helper()
	s, err := r.State(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return slices.ContainsFunc(s.Revoked, func(g pki.Revoked) bool { return g.Covers(c) })
}

func (r *rig) person(role pki.Role, name string) (pki.Token, []byte, *x509.Certificate) {
	r.Helper()
	token, text := r.token(Token{Role: role, Name: name, Uses: 3}, 24*time.Hour), request(r.T)
	g, err := r.join(token, "", text)
	if err != nil {
		r.Fatal(err)
	}
	return token, text, g.Chain[0]
}

func (r *rig) revoke(word string, force bool, who pki.Identity) error {
	_, err := r.RevokeCertificate(r.Context(), word, who, "admin eve", force)
	return err
}

func TestARevokedNameIsOutAndComesBackOnlyByANewToken(t *testing.T) {
	r := newRig(t)
	token, text, first := r.person(pki.Operator, "ann")
	_, _, look := r.person(pki.Viewer, "ann")
	_, _, bob := r.person(pki.Operator, "bob")
	r.clock = r.clock.Add(20 * 24 * time.Hour)
	g, err := r.Renew(t.Context(), pki.Identity{Role: pki.Operator, Name: "ann"}, text)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.revoke("ann", false, pki.Identity{Role: pki.Admin, Name: "eve"}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]*x509.Certificate{"the first": first, "its renewal of this second": g.Chain[0], "the other role's": look} {
		if !r.is(c) {
			t.Errorf("%s is believed", what)
		}
	}
	if r.is(bob) {
		t.Error("somebody else's is not believed")
	}
	_, err = r.join(token, "", text)
	r.says("the token of before, with its key", err, "were revoked on")
	if !errors.Is(err, fleet.ErrForbidden) {
		t.Errorf("%v is no refusal", err)
	}
	r.clock = r.clock.Add(300 * time.Millisecond)
	_, _, again := r.person(pki.Operator, "ann")
	if r.is(again) {
		t.Error("a new token in the same second gives what is revoked")
	}
	if err := r.revoke("bob", false, pki.Identity{}); err != nil {
		t.Fatal(err)
	}
	_, _, young := r.person(pki.Operator, "bob")
	if err := r.revoke("bob", false, pki.Identity{}); err != nil || !r.is(young) {
		t.Errorf("revoked twice in a second, what was issued in between is good: %v", err)
	}
	list, err := r.Certificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range list {
		got = append(got, fmt.Sprintf("%s %s revoked %v by %q, token known: %v", c.Role, c.Name, !c.Revoked.IsZero(), c.By, c.Token != ""))
	}
	slices.Sort(got)
	want := []string{`operator ann revoked false by "", token known: true`, `operator ann revoked true by "admin eve", token known: true`,
		`operator bob revoked true by "admin eve", token known: true`, `operator bob revoked true by "admin eve", token known: true`, `viewer ann revoked true by "admin eve", token known: true`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestASerialNumberEndsOneKeyOfAName(t *testing.T) {
	r := newRig(t)
	token := r.token(Token{Role: pki.Viewer, Name: "team", Uses: 2}, time.Hour)
	one, two := request(t), request(t)
	a, err := r.join(token, "", one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.join(token, "", two)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.revoke(a.Chain[0].SerialNumber.Text(16), false, pki.Identity{}); err != nil {
		t.Fatal(err)
	}
	if !r.is(a.Chain[0]) || r.is(b.Chain[0]) {
		t.Errorf("the one is revoked: %v, the other: %v", r.is(a.Chain[0]), r.is(b.Chain[0]))
	}
	for what, try := range map[string]func() error{
		"renewing": func() error {
			_, err := r.Renew(t.Context(), pki.Identity{Role: pki.Viewer, Name: "team"}, one)
			return err
		},
		"joining again": func() error { _, err := r.join(token, "", one); return err },
	} {
		if err := try(); !errors.Is(err, fleet.ErrForbidden) || !strings.Contains(err.Error(), "remove the key") {
			t.Errorf("%s by the key: %v", what, err)
		}
	}
	if err := r.revoke(pki.KeyHash(b.Chain[0]), false, pki.Identity{}); err != nil || !r.is(b.Chain[0]) {
		t.Errorf("by the key's hash: %v", err)
	}
	r.says("what is not there", r.revoke("nothing", false, pki.Identity{}), "fleetctl certificate list")
}

func TestTheLastAdminDoesNotShutItselfOut(t *testing.T) {
	r := newRig(t)
	eve, root := pki.Identity{Role: pki.Admin, Name: "eve"}, pki.Identity{Role: pki.Admin, Name: "root"}
	_, _, own := r.person(pki.Admin, "eve")
	r.says("the last", r.revoke("eve", false, eve), "--force")
	_, _, _ = r.person(pki.Admin, "ada")
	if err := r.revoke("ada", false, eve); err != nil {
		t.Errorf("another admin's: %v", err)
	}
	r.says("the last again", r.revoke(own.SerialNumber.Text(16), false, eve), "your own")
	if r.is(own) {
		t.Error("what was refused is done")
	}
	if err := r.revoke("eve", true, eve); err != nil || !r.is(own) {
		t.Errorf("forced: %v", err)
	}
	if err := r.revoke("eve", false, root); err != nil {
		t.Errorf("by root, from a socket, again: %v", err)
	}
}

// A voter's certificate and its others are one machine's; what has ended is forgotten.
func TestARevokedMachineAndTheEndOfRecords(t *testing.T) {
	r := newRig(t)
	token := r.token(Token{Role: pki.Host, Uses: 5}, time.Hour)
	g, err := r.join(token, h2, request(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.revoke(h2, false, pki.Identity{}); err != nil {
		t.Fatal(err)
	}
	if err := r.revoke(h1, false, pki.Identity{}); err != nil {
		t.Errorf("the first host, whose certificate nobody noted: %v", err)
	}
	s, err := r.State(t.Context())
	if err != nil || len(s.Revoked) != 2 || !r.is(g.Chain[0]) {
		t.Fatalf("%+v %v", s.Revoked, err)
	}
	_, err = r.join(token, h2, request(t))
	r.says("the host's token of before", err, "were revoked on")
	r.clock = r.clock.Add(pki.HostLife + 3*time.Hour)
	if s, err = r.State(t.Context()); err != nil || len(s.Revoked) != 0 {
		t.Errorf("what has ended is told: %+v %v", s.Revoked, err)
	}
	r.clock = r.clock.Add(30 * 24 * time.Hour)
	r.token(Token{Role: pki.Host, Uses: 1}, time.Hour)
	kvs, _, err := r.store.Range(t.Context(), "/fleet/pki/revoked/", "/fleet/pki/held/")
	if err != nil || len(kvs[0])+len(kvs[1]) != 0 {
		t.Errorf("what has ended is kept: %v %v", kvs, err)
	}
}

func TestARenewalByEverNewKeysComesToAnEnd(t *testing.T) {
	r := newRig(t)
	who := pki.Identity{Role: pki.Viewer, Name: "ann"}
	for range maxKeys {
		if _, err := r.Renew(t.Context(), who, request(t)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.Renew(t.Context(), who, request(t))
	r.says("one more", err, "it has 64 keys")
}

// Everybody who follows the CA hears of a revocation.
func TestWatchersHearOfARevocation(t *testing.T) {
	r := newRig(t)
	_, _, c := r.person(pki.Viewer, "ann")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told, ended := make(chan State, 10), make(chan error, 1)
	go func() { ended <- r.Watch(ctx, func(s State) { told <- s }) }()
	<-told
	if err := r.revoke("ann", false, pki.Identity{}); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-told:
		if len(s.Revoked) != 1 || !s.Revoked[0].Covers(c) {
			t.Errorf("%+v", s.Revoked)
		}
	case err := <-ended:
		t.Fatalf("the watch ended: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}
