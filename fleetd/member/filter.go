package member

import (
	"bytes"
	"context"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"
)

// filter holds what clients of the door ask against what they may (docs/decisions/0013-identity.md). It is ours and not etcd's own, whose users
// would have to be kept in step with every host, and whose leases and maintenance know no owner.
type filter struct {
	// value reads a key; nil: it is not there.
	value func(ctx context.Context, key string) ([]byte, error)
	// keys are those that hang on a lease.
	keys func(ctx context.Context, lease int64) ([][]byte, error)
}

// within tells whether [from, to) of a request lies in one of the spans. An empty end is the one key, "\x00" all that follows.
func within(spans []Span, from, to []byte) bool {
	end := func(from, to string) (string, bool) { // false: no end
		switch to {
		case "":
			return from + "\x00", true
		case "\x00":
			return "", false
		}
		return to, true
	}
	askEnd, askEnds := end(string(from), string(to))
	for _, s := range spans {
		sEnd, sEnds := end(s.From, s.To)
		if string(from) >= s.From && (!sEnds || askEnds && askEnd <= sEnd) {
			return true
		}
	}
	return false
}

// claims are single keys that the client may write only if they are its own.
type claims struct {
	keys   []string
	values [][]byte        // what it writes there; nil: it deletes
	once   map[string]bool // of keys: they may be new or stay as they are, and need not be its own
	known  []string        // keys that it may read if it knows of them rightly
}

// reads, writes and deletes check one operation; a key of Mine is noted in c.
func (a Access) reads(from, to []byte) bool { return within(a.Read, from, to) }

func (a Access) gets(r *pb.RangeRequest, c *claims) bool {
	if a.reads(r.Key, r.RangeEnd) {
		return true
	}
	if len(r.RangeEnd) > 0 || !within(a.Known, r.Key, nil) {
		return false
	}
	c.known = append(c.known, string(r.Key))
	return true
}

func (a Access) puts(r *pb.PutRequest, c *claims) bool {
	if r.PrevKv && !a.reads(r.Key, nil) {
		return false
	}
	if within(a.Write, r.Key, nil) {
		return true
	}
	once := within(a.Once, r.Key, nil)
	if r.IgnoreValue || !once && (!within(a.Mine, r.Key, nil) || !bytes.Contains(r.Value, []byte(a.MineText))) {
		return false
	}
	if once {
		if c.once == nil {
			c.once = map[string]bool{}
		}
		c.once[string(r.Key)] = true
	}
	c.keys, c.values = append(c.keys, string(r.Key)), append(c.values, r.Value)
	return true
}

func (a Access) deletes(r *pb.DeleteRangeRequest, c *claims) bool {
	if r.PrevKv && !a.reads(r.Key, r.RangeEnd) {
		return false
	}
	if within(a.Write, r.Key, r.RangeEnd) {
		return true
	}
	if len(r.RangeEnd) > 0 || !within(a.Mine, r.Key, nil) && !within(a.Drop, r.Key, nil) {
		return false
	}
	c.keys, c.values = append(c.keys, string(r.Key)), append(c.values, nil)
	return true
}

// txn checks all that a transaction might do: both branches, and those of transactions in it.
func (a Access) txn(r *pb.TxnRequest, c *claims) bool {
	for _, cmp := range r.Compare {
		if !a.reads(cmp.Key, cmp.RangeEnd) && !within(a.Write, cmp.Key, cmp.RangeEnd) && !within(a.Mine, cmp.Key, cmp.RangeEnd) {
			return false // an answer to a comparison is a reading
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			ok := false
			switch o := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				ok = a.gets(o.RequestRange, c)
			case *pb.RequestOp_RequestPut:
				ok = a.puts(o.RequestPut, c)
			case *pb.RequestOp_RequestDeleteRange:
				ok = a.deletes(o.RequestDeleteRange, c)
			case *pb.RequestOp_RequestTxn:
				ok = a.txn(o.RequestTxn, c)
			}
			if !ok {
				return false
			}
		}
	}
	return true
}

// allows checks one request by the access alone. What is in c must then be the client's own.
func (a Access) allows(method string, req any, c *claims) bool {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return strings.HasSuffix(method, "/Range") && a.gets(r, c)
	case *pb.PutRequest:
		return a.puts(r, c)
	case *pb.DeleteRangeRequest:
		return a.deletes(r, c)
	case *pb.TxnRequest:
		return a.txn(r, c)
	case *pb.LeaseTimeToLiveRequest:
		return !r.Keys // those would be other hosts' too
	case *pb.LeaseGrantRequest, *pb.LeaseRevokeRequest, *pb.MemberListRequest, *pb.StatusRequest:
		return true
	}
	return false
}

