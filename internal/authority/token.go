package authority

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pki"
)

// Token is a join token as the cluster knows it: all but its secret.
type Token struct {
	ID      string    `json:"id"`
	Role    pki.Role  `json:"role"`
	Name    string    `json:"name,omitempty"`   // of the person it is for; with role host the one machine ID it is for
	NoVote  bool      `json:"noVote,omitempty"` // hosts that join by it never vote
	Uses    int       `json:"uses"`             // how many may join by it in all
	Used    int       `json:"used"`
	Expires time.Time `json:"expires"`
	Created time.Time `json:"created"`
	By      string    `json:"by,omitempty"` // who made it
	Hash    string    `json:"-"`            // of the secret
}

type tokenRecord struct {
	V int `json:"v"`
	Token
	Hash string `json:"hash"`
	// Keys are hashes of the keys that have joined: who asks again because the answer was lost uses nothing up.
	Keys    []string `json:"keys,omitempty"`
	Revoked bool     `json:"revoked,omitempty"`
}

// Limits of what a token can be.
const (
	DefaultTTL  = 24 * time.Hour
	MaxTTL      = 365 * 24 * time.Hour
	MaxUses     = 10000
	maxTokens   = 1000
	kept        = 7 * 24 * time.Hour // an ended token is kept that long, so that who comes with it hears why it does not work
	maxJoinSkew = 10 * time.Minute
)

// Create makes a token. Role and the rest are in t; ID, hash and times are filled in here. Endpoints are where voters listen.
func (a *Authority) Create(ctx context.Context, t Token, ttl time.Duration, endpoints []string) (pki.Token, Token, error) {
	s, err := a.State(ctx)
	if err != nil {
		return pki.Token{}, t, err
	}
	if len(endpoints) == 0 {
		return pki.Token{}, t, &fleet.InvalidError{What: "join token", Hint: "no voter of this cluster listens for others: set member_ip in fleet.conf, restart fleetd and try again"}
	}
	if err := checkToken(&t, ttl); err != nil {
		return pki.Token{}, t, err
	}
	if err := a.sweep(ctx); err != nil {
		return pki.Token{}, t, err
	}
	printed := pki.NewToken(pki.Hash(s.ca.Cert), endpoints)
	t.ID, t.Hash, t.Used = printed.ID, pki.SecretHash(printed.Secret), 0
	t.Created, t.Expires = a.now().UTC(), a.now().Add(ttl).UTC()
	_, ok, err := a.store.Txn(ctx, []kv.Guard{{Key: a.tokenKey(t.ID), Kind: kv.Missing}}, []kv.Op{put(a.tokenKey(t.ID), tokenRecord{V: 1, Token: t, Hash: t.Hash})})
	if err == nil && !ok {
		err = fleet.ErrConflict
	}
	if err != nil {
		return pki.Token{}, t, fmt.Errorf("create a join token: %w", unreachable(err))
	}
	return printed, t, nil
}

func checkToken(t *Token, ttl time.Duration) error {
	if _, err := pki.ParseRole(string(t.Role)); err != nil {
		return &fleet.InvalidError{What: fmt.Sprintf("role %q", t.Role), Hint: "use host, admin, operator or viewer"}
	}
	if t.Uses < 1 || t.Uses > MaxUses {
		return &fleet.InvalidError{What: fmt.Sprintf("number of uses %d", t.Uses), Hint: fmt.Sprintf("use 1 to %d", MaxUses)}
	}
	if ttl < time.Minute || ttl > MaxTTL {
		return &fleet.InvalidError{What: fmt.Sprintf("lifetime %v", ttl), Hint: "use one minute to one year"}
	}
	if t.Role == pki.Host {
		if t.Name != "" && !pki.IsMachine(t.Name) {
			return &fleet.InvalidError{What: fmt.Sprintf("name %q", t.Name), Hint: "a token for hosts is for all of them, or for the one whose machine ID (32 digits, from fleetctl list-machines -l) is its name"}
		}
		return nil
	}
	if t.NoVote {
		return &fleet.InvalidError{What: "token that never votes", Hint: "only hosts vote: use it with role host"}
	}
	if t.Name == "" {
		t.Name = string(t.Role)
	}
	if strings.ContainsFunc(t.Name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@", r)
	}) || len(t.Name) > 64 {
		return &fleet.InvalidError{What: fmt.Sprintf("name %q", t.Name), Hint: "use at most 64 letters, digits and .-_@"}
	}
	return nil
}

