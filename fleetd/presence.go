package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/fleet-init/fleet/fleetd/guard"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pause"
	"github.com/fleet-init/fleet/internal/registry"
)

// presence keeps this machine registered: it registers, renews at a third of the time to live, and registers anew when the lease
// was lost. While the store is away it tries on and nothing else happens, for an unreachable store changes nothing on a host.
type presence struct {
	reg *registry.Registry
	ttl time.Duration
	log *slog.Logger

	// renewed is told of each lease that was granted or renewed, and when, by guard.Now, the request for it was sent.
	renewed func(now registry.Presence, sent time.Duration)

	mu      sync.Mutex // guards what follows
	hello   registry.Hello
	now     *registry.Presence // nil: not registered
	why     error              // why it is not
	changed chan struct{}      // closed when now or why changes, then made anew
	wake    chan struct{}      // hello changed
	end     context.CancelFunc // ends Run; nil before it runs
}

func newPresence(reg *registry.Registry, h registry.Hello, ttl time.Duration, log *slog.Logger) *presence {
	return &presence{
		reg: reg, ttl: ttl, log: log, hello: h, renewed: func(registry.Presence, time.Duration) {}, why: errors.New("it has not registered with the cluster yet"),
		changed: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// Now is the registration, or nil and why there is none; the channel is closed when that has changed.
func (p *presence) Now() (now *registry.Presence, changed <-chan struct{}, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.changed, p.why
}

// Say changes what the machine says of itself; the record follows soon.
func (p *presence) Say(change func(*registry.Hello)) {
	p.mu.Lock()
	change(&p.hello)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *presence) said() registry.Hello {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hello
}

func (p *presence) set(now *registry.Presence, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.why = now, why
	close(p.changed)
	p.changed = make(chan struct{})
}

// Run keeps the registration until ctx ends. It does not give it up then: a fleetd that is restarted takes it over, and Leave is
// for one that goes for good.
func (p *presence) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	p.end = cancel
	p.mu.Unlock()
	for ctx.Err() == nil {
		now, err := p.register(ctx)
		if err != nil {
			return nil // ctx has ended
		}
		p.set(&now, nil)
		p.log.Info("registered", "machine", now.Machine, "ttl", now.TTL)
		why := p.keep(ctx, now)
		if ctx.Err() != nil {
			return nil
		}
		p.log.Warn("registration lost, registering anew", "err", why)
		p.Say(func(h *registry.Hello) { h.Again = true })
		p.set(nil, fmt.Errorf("its registration was lost: %w", why))
	}
	return nil
}

// End ends Run, so that a registration that is given up is not taken for one that was lost.
func (p *presence) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		p.end()
	}
}

// Waits between tries to register: the store may need a while to come up, and a duplicate has to go first.
const (
	registerMin = 100 * time.Millisecond
	registerMax = 5 * time.Second
)

// register tries until it has worked; an error is the end of ctx.
func (p *presence) register(ctx context.Context) (registry.Presence, error) {
	var last string
	for wait := registerMin; ; wait = min(2*wait, registerMax) {
		try, cancel := context.WithTimeout(ctx, max(p.ttl/2, registerMax))
		sent := guard.Now()
		now, err := p.reg.Register(try, p.said(), p.ttl)
		cancel()
		if err == nil {
			p.renewed(now, sent)
			return now, nil
		}
		if ctx.Err() != nil {
			return now, ctx.Err()
		}
		if err.Error() != last {
			p.log.Warn("not registered", "err", err, "wait", wait)
			last = err.Error()
		}
		p.set(nil, err)
		if !pause.For(ctx, wait) {
			return now, ctx.Err()
		}
	}
}

// keep renews until the registration is lost, and why, or ctx ends.
func (p *presence) keep(ctx context.Context, now registry.Presence) error {
	every := now.TTL / 3
	wait := every
	// Seen at once, a loss is made good before anything is moved away from here.
	watching, stop := context.WithCancel(ctx)
	lost, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if p.reg.AwaitLoss(watching, now) == nil {
			close(lost)
		}
	}()
	defer func() { stop(); <-done }()
	for {
		timer := time.NewTimer(wait)
		var err error
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-lost:
			timer.Stop()
			return kv.ErrLeaseGone
		case <-p.wake:
			timer.Stop()
			err = p.update(ctx, now)
		case <-timer.C:
			// A request that hangs must not keep the next one back for longer than the lease lives.
			try, cancel := context.WithTimeout(ctx, every)
			err = p.keepAlive(try, now)
			cancel()
		}
		wait = every
		if errors.Is(err, kv.ErrLeaseGone) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			p.log.Warn("registration not renewed", "err", err)
			wait = min(every, time.Second)
		}
	}
}

// keepAlive renews the lease once. What the lease is good for counts from here, not from the answer.
func (p *presence) keepAlive(ctx context.Context, now registry.Presence) error {
	sent := guard.Now()
	err := p.reg.KeepAlive(ctx, now)
	if err == nil {
		p.renewed(now, sent)
	}
	return err
}

// update writes what the machine says of itself now. What fails is said again.
func (p *presence) update(ctx context.Context, now registry.Presence) error {
	try, cancel := context.WithTimeout(ctx, p.ttl)
	defer cancel()
	err := p.reg.Update(try, now, p.said())
	if err != nil && !errors.Is(err, kv.ErrLeaseGone) {
		p.Say(func(*registry.Hello) {})
		pause.For(ctx, registerMin)
	}
	return err
}
