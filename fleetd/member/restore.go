package member

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/lease"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pause"
)

// leap is what a restored store adds to the revision of its backup, so that no watch, guard or fencing token of the lost time is ever taken for one of
// the new: to the microseconds since 1970. A fixed number is not enough: a cluster that was restored itself has made that leap already, and a backup of
// before it would fall behind. No cluster writes a million revisions a second, so none gets ahead of this.
func leap(rev int64, now time.Time) uint64 {
	const least = 1_000_000_000 // if the clock is behind
	return uint64(max(now.UnixMicro()-rev, least))
}

// staged is what a restore still has to do, in Dir/restore.json. It is written last, after the snapshot beside it.
type staged struct {
	Raw     bool `json:"raw,omitempty"`     // the snapshot has no hash: it is this member's own data
	Confirm bool `json:"confirm,omitempty"` // whoever ordered it knows what he does: nobody needs to confirm it
	Took    bool `json:"took,omitempty"`    // the cluster worked, its other members are to come along
}

func stagedFile(dir string) string { return filepath.Join(dir, "restore.json") }
func stagedDB(dir string) string   { return filepath.Join(dir, "restore.db") }

// Backup writes a snapshot of the whole store, as of one revision, closed by its SHA-256.
func (m *Member) Backup(ctx context.Context, w io.Writer) error {
	r, err := m.client.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("take a snapshot: %w", explain(err))
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("take a snapshot: %w", explain(err))
	}
	return nil
}

// Restore makes a new cluster of this host alone out of a snapshot. What this host holds now is moved aside. While the cluster works and has other
// members it is refused, unless force is set: then those are taken out first, and stand by in the new one.
func (m *Member) Restore(ctx context.Context, r io.Reader, force bool) error {
	if len(m.cfg.Servers) > 0 {
		return ErrElsewhere
	}
	if err := keepSnapshot(m.cfg.Dir, func(w io.Writer) error { return copyWhole(w, r) }); err != nil {
		return err
	}
	others, err := m.company(ctx, force)
	if err != nil {
		return errors.Join(err, os.Remove(stagedDB(m.cfg.Dir)))
	}
	if len(others) > 0 && m.cfg.Calm != nil {
		// Hosts that are taken out are lost to the old cluster, one after the other: nobody is to take them for dead in its last seconds.
		resume, err := m.cfg.Calm(ctx)
		if err != nil {
			return errors.Join(err, os.Remove(stagedDB(m.cfg.Dir)))
		}
		defer resume()
	}
	if err := stage(m.cfg.Dir, staged{Took: len(others) > 0}); err != nil {
		return err
	}
	if err := m.leave(ctx, others); err != nil {
		return errors.Join(err, os.Remove(stagedFile(m.cfg.Dir)))
	}
	return m.beginAnew(ctx)
}

