package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// gate is a store that can be away.
type gate struct {
	kv.Store
	away atomic.Bool
}

func (g *gate) Range(ctx context.Context, p ...string) ([][]kv.KV, int64, error) {
	if g.away.Load() {
		return nil, 0, kv.ErrUnavailable
	}
	return g.Store.Range(ctx, p...)
}

func (g *gate) Renew(ctx context.Context, id kv.LeaseID) error {
	if g.away.Load() {
		return kv.ErrUnavailable
	}
	return g.Store.Renew(ctx, id)
}

func someHello(boot string) registry.Hello {
	return registry.Hello{Machine: fleet.Machine{ID: someID, Name: "h"}, Instance: "i", Boot: boot}
}

// present runs f with a presence in fake time.
func present(t *testing.T, f func(g *gate, reg *registry.Registry, p *presence)) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Store: kv.NewMemory(time.Now)}
		reg := registry.New(g, "/fleet/", quiet)
		p := newPresence(reg, someHello("boot"), 9*time.Second, quiet)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		f(g, reg, p)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPresenceIsKeptForAsLongAsItRuns(t *testing.T) {
	present(t, func(_ *gate, reg *registry.Registry, p *presence) {
		first, _, err := p.Now()
		if first == nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		now, _, _ := p.Now()
		if now == nil || *now != *first {
			t.Errorf("after a minute %+v, at first %+v", now, first)
		}
		if s, err := reg.Snapshot(t.Context()); err != nil || len(s.Machines) != 1 {
			t.Errorf("machines %v, %v", s.Machines, err)
		}
	})
}

func TestPresenceOutlivesAnOutageShorterThanItsLease(t *testing.T) {
	present(t, func(g *gate, _ *registry.Registry, p *presence) {
		first, _, _ := p.Now()
		g.away.Store(true)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		g.away.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if now, _, _ := p.Now(); now == nil || *now != *first {
			t.Errorf("registration %+v, before the outage %+v", now, first)
		}
	})
}

func TestPresenceRegistersAnewAfterALongOutage(t *testing.T) {
	present(t, func(g *gate, _ *registry.Registry, p *presence) {
		first, _, _ := p.Now()
		g.away.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if now, _, _ := p.Now(); now == nil {
			t.Error("an unreachable store is no lost registration: nobody has said so yet")
		}
		g.away.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if now, _, err := p.Now(); now == nil || now.Rev <= first.Rev {
			t.Errorf("registration %+v (%v), before the outage %+v", now, err, first)
		}
	})
}

func TestPresenceRegistersAnewAtOnceWhenItsLeaseIsEnded(t *testing.T) {
	present(t, func(g *gate, reg *registry.Registry, p *presence) {
		first, _, _ := p.Now()
		if err := g.Revoke(t.Context(), first.Lease); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // no time passes
		if now, _, err := p.Now(); now == nil || now.Rev <= first.Rev {
			t.Errorf("registration %+v (%v), before %+v", now, err, first)
		}
		p.End()
		now, _, _ := p.Now()
		if err := reg.Leave(t.Context(), *now); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s, err := reg.Snapshot(t.Context()); err != nil || len(s.Machines) != 0 {
			t.Errorf("after leaving there are machines %v, %v", s.Machines, err)
		}
	})
}

func TestPresenceDoesNotFightACopyOfItsHost(t *testing.T) {
	present(t, func(g *gate, reg *registry.Registry, p *presence) {
		if _, err := reg.Register(t.Context(), someHello("the copy's boot"), time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		_, _, why := p.Now()
		if dup := (*registry.DuplicateError)(nil); !errors.As(why, &dup) {
			t.Errorf("why it is not registered: %v; want a DuplicateError", why)
		}
	})
}

func TestPresenceSaysWhatChanged(t *testing.T) {
	present(t, func(_ *gate, reg *registry.Registry, p *presence) {
		p.Say(func(h *registry.Hello) { h.Leaving = true })
		synctest.Wait()
		s, err := reg.Snapshot(t.Context())
		if err != nil || !s.Machines[someID].Leaving {
			t.Errorf("machines %+v, %v", s.Machines, err)
		}
	})
}
