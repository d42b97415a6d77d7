package authority

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pki"
)

// Join is what somebody brings who has a token and wants a certificate.
type Join struct {
	ID, Secret string    // of the token
	Request    []byte    // certificate request, PEM
	Machine    string    // of a host: its machine ID
	Clock      time.Time // the other side's; zero: not told
}

// Join checks a token and gives a certificate for it. A wrong secret and an unknown ID are one error.
func (a *Authority) Join(ctx context.Context, j Join) (Grant, error) {
	r, err := pki.ParseRequest(j.Request)
	if err != nil {
		return Grant{}, &fleet.InvalidError{What: "certificate request", Hint: err.Error()}
	}
	if d := a.now().Sub(j.Clock); !j.Clock.IsZero() && d.Abs() > maxJoinSkew {
		return Grant{}, fmt.Errorf("join: %w: the clock there says %s, the cluster's %s: set it right (timedatectl set-ntp true) and try again", fleet.ErrForbidden,
			j.Clock.UTC().Format("2006-01-02 15:04 UTC"), a.now().UTC().Format("2006-01-02 15:04 UTC"))
	}
	s, err := a.State(ctx)
	if err != nil {
		return Grant{}, err
	}
	id, err := a.redeem(ctx, s, j, r.KeyHash()+" "+j.Machine)
	if err != nil {
		return Grant{}, err
	}
	return a.issue(ctx, s, r, id, j.ID)
}

// redeem takes one use off a token, unless this key did before for this machine, and says whom it is for.
func (a *Authority) redeem(ctx context.Context, s State, j Join, key string) (pki.Identity, error) {
	for range tries {
		rec, rev, err := get[tokenRecord](ctx, a.store, a.tokenKey(j.ID))
		if err != nil {
			return pki.Identity{}, fmt.Errorf("join: %w", err)
		}
		// Compared in any case: the time an answer takes shall not tell which IDs there are.
		if !pki.SecretIs(j.Secret, rec.Hash) || rev == 0 {
			return pki.Identity{}, fmt.Errorf("join: %w: the cluster does not know this token: copy it whole, or ask for a new one (fleetctl join-token create)", fleet.ErrForbidden)
		}
		id := pki.Identity{Role: rec.Role, Name: rec.Name, NoVote: rec.NoVote}
		if rec.Role == pki.Host {
			id.Name = j.Machine
		}
		if err := s.mayJoin(rec, id); err != nil {
			return pki.Identity{}, err
		}
		if slices.Contains(rec.Keys, key) && !rec.Revoked {
			return id, nil
		}
		if err := a.spent(rec); err != nil {
			return pki.Identity{}, err
		}
		if rec.Role == pki.Host {
			if err := a.claim(ctx, rec, j.Machine, key); err != nil {
				return pki.Identity{}, err
			}
		}
		rec.Used++
		rec.Keys = append(rec.Keys, key)
		if len(rec.Keys) > 64 {
			rec.Keys = rec.Keys[1:]
		}
		_, ok, err := a.store.Txn(ctx, []kv.Guard{as(a.tokenKey(j.ID), rev)}, []kv.Op{put(a.tokenKey(j.ID), rec)})
		if err != nil {
			return pki.Identity{}, fmt.Errorf("join: %w", unreachable(err))
		}
		if ok {
			return id, nil
		}
	}
	return pki.Identity{}, fmt.Errorf("join: %w: many join at once: try again", fleet.ErrConflict)
}

// claim refuses a machine ID to who only says that it is his: one that has joined already is for whoever has its key, or a token that was made for it.
// key begins with the hash of the key that asks.
func (a *Authority) claim(ctx context.Context, token tokenRecord, machine, key string) error {
	if token.Name == machine {
		return nil // an admin's word
	}
	if token.Name != "" {
		return fmt.Errorf("join token %s: %w: it is for machine %s, and this is %s", token.ID, fleet.ErrForbidden, token.Name, machine)
	}
	var note issuedRecord
	var seats seatsRecord
	note, noted, err := get[issuedRecord](ctx, a.store, a.issuedKey(pki.Identity{Role: pki.Host, Name: machine}))
	if err == nil {
		seats, _, err = get[seatsRecord](ctx, a.store, a.seatsKey())
	}
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	// The first host has made its certificate itself, of which there is no note until it renews it.
	_, first := seats.Seats[machine]
	hash, _, _ := strings.Cut(key, " ")
	if noted == 0 && !first || noted != 0 && (note.Key == hash || !a.now().Before(note.NotAfter)) {
		return nil
	}
	return fmt.Errorf("join: %w: machine %s is in the cluster already, with another key: if this is that machine set up anew, ask for a token made for it "+
		"(fleetctl join-token create --name %s); if it is a copy of its disk, give it an ID of its own (remove /etc/machine-id, run systemd-machine-id-setup)",
		fleet.ErrForbidden, machine, machine)
}