// copyWhole copies a snapshot and compares it with the hash at its end.
func copyWhole(w io.Writer, r io.Reader) error {
	sum, tail, n := sha256.New(), []byte{}, int64(0)
	buf := make([]byte, 64<<10)
	for {
		k, err := r.Read(buf)
		if _, werr := w.Write(buf[:k]); werr != nil {
			return werr
		}
		tail, n = append(tail, buf[:k]...), n+int64(k)
		if over := len(tail) - sha256.Size; over > 0 {
			sum.Write(tail[:over])
			tail = append([]byte{}, tail[over:]...)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if n%512 != sha256.Size || !bytes.Equal(sum.Sum(nil), tail) { // a database is whole pages
		return fmt.Errorf("the backup is damaged or cut short, its hash does not fit: %w", fleet.ErrInvalid)
	}
	return nil
}

// company are the other members, if the cluster works; to leave them takes force.
func (m *Member) company(ctx context.Context, force bool) (others []*pb.Member, err error) {
	list, _, err := memberList(ctx, m.client)
	if err != nil && m.led() {
		return nil, fmt.Errorf("ask for the members, before they are left: %w: try again", explain(err))
	}
	if err != nil || len(list) == 1 && hex(list[0].ID) == m.Status().ID {
		return nil, nil // nobody to leave
	}
	if !force {
		return nil, refuse("the cluster works, with %d members: with --force they are taken out, and join the restored one", len(list))
	}
	if m.Status().Role != Voter {
		return nil, refuse("this host does not vote: restore on one that does (fleetctl members)")
	}
	return slices.DeleteFunc(list, func(mb *pb.Member) bool { return hex(mb.ID) == m.Status().ID }), nil
}

// led tells whether this voter knows a leader: one that is slow to answer is no cluster without a quorum. A leader without one steps down by itself. A
// learner takes part in no election, and knows only who led last.
func (m *Member) led() bool {
	e := m.server()
	return e != nil && m.Status().Role == Voter && e.Server.Leader() != 0
}

// leave takes the others out of a cluster that works.
func (m *Member) leave(ctx context.Context, others []*pb.Member) error {
	m.hold(true) // else the leader fills the seats again
	defer m.hold(false)
	for left := slices.Clone(others); len(left) > 0; {
		// Not in their order: one that runs must not go while another is away, for the rest would be no quorum.
		var refused error
		for _, mb := range left {
			switch err := m.Remove(ctx, hex(mb.ID)); {
			case err == nil || errors.Is(err, fleet.ErrNotFound):
				left = slices.DeleteFunc(slices.Clone(left), func(o *pb.Member) bool { return o.ID == mb.ID })
			case ctx.Err() != nil && !errors.Is(err, fleet.ErrConflict):
				return fmt.Errorf("take %s out: %w", mb.Name, err)
			default:
				refused = fmt.Errorf("take %s out: %w", mb.Name, err)
			}
		}
		if refused != nil && !pause.For(ctx, 500*time.Millisecond) {
			return refused
		}
	}
	m.letKnow(ctx, others)
	return nil
}

// letKnow waits until the members that were taken out know it, for some seconds at most: that is the quick way. They hear it from a member that is
// still there, and this is the last one. One that did not hear of it, or that was quick to join the old cluster again, finds after some seconds without
// a quorum that the new one took its cluster (superseded).
func (m *Member) letKnow(ctx context.Context, others []*pb.Member) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, mb := range others {
		// Not by asking for its status, see noPanic.
		for m.alive(ctx, mb.PeerURLs) && pause.For(ctx, turnEvery/10) {
		}
	}
}

// Recover makes a new cluster of this host alone out of what it holds, when the others are lost for good. It is refused while there is a quorum.
func (m *Member) Recover(ctx context.Context) error {
	if len(m.cfg.Servers) > 0 {
		return ErrElsewhere
	}
	if err := m.ask(ctx); err == nil || m.led() {
		return refuse("the store answers, so it has a quorum: take lost members out with fleetctl members remove")
	}
	e := m.server()
	if e == nil {
		return refuse("this host holds no data of the store (it stands by): recover on one that voted")
	}
	err := keepSnapshot(m.cfg.Dir, func(w io.Writer) error {
		s := e.Server.Backend().Snapshot() // with all that this member knows to be decided
		_, err := s.WriteTo(w)
		return errors.Join(err, s.Close())
	})
	if err == nil {
		err = stage(m.cfg.Dir, staged{Raw: true, Confirm: true})
	}
	if err != nil {
		return err
	}
	return m.beginAnew(ctx)
}

// keepSnapshot puts on disk what the next life may begin with.
func keepSnapshot(dir string, fill func(io.Writer) error) error {
	if err := os.Remove(stagedFile(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(stagedDB(dir), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keep the snapshot: %w", err)
	}
	if err := errors.Join(fill(f), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keep the snapshot: %w", errors.Join(err, os.Remove(stagedDB(dir))))
	}
	return nil
}

// stage notes on disk that the next life shall begin with the snapshot.
func stage(dir string, s staged) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := writeSync(stagedFile(dir), text); err != nil {
		return fmt.Errorf("keep the snapshot: %w", err)
	}
	return syncDir(dir)
}

// beginAnew ends the present life and waits until the next serves.
func (m *Member) beginAnew(ctx context.Context) error {
	old := m.Status().Cluster
	m.mu.Lock()
	end := m.endLife
	m.unrestored = nil
	m.mu.Unlock()
	if end != nil {
		end()
	}
	for {
		s, changed := m.Watch()
		m.mu.Lock()
		err := m.unrestored
		m.mu.Unlock()
		if err != nil {
			return err
		}
		if s.Role == Voter && s.Cluster != "" && s.Cluster != old && m.ask(ctx) == nil {
			return nil
		}
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("wait for the new cluster: %w (%s)", context.Cause(ctx), s.Doing)
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// freshen ends the leases that Config.Stale keys hang on, before anybody can reach the store.
func (v *voting) freshen(ctx context.Context) error {
	if !v.st.Fresh {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	leases, err := v.e.Server.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return fmt.Errorf("list the leases of a restored cluster: %w", err)
	}
	for _, l := range leases.Leases {
		of, err := v.e.Server.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: l.ID, Keys: true})
		if err == nil && slices.ContainsFunc(of.Keys, v.m.stale) {
			_, err = v.e.Server.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: l.ID})
		}
		if err != nil && !errors.Is(err, lease.ErrLeaseNotFound) {
			return fmt.Errorf("end the leases of a restored cluster: %w", err)
		}
	}
	next := *v.st
	next.Fresh = false
	if err := next.save(v.m.cfg.Dir); err != nil {
		return err
	}
	*v.st = next
	return nil
}