func accessOf(ctx context.Context) Access {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if v, ok := p.AuthInfo.(visitor); ok {
			return v.access
		}
	}
	return Access{}
}

// unary is the filter for requests with one answer.
func (f filter) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	a := accessOf(ctx)
	if a.All {
		return next(ctx, req)
	}
	var c claims
	if !a.allows(info.FullMethod, req, &c) {
		return nil, rpctypes.ErrGRPCPermissionDenied
	}
	for _, key := range c.known {
		if a.MayKnow != nil && !a.MayKnow(ctx, key) {
			return nil, rpctypes.ErrGRPCPermissionDenied
		}
	}
	for i, key := range c.keys {
		now, err := f.value(ctx, key)
		if err != nil {
			return nil, err
		}
		// A key that is not there may be made, not deleted; nobody else's may be touched.
		if c.once[key] {
			if now != nil && !bytes.Equal(now, c.values[i]) {
				return nil, rpctypes.ErrGRPCPermissionDenied
			}
			continue
		}
		free := a.Names != "" && c.values[i] != nil && !bytes.Contains(now, []byte(a.Names))
		if now == nil && c.values[i] == nil || now != nil && !free && !bytes.Contains(now, []byte(a.MineText)) {
			return nil, rpctypes.ErrGRPCPermissionDenied
		}
	}
	if r, ok := req.(*pb.LeaseRevokeRequest); ok && !f.ownLease(ctx, a, r.ID) {
		return nil, rpctypes.ErrGRPCPermissionDenied
	}
	return next(ctx, req)
}

// ownLease tells whether all that hangs on a lease is the client's to write: else it would end, or keep up, another host's.
func (f filter) ownLease(ctx context.Context, a Access, lease int64) bool {
	keys, err := f.keys(ctx, lease)
	if err != nil {
		return false
	}
	for _, k := range keys {
		if within(a.Write, k, nil) {
			continue
		}
		now, err := f.value(ctx, string(k))
		if err != nil || !within(a.Mine, k, nil) || !bytes.Contains(now, []byte(a.MineText)) {
			return false
		}
	}
	return true
}

// stream is the filter for watches and renewals of leases; there is no other stream for a host.
func (f filter) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	a := accessOf(s.Context())
	switch {
	case a.All:
		return next(srv, s)
	case info.FullMethod == "/etcdserverpb.Watch/Watch", info.FullMethod == "/etcdserverpb.Lease/LeaseKeepAlive":
		return next(srv, &filtered{ServerStream: s, filter: f, access: a, own: map[int64]bool{}})
	}
	return rpctypes.ErrGRPCPermissionDenied
}

type filtered struct {
	grpc.ServerStream
	filter filter
	access Access
	own    map[int64]bool // leases that were checked
	mu     sync.Mutex     // one sender at a time: the server, or our refusals
}

// SendMsg is gRPC's.
func (s *filtered) SendMsg(m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ServerStream.SendMsg(m)
}

// RecvMsg hands on the next message that is allowed. Refused is one watch, not the stream: a stand-by's proxy has many clients on one.
func (s *filtered) RecvMsg(m any) error {
	for {
		if err := s.ServerStream.RecvMsg(m); err != nil {
			return err
		}
		switch r := m.(type) {
		case *pb.LeaseKeepAliveRequest:
			if !s.own[r.ID] && !s.filter.ownLease(s.Context(), s.access, r.ID) {
				return rpctypes.ErrGRPCPermissionDenied
			}
			s.own[r.ID] = true
			return nil
		case *pb.WatchRequest:
			c := r.GetCreateRequest()
			if c == nil || s.access.reads(c.Key, c.RangeEnd) {
				return nil
			}
			err := s.SendMsg(&pb.WatchResponse{Header: &pb.ResponseHeader{}, WatchId: clientv3.InvalidWatchID, Created: true, Canceled: true,
				CancelReason: rpctypes.ErrGRPCPermissionDenied.Error()})
			if err != nil {
				return err
			}
		default:
			return rpctypes.ErrGRPCPermissionDenied
		}
	}
}

// newFilter looks things up with fleetd's own client, which always leads to voters.
func (m *Member) newFilter() filter {
	return filter{
		value: func(ctx context.Context, key string) ([]byte, error) {
			r, err := m.client.Get(ctx, key)
			if err != nil || len(r.Kvs) == 0 {
				return nil, err
			}
			return append([]byte{}, r.Kvs[0].Value...), nil
		},
		keys: func(ctx context.Context, lease int64) ([][]byte, error) {
			r, err := m.client.TimeToLive(ctx, clientv3.LeaseID(lease), clientv3.WithAttachedKeys())
			if err != nil {
				return nil, err
			}
			return r.Keys, nil
		},
	}
}
