package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/authority"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/registry"
)

// town is a cluster as far as certificates go: one voter that answers on a port, a store in memory, and a clock that the test turns.
type town struct {
	*testing.T
	clock time.Time
	store *kv.Memory
	first *trust
	addr  string
}

const (
	idA = fleet.MachineID("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	idB = fleet.MachineID("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
	idC = fleet.MachineID("cccccccccccccccccccccccccccccccc")
)

func (w *town) now() time.Time { return w.clock }

// host is the trust of a machine with its files in dir.
func (w *town) host(dir string, id fleet.MachineID, token string) *trust {
	w.Helper()
	t, err := newTrust(Config{DataDir: dir}, id, token, w.now, slog.New(slog.DiscardHandler))
	if err != nil {
		w.Fatal(err)
	}
	t.addrs = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }
	t.addr = func() string { return "10.0.0.1" }
	t.authority = authority.New(w.store, "/fleet/pki/", w.now)
	return t
}

func newTown(t *testing.T) *town {
	w := &town{T: t, clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.store = kv.NewMemory(w.now)
	w.first = w.host(t.TempDir(), idA, "")
	if stores, err := w.first.admit(t.Context()); err != nil || stores != nil {
		t.Fatal(stores, err)
	}
	if err := w.first.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	m, err := member.New(member.Config{Dir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "s"), Size: 3}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Client().Close() })
	h := &host{cfg: Config{ClusterSize: 3}, log: log, member: m, registry: registry.New(w.store, "/fleet/", log), trust: w.first}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), Handler: api.NewHandler(api.Config{
		Registry: h.registry, Version: "1", Caller: h.caller, More: office{h, w.first.authority}.routes(),
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(h.secured(l)) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	w.addr = l.Addr().String()
	return w
}

func (w *town) token(t authority.Token) string {
	w.Helper()
	if t.Uses == 0 {
		t.Uses = 1
	}
	printed, _, err := w.first.authority.Create(w.Context(), t, time.Hour, []string{w.addr})
	if err != nil {
		w.Fatal(err)
	}
	return printed.String()
}

// joined is a host that has come in by a token.
func (w *town) joined(dir string, id fleet.MachineID, t authority.Token) *trust {
	w.Helper()
	h := w.host(dir, id, w.token(t))
	if _, err := h.admit(w.Context()); err != nil {
		w.Fatal(err)
	}
	return h
}

func (w *town) is(t *trust, want pki.Identity) {
	w.Helper()
	if got := t.identity(); got != want {
		w.Errorf("it is %v, want %v", got, want)
	}
}

func TestAFirstHostMakesTheCAAndGivesItAway(t *testing.T) {
	w := newTown(t)
	w.is(w.first, pki.Identity{Role: pki.Voter, Name: string(idA)})
	if _, err := os.Stat(filepath.Join(w.first.dir, "seed.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the CA is still in its file: %v", err)
	}
	entries, err := os.ReadDir(w.first.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", e.Name(), err)
		}
	}
	// A start after a crash before the CA was in the store goes on with the same.
	dir := t.TempDir()
	one := w.host(dir, idB, "")
	if err := one.beFirst(); err != nil {
		t.Fatal(err)
	}
	ca, _ := one.holder.Get()
	two := w.host(dir, idB, "")
	if err := two.beFirst(); err != nil {
		t.Fatal(err)
	}
	if again, _ := two.holder.Get(); !again.Bundle[0].Equal(ca.Bundle[0]) {
		t.Error("another CA")
	}
}

