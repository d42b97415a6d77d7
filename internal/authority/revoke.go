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

// heldRecord is what was issued for one key: the newest certificate of it.
type heldRecord struct {
	V        int       `json:"v"`
	Role     pki.Role  `json:"role"`
	Name     string    `json:"name"`
	Serial   string    `json:"serial"`
	Token    string    `json:"token,omitempty"` // ID of the one that it was for; empty: this fleet did not note it, or it was made without
	NotAfter time.Time `json:"notAfter"`
	At       time.Time `json:"at"`
}

type revokedRecord struct {
	V int `json:"v"`
	pki.Revoked
}

func (a *Authority) heldKey(key string) string { return a.prefix + "held/" + key }
func (a *Authority) revokedPrefix() string     { return a.prefix + "revoked/" }

// Certificate is one that was issued and has not ended.
type Certificate struct {
	Key     string // hash of its key: what it is revoked by
	Serial  string // hex
	Role    pki.Role
	Name    string
	Token   string // ID of the join token; empty: not known
	At      time.Time
	Until   time.Time
	Revoked time.Time // zero: it is good
	By      string    // who revoked it
}

// maxKeys bounds the keys that one machine or person has certificates for: who renews takes the key that he has.
const maxKeys = 64

// roomFor refuses renewals by ever new keys, each of which is a record for as long as its certificate lasts.
func (a *Authority) roomFor(ctx context.Context, id pki.Identity) error {
	list, err := a.Certificates(ctx)
	n := 0
	for _, c := range list {
		if c.Name == id.Name && c.Role == id.Role {
			n++
		}
	}
	if err == nil && n >= maxKeys {
		return fmt.Errorf("%w: it has %d keys: renew by one of them, or revoke some (fleetctl certificate list)", fleet.ErrConflict, n)
	}
	return err
}

// covers is pki.Revoked.Covers for what was noted of a certificate.
func covers(r pki.Revoked, c Certificate) bool {
	if r.Key != "" {
		return r.Key == c.Key
	}
	return r.Names(pki.Identity{Role: c.Role, Name: c.Name}) && !c.At.Truncate(time.Second).After(r.At)
}

