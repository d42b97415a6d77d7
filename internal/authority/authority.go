package authority

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pki"
)

// Authority is safe for use by many goroutines, and on all voters at once: every write is guarded by what it was decided on.
type Authority struct {
	store  kv.Store
	prefix string
	now    func() time.Time
}

// New returns the authority whose keys are under prefix, which must end in "/". now is the clock.
func New(store kv.Store, prefix string, now func() time.Time) *Authority {
	return &Authority{store, prefix, now}
}

// tries is how often a write is decided anew when another was faster.
const tries = 10

// caRecord is the CA as stored.
type caRecord struct {
	V          int       `json:"v"`
	Generation int       `json:"generation"`        // 1 for the first CA
	Key        string    `json:"key"`               // of the newest, PEM
	Bundle     []string  `json:"bundle"`            // authorities to be believed, newest first, PEM
	Cross      string    `json:"cross,omitempty"`   // the newest, signed by the one before, while both are believed
	Rotating   time.Time `json:"rotating,omitzero"` // since when
}

// State is the CA as everybody may know it.
type State struct {
	Generation int
	Bundle     []*x509.Certificate
	Rotating   time.Time // zero: no rotation is under way
	Rev        int64
	Revoked    []pki.Revoked // certificates that count for nothing, by their keys in the store

	ca    pki.CA
	cross *x509.Certificate
	at    int64 // the store's revision that it was read at
}

// Grant is a certificate with what goes with it.
type Grant struct {
	Chain      []*x509.Certificate
	Bundle     []*x509.Certificate
	Generation int
	Identity   pki.Identity
}

// Publish puts the first CA into the store if there is none, and gives the machine that made it its seat. It returns what the store holds then: another
// cluster's CA is no error here.
func (a *Authority) Publish(ctx context.Context, ca pki.CA, machine, addr string) (State, error) {
	key, err := pki.KeyPEM(ca.Key)
	if err != nil {
		return State{}, err
	}
	rec := caRecord{V: 1, Generation: 1, Key: string(key), Bundle: []string{string(pki.CertsPEM(ca.Cert))}}
	seats := seatsRecord{V: 1, Seats: map[string]seat{machine: {Addr: addr, At: a.now()}}}
	_, _, err = a.store.Txn(ctx,
		[]kv.Guard{{Key: a.caKey(), Kind: kv.Missing}, {Key: a.seatsKey(), Kind: kv.Missing}},
		[]kv.Op{put(a.caKey(), rec), put(a.seatsKey(), seats)})
	if err != nil {
		return State{}, fmt.Errorf("publish the CA: %w", err)
	}
	return a.State(ctx)
}

// State reads the CA. fleet.ErrNotFound: the store has none yet.
func (a *Authority) State(ctx context.Context) (State, error) {
	kvs, rev, err := a.store.Range(ctx, a.caKey(), a.revokedPrefix())
	if err != nil {
		return State{}, fmt.Errorf("read the cluster's CA: %w", unreachable(err))
	}
	if len(kvs[0]) == 0 {
		return State{}, fmt.Errorf("read the cluster's CA: %w: it comes with the first host", fleet.ErrNotFound)
	}
	var rec caRecord
	if err := json.Unmarshal(kvs[0][0].Value, &rec); err != nil {
		return State{}, fmt.Errorf("read the cluster's CA: %s: %w", a.caKey(), err)
	}
	s, err := parse(rec, kvs[0][0].Mod)
	s.at = rev
	s.Revoked = a.revocations(kvs[1])
	return s, err
}

func parse(rec caRecord, rev int64) (State, error) {
	s := State{Generation: rec.Generation, Rotating: rec.Rotating, Rev: rev}
	for _, text := range rec.Bundle {
		list, err := pki.ParseCerts([]byte(text))
		if err != nil {
			return s, fmt.Errorf("read the cluster's CA: %w", err)
		}
		s.Bundle = append(s.Bundle, list...)
	}
	if len(s.Bundle) == 0 {
		return s, errors.New("read the cluster's CA: its record holds none")
	}
	key, err := pki.ParseKey([]byte(rec.Key))
	if err != nil {
		return s, fmt.Errorf("read the cluster's CA: %w", err)
	}
	s.ca = pki.CA{Cert: s.Bundle[0], Key: key}
	if rec.Cross != "" {
		list, err := pki.ParseCerts([]byte(rec.Cross))
		if err != nil {
			return s, fmt.Errorf("read the cluster's CA: %w", err)
		}
		s.cross = list[0]
	}
	return s, nil
}

