package authority

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pki"
)

const (
	h1 = "11111111111111111111111111111111"
	h2 = "22222222222222222222222222222222"
	h3 = "33333333333333333333333333333333"
	h4 = "44444444444444444444444444444444"
)

// rig is an authority with a clock that the test turns.
type rig struct {
	*testing.T
	*Authority
	clock time.Time
	store *kv.Memory
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	now := func() time.Time { return r.clock }
	r.store = kv.NewMemory(now)
	r.Authority = New(r.store, "/fleet/pki/", now)
	ca, err := pki.NewCA(r.clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Publish(t.Context(), ca, h1, "10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) token(t Token, ttl time.Duration) pki.Token {
	r.Helper()
	printed, _, err := r.Create(r.Context(), t, ttl, []string{"10.0.0.1:2378"})
	if err != nil {
		r.Fatal(err)
	}
	return printed
}

// request is a certificate request of a fresh key.
func request(t *testing.T) []byte {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.NewRequest(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (r *rig) join(token pki.Token, machine string, text []byte) (Grant, error) {
	return r.Join(r.Context(), Join{ID: token.ID, Secret: token.Secret, Request: text, Machine: machine, Clock: r.clock})
}

func (r *rig) says(what string, err error, words string) {
	r.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		r.Errorf("%s: %v, want %q", what, err, words)
	}
}

// A token for hosts lets nobody take the place of a machine that is there: of a new machine any ID is believed, of an old one its key.
func TestAMachineIsWhoHasItsKey(t *testing.T) {
	r := newRig(t)
	many := r.token(Token{Role: pki.Host, Uses: 100}, 365*24*time.Hour)
	text := request(t)
	if _, err := r.join(many, h2, text); err != nil {
		t.Fatal(err)
	}
	for machine, who := range map[string]string{h2: "a host that joined", h1: "the first host, which made its certificate itself"} {
		_, err := r.join(many, machine, request(t))
		r.says(who, err, "fleetctl join-token create --name "+machine)
		if !errors.Is(err, fleet.ErrForbidden) {
			t.Errorf("%s: %v is no refusal", who, err)
		}
	}
	again := r.token(Token{Role: pki.Host, Uses: 1}, time.Hour)
	if _, err := r.join(again, h2, text); err != nil {
		t.Errorf("with its key, by another token: %v", err)
	}
	if list, err := r.Tokens(t.Context()); err != nil || list[len(list)-1].Used != 1 {
		t.Errorf("refusals used the token up: %+v %v", list, err)
	}

	anew := r.token(Token{Role: pki.Host, Name: h2, Uses: 1}, time.Hour)
	_, err := r.join(anew, h3, request(t))
	r.says("another machine by a token for one", err, "it is for machine "+h2)
	g, err := r.join(anew, h2, request(t))
	if err != nil || g.Identity.Name != h2 {
		t.Errorf("set up anew, by a token made for it: %+v %v", g.Identity, err)
	}
	_, err = r.join(many, h2, text)
	if err != nil {
		t.Errorf("who has joined by this token before: %v", err)
	}
	_, _, err = r.Create(t.Context(), Token{Role: pki.Host, Name: "h2", Uses: 1}, time.Hour, []string{"x"})
	r.says("a name that is no machine ID", err, "whose machine ID")

	// One that was away until its certificate had ended is as good as new.
	r.clock = r.clock.Add(300 * 24 * time.Hour)
	if _, err := r.join(many, h2, request(t)); err != nil {
		t.Errorf("after the end of its certificate: %v", err)
	}
}

func TestATokenIsGoodAsOftenAndAsLongAsItSays(t *testing.T) {
	r := newRig(t)
	twice := r.token(Token{Role: pki.Host, Uses: 2}, time.Hour)
	text := request(t)
	g, err := r.join(twice, h2, text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pki.Identity{Role: pki.Host, Name: h2}, g.Identity); diff != "" {
		t.Error(diff)
	}
	if _, err := r.join(twice, h2, text); err != nil {
		t.Errorf("the same host asks again, because the answer was lost: %v", err)
	}
	if _, err := r.join(twice, h3, request(t)); err != nil {
		t.Error(err)
	}
	_, err = r.join(twice, h4, request(t))
	r.says("a third", err, "used up (2 of 2)")
	_, err = r.join(twice, h4, text)
	r.says("a key that has joined, for another machine", err, "used up")
	if _, err := r.join(twice, h2, text); err != nil {
		t.Errorf("a used-up token for who has used it: %v", err)
	}
	if !errors.Is(err, fleet.ErrForbidden) {
		t.Errorf("%v is no refusal", err)
	}

	short := r.token(Token{Role: pki.Host, Uses: 1}, time.Minute)
	r.clock = r.clock.Add(2 * time.Minute)
	_, err = r.join(short, h4, request(t))
	r.says("late", err, "it ended on 2026-03-01 12:01 UTC: ask for a new one")

	revoked := r.token(Token{Role: pki.Host, Uses: 5}, time.Hour)
	if _, err := r.join(revoked, h2, text); err != nil {
		t.Error(err)
	}
	if err := r.Revoke(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	_, err = r.join(revoked, h2, text)
	r.says("revoked", err, "it was revoked")
	r.says("revoking nothing", r.Revoke(t.Context(), "nothing"), "not found")

	wrong := r.token(Token{Role: pki.Host, Uses: 1}, time.Hour)
	wrong.Secret = short.Secret
	_, err = r.join(wrong, h4, request(t))
	r.says("another token's secret", err, "does not know this token")
	wrong.ID = "aaaaaaaa"
	_, err2 := r.join(wrong, h4, request(t))
	if err2 == nil || err2.Error() != err.Error() {
		t.Errorf("an unknown ID is told from a wrong secret: %v and %v", err, err2)
	}
	list, err := r.Tokens(t.Context())
	if err != nil || len(list) != 1 || list[0].Used != 0 {
		t.Errorf("%+v %v", list, err)
	}
	kvs, _, err := r.store.Range(t.Context(), "/fleet/pki/tokens/")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs[0] {
		if strings.Contains(string(kv.Value), short.Secret) || strings.Contains(string(kv.Value), twice.Secret) {
			t.Errorf("a secret is stored: %s", kv.Value)
		}
	}
}

func TestAWrongClockIsToldBeforeItDoesHarm(t *testing.T) {
	r := newRig(t)
	token := r.token(Token{Role: pki.Host, Uses: 1}, time.Hour)
	for _, d := range []time.Duration{-time.Hour, time.Hour} {
		_, err := r.Join(t.Context(), Join{ID: token.ID, Secret: token.Secret, Request: request(t), Machine: h2, Clock: r.clock.Add(d)})
		r.says(fmt.Sprint(d), err, "set it right (timedatectl")
	}
	if _, err := r.Join(t.Context(), Join{ID: token.ID, Secret: token.Secret, Request: request(t), Machine: h2, Clock: r.clock.Add(time.Minute)}); err != nil {
		t.Errorf("the refused ones have used it up: %v", err)
	}
}

func TestTokensThatCannotBe(t *testing.T) {
	r := newRig(t)
	for words, row := range map[string]struct {
		t   Token
		ttl time.Duration
	}{
		"use host, admin":        {Token{Role: pki.Voter, Uses: 1}, time.Hour},
		"use 1 to 10000":         {Token{Role: pki.Host}, time.Hour},
		"one minute to one year": {Token{Role: pki.Host, Uses: 1}, time.Second},
		"only hosts vote":        {Token{Role: pki.Admin, Uses: 1, NoVote: true}, time.Hour},
		"use at most 64":         {Token{Role: pki.Admin, Uses: 1, Name: "a/b"}, time.Hour},
	} {
		_, _, err := r.Create(t.Context(), row.t, row.ttl, []string{"h:1"})
		r.says(words, err, words)
		if !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%v is not the user's fault", err)
		}
	}
	_, _, err := r.Create(t.Context(), Token{Role: pki.Host, Uses: 1}, time.Hour, nil)
	r.says("nobody listens", err, "set member_ip")
}

func TestSeatsAreGivenWhileThereIsRoom(t *testing.T) {
	r := newRig(t)
	members := []string{"10.0.0.1"}
	ask := func(machine, addr string) bool {
		t.Helper()
		g, ok, err := r.Seat(t.Context(), pki.Identity{Role: pki.Host, Name: machine}, request(t), addr, members, 3)
		if err != nil {
			t.Fatal(err)
		}
		if ok != (g.Identity.Role == pki.Voter) {
			t.Errorf("a seat %v comes with %v", ok, g.Identity)
		}
		return ok
	}
	if !ask(h2, "10.0.0.2") || !ask(h3, "10.0.0.3") {
		t.Error("the second and the third of three get no seat")
	}
	if ask(h4, "10.0.0.4") {
		t.Error("a fourth gets one")
	}
	if !ask(h2, "10.0.0.2") {
		t.Error("who has one and asks again gets none")
	}
	members = []string{"10.0.0.1", "10.0.0.2"}
	if ask(h4, "10.0.0.4") {
		t.Error("a seat that was granted a moment ago is given again")
	}
	r.clock = r.clock.Add(3 * time.Minute)
	if !ask(h4, "10.0.0.4") {
		t.Error("a seat that nobody came for is kept for ever")
	}
	members = []string{"10.0.0.1", "10.0.0.2", "10.0.0.4"}
	if ask(h3, "10.0.0.3") {
		t.Error("it is given twice")
	}
	if ask(h3, "10.0.0.2") {
		t.Error("a machine gets the seat of another by its address")
	}
	members = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} // the leader has put h3 in the place of h4
	if !ask(h3, "10.0.0.3") {
		t.Error("a host that the leader has taken in gets no certificate for it")
	}
	if _, ok, err := r.Seat(t.Context(), pki.Identity{Role: pki.Host, Name: h2, NoVote: true}, request(t), "10.0.0.2", members[:1], 3); ok || err != nil {
		t.Errorf("a host that never votes: %v %v", ok, err)
	}
	if _, ok, err := r.Seat(t.Context(), pki.Identity{Role: pki.Admin, Name: "ann"}, request(t), "10.0.0.2", members[:1], 3); ok || err != nil {
		t.Errorf("a person: %v %v", ok, err)
	}
}

func TestAVoterWithoutASeatBecomesAHost(t *testing.T) {
	r := newRig(t)
	for machine, want := range map[string]pki.Role{h1: pki.Voter, h2: pki.Host} {
		g, err := r.Renew(t.Context(), pki.Identity{Role: pki.Voter, Name: machine}, request(t))
		if err != nil || g.Identity.Role != want {
			t.Errorf("%s: %v %v", machine, g.Identity, err)
		}
	}
	g, err := r.Renew(t.Context(), pki.Identity{Role: pki.Host, Name: h1}, request(t))
	if err != nil || g.Identity.Role != pki.Host {
		t.Errorf("a host becomes a voter by renewing: %v %v", g.Identity, err)
	}
}

func TestRotationWaitsForMachines(t *testing.T) {
	r := newRig(t)
	renew := func(id pki.Identity) Grant {
		t.Helper()
		g, err := r.Own(t.Context(), id, request(t))
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	one, two := pki.Identity{Role: pki.Voter, Name: h1}, pki.Identity{Role: pki.Host, Name: h2}
	renew(one)
	renew(two)
	renew(pki.Identity{Role: pki.Host, Name: h3}) // is not registered any more
	renew(pki.Identity{Role: pki.Viewer, Name: "ann"})
	machines := []string{h1, h2}
	s, err := r.Rotate(t.Context())
	if err != nil || s.Generation != 2 || len(s.Bundle) != 2 || s.Rotating.IsZero() {
		t.Fatalf("%+v %v", s, err)
	}
	if again, err := r.Rotate(t.Context()); err != nil || again.Generation != 2 {
		t.Errorf("a rotation under way is begun again: %+v %v", again, err)
	}
	g := renew(one)
	if len(g.Chain) != 4 || g.Chain[0].CheckSignatureFrom(s.Bundle[0]) != nil || g.Chain[1].CheckSignatureFrom(s.Bundle[1]) != nil {
		t.Errorf("a chain of %d does not lead to both", len(g.Chain))
	}
	late, people, err := r.Late(t.Context(), s.Generation, machines)
	if diff := cmp.Diff([][]string{{h2}, {"ann@viewer"}}, [][]string{late, people}); err != nil || diff != "" {
		t.Error(err, diff)
	}
	_, err = r.Finish(t.Context(), machines, false)
	r.says("too early", err, h2)
	_, err = r.Finish(t.Context(), []string{h1, h4}, false)
	r.says("a machine that has made its own certificate", err, h4)
	renew(two)
	if s, err = r.Finish(t.Context(), machines, false); err != nil || len(s.Bundle) != 1 || !s.Rotating.IsZero() || s.Generation != 2 {
		t.Fatalf("%+v %v", s, err)
	}
	if g := renew(two); len(g.Chain) != 2 {
		t.Errorf("the chain has %d still", len(g.Chain))
	}
	if s, err = r.Finish(t.Context(), machines, false); err != nil || s.Generation != 2 {
		t.Errorf("finishing twice: %+v %v", s, err)
	}
}

func TestWhatEndedLongAgoIsForgotten(t *testing.T) {
	r := newRig(t)
	r.token(Token{Role: pki.Host, Uses: 1}, time.Hour)
	if _, err := r.Own(t.Context(), pki.Identity{Role: pki.Viewer, Name: "ann"}, request(t)); err != nil {
		t.Fatal(err)
	}
	keys := func() int {
		kvs, _, err := r.store.Range(t.Context(), "/fleet/pki/")
		if err != nil {
			t.Fatal(err)
		}
		return len(kvs[0])
	}
	r.clock = r.clock.Add(6 * 24 * time.Hour)
	r.token(Token{Role: pki.Host, Uses: 1}, time.Hour)
	if n := keys(); n != 6 { // CA, seats, two tokens, one certificate by name and by key
		t.Errorf("%d keys", n)
	}
	r.clock = r.clock.Add(60 * 24 * time.Hour)
	r.token(Token{Role: pki.Host, Uses: 1}, time.Hour)
	if n := keys(); n != 3 {
		t.Errorf("%d keys", n)
	}
}

func TestSeedsBecomeTheCluster(t *testing.T) {
	clock := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	seed, token, err := NewSeed(clock, 3, time.Hour, []string{"10.0.0.1:2378"})
	if err != nil {
		t.Fatal(err)
	}
	ca, tokens, err := seed.Parse()
	if err != nil || len(tokens) != 1 {
		t.Fatal(tokens, err)
	}
	a := New(kv.NewMemory(func() time.Time { return clock }), "/p/", func() time.Time { return clock })
	if _, err := a.State(t.Context()); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("a store without a CA: %v", err)
	}
	if _, err := a.Publish(t.Context(), ca, h1, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a crash in between does it twice
		if err := a.Seeded(t.Context(), tokens[0]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Join(t.Context(), Join{ID: token.ID, Secret: token.Secret, Request: request(t), Machine: h2}); err != nil {
		t.Error(err)
	}
	other, err := pki.NewCA(clock)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Publish(t.Context(), other, h2, "")
	if err != nil || !s.Bundle[0].Equal(ca.Cert) {
		t.Errorf("a second CA takes the place of the first: %v", err)
	}
}
