package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/authority"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/pki"
)

// run keeps the certificate good: it follows the CA, and renews at two thirds of the certificate's life. It begins when the store answers.
func (t *trust) run(ctx context.Context) error {
	last := ""
	for wait := 200 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
		begin := t.now()
		err := t.settle(ctx)
		if err == nil {
			err = t.follow(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if t.now().Sub(begin) > time.Minute {
			wait, last = 200*time.Millisecond, ""
		}
		if err != nil && err.Error() != last {
			last = err.Error()
			t.log.Warn("the cluster's CA is not followed at the moment", "err", err)
		}
		pause.For(ctx, wait)
	}
	return nil
}

// settle publishes what a first host has made, and gives a host with an etcd elsewhere its certificate.
func (t *trust) settle(ctx context.Context) error {
	var seed authority.Seed
	if err := t.read("seed.json", &seed); err != nil {
		return err
	}
	if seed.V == 0 && t.external && t.holder.Leaf() == nil {
		var err error
		if seed, err = authority.EmptySeed(t.now()); err != nil {
			return err
		}
	}
	if seed.V == 0 {
		return nil
	}
	ca, tokens, err := seed.Parse()
	if err != nil {
		return err
	}
	s, err := t.authority.Publish(ctx, ca, string(t.machine), t.addr())
	if err != nil {
		return err
	}
	for _, token := range tokens {
		if err := t.authority.Seeded(ctx, token); err != nil {
			return err
		}
	}
	if t.external {
		if err := t.renewOwn(ctx); err != nil {
			return err
		}
	}
	if err := t.keepCopy(s); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(t.dir, "seed.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// follow learns of every change of the CA, in the store where this host votes, else from a voter, and acts on it.
func (t *trust) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := make(chan beliefs, 1)
	failed := make(chan error, 1)
	if t.holdsStore() {
		go func() {
			failed <- t.authority.Watch(ctx, func(s authority.State) {
				if err := t.keepCopy(s); err != nil {
					t.log.Warn("no copy of the CA is kept", "err", err)
				}
				hand(ctx, changes, beliefs{s.Bundle, s.Revoked})
			})
		}()
	} else {
		go func() { failed <- t.poll(ctx, changes) }()
	}
	role := t.identity().Role
	for {
		renew := time.NewTimer(max(time.Second, t.untilRenewal()))
		var err error
		select {
		case <-ctx.Done():
			renew.Stop()
			return nil
		case err = <-failed:
			renew.Stop()
			return err
		case b := <-changes:
			// Who is shut out comes first: it needs nobody's answer.
			err = errors.Join(t.holder.SetRevoked(b.revoked), t.turn(ctx, b.bundle))
		case <-renew.C:
			cred, _ := t.holder.Get()
			err = t.turn(ctx, cred.Bundle)
		}
		renew.Stop()
		if err != nil || t.identity().Role != role {
			return err // a voter looks into the store, others ask
		}
	}
}

// beliefs are whom this host believes, and which of their certificates not.
type beliefs struct {
	bundle  []*x509.Certificate
	revoked []pki.Revoked
}

func hand(ctx context.Context, to chan<- beliefs, b beliefs) {
	select {
	case to <- b:
	case <-ctx.Done():
	}
}

// holdsStore tells whether this host may read the CA's own record.
func (t *trust) holdsStore() bool { return t.external || t.identity().Role == pki.Voter }

// poll asks a voter again and again, each of which answers when there is something new or a minute is over.
func (t *trust) poll(ctx context.Context, changes chan<- beliefs) error {
	since, revoked := "", ""
	for ctx.Err() == nil {
		var got api.CA
		if err := t.ask(func(c *api.Client) (err error) { got, err = c.CA(ctx, since, revoked); return err }); err != nil {
			return err
		}
		t.remember(cluster{Voters: got.Voters})
		next := bundleID(got.Bundle)
		if next == since && got.RevokedID == revoked {
			continue
		}
		renewing := next != since
		since, revoked = next, got.RevokedID
		bundle, err := pki.ParseCerts([]byte(got.Bundle))
		if err != nil {
			return err
		}
		if renewing {
			// All hosts hear of it at the same moment; they shall not all ask for certificates in the next.
			pause.For(ctx, rand.N(2*time.Second))
		}
		hand(ctx, changes, beliefs{bundle, revokedOf(got.Revoked)})
	}
	return nil
}

func (t *trust) untilRenewal() time.Duration {
	leaf := t.holder.Leaf()
	if leaf == nil {
		return 0
	}
	return min(pki.RenewAt(leaf).Sub(t.now()), 24*time.Hour)
}

// turn takes over whom to believe, and renews the certificate if it is old or of an old CA.
func (t *trust) turn(ctx context.Context, bundle []*x509.Certificate) error {
	cred, ok := t.holder.Get()
	if !ok {
		return nil
	}
	if !slices.EqualFunc(cred.Bundle, bundle, (*x509.Certificate).Equal) {
		cred.Bundle = bundle
		if err := t.holder.Set(cred); err != nil {
			return err
		}
		t.log.Info("the cluster's CA has changed", "believed", len(bundle))
	}
	if cred.Chain[0].CheckSignatureFrom(bundle[0]) == nil && t.now().Before(pki.RenewAt(cred.Chain[0])) {
		return nil
	}
	return t.renew(ctx)
}

func (t *trust) renew(ctx context.Context) error {
	if t.holdsStore() {
		return t.renewOwn(ctx)
	}
	key, text, err := t.request()
	if err != nil {
		return err
	}
	var got api.Certificate
	if err := t.ask(func(c *api.Client) (err error) { got, err = c.Renew(ctx, text); return err }); err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	if err := t.take(got, key); err != nil {
		return err
	}
	t.log.Info("certificate renewed", "until", t.holder.Leaf().NotAfter)
	return nil
}

// renewOwn has the certificate made here, where the store is.
func (t *trust) renewOwn(ctx context.Context) error {
	key, text, err := t.request()
	if err != nil {
		return err
	}
	who := pki.Identity{Role: pki.Voter, Name: string(t.machine)}
	renew := t.authority.Renew
	if t.external || t.member != nil && t.member() {
		// Whoever may use an etcd elsewhere may do everything; and a member that lost its voter's certificate would be shut out by the others.
		renew = t.authority.Own
	}
	g, err := renew(ctx, who, text)
	if err != nil {
		return err
	}
	if err := t.holder.Set(pki.Credential{Key: key, Chain: g.Chain, Bundle: g.Bundle}); err != nil {
		return err
	}
	t.log.Info("certificate renewed", "until", g.Chain[0].NotAfter)
	return nil
}