func TestAHostJoinsTakesASeatAndIsFoundAgain(t *testing.T) {
	w := newTown(t)
	dir := t.TempDir()
	h := w.joined(dir, idB, authority.Token{Role: pki.Host})
	w.is(h, pki.Identity{Role: pki.Host, Name: string(idB)})
	again := w.host(dir, idB, "")
	if _, err := again.admit(t.Context()); err != nil {
		t.Errorf("a restart needs the token again: %v", err)
	}
	if ok, err := again.seat(t.Context()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	w.is(again, pki.Identity{Role: pki.Voter, Name: string(idB)})
	never := w.joined(t.TempDir(), idC, authority.Token{Role: pki.Host, NoVote: true})
	if ok, err := never.seat(t.Context()); err != nil || ok {
		t.Errorf("a host that never votes gets a seat: %v %v", ok, err)
	}
	w.is(never, pki.Identity{Role: pki.Host, Name: string(idC), NoVote: true})
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	w := newTown(t)
	used := w.token(authority.Token{Role: pki.Host})
	if _, err := w.host(t.TempDir(), idB, used).admit(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewCA(w.clock)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := pki.ParseToken(w.token(authority.Token{Role: pki.Host}))
	if err != nil {
		t.Fatal(err)
	}
	foreign.CA = pki.Hash(other.Cert)
	late := w.token(authority.Token{Role: pki.Host})
	for words, token := range map[string]string{"used up (1 of 1): ask for a new one": used, "is of another cluster": foreign.String(), "copy it whole": used[:40]} {
		if _, err := w.host(t.TempDir(), idC, token).admit(t.Context()); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
	w.clock = w.clock.Add(2 * time.Hour)
	if _, err := w.host(t.TempDir(), idC, late).admit(t.Context()); err == nil || !strings.Contains(err.Error(), "it ended on 2026-03-01 13:00 UTC") {
		t.Errorf("late: %v", err)
	}
}

func TestCertificatesAreRenewedAtTwoThirdsOfTheirLife(t *testing.T) {
	w := newTown(t)
	h := w.joined(t.TempDir(), idB, authority.Token{Role: pki.Host})
	for name, one := range map[string]*trust{"voter, in the store": w.first, "host, over the API": h} {
		begin := w.clock
		cred, _ := one.holder.Get()
		was := cred.Chain[0]
		if err := one.turn(t.Context(), cred.Bundle); err != nil || !one.holder.Leaf().Equal(was) {
			t.Errorf("%s: renewed at once: %v", name, err)
		}
		w.clock = begin.Add(59 * 24 * time.Hour)
		if err := one.turn(t.Context(), cred.Bundle); err != nil || !one.holder.Leaf().Equal(was) {
			t.Errorf("%s: renewed early: %v", name, err)
		}
		if wait := one.untilRenewal(); wait <= 0 || wait > 24*time.Hour {
			t.Errorf("%s: looked at again after %v", name, wait)
		}
		w.clock = begin.Add(61 * 24 * time.Hour)
		if err := one.turn(t.Context(), cred.Bundle); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if now := one.holder.Leaf(); now.Equal(was) || now.NotAfter.Sub(w.clock) < 89*24*time.Hour {
			t.Errorf("%s: good until %v", name, now.NotAfter)
		}
		w.clock = begin
	}
}

func TestWhatEndedWhileTheHostWasOff(t *testing.T) {
	w := newTown(t)
	dir := t.TempDir()
	w.joined(dir, idB, authority.Token{Role: pki.Host})
	w.clock = w.clock.Add(100 * 24 * time.Hour)
	if _, err := w.host(dir, idB, "").admit(t.Context()); err == nil || !strings.Contains(err.Error(), "its certificate ended on 2026-05-30") ||
		!strings.Contains(err.Error(), "fleetctl join TOKEN") {
		t.Errorf("without a token: %v", err)
	}
	// The voter's certificate has ended as well; it has the CA.
	again := w.host(filepath.Dir(w.first.dir), idA, "")
	if _, err := again.admit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := again.holder.Leaf().NotAfter.Sub(w.clock); left < 80*24*time.Hour {
		t.Errorf("good for %v", left)
	}
	// Set back, a clock is the fault, not the certificate.
	w.clock = w.clock.Add(-200 * 24 * time.Hour)
	if _, err := again.admit(t.Context()); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("a clock that is behind: %v", err)
	}
}

func TestAChangedMachineIDNeedsANewCertificate(t *testing.T) {
	w := newTown(t)
	dir := t.TempDir()
	w.joined(dir, idB, authority.Token{Role: pki.Host})
	if _, err := w.host(dir, idC, "").admit(t.Context()); err == nil || !strings.Contains(err.Error(), "which has changed since") {
		t.Errorf("%v", err)
	}
	h := w.joined(dir, idC, authority.Token{Role: pki.Host})
	w.is(h, pki.Identity{Role: pki.Host, Name: string(idC)})
}

func TestRotationReachesHostsAndIsAskedFor(t *testing.T) {
	w := newTown(t)
	h := w.joined(t.TempDir(), idB, authority.Token{Role: pki.Host})
	s, err := w.first.authority.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old := h.holder.Leaf()
	for _, one := range []*trust{w.first, h} {
		if err := one.turn(t.Context(), s.Bundle); err != nil {
			t.Fatal(err)
		}
		if err := one.holder.Leaf().CheckSignatureFrom(s.Bundle[0]); err != nil {
			t.Errorf("%s: %v", one.machine, err)
		}
	}
	if s, err = w.first.authority.Finish(t.Context(), []string{string(idA), string(idB)}, false); err != nil {
		t.Fatal(err)
	}
	for _, one := range []*trust{w.first, h} {
		if err := one.turn(t.Context(), s.Bundle); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.ask(func(c *api.Client) error { _, err := c.WhoAmI(t.Context()); return err }); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
	if err := w.first.holder.Verify([]*x509.Certificate{old}); err == nil {
		t.Error("a certificate of the old CA is good still")
	}
}

func TestTheStoreOpensByRole(t *testing.T) {
	w := newTown(t)
	h := &host{registry: registry.New(w.store, "/fleet/", slog.New(slog.DiscardHandler)), trust: w.first}
	host := w.joined(t.TempDir(), idB, authority.Token{Role: pki.Host})
	if a, err := h.access(w.first.holder.Leaf()); err != nil || !a.All {
		t.Errorf("a voter: %+v %v", a, err)
	}
	if a, err := h.access(host.holder.Leaf()); err != nil || a.All || len(a.Read) == 0 || a.MineText != string(idB) {
		t.Errorf("a host: %+v %v", a, err)
	}
	ca, err := pki.NewCA(w.clock)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.NewRequest(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	person, err := ca.Issue(r, pki.Identity{Role: pki.Admin, Name: "ann"}, w.clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.access(person); err == nil || !strings.Contains(err.Error(), "people use the API") {
		t.Errorf("a person: %v", err)
	}
	// Somebody with a certificate of another CA is nobody, also on a connection that stands.
	if c := h.byCertificate(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{person}}, "x"); c.Role != api.Nobody {
		t.Errorf("%+v", c)
	}
}

func TestTokensAreFoundWhereTheyAre(t *testing.T) {
	read := func(name string) ([]byte, error) {
		if name == "/run/creds/fleet.join-token" {
			return []byte("from systemd\n"), nil
		}
		return nil, os.ErrNotExist
	}
	for want, row := range map[string]struct {
		c   Config
		dir string
	}{
		"given":        {Config{JoinToken: "given"}, "/run/creds"},
		"from systemd": {Config{}, "/run/creds"},
		"":             {Config{}, "/run/other"},
	} {
		got, err := tokenOf(row.c, func(string) string { return row.dir }, read)
		if err != nil || got != want {
			t.Errorf("%q %v, want %q", got, err, want)
		}
	}
	token := pki.NewToken([32]byte{1}, []string{"h1:2378", "h2:2378"}).String()
	for _, arg := range []string{"--join=" + token, "--join-token=" + token} {
		c, _, err := parse(t, "", arg, "--member-ip=10.0.0.1")
		if err != nil || c.JoinToken != token || c.Join != nil {
			t.Errorf("%s: %q %q %v", arg, c.JoinToken, c.Join, err)
		}
	}
	for words, args := range map[string][]string{
		"join by a token instead": {"--join=10.0.0.2", "--member-ip=10.0.0.1"},
		"copy it whole":           {"--join-token=x", "--member-ip=10.0.0.1"},
		"do not go together":      {"--join-token=" + token, "--member-ip=10.0.0.1", "--insecure"},
		"set member_ip":           {"--join-token=" + token},
	} {
		if _, _, err := parse(t, "", args...); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: %v, want %q", args, err, words)
		}
	}
}

// A certificate that is revoked is told so on the API, renews nothing, and hosts that do not hold the store hear of it.
func TestARevokedCertificateIsRefusedInWordsAndHostsHearOfIt(t *testing.T) {
	w := newTown(t)
	other := w.joined(t.TempDir(), idB, authority.Token{Role: pki.Host})
	third := w.joined(t.TempDir(), idC, authority.Token{Role: pki.Host})
	gone, err := w.first.authority.RevokeCertificate(t.Context(), string(idB), pki.Identity{Role: pki.Admin, Name: "root"}, "admin root", false)
	if err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	if err := w.first.holder.SetRevoked(gone); err != nil {
		t.Fatal(err)
	}
	err = other.ask(func(c *api.Client) error { _, err := c.WhoAmI(t.Context()); return err })
	if err == nil || !strings.Contains(err.Error(), "the certificate was revoked on 2026-03-01 12:00 UTC") {
		t.Errorf("it is told %v", err)
	}
	if err := other.renew(t.Context()); err == nil || !strings.Contains(err.Error(), "was revoked on") {
		t.Errorf("it renews: %v", err)
	}
	var ca api.CA
	if err := third.ask(func(c *api.Client) (err error) { ca, err = c.CA(t.Context(), "x", ""); return err }); err != nil {
		t.Fatal(err)
	}
	list := revokedOf(ca.Revoked)
	if len(list) != 1 || !list[0].Covers(other.holder.Leaf()) || list[0].Covers(third.holder.Leaf()) || ca.RevokedID == "" || list[0].By != "" {
		t.Errorf("others hear %+v", ca)
	}
}