// Watch calls each with the CA as it is and after every change, until ctx ends or the store says that it must be called again.
func (a *Authority) Watch(ctx context.Context, each func(State)) error {
	// The store's revision, not the record's: that is as old as the cluster, and its history is forgotten.
	_, rev, err := a.store.Range(ctx, a.caKey())
	if err != nil {
		return fmt.Errorf("read the cluster's CA: %w", unreachable(err))
	}
	s, err := a.State(ctx)
	if err != nil {
		return err
	}
	each(s)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for b := range a.store.Watch(ctx, rev+1, a.caKey(), a.revokedPrefix()) {
		if b.Err != nil {
			return b.Err
		}
		if b.Rev <= s.at {
			continue // told already: it came between the two reads
		}
		next, err := a.State(ctx)
		switch {
		case err == nil:
			s = next
			each(s)
		case errors.Is(err, fleet.ErrNoStore):
			return err
		}
		// A record that cannot be read: State says so to whoever needs it.
	}
	return ctx.Err()
}

// issue signs and notes it: for a machine or person, and for the key, whose renewals overwrite the note. token is the one that it is for; empty: that of
// the certificate that it renews.
func (a *Authority) issue(ctx context.Context, s State, r pki.Request, id pki.Identity, token string) (Grant, error) {
	at, err := s.mayIssue(r, id, a.now())
	if err != nil {
		return Grant{}, err
	}
	cert, err := s.ca.Issue(r, id, at)
	if err != nil {
		return Grant{}, err
	}
	g := Grant{Chain: []*x509.Certificate{cert}, Bundle: s.Bundle, Generation: s.Generation, Identity: id}
	if s.cross != nil {
		g.Chain = append(g.Chain, s.cross)
	}
	// The authorities themselves are no part of a chain, but tokens pin them by their hash and learn them from the handshake.
	g.Chain = append(g.Chain, s.Bundle...)
	note := issuedRecord{V: 1, Role: id.Role, Generation: s.Generation, Serial: cert.SerialNumber.Text(16), Key: r.KeyHash(), NotAfter: cert.NotAfter, At: at}
	held := heldRecord{V: 1, Role: id.Role, Name: id.Name, Serial: note.Serial, Token: token, NotAfter: note.NotAfter, At: note.At}
	if token == "" {
		before, known, err := get[heldRecord](ctx, a.store, a.heldKey(note.Key))
		if err == nil && known == 0 {
			err = a.roomFor(ctx, id)
		}
		if err != nil {
			return Grant{}, fmt.Errorf("note the certificate of %s: %w", id, err)
		}
		held.Token = before.Token
	}
	if _, _, err := a.store.Txn(ctx, nil, []kv.Op{put(a.issuedKey(id), note), put(a.heldKey(note.Key), held)}); err != nil {
		return Grant{}, fmt.Errorf("note the certificate of %s: %w", id, err)
	}
	return g, nil
}

type issuedRecord struct {
	V          int       `json:"v"`
	Role       pki.Role  `json:"role"`
	Generation int       `json:"generation"`
	Serial     string    `json:"serial"`
	Key        string    `json:"key,omitempty"` // hash of its key; empty: noted before that was noted
	NotAfter   time.Time `json:"notAfter"`
	At         time.Time `json:"at"`
}

func (a *Authority) caKey() string             { return a.prefix + "ca" }
func (a *Authority) seatsKey() string          { return a.prefix + "seats" }
func (a *Authority) tokenKey(id string) string { return a.prefix + "tokens/" + id }
func (a *Authority) issuedKey(id pki.Identity) string {
	if id.Role.IsHost() {
		return a.prefix + "issued/" + id.Name
	}
	return a.prefix + "issued/" + id.Name + "@" + string(id.Role)
}

func put(key string, v any) kv.Op {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own structs of strings, numbers and times
	}
	return kv.Op{Key: key, Value: b}
}

// get reads one record and its mod revision, which is 0 when there is none.
func get[T any](ctx context.Context, store kv.Store, key string) (rec T, rev int64, err error) {
	kvs, _, err := store.Range(ctx, key)
	if err != nil || len(kvs[0]) == 0 {
		return rec, 0, unreachable(err)
	}
	if err := json.Unmarshal(kvs[0][0].Value, &rec); err != nil {
		return rec, 0, fmt.Errorf("%s: %w", key, err)
	}
	return rec, kvs[0][0].Mod, nil
}

func unreachable(err error) error {
	if errors.Is(err, kv.ErrUnavailable) {
		return fmt.Errorf("%w: %w", fleet.ErrNoStore, err)
	}
	return err
}

// as guards a record to be as it was read.
func as(key string, rev int64) kv.Guard {
	if rev == 0 {
		return kv.Guard{Key: key, Kind: kv.Missing}
	}
	return kv.Guard{Key: key, Kind: kv.ModIs, Rev: rev}
}