// Seeded takes over a token that was made before the cluster was (see Seed). One that is there stays as it is.
func (a *Authority) Seeded(ctx context.Context, t Token) error {
	_, _, err := a.store.Txn(ctx, []kv.Guard{{Key: a.tokenKey(t.ID), Kind: kv.Missing}}, []kv.Op{put(a.tokenKey(t.ID), tokenRecord{V: 1, Token: t, Hash: t.Hash})})
	if err != nil {
		return fmt.Errorf("take over a join token: %w", unreachable(err))
	}
	return nil
}

// Tokens lists the tokens that can be used, by the end of their life.
func (a *Authority) Tokens(ctx context.Context) ([]Token, error) {
	all, err := a.tokens(ctx)
	if err != nil {
		return nil, err
	}
	var list []Token
	for _, rec := range all {
		if a.spent(rec) == nil {
			list = append(list, rec.Token)
		}
	}
	slices.SortFunc(list, func(x, y Token) int { return x.Expires.Compare(y.Expires) })
	return list, nil
}

func (a *Authority) tokens(ctx context.Context) (map[string]tokenRecord, error) {
	kvs, _, err := a.store.Range(ctx, a.prefix+"tokens/")
	if err != nil {
		return nil, fmt.Errorf("read the join tokens: %w", unreachable(err))
	}
	all := map[string]tokenRecord{}
	for _, kv := range kvs[0] {
		var rec tokenRecord
		if json.Unmarshal(kv.Value, &rec) == nil {
			all[kv.Key] = rec
		}
	}
	return all, nil
}

// sweep forgets tokens and certificates that ended long ago, and refuses more tokens than a cluster can have use for.
func (a *Authority) sweep(ctx context.Context) error {
	all, err := a.tokens(ctx)
	if err != nil {
		return err
	}
	if len(all) >= maxTokens {
		return fmt.Errorf("create a join token: %w: there are %d: revoke some (fleetctl join-token list)", fleet.ErrConflict, len(all))
	}
	var ops []kv.Op
	for key, rec := range all {
		if a.now().After(rec.Expires.Add(kept)) && len(ops) < kv.MaxOps {
			ops = append(ops, kv.Op{Key: key, Delete: true})
		}
	}
	kvs, _, err := a.store.Range(ctx, a.prefix+"issued/", a.prefix+"held/", a.revokedPrefix())
	if err != nil {
		return fmt.Errorf("forget old certificates: %w", unreachable(err))
	}
	for _, e := range slices.Concat(kvs...) {
		var rec struct {
			NotAfter time.Time `json:"notAfter"`
			Until    time.Time `json:"until"`
		}
		if json.Unmarshal(e.Value, &rec) != nil {
			continue
		}
		if end := cmp.Or(rec.NotAfter, rec.Until); !end.IsZero() && a.now().After(end.Add(kept)) && len(ops) < kv.MaxOps {
			ops = append(ops, kv.Op{Key: e.Key, Delete: true})
		}
	}
	if len(ops) == 0 {
		return nil
	}
	slices.SortFunc(ops, func(x, y kv.Op) int { return strings.Compare(x.Key, y.Key) })
	if _, _, err := a.store.Txn(ctx, nil, ops); err != nil {
		return fmt.Errorf("forget old join tokens: %w", unreachable(err))
	}
	return nil
}

// Revoke ends a token. Who has joined by it stays.
func (a *Authority) Revoke(ctx context.Context, id string) error {
	what := "revoke join token " + id
	for range tries {
		rec, rev, err := get[tokenRecord](ctx, a.store, a.tokenKey(id))
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if rev == 0 || id == "" {
			return fmt.Errorf("%s: %w", what, fleet.ErrNotFound)
		}
		rec.Revoked = true
		_, ok, err := a.store.Txn(ctx, []kv.Guard{as(a.tokenKey(id), rev)}, []kv.Op{put(a.tokenKey(id), rec)})
		if err != nil {
			return fmt.Errorf("%s: %w", what, unreachable(err))
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", what, fleet.ErrConflict)
}

// spent is why a token cannot be used any more, for who holds it.
func (a *Authority) spent(rec tokenRecord) error {
	switch next := ": ask for a new one (fleetctl join-token create)"; {
	case rec.Revoked:
		return fmt.Errorf("join token %s: %w: it was revoked%s", rec.ID, fleet.ErrForbidden, next)
	case a.now().After(rec.Expires):
		return fmt.Errorf("join token %s: %w: it ended on %s%s", rec.ID, fleet.ErrForbidden, rec.Expires.Format("2006-01-02 15:04 UTC"), next)
	case rec.Used >= rec.Uses:
		return fmt.Errorf("join token %s: %w: it is used up (%d of %d)%s", rec.ID, fleet.ErrForbidden, rec.Used, rec.Uses, next)
	}
	return nil
}
