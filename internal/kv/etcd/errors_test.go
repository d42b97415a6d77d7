package etcd

import (
	"context"
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fleet-init/fleet/internal/kv"
)

// Every error that etcd's client was seen to give, as the server sends it and as the client wraps it.
func TestErrorKinds(t *testing.T) {
	t.Parallel()
	rows := []struct {
		err  error
		want error
	}{
		{rpctypes.ErrGRPCNoLeader, kv.ErrUnavailable},
		{rpctypes.ErrGRPCLeaderChanged, kv.ErrUnavailable},
		{rpctypes.ErrGRPCStopped, kv.ErrUnavailable},
		{rpctypes.ErrGRPCTimeout, kv.ErrUnavailable},
		{rpctypes.ErrGRPCTimeoutDueToLeaderFail, kv.ErrUnavailable},
		{rpctypes.ErrGRPCTimeoutDueToConnectionLost, kv.ErrUnavailable},
		{rpctypes.ErrGRPCNotLeader, kv.ErrUnavailable},
		{rpctypes.ErrGRPCNotSupportedForLearner, kv.ErrUnavailable},
		{rpctypes.ErrGRPCRequestTooManyRequests, kv.ErrUnavailable},
		{status.Error(codes.Unknown, raft.ErrProposalDropped.Error()), kv.ErrUnavailable},
		{status.Error(codes.Unavailable, "connection refused"), kv.ErrUnavailable},
		{status.Error(codes.Canceled, "grpc: the client connection is closing"), kv.ErrUnavailable},
		{context.DeadlineExceeded, kv.ErrUnavailable},
		{rpctypes.ErrGRPCCompacted, kv.ErrCompacted},
		{rpctypes.ErrGRPCLeaseNotFound, kv.ErrLeaseGone},
		{rpctypes.ErrGRPCNoSpace, kv.ErrNoSpace},
		{rpctypes.ErrGRPCRequestTooLarge, kv.ErrTooLarge},
		{rpctypes.ErrGRPCTooManyOps, kv.ErrTooLarge},
		{status.Error(codes.ResourceExhausted, "trying to send message larger than max (4 vs. 2)"), kv.ErrTooLarge},
		{rpctypes.ErrGRPCPermissionDenied, kv.ErrForbidden},
		{rpctypes.ErrGRPCCorrupt, nil},
	}
	for _, row := range rows {
		for _, err := range []error{row.err, rpctypes.Error(row.err)} {
			if got := kindOf(err); got != row.want {
				t.Errorf("%T %v is %v, want %v", err, err, got, row.want)
			}
			if got := wrap(t.Context(), "test", err); !errors.Is(got, err) || row.want != nil && !errors.Is(got, row.want) {
				t.Errorf("wrapped: %v", got)
			}
		}
	}
}

// A restored cluster knows leases of the one it came from: who renewed them there must not go on as if nothing had happened.
func TestLeaseIsOfOneCluster(t *testing.T) {
	s := New(nil)
	of := func(cluster uint64) *pb.ResponseHeader { return &pb.ResponseHeader{ClusterId: cluster} }
	for i, row := range []struct {
		lease kv.LeaseID
		h     *pb.ResponseHeader
		want  bool
	}{{1, of(7), true}, {1, of(7), true}, {1, nil, true}, {1, of(8), false}, {1, of(8), false}, {2, of(8), true}, {2, of(8), true}} {
		if got := s.sameCluster(row.lease, row.h); got != row.want {
			t.Errorf("row %d: %v", i, got)
		}
	}
}