// Certificates lists what was issued and has not ended, by name; of each key the newest.
func (a *Authority) Certificates(ctx context.Context) ([]Certificate, error) {
	kvs, _, err := a.store.Range(ctx, a.prefix+"held/", a.revokedPrefix())
	if err != nil {
		return nil, fmt.Errorf("list the certificates: %w", unreachable(err))
	}
	gone := a.revocations(kvs[1])
	var list []Certificate
	for _, e := range kvs[0] {
		var rec heldRecord
		if json.Unmarshal(e.Value, &rec) != nil || !a.now().Before(rec.NotAfter) {
			continue
		}
		c := Certificate{Key: strings.TrimPrefix(e.Key, a.prefix+"held/"), Serial: rec.Serial, Role: rec.Role, Name: rec.Name, Token: rec.Token, At: rec.At, Until: rec.NotAfter}
		for _, r := range gone {
			if covers(r, c) {
				c.Revoked, c.By = r.At, r.By
			}
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(x, y Certificate) int { return cmp.Or(cmp.Compare(x.Name, y.Name), x.At.Compare(y.At)) })
	return list, nil
}

// revocations reads records; what has ended, or cannot be read, is left out.
func (a *Authority) revocations(kvs []kv.KV) (list []pki.Revoked) {
	for _, e := range kvs {
		var rec revokedRecord
		if json.Unmarshal(e.Value, &rec) == nil && a.now().Before(rec.Until) {
			list = append(list, rec.Revoked)
		}
	}
	return list
}

// maxRevoked bounds the records: every host has all of them in memory.
const maxRevoked = 1000

// RevokeCertificate ends certificates before their time: by a name all that a person or a machine has, whatever its role, by a serial number or the
// hash of a key those of that key. It returns what is revoked by that. who is the one who asks, and force lets it take the last admin's.
func (a *Authority) RevokeCertificate(ctx context.Context, word string, who pki.Identity, by string, force bool) ([]pki.Revoked, error) {
	what := "revoke certificate " + word
	list, err := a.Certificates(ctx)
	if err != nil {
		return nil, err
	}
	now := a.now().UTC().Truncate(time.Second)
	var out []pki.Revoked
	for _, c := range list {
		r := pki.Revoked{Role: c.Role, Name: c.Name, At: now, Until: c.Until, By: by}
		switch {
		case c.Name == word:
			// Also what is under way, and what an older fleetd has given and not noted.
			r.Until = now.Add(max(pki.HostLife, pki.UserLife) + time.Hour)
		case c.Serial == word || c.Key == word:
			r.Key, r.Serial = c.Key, c.Serial
		default:
			continue
		}
		i := slices.IndexFunc(out, func(o pki.Revoked) bool { return o.Key == r.Key && o.Name == r.Name && o.Role == r.Role })
		if i < 0 {
			i, out = len(out), append(out, r)
		}
		// One that was issued by a clock before ours, or right after another revocation, is of a second that is yet to come here.
		if c.At.After(out[i].At) {
			out[i].At = c.At.UTC().Truncate(time.Second)
		}
	}
	if len(out) == 0 && pki.IsMachine(word) {
		// The first host's own first certificate was noted by nobody.
		out = append(out, pki.Revoked{Role: pki.Voter, Name: word, At: now, Until: now.Add(pki.HostLife + time.Hour), By: by})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %w: fleetctl certificate list shows names and serial numbers", what, fleet.ErrNotFound)
	}
	if err := lastAdmin(list, out, who); err != nil && !force {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	kvs, _, err := a.store.Range(ctx, a.revokedPrefix())
	if err == nil && len(kvs[0])+len(out) > maxRevoked {
		return nil, fmt.Errorf("%s: %w: %d are revoked: fleetctl ca rotate ends all of them at once", what, fleet.ErrConflict, len(kvs[0]))
	}
	var ops []kv.Op
	for _, e := range slices.Concat(kvs...) { // those that have ended make room
		var rec revokedRecord
		if json.Unmarshal(e.Value, &rec) == nil && !a.now().Before(rec.Until) && len(ops) < kv.MaxOps/2 {
			ops = append(ops, kv.Op{Key: e.Key, Delete: true})
		}
	}
	for _, r := range out {
		key := a.revokedPrefix() + cmp.Or(r.Key, r.Name+"@"+string(r.Role))
		ops = append(slices.DeleteFunc(ops, func(o kv.Op) bool { return o.Key == key }), put(key, revokedRecord{1, r}))
	}
	if err == nil {
		_, _, err = a.store.Txn(ctx, nil, ops)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, unreachable(err))
	}
	return out, nil
}

// lastAdmin refuses that an admin takes itself the certificate it asks with when no other admin has one: only root on a voter could undo it.
func lastAdmin(list []Certificate, gone []pki.Revoked, who pki.Identity) error {
	if who.Role != pki.Admin {
		return nil
	}
	own := false
	for _, c := range list {
		taken := slices.ContainsFunc(gone, func(r pki.Revoked) bool { return covers(r, c) })
		if c.Role != pki.Admin || !c.Revoked.IsZero() {
			continue
		}
		if !taken {
			return nil // somebody is left
		}
		own = own || c.Name == who.Name
	}
	if !own {
		return nil
	}
	return fmt.Errorf("%w: it is the last of an admin, and your own: after that only root on a host that votes can do what admins do; with --force it is revoked all the same",
		fleet.ErrConflict)
}

// mayIssue refuses a key that is revoked, and says by which clock to issue: what is issued to somebody whose certificates were revoked just now must be
// younger than those, in whole seconds and by the clock of whoever revoked them.
func (s State) mayIssue(r pki.Request, id pki.Identity, now time.Time) (time.Time, error) {
	for _, g := range s.Revoked {
		switch {
		case g.Key != "" && g.Key == r.KeyHash():
			return now, fmt.Errorf("a certificate for %s: %w: those of this key were revoked on %s: remove the key, and join with a new token", id, fleet.ErrForbidden,
				g.At.UTC().Format("2006-01-02 15:04 UTC"))
		case g.Names(id) && !now.Truncate(time.Second).After(g.At):
			now = g.At.Add(time.Second)
		}
	}
	return now, nil
}

// mayJoin refuses a token that is older than the revocation of those whom it is for: else a thief would come back by it.
func (s State) mayJoin(t tokenRecord, id pki.Identity) error {
	for _, g := range s.Revoked {
		if g.Names(id) && !t.Created.After(g.At) {
			return fmt.Errorf("join token %s: %w: the certificates of %s were revoked on %s, after it was made: ask for a new one (fleetctl join-token create)",
				t.ID, fleet.ErrForbidden, id.Name, g.At.UTC().Format("2006-01-02 15:04 UTC"))
		}
	}
	return nil
}