func (m *Member) stale(key []byte) bool {
	return slices.ContainsFunc(m.cfg.Stale, func(prefix string) bool { return strings.HasPrefix(string(key), prefix) })
}

// restore does what was staged, if anything. It can be interrupted anywhere and begun again.
func (m *Member) restore(st *state, self netip.AddrPort) error {
	text, err := os.ReadFile(stagedFile(m.cfg.Dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var s staged
	if err := errors.Join(err, json.Unmarshal(text, &s)); err != nil {
		return fmt.Errorf("read %s: %w: remove it to start with the data that is there", stagedFile(m.cfg.Dir), err)
	}
	fresh := etcdDir(m.cfg.Dir) + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	own := nowhere
	if self.IsValid() {
		own = m.peerURL(self)
	}
	manager := snapshot.NewV3(m.zap)
	found, err := manager.Status(stagedDB(m.cfg.Dir))
	if err == nil {
		err = manager.Restore(snapshot.RestoreConfig{
			SnapshotPath: stagedDB(m.cfg.Dir), SkipHashCheck: s.Raw, OutputDataDir: fresh, Name: m.cfg.Name, PeerURLs: []string{own},
			InitialCluster: m.cfg.Name + "=" + own, InitialClusterToken: rand.Text(), RevisionBump: leap(found.Revision, time.Now()), MarkCompacted: true,
		})
	}
	if err != nil {
		// What was there before is there still: go on with that rather than not at all.
		m.log.Error("backup not restored, the old data stays", "err", err)
		m.mu.Lock()
		m.unrestored = fmt.Errorf("the backup cannot be restored, the old data stays: %w", err)
		m.mu.Unlock()
		return errors.Join(os.Remove(stagedFile(m.cfg.Dir)), os.RemoveAll(fresh))
	}
	next := state{V: 1, From: st.From, Confirm: s.Confirm, Fresh: true}
	if st.Cluster != "" {
		next.From = append([]string{st.Cluster}, st.From...)
	}
	if s.Took && len(next.From) > 0 { // also when this was interrupted and has begun again
		next.Took = next.From[0]
	}
	if err := next.save(m.cfg.Dir); err != nil {
		return err
	}
	*st = next
	to, err := setAside(m.cfg.Dir, time.Now())
	if err != nil {
		return err
	}
	if err := errors.Join(os.Remove(etcdDir(m.cfg.Dir)), os.Rename(fresh, etcdDir(m.cfg.Dir)), syncDir(m.cfg.Dir)); err != nil {
		return fmt.Errorf("put the restored data in place: %w", err)
	}
	m.log.Warn("this host begins a new cluster with restored data", "aside", to)
	return errors.Join(os.Remove(stagedFile(m.cfg.Dir)), os.Remove(stagedDB(m.cfg.Dir)))
}
