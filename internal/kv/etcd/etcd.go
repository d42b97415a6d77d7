// Package etcd is the kv.Store over etcd v3: through a network client, or through one that calls a server in this process
// (etcd's v3client). It adds nothing of its own to etcd but patience: watches go on across reconnects, large ranges come in pages
// of one revision, and errors are kv's.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fleet-init/fleet/internal/kv"
)

// Store implements kv.Store. The client is its maker's to close.
type Store struct {
	c *clientv3.Client

	mu sync.Mutex            // guards of
	of map[kv.LeaseID]uint64 // the cluster that granted a lease, or renewed it first
}

// New returns a store over a client.
func New(c *clientv3.Client) *Store { return &Store{c: c, of: map[kv.LeaseID]uint64{}} }

// timeout bounds every single request, since etcd's client waits without end for a server that is away. It is above the 7 s after
// which a server without a leader gives up by itself, whose answer says more.
const timeout = 10 * time.Second

// Txn implements kv.Store.
func (s *Store) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (int64, bool, error) {
	if err := kv.CheckTxn(guards, ops); err != nil {
		return 0, false, err
	}
	cmps := make([]clientv3.Cmp, len(guards))
	for i, g := range guards {
		cmps[i] = compare(g)
	}
	puts := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		switch {
		case op.Delete:
			puts[i] = clientv3.OpDelete(op.Key)
		default:
			puts[i] = clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease)))
		}
	}
	one, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	res, err := s.c.Txn(one).If(cmps...).Then(puts...).Commit()
	if err != nil {
		return 0, false, wrap(ctx, "transaction", err)
	}
	return res.Header.Revision, res.Succeeded, nil
}

// compare says a guard in etcd's words. To etcd a missing key has version, create and mod revision 0, so these must not be
// compared with 0 alone; a value comparison fails by itself on a missing key.
func compare(g kv.Guard) clientv3.Cmp {
	switch g.Kind {
	case kv.Missing:
		return clientv3.Compare(clientv3.CreateRevision(g.Key), "=", 0)
	case kv.Exists:
		return clientv3.Compare(clientv3.CreateRevision(g.Key), ">", 0)
	case kv.ModIs:
		return clientv3.Compare(clientv3.ModRevision(g.Key), "=", orNever(g.Rev))
	case kv.CreateIs:
		return clientv3.Compare(clientv3.CreateRevision(g.Key), "=", orNever(g.Rev))
	case kv.ValueIs:
		return clientv3.Compare(clientv3.Value(g.Key), "=", string(g.Val))
	}
	panic(fmt.Sprintf("guard of unknown kind %d", g.Kind))
}

// orNever turns revision 0, which no existing key has, into one that a missing key has not either.
func orNever(rev int64) int64 {
	if rev == 0 {
		return -1
	}
	return rev
}

// Grant implements kv.Store. etcd counts in whole seconds and lengthens what is below its election timeout.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (kv.LeaseID, time.Duration, error) {
	one, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	seconds := max(1, int64((ttl+time.Second-1)/time.Second))
	res, err := s.c.Grant(one, seconds)
	if err != nil {
		return 0, 0, wrap(ctx, "grant lease", err)
	}
	s.sameCluster(kv.LeaseID(res.ID), res.ResponseHeader)
	return kv.LeaseID(res.ID), time.Duration(res.TTL) * time.Second, nil
}

// Renew implements kv.Store. Tried on 3.7.3: the client's loop in KeepAliveOnce waits inside gRPC while the server is away, it
// does not spin.
func (s *Store) Renew(ctx context.Context, id kv.LeaseID) error {
	one, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	res, err := s.c.KeepAliveOnce(one, clientv3.LeaseID(id))
	if err == nil && !s.sameCluster(id, res.ResponseHeader) {
		// It was renewed by that, and must not live on: what hangs on it would stand in the way of what comes in its place. If this fails, it is done
		// the next time.
		_, _ = s.c.Revoke(one, clientv3.LeaseID(id))
		return fmt.Errorf("renew lease %x: it was granted by another cluster, which this one was restored from: %w", id, kv.ErrLeaseGone)
	}
	return wrap(ctx, fmt.Sprintf("renew lease %x", id), err)
}

// sameCluster tells whether a lease is still of the cluster that it was of when this store first had to do with it. A restored cluster knows the leases
// that there were when the backup was made, and would renew them: but who holds one there holds nothing in what became of the old cluster meanwhile.
func (s *Store) sameCluster(id kv.LeaseID, h *pb.ResponseHeader) bool {
	if h.GetClusterId() == 0 {
		return true // a server that does not say
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was, known := s.of[id]
	if !known {
		if len(s.of) >= 1000 {
			clear(s.of) // leases that ended by themselves
		}
		s.of[id] = h.ClusterId
	}
	return !known || was == h.ClusterId
}

// Revoke implements kv.Store.
func (s *Store) Revoke(ctx context.Context, id kv.LeaseID) error {
	one, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := s.c.Revoke(one, clientv3.LeaseID(id))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return wrap(ctx, fmt.Sprintf("revoke lease %x", id), err)
}

// asking is how many leases are asked for at once: enough to hide the way to etcd's leader, which answers each from its memory.
const asking = 64

// Left implements kv.Store. etcd has no request for many leases. Its followers pass each on to the leader, which alone knows.
func (s *Store) Left(ctx context.Context, ids ...kv.LeaseID) ([]time.Duration, error) {
	one, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	left := make([]time.Duration, len(ids))
	all, each := errgroup.WithContext(one)
	all.SetLimit(asking)
	for i, id := range ids {
		all.Go(func() error {
			res, err := s.c.TimeToLive(each, clientv3.LeaseID(id))
			if err == nil {
				left[i] = time.Duration(res.TTL) * time.Second // -1 when it has ended
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return nil, wrap(ctx, "ask for leases", err)
	}
	return left, nil
}

// wrap turns an error of etcd's client into kv's. ctx is the caller's: its cancellation is passed on as it is, while a deadline,
// the caller's or ours, means that the store did not answer in time.
func wrap(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", what, kind, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// kindOf returns the kv error that err is, nil if none.
func kindOf(err error) error {
	err = rpctypes.Error(err) // a stream gives the server's errors as they came
	code := status.Code(err)
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		code = known.Code()
	}
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return kv.ErrCompacted
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return kv.ErrLeaseGone
	case errors.Is(err, rpctypes.ErrNoSpace):
		return kv.ErrNoSpace
	case code == codes.PermissionDenied:
		return kv.ErrForbidden
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps),
		// gRPC's own limits, which it tells apart by text only.
		code == codes.ResourceExhausted && strings.Contains(err.Error(), "larger than max"):
		return kv.ErrTooLarge
	case errors.Is(err, rpctypes.ErrTooManyRequests), // the server has more to apply than it can keep up with
		errors.Is(err, rpctypes.ErrNotLeader),
		errors.Is(err, rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner)), // this member does not serve yet
		// A server without a leader refuses a write at once with raft's error, which has no code.
		code == codes.Unknown && strings.Contains(err.Error(), "raft proposal dropped"),
		// Canceled, and not by the caller: the connection or the client was closed.
		code == codes.Unavailable, code == codes.DeadlineExceeded, code == codes.Canceled,
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return kv.ErrUnavailable
	}
	return nil
}
