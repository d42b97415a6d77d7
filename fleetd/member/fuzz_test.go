package member

import (
	"os"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// FuzzFilter sends requests of any shape past the door for hosts without a vote: whatever is let through touches no key that the host may not touch.
// What a request touches is found by trying all keys of a small world, not by comparing the ends of ranges as the filter does.
func FuzzFilter(f *testing.F) {
	a := Access{Read: []Span{{"/r/", "/r0"}, {"/one", ""}}, Write: []Span{{"/w/", "/w0"}}, Known: []Span{{"/k/", "/k0"}}, Mine: []Span{{"/m/", "/m0"}}, MineText: "me",
		Once: []Span{{"/o/", "/o0"}}, Drop: []Span{{"/d/", "/d0"}}}
	world := []string{"", "\x00", "/", "/d/", "/d/1", "/d0", "/k/", "/k/1", "/k0", "/m/", "/m/1", "/m0", "/o/1", "/o0", "/one", "/one\x00", "/one1", "/q", "/r", "/r/", "/r/1", "/r/\xff",
		"/r0", "/w/", "/w/1", "/w0", "/z", "~", "\xff"}
	in := func(prefixes []string, key string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(key, p) {
				return true
			}
		}
		return false
	}
	touched := func(from, to []byte) (keys []string) {
		for _, k := range append([]string{string(from)}, world...) {
			one := len(to) == 0 && k == string(from)
			all := string(to) == "\x00" && k >= string(from)
			if one || all || len(to) > 0 && k >= string(from) && k < string(to) {
				keys = append(keys, k)
			}
		}
		return keys
	}
	var look func(t *testing.T, req any)
	look = func(t *testing.T, req any) {
		read := func(from, to []byte, more ...string) {
			for _, k := range touched(from, to) {
				if k != "/one" && !in(append(more, "/r/"), k) {
					t.Errorf("%v reads %q", req, k)
				}
			}
		}
		switch r := req.(type) {
		case *pb.RangeRequest:
			if len(r.RangeEnd) == 0 {
				read(r.Key, nil, "/k/")
				return
			}
			read(r.Key, r.RangeEnd)
		case *pb.PutRequest:
			if !in([]string{"/w/", "/m/", "/o/"}, string(r.Key)) || r.PrevKv && string(r.Key) != "/one" && !in([]string{"/r/"}, string(r.Key)) {
				t.Errorf("%v", r)
			}
			if in([]string{"/m/"}, string(r.Key)) && !strings.Contains(string(r.Value), "me") {
				t.Errorf("%v does not name the host", r)
			}
		case *pb.DeleteRangeRequest:
			for _, k := range touched(r.Key, r.RangeEnd) {
				if !in([]string{"/w/"}, k) && (len(r.RangeEnd) > 0 || !in([]string{"/m/", "/d/"}, k)) {
					t.Errorf("%v deletes %q", r, k)
				}
			}
			if r.PrevKv {
				read(r.Key, r.RangeEnd)
			}
		case *pb.TxnRequest:
			for _, c := range r.Compare {
				read(c.Key, c.RangeEnd, "/w/", "/m/")
			}
			for _, op := range append(append([]*pb.RequestOp{}, r.Success...), r.Failure...) {
				switch o := op.Request.(type) {
				case *pb.RequestOp_RequestRange:
					look(t, o.RequestRange)
				case *pb.RequestOp_RequestPut:
					look(t, o.RequestPut)
				case *pb.RequestOp_RequestDeleteRange:
					look(t, o.RequestDeleteRange)
				case *pb.RequestOp_RequestTxn:
					look(t, o.RequestTxn)
				default:
					t.Errorf("an operation of no kind: %v", op)
				}
			}
		}
	}
	shapes := func() []proto.Message {
		return []proto.Message{&pb.RangeRequest{}, &pb.PutRequest{}, &pb.DeleteRangeRequest{}, &pb.TxnRequest{}}
	}
	for i, m := range []proto.Message{
		&pb.RangeRequest{Key: []byte("/r/"), RangeEnd: []byte("/r0")}, &pb.PutRequest{Key: []byte("/m/1"), Value: []byte("me")},
		&pb.DeleteRangeRequest{Key: []byte("/w/"), RangeEnd: []byte("/w0"), PrevKv: true},
		&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("/m/1")}}, Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("/k/1")}}}}}}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Add(uint8(0), []byte("\x0a\x03/r/\x12\x01\x00"))
	f.Fuzz(func(t *testing.T, shape uint8, b []byte) {
		req := shapes()[int(shape)%4]
		if proto.Unmarshal(b, req) != nil {
			return
		}
		method := []string{"/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.KV/DeleteRange", "/etcdserverpb.KV/Txn"}[int(shape)%4]
		if a.allows(method, req, &claims{}) {
			look(t, req)
		}
		if (Access{}).allows(method, req, &claims{}) && !idle(req) {
			t.Errorf("nobody may: %v", req)
		}
	})
}

// idle tells whether a request asks for nothing at all: a transaction of none, or of such.
func idle(req any) bool {
	r, ok := req.(*pb.TxnRequest)
	if !ok || len(r.Compare) > 0 {
		return false
	}
	for _, op := range append(append([]*pb.RequestOp{}, r.Success...), r.Failure...) {
		if o, ok := op.Request.(*pb.RequestOp_RequestTxn); !ok || !idle(o.RequestTxn) {
			return false
		}
	}
	return true
}

// FuzzState reads the member's state: an error names the file and what to do, and what is taken is written back as it was.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"v":1,"cluster":"1","hosts":["10.0.0.1"]}`))
	f.Add([]byte(`{"v":2}`))
	f.Add([]byte(`{"v":1,"from":null,"hosts":[""]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(stateFile(dir), text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := loadState(dir)
		if err != nil {
			if !strings.Contains(err.Error(), stateFile(dir)) {
				t.Errorf("%v does not name the file", err)
			}
			return
		}
		if err := s.save(dir); err != nil {
			t.Fatal(err)
		}
		again, err := loadState(dir)
		if err != nil || again.Cluster != s.Cluster || len(again.Hosts) != len(s.Hosts) || len(again.From) != len(s.From) {
			t.Errorf("%+v was read back as %+v, %v", s, again, err)
		}
	})
}
