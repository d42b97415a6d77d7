package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/kv/etcd"
	"github.com/fleet-init/fleet/internal/pki"
	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/internal/systemd"
	"github.com/fleet-init/fleet/update-engine/update"
)

// askFleetd makes cluster.ask of this host's fleetd.
func askFleetd(socket string) (func(ctx context.Context, do, group string, h reboot.Holder) error, error) {
	client, err := api.Dial("unix://"+socket, api.Options{Timeout: 30 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("api_socket: %w", err)
	}
	return func(ctx context.Context, do, group string, h reboot.Holder) error {
		in := map[string]string{"do": do, "id": h.ID, "boot": h.Boot, "reason": h.Reason}
		var out struct{}
		if err := client.Do(ctx, http.MethodPost, "reboot/"+url.PathEscape(group), in, &out); err != nil {
			return fmt.Errorf("fleetd: %w", err)
		}
		return nil
	}, nil
}

// membersOf makes cluster.members of a client of the store.
func membersOf(client *clientv3.Client) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		list, err := client.MemberList(ctx)
		if err != nil {
			return nil, err
		}
		var out []string
		for _, m := range list.Members {
			if !m.IsLearner {
				out = append(out, m.ClientURLs...)
			}
		}
		return out, nil
	}
}

// otherStores looks whether the store answers at one of these URLs, our own addresses left out, and whether anything does. An etcd elsewhere is
// spoken to as etcd_cafile and the like say; the cluster's own with this host's certificate, or in the clear where there is none.
func otherStores(ctx context.Context, urls []string, c Config) (store, anything bool) {
	own := ownAddrs()
	var others []string
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && slices.Contains(own, a.Unmap()) {
			continue
		}
		if c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", u.Host); err == nil {
			_ = c.Close() // that it could be made is all
			anything = true
			others = append(others, s)
		}
	}
	if !anything {
		return false, false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conf, err := c.login().TLS()
	if err != nil {
		return false, true
	}
	if holder, err := pki.OpenHolder(c.PKIDir, time.Now); conf == nil && err == nil && holder.Leaf() != nil {
		conf = holder.Client(pki.VoterName)
	}
	client, err := newEtcd(ctx, c, others, conf)
	if err != nil {
		return false, true
	}
	defer client.Close()
	_, err = client.Get(ctx, "/", clientv3.WithCountOnly())
	return err == nil, true
}

// login is how etcd_servers are spoken to.
func (c Config) login() etcd.Login {
	return etcd.Login{CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile, Username: c.EtcdUsername, Password: c.EtcdPassword}
}

// newEtcd makes a client of a store; conf nil = in the clear. What it has to say of its connections it says in errors.
func newEtcd(ctx context.Context, c Config, endpoints []string, conf *tls.Config) (*clientv3.Client, error) {
	return c.login().Dial(clientv3.Config{Endpoints: endpoints, Context: ctx, TLS: conf, Logger: zap.NewNop()})
}

func ownAddrs() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// people asks logind who is logged in and who asks that the host is not shut down, and tells those who are logged in.
func people(ctx context.Context) ([]string, error) {
	who, err := systemd.Logins(ctx)
	if err == nil && len(who) > 0 {
		// Whom it does not reach, or where there is no wall, will see the reboot's own message.
		_ = exec.CommandContext(ctx, "wall", "A new release of this host's system is ready. It will reboot; please log out.").Run()
	}
	return who, err
}

// obey hands an order that came through the store to the daemon, as a command on the socket would be.
func obey(d *daemon) func(context.Context, rollout.Order) {
	return func(ctx context.Context, o rollout.Order) {
		d.log.Info("ordered from the cluster", "do", o.Kind, "version", o.Version, "reason", o.Why)
		switch kind := update.Kind(o.Kind); kind {
		case update.CheckNow, update.RebootNow, update.Cancel, update.RollbackNow, update.Forget:
			why := strings.TrimSpace(o.Why)
			if _, err := d.ask(ctx, update.Fact{Kind: kind, Version: o.Version, Why: why}); err != nil {
				d.log.Warn("order not obeyed", "do", o.Kind, "err", err)
			}
		default:
			d.log.Warn("order not obeyed: it is unknown here", "do", o.Kind)
		}
	}
}