// Renew gives who has a certificate a new one of the same name. A voter stays one as long as it has its seat; a host becomes one by Seat only.
func (a *Authority) Renew(ctx context.Context, who pki.Identity, request []byte) (Grant, error) {
	r, err := pki.ParseRequest(request)
	if err != nil {
		return Grant{}, &fleet.InvalidError{What: "certificate request", Hint: err.Error()}
	}
	if who.Role == pki.Voter {
		seats, _, err := get[seatsRecord](ctx, a.store, a.seatsKey())
		if err != nil {
			return Grant{}, fmt.Errorf("renew the certificate of %s: %w", who, err)
		}
		if _, has := seats.Seats[who.Name]; !has {
			who.Role = pki.Host
		}
	}
	s, err := a.State(ctx)
	if err != nil {
		return Grant{}, err
	}
	return a.issue(ctx, s, r, who, "")
}

// Own gives a certificate to a host that has the store in its hands with an etcd elsewhere, where there are no seats.
func (a *Authority) Own(ctx context.Context, who pki.Identity, request []byte) (Grant, error) {
	r, err := pki.ParseRequest(request)
	if err != nil {
		return Grant{}, &fleet.InvalidError{What: "certificate request", Hint: err.Error()}
	}
	s, err := a.State(ctx)
	if err != nil {
		return Grant{}, err
	}
	return a.issue(ctx, s, r, who, "")
}

type seatsRecord struct {
	V     int             `json:"v"`
	Seats map[string]seat `json:"seats"`
}

// seat is a machine's right to a voter's certificate.
type seat struct {
	Addr string    `json:"addr"` // where its member is, or will be
	At   time.Time `json:"at"`
}

// fresh is how long a seat is kept for a machine that is not among the members yet.
const fresh = 2 * time.Minute

// Seat gives a host a voter's certificate if there is room: members are the addresses of those that hold the store now, size is how many shall vote. addr is
// where the machine asked from. ok=false: there is none.
func (a *Authority) Seat(ctx context.Context, who pki.Identity, request []byte, addr string, members []string, size int) (g Grant, ok bool, err error) {
	if !who.Role.IsHost() || who.NoVote {
		return g, false, nil
	}
	for range tries {
		rec, rev, err := get[seatsRecord](ctx, a.store, a.seatsKey())
		if err != nil {
			return g, false, fmt.Errorf("give %s a seat: %w", who, err)
		}
		next, ok := rec.with(who.Name, addr, members, size, a.now())
		if !ok {
			return g, false, nil
		}
		_, done, err := a.store.Txn(ctx, []kv.Guard{as(a.seatsKey(), rev)}, []kv.Op{put(a.seatsKey(), next)})
		if err != nil {
			return g, false, fmt.Errorf("give %s a seat: %w", who, unreachable(err))
		}
		if done {
			who.Role = pki.Voter
			g, err = a.Renew(ctx, who, request)
			return g, err == nil, err
		}
	}
	return g, false, fmt.Errorf("give %s a seat: %w", who, fleet.ErrConflict)
}

// with is the seats with one for machine, and without those of machines that are gone from the members. ok=false: all are taken.
func (r seatsRecord) with(machine, addr string, members []string, size int, now time.Time) (next seatsRecord, ok bool) {
	next = seatsRecord{V: 1, Seats: map[string]seat{}}
	taken := len(members)
	for m, s := range r.Seats {
		member := slices.Contains(members, s.Addr)
		if m == machine || !member && now.Sub(s.At) > fresh {
			continue
		}
		next.Seats[m] = s
		if !member {
			taken++
		}
	}
	// A member at its address is itself: the cluster has taken it in already, or it comes back without its disk. Another machine's seat
	// at that address would be somebody who says that he is that.
	own := slices.Contains(members, addr)
	for _, s := range next.Seats {
		own = own && s.Addr != addr
	}
	if !own && taken >= size {
		return r, false
	}
	next.Seats[machine] = seat{Addr: addr, At: now.UTC()}
	return next, true
}
