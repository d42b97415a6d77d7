package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/registry"
)

// certificates adds to the store's configuration by what its ports are protected, unless insecure=true.
func (h *host) certificates(mc *member.Config) error {
	if h.cfg.Insecure {
		return nil
	}
	token, err := tokenOf(h.cfg, os.Getenv, os.ReadFile)
	if err != nil {
		return err
	}
	if h.trust, err = newTrust(h.cfg, h.id.machine, token, time.Now, h.log); err != nil {
		return err
	}
	if len(mc.Servers) == 0 {
		mc.TLS = h.trust.tls()
		mc.TLS.Access, mc.TLS.Enter = h.access, h.trust.holder.Enter
	}
	return nil
}

// access is what a certificate opens on the store's port.
func (h *host) access(c *x509.Certificate) (member.Access, error) {
	id, err := pki.IdentityOf(c)
	switch {
	case err != nil:
		return member.Access{}, err
	case id.Role == pki.Voter:
		return member.Access{All: true}, nil
	case id.Role == pki.Host:
		machine := fleet.MachineID(id.Name)
		a := h.registry.Access(machine)
		return member.Access{
			Read: spans(a.Read), Write: spans(a.Write), Known: spans(a.Known), Drop: spans(a.Drop), Mine: spans(a.Mine), Once: spans(a.Once), MineText: id.Name,
			Names:   a.Names,
			MayKnow: func(ctx context.Context, key string) bool { return h.registry.MayKnow(ctx, machine, key) },
		}, nil
	}
	return member.Access{}, fmt.Errorf("%s: people use the API, not the store", id)
}

func spans(list []registry.Span) []member.Span {
	out := make([]member.Span, len(list))
	for i, s := range list {
		out[i] = member.Span(s)
	}
	return out
}

// runMember sees to a certificate before the store, which needs it.
func (h *host) runMember(ctx context.Context) error {
	if h.trust != nil {
		stores, err := h.trust.admit(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		h.member.JoinBy(stores)
	}
	return h.member.Run(ctx)
}

// runTrust keeps the certificate good once there is a store.
func (h *host) runTrust(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-h.member.Ready():
	}
	return h.trust.run(ctx)
}

// runEngine leads only where the store lets it write placements: on voters, and anywhere with an etcd elsewhere or none that asks.
func (h *host) runEngine(ctx context.Context) error {
	for ctx.Err() == nil {
		st, changed := h.member.Watch()
		if st.Role == member.StandBy && h.trust != nil || st.Role == member.None {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		if err := h.leadWhile(ctx, st.Role); err != nil {
			return err
		}
	}
	return nil
}

// leadWhile runs the engine until this host's part in the store is another one.
func (h *host) leadWhile(ctx context.Context, role member.Role) error {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer cancel()
		for {
			st, changed := h.member.Watch()
			if st.Role == member.StandBy && role != member.StandBy {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	err := h.leader.Run(ctx)
	cancel()
	<-watched
	return err
}

// auditMessage is the MESSAGE_ID of deeds in the journal: journalctl MESSAGE_ID=… shows them all.
const auditMessage = "7b1f3c0a5d2e4f6b9c8d7e6f5a4b3c2d"

// audit keeps a deed in this host's journal and in the cluster.
func (h *host) audit(d api.Deed) {
	d.Host = h.id.machine.Short()
	text := fmt.Sprintf("%s (%s): %s %s: %d", d.Who, d.From, d.Did, strings.Join(d.Units, ", "), d.Code)
	err := journal.Send(text, journal.PriInfo, map[string]string{
		"MESSAGE_ID": auditMessage, "FLEET_WHO": d.Who, "FLEET_FROM": d.From, "FLEET_DID": d.Did,
		"FLEET_UNITS": strings.Join(d.Units, " "), "FLEET_CODE": fmt.Sprint(d.Code),
	})
	if err != nil {
		api.LogDeed(h.log, d) // no journal here
	}
	h.deeds.Add(d)
}
