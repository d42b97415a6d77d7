package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/internal/fleet"
)

// Origin reads how this cluster began, with its ID and revision as of that reading; a nil Origin: nobody has written it yet.
func (m *Member) Origin(ctx context.Context) (o *fleet.StoreOrigin, cluster string, rev int64, err error) {
	return readOrigin(ctx, m.client, m.cfg.OriginKey)
}

func readOrigin(ctx context.Context, c *clientv3.Client, key string) (o *fleet.StoreOrigin, cluster string, rev int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	r, err := c.Get(ctx, key)
	if err != nil {
		return nil, "", 0, err
	}
	cluster, rev = hex(r.Header.ClusterId), r.Header.Revision
	if len(r.Kvs) == 0 {
		return nil, cluster, rev, nil
	}
	o = &fleet.StoreOrigin{}
	if err := json.Unmarshal(r.Kvs[0].Value, o); err != nil {
		return nil, cluster, rev, fmt.Errorf("%s: %w", key, err)
	}
	return o, cluster, rev, nil
}

// writeOrigin is the leader's: it sees to it that the store says which cluster this is. A store that says another has come out of a backup of that one.
func (v *voting) writeOrigin(ctx context.Context) error {
	if v.told || v.m.cfg.OriginKey == "" {
		return nil
	}
	o, cluster, rev, err := v.m.Origin(ctx)
	if err != nil {
		return err
	}
	if o == nil || o.Cluster != cluster {
		next := fleet.StoreOrigin{Cluster: cluster, At: time.Now().UTC()}
		if o != nil {
			next.From, next.Rev = append([]string{o.Cluster}, o.From...), rev
		}
		for _, f := range v.st.From {
			if f != cluster && !slices.Contains(next.From, f) {
				next.From = append(next.From, f)
			}
		}
		next.Took = v.st.Took
		if v.st.Confirm {
			next.Confirmed, next.By = next.At, "recover"
		}
		if err := v.m.putOrigin(ctx, next); err != nil {
			return err
		}
	}
	v.told = true
	return nil
}

func (m *Member) putOrigin(ctx context.Context, o fleet.StoreOrigin) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	_, err = m.client.Put(ctx, m.cfg.OriginKey, string(text))
	return err
}

// Confirm says that this cluster, which was restored, is the one to obey. by is who says so.
func (m *Member) Confirm(ctx context.Context, by string) (fleet.StoreOrigin, error) {
	o, cluster, _, err := m.Origin(ctx)
	if err != nil {
		return fleet.StoreOrigin{}, explain(err)
	}
	if len(m.cfg.Servers) > 0 && (o == nil || o.Cluster != cluster) {
		o = &fleet.StoreOrigin{Cluster: cluster, At: time.Now().UTC()} // nobody else would write it
	}
	if o == nil || o.Cluster != cluster {
		return fleet.StoreOrigin{}, refuse("the new cluster has not settled yet, try again in a moment")
	}
	o.Confirmed, o.By = time.Now().UTC(), by
	return *o, m.putOrigin(ctx, *o)
}

// descends tells whether the cluster that c leads to was restored from this one.
func (m *Member) descends(ctx context.Context, c *clientv3.Client, from string) bool {
	if m.cfg.OriginKey == "" {
		return false
	}
	o, cluster, _, err := readOrigin(ctx, c, m.cfg.OriginKey)
	return err == nil && o != nil && o.Cluster == cluster && slices.Contains(o.From, from)
}

// goesOn tells whether a cluster that this one comes from goes on in it: somebody has confirmed that, or it was taken while it worked.
func goesOn(o *fleet.StoreOrigin, from string) bool {
	return slices.Contains(o.From, from) && (!o.Confirmed.IsZero() || o.Took == from)
}

// superseded looks whether the cluster goes on elsewhere without this member: restored or made anew (goesOn). It is asked before a member starts, for
// the lost ones that come back together would be a quorum of the old cluster, and while there is none. One that has a quorum and runs is left alone.
func (m *Member) superseded(ctx context.Context, st *state, self netip.AddrPort) error {
	if m.cfg.OriginKey == "" {
		return nil
	}
	for _, host := range reachable(ctx, m.others(m.cfg.Join, st.Hosts, self)) {
		c, err := m.dial(urls([]string{host}))
		if err != nil {
			continue
		}
		o, cluster, _, err := readOrigin(ctx, c, m.cfg.OriginKey)
		if err == nil && o != nil && o.Cluster == cluster && goesOn(o, st.Cluster) {
			list, _, listErr := memberList(ctx, c)
			err = errors.Join(listErr, c.Close())
			if err == nil {
				st.Cluster, st.Hosts = cluster, memberHosts(list)
				return m.retire(st, "its cluster goes on as "+cluster)
			}
			continue
		}
		_ = c.Close() // it was only asked
	}
	return nil
}

// reachable are those of the hosts that accept a connection within two seconds.
func reachable(ctx context.Context, hosts []string) (list []string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	up := make([]bool, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { up[i] = reach(ctx, h) == nil })
	}
	wg.Wait()
	for i, h := range hosts {
		if up[i] {
			list = append(list, h)
		}
	}
	return list
}
