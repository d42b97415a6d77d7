package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fleet-init/fleet/internal/kv"
)

const (
	// firstPage is the most keys of a prefix that the first request asks for. Most prefixes have fewer and are done.
	firstPage = 512
	// pageBytes is what a later page should hold. Larger ones block the server and the connection for others; smaller ones cost more,
	// as etcd walks its index to the end of the range for every page.
	pageBytes = 8 << 20
)

// Range implements kv.Store. The first request fixes the revision, and the pages after it are read at that one. If it is compacted
// meanwhile, all is read anew.
func (s *Store) Range(ctx context.Context, prefixes ...string) ([][]kv.KV, int64, error) {
	const tries = 3
	for try := 1; ; try++ {
		kvs, rev, err := s.rangeOnce(ctx, prefixes)
		if err == nil {
			return kvs, rev, nil
		}
		if err = wrap(ctx, "range", err); !errors.Is(err, kv.ErrCompacted) || try == tries {
			return nil, 0, err
		}
	}
}

func (s *Store) rangeOnce(ctx context.Context, prefixes []string) (out [][]kv.KV, rev int64, err error) {
	out = make([][]kv.KV, len(prefixes))
	more := make([]bool, len(prefixes))
	for at := 0; at < len(prefixes); at += kv.MaxOps {
		part := prefixes[at:min(at+kv.MaxOps, len(prefixes))]
		gets := make([]clientv3.Op, len(part))
		for i, p := range part {
			gets[i] = get(p, "", firstPage, rev)
		}
		res, err := s.commit(ctx, gets)
		if err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = res.Header.Revision
		}
		for i, r := range res.Responses {
			got := r.GetResponseRange()
			out[at+i] = appendKVs(nil, got.Kvs)
			more[at+i] = got.More
		}
	}
	for i, p := range prefixes {
		if more[i] {
			if out[i], err = s.rest(ctx, p, out[i], rev); err != nil {
				return nil, 0, err
			}
		}
	}
	return out, rev, nil
}

// rest reads what follows the first page of a prefix.
func (s *Store) rest(ctx context.Context, prefix string, kvs []kv.KV, rev int64) ([]kv.KV, error) {
	limit := nextPage(kvs)
	for {
		res, err := s.commit(ctx, []clientv3.Op{get(prefix, kvs[len(kvs)-1].Key, limit, rev)})
		if err != nil {
			return nil, err
		}
		got := res.Responses[0].GetResponseRange()
		have := len(kvs)
		kvs = appendKVs(kvs, got.Kvs)
		if !got.More || len(got.Kvs) == 0 {
			return kvs, nil
		}
		limit = nextPage(kvs[have:])
	}
}

// nextPage sizes a page by what the last one weighed.
func nextPage(last []kv.KV) int64 {
	bytes := 0
	for _, kv := range last {
		bytes += len(kv.Key) + len(kv.Value) + 32
	}
	return int64(min(max(pageBytes/(bytes/len(last)), 16), 50000))
}

// get reads up to limit keys of a prefix behind after, or one exact key; at rev, or at the newest revision if that is 0.
func get(prefix, after string, limit, rev int64) clientv3.Op {
	if !kv.IsPrefix(prefix) {
		return clientv3.OpGet(prefix, clientv3.WithRev(rev))
	}
	from := prefix
	if after != "" {
		from = after + "\x00" // the first key behind it
	}
	return clientv3.OpGet(from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(limit), clientv3.WithRev(rev))
}

func (s *Store) commit(ctx context.Context, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.c.Txn(ctx).Then(ops...).Commit()
}

func appendKVs(out []kv.KV, kvs []*mvccpb.KeyValue) []kv.KV {
	if out == nil {
		out = make([]kv.KV, 0, len(kvs))
	}
	for _, e := range kvs {
		out = append(out, toKV(e))
	}
	return out
}

func toKV(e *mvccpb.KeyValue) kv.KV {
	v := e.Value
	if v == nil {
		v = []byte{} // an existing key always has a value
	}
	return kv.KV{Key: string(e.Key), Value: v, Create: e.CreateRevision, Mod: e.ModRevision, Lease: kv.LeaseID(e.Lease)}
}
