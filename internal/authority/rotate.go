package authority

import (
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

// Rotate makes a new CA, which issues from now on; the old one is believed until Finish. One that is under way goes on.
func (a *Authority) Rotate(ctx context.Context) (State, error) {
	for range tries {
		s, err := a.State(ctx)
		if err != nil || !s.Rotating.IsZero() {
			return s, err
		}
		next, err := pki.NewCA(a.now())
		if err != nil {
			return s, err
		}
		cross, err := s.ca.Cross(next)
		if err != nil {
			return s, err
		}
		key, err := pki.KeyPEM(next.Key)
		if err != nil {
			return s, err
		}
		rec := caRecord{
			V: 1, Generation: s.Generation + 1, Key: string(key), Rotating: a.now().UTC(),
			Bundle: []string{string(pki.CertsPEM(next.Cert)), string(pki.CertsPEM(s.ca.Cert))},
			Cross:  string(pki.CertsPEM(cross)),
		}
		if done, err := a.replace(ctx, s, rec); done || err != nil {
			return a.after(ctx, err)
		}
	}
	return State{}, fmt.Errorf("rotate the CA: %w", fleet.ErrConflict)
}

// Finish stops believing the old CA. It refuses while one of these machines has no certificate of the new one, unless force is set. People
// are not waited for: they may be away for weeks, and get a new token.
func (a *Authority) Finish(ctx context.Context, machines []string, force bool) (State, error) {
	for range tries {
		s, err := a.State(ctx)
		if err != nil || s.Rotating.IsZero() {
			return s, err
		}
		late, _, err := a.Late(ctx, s.Generation, machines)
		if err != nil {
			return s, err
		}
		if len(late) > 0 && !force {
			return s, fmt.Errorf("finish the rotation of the CA: %w: these still have certificates of the old one: %s", fleet.ErrConflict, strings.Join(late, ", "))
		}
		key, err := pki.KeyPEM(s.ca.Key)
		if err != nil {
			return s, err
		}
		rec := caRecord{V: 1, Generation: s.Generation, Key: string(key), Bundle: []string{string(pki.CertsPEM(s.ca.Cert))}}
		if done, err := a.replace(ctx, s, rec); done || err != nil {
			return a.after(ctx, err)
		}
	}
	return State{}, fmt.Errorf("finish the rotation of the CA: %w", fleet.ErrConflict)
}

func (a *Authority) replace(ctx context.Context, s State, rec caRecord) (bool, error) {
	_, ok, err := a.store.Txn(ctx, []kv.Guard{as(a.caKey(), s.Rev)}, []kv.Op{put(a.caKey(), rec)})
	if err != nil {
		return false, fmt.Errorf("rotate the CA: %w", unreachable(err))
	}
	return ok, nil
}

func (a *Authority) after(ctx context.Context, err error) (State, error) {
	if err != nil {
		return State{}, err
	}
	return a.State(ctx)
}

// Late lists those of the machines that have no certificate of that generation, and the people who have one of an older that is not at its end yet. A
// machine that is not asked for may be gone for good; it joins again with a token if it comes back.
func (a *Authority) Late(ctx context.Context, generation int, machines []string) (late, people []string, err error) {
	kvs, _, err := a.store.Range(ctx, a.prefix+"issued/")
	if err != nil {
		return nil, nil, fmt.Errorf("read who has which certificate: %w", unreachable(err))
	}
	has := map[string]bool{}
	for _, kv := range kvs[0] {
		var rec issuedRecord
		who := strings.TrimPrefix(kv.Key, a.prefix+"issued/")
		switch {
		case json.Unmarshal(kv.Value, &rec) != nil:
		case rec.Generation >= generation:
			has[who] = true
		case !rec.Role.IsHost() && a.now().Before(rec.NotAfter):
			people = append(people, who)
		}
	}
	for _, m := range machines {
		// One without any note has made its own: the first host, or one that came up after a long time.
		if !has[m] {
			late = append(late, m)
		}
	}
	slices.Sort(late)
	return late, people, nil
}

// Seed is a CA and a token that are made before the cluster is, so that all its hosts can be configured at once. The file
// belongs on the first host only, which takes it over and removes it.
type Seed struct {
	V      int    `json:"v"`
	CA     string `json:"ca"`  // certificate, PEM
	Key    string `json:"key"` // its key, PEM
	Tokens []struct {
		Token
		Hash string `json:"hash"`
	} `json:"tokens,omitempty"`
}

// EmptySeed makes a CA.
func EmptySeed(now time.Time) (Seed, error) {
	ca, err := pki.NewCA(now)
	if err != nil {
		return Seed{}, err
	}
	return seedOf(ca)
}

func seedOf(ca pki.CA) (Seed, error) {
	key, err := pki.KeyPEM(ca.Key)
	return Seed{V: 1, CA: string(pki.CertsPEM(ca.Cert)), Key: string(key)}, err
}

// Seed is the CA of a state as a seed: voters keep one beside the store.
func (s State) Seed() (Seed, error) { return seedOf(s.ca) }

// NewSeed makes a CA and one token for hosts.
func NewSeed(now time.Time, uses int, ttl time.Duration, endpoints []string) (Seed, pki.Token, error) {
	s, err := EmptySeed(now)
	if err != nil {
		return Seed{}, pki.Token{}, err
	}
	ca, _, err := s.Parse()
	if err != nil {
		return Seed{}, pki.Token{}, err
	}
	t := Token{Role: pki.Host, Uses: uses}
	if err := checkToken(&t, ttl); err != nil {
		return Seed{}, pki.Token{}, err
	}
	printed := pki.NewToken(pki.Hash(ca.Cert), endpoints)
	t.ID, t.Created, t.Expires = printed.ID, now.UTC(), now.Add(ttl).UTC()
	s.Tokens = append(s.Tokens, struct {
		Token
		Hash string `json:"hash"`
	}{t, pki.SecretHash(printed.Secret)})
	return s, printed, nil
}

// Parse reads what the seed holds.
func (s Seed) Parse() (pki.CA, []Token, error) {
	certs, err := pki.ParseCerts([]byte(s.CA))
	if err != nil {
		return pki.CA{}, nil, fmt.Errorf("seed: %w", err)
	}
	key, err := pki.ParseKey([]byte(s.Key))
	if err != nil {
		return pki.CA{}, nil, fmt.Errorf("seed: %w", err)
	}
	var tokens []Token
	for _, t := range s.Tokens {
		t.Token.Hash = t.Hash
		tokens = append(tokens, t.Token)
	}
	return pki.CA{Cert: certs[0], Key: key}, tokens, nil
}
