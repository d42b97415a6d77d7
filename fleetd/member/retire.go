package member

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
)

// whyStopped says why etcd ended by itself. It does so only when the other members have removed it, or one of them has told it so.
func (m *Member) whyStopped(ctx context.Context, e *embed.Etcd, st *state, self netip.AddrPort) error {
	removed := e.Server.IsIDRemoved(uint64(e.Server.MemberID()))
	for _, host := range st.Hosts {
		if removed {
			break
		}
		if reach(ctx, host) != nil {
			continue
		}
		c, err := m.dial(urls([]string{host}))
		if err != nil {
			continue
		}
		list, id, err := memberList(ctx, c)
		c.Close()
		removed = err == nil && id == uint64(e.Server.Cluster().ID()) &&
			!slices.ContainsFunc(list, func(mb *pb.Member) bool { return mb.ID == uint64(e.Server.MemberID()) })
	}
	if !removed {
		if err := m.superseded(ctx, st, self); err != nil {
			return err
		}
	}
	if removed && len(m.others(m.cfg.Join, st.Hosts, self)) > 0 {
		return m.retire(st, "this member was removed from the cluster")
	}
	if removed {
		return fmt.Errorf("this host's member %s was removed from the cluster: to join it again as a new one, remove %s and start fleetd",
			e.Server.MemberID(), etcdDir(m.cfg.Dir))
	}
	// Who told it that it was removed may be in another cluster by now, which has not said yet what it was made of (restore --force): started again,
	// this member finds out.
	again := time.Since(m.ended) > endedAgain
	if m.ended = time.Now(); again {
		m.log.Warn("etcd ended by itself, it is started again")
		return errAgain
	}
	return errors.New("etcd ended by itself again: its messages before this one say why")
}

// endedAgain is how soon after one end of etcd by itself another one is no chance.
const endedAgain = time.Minute

// retire moves this member's data aside and has the host begin again without any: as one that joins. The data stays until the
// next time, for whoever needs to look into it.
func (m *Member) retire(st *state, why string) error {
	to, err := setAside(m.cfg.Dir, time.Now())
	if err != nil {
		return err
	}
	next := *st
	next.ID, next.Self = "", ""
	if err := next.save(m.cfg.Dir); err != nil {
		return err
	}
	*st = next
	m.update(func(s *Status) { s.Role, s.ID, s.Leads = None, "", false })
	m.log.Warn("this host's data of the store is moved aside, it joins anew", "reason", why, "to", to)
	return errAgain
}

// setAside renames the folder of etcd's files and makes an empty one. Of those that were set aside before only the newest
// stays: it may be the original, if a restore was interrupted and begun again.
func setAside(dir string, now time.Time) (to string, err error) {
	old, err := filepath.Glob(etcdDir(dir) + ".old-*")
	if err != nil {
		return "", err
	}
	slices.Sort(old)
	for len(old) > 1 {
		if err := os.RemoveAll(old[0]); err != nil {
			return "", fmt.Errorf("remove what was set aside before: %w", err)
		}
		old = old[1:]
	}
	to = etcdDir(dir) + ".old-" + now.UTC().Format("20060102T150405.000")
	if err := os.Rename(etcdDir(dir), to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("set the store's data aside: %w", err)
	}
	if err := os.Mkdir(etcdDir(dir), 0o700); err != nil {
		return "", fmt.Errorf("make an empty folder for the store: %w", err)
	}
	return to, syncDir(dir)
}

// syncDir returns when what was renamed in a folder will survive a power loss.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
