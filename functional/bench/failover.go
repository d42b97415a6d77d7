package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/functional/host"
)

// failover pulls a host's plug while units run, and measures until all of them run elsewhere: for a host that leads nothing, and
// for the one that leads the store and the engine.
func (b *bench) failover(ctx context.Context) error {
	const n = 30
	fmt.Fprintf(b.out, "agent_ttl %s, %d units, a third of them on the lost host. A machine renews its lease each third of agent_ttl, so the lease of a lost "+
		"one has between two thirds and all of it left; a new leader of the store begins all leases anew.\n\n", b.ttl, n)
	fmt.Fprintf(b.out, "| lost host | its machine gone | all running elsewhere | after the machine was gone | after agent_ttl |\n|---|--:|--:|--:|--:|\n")
	for _, leader := range []bool{false, true} {
		if _, err := b.ctl(ctx, append([]string{"start"}, names(n)...)...); err != nil {
			return err
		}
		name := "follower"
		if leader {
			name = "leader of store and engine"
		}
		gone, back, err := b.lose(ctx, leader, n)
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "| %s | %s | %s | %s | %+.2f s |\n", name, short(gone), short(back), short(back-gone), (back - b.ttl).Seconds())
		if err := b.clear(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// lose pulls the plug of one host other than the first, where the client sits, and boots it again afterwards.
func (b *bench) lose(ctx context.Context, leader bool, n int) (gone, back time.Duration, err error) {
	etcd, err := store(ctx, b.first())
	if err != nil {
		return 0, 0, err
	}
	defer etcd.Close()
	victim, err := b.victim(ctx, etcd, leader)
	if err != nil {
		return 0, 0, err
	}
	id, err := victim.ReadFile(ctx, "/etc/machine-id")
	if err != nil {
		return 0, 0, err
	}
	machine := strings.TrimSpace(id)
	seen := make(chan time.Time, 1)
	go func() {
		for r := range etcd.Watch(ctx, "/fleet/machines/"+machine) {
			for _, e := range r.Events {
				if e.Type == clientv3.EventTypeDelete {
					seen <- time.Now()
					return
				}
			}
		}
	}()
	// A change of leaders has just lengthened every lease: let it be renewed to its own length.
	if err := pause(ctx, b.ttl); err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := victim.PowerOff(ctx); err != nil {
		return 0, 0, err
	}
	err = host.WaitFor(ctx, "all units on other machines", func(ctx context.Context) error {
		out, err := b.first().Sh(ctx, "fleetctl list-units --no-legend --full --fields unit,machine,sub")
		if got := strings.Count(out, "running"); err == nil && (got != n || strings.Contains(out, machine)) {
			err = fmt.Errorf("%d of %d run", got, n)
		}
		return err
	})
	back = time.Since(begin)
	if err != nil {
		return 0, 0, err
	}
	select {
	case at := <-seen:
		gone = at.Sub(begin)
	default:
		return 0, 0, errors.New("the units moved though the machine was not gone")
	}
	if err := victim.Boot(ctx); err != nil {
		return 0, 0, err
	}
	return gone, back, b.form(ctx)
}

// victim makes one of the other hosts leader of both, or of neither, and returns it.
func (b *bench) victim(ctx context.Context, etcd *clientv3.Client, leader bool) (*host.Host, error) {
	victim := b.cluster.Host(3)
	id, err := victim.ReadFile(ctx, "/etc/machine-id")
	if err != nil {
		return nil, err
	}
	keeper := victim // who shall lead
	if !leader {
		keeper = b.cluster.Host(2)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = host.WaitFor(ctx, "leadership on "+keeper.Name, func(ctx context.Context) error {
		led, err := engineLeader(ctx, etcd)
		if err == nil && (led == strings.TrimSpace(id)) != leader {
			for _, h := range b.cluster.Hosts() {
				// All but the keeper resign by a restart, until it is the keeper's turn.
				if h != keeper {
					_, err = h.Run(ctx, "systemctl", "restart", "fleetd")
				}
			}
			if err == nil {
				err = fmt.Errorf("%s leads the engine", led)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return victim, b.moveStore(ctx, keeper)
}

func engineLeader(ctx context.Context, etcd *clientv3.Client) (string, error) {
	got, err := etcd.Get(ctx, "/fleet/leader")
	if err != nil {
		return "", err
	}
	if len(got.Kvs) == 0 {
		return "", errors.New("nobody leads")
	}
	var rec struct {
		Machine string `json:"machine"`
	}
	return rec.Machine, json.Unmarshal(got.Kvs[0].Value, &rec)
}

// moveStore makes a host's member the leader of the store.
func (b *bench) moveStore(ctx context.Context, to *host.Host) error {
	for _, h := range b.cluster.Hosts() {
		if moved, err := handOn(ctx, h, to); moved || err != nil {
			return err
		}
	}
	return errors.New("the store has no leader")
}

// handOn makes h's member hand the lead on, if it has it: only the leader itself can.
func handOn(ctx context.Context, h, to *host.Host) (bool, error) {
	etcd, err := store(ctx, h)
	if err != nil {
		return false, err
	}
	defer etcd.Close()
	status, err := etcd.Status(ctx, "http://store")
	if err != nil || status.Leader != status.Header.MemberId {
		return false, err
	}
	members, err := etcd.MemberList(ctx)
	if err != nil {
		return false, err
	}
	for _, m := range members.Members {
		if m.Name == to.Name && m.ID != status.Leader {
			_, err := etcd.MoveLeader(ctx, m.ID)
			return true, err
		}
	}
	return true, nil // it has it already
}
