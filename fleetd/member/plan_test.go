package member

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
)

// list writes members as words: "1" a voter, "2?" a learner, "3-" one that never started; the digit is ID and address.
func list(words string) []*pb.Member {
	var out []*pb.Member
	for w := range strings.FieldsSeq(words) {
		m := &pb.Member{ID: uint64(w[0] - '0'), Name: "x", IsLearner: strings.Contains(w, "?"),
			PeerURLs: []string{"http://10.0.0." + w[:1] + ":2380"}, ClientURLs: []string{"http://10.0.0." + w[:1] + ":2379"}}
		if strings.Contains(w, "-") {
			m.Name, m.ClientURLs = "", nil
		}
		out = append(out, m)
	}
	return out
}

func TestPlanEntry(t *testing.T) {
	for name, row := range map[string]struct {
		members string
		size    int
		want    entry // of the host with address 4
	}{
		"one voter, room for two more":                    {"1", 3, entry{stepAdd, 0}},
		"a voter and a learner, room for one more":        {"1 2?", 3, entry{stepAdd, 0}},
		"full, stand by":                                  {"1 2 3", 3, entry{stepStandBy, 0}},
		"full of learners that are not voters yet":        {"1 2? 3?-", 3, entry{stepStandBy, 0}},
		"a cluster of one that shall stay one":            {"1", 1, entry{stepStandBy, 0}},
		"added before, crashed before the start":          {"1 4?-", 3, entry{stepUse, 4}},
		"added by hand as a voter, not started":           {"1 2 4-", 3, entry{stepUse, 4}},
		"added at the same time as another, one too many": {"1 2? 3?- 4?-", 3, entry{stepStandBy, 4}},
		"was a voter, lost its disk":                      {"1 2 4", 3, entry{stepReplace, 4}},
		"was a learner, lost its disk":                    {"1 4?", 3, entry{stepReplace, 4}},
	} {
		got := planEntry(list(row.members), "http://10.0.0.4:2380", row.size)
		if got != row.want {
			t.Errorf("%s: got %+v, want %+v", name, got, row.want)
		}
	}
}

func TestVoterHosts(t *testing.T) {
	want := []string{"10.0.0.1:2379", "10.0.0.2:2379"}
	if diff := cmp.Diff(want, voterHosts(list("2 1 3? 4-"))); diff != "" {
		t.Error(diff)
	}
}

func TestInitialClusterNamesDiffer(t *testing.T) {
	want := "1=http://10.0.0.1:2380,web=http://10.0.0.2:2380,3=http://10.0.0.3:2380"
	if got := initialCluster(list("1 2?- 3?-"), "http://10.0.0.2:2380", "web"); got != want {
		t.Errorf("got %s", got)
	}
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1": "10.0.0.1:2379", "10.0.0.1:99": "10.0.0.1:99", "fd00::1": "[fd00::1]:2379", "[fd00::1]:99": "[fd00::1]:99",
		"web-1": "web-1:2379", "web-1:99": "web-1:99",
	} {
		if got := hostPort(in, 2379); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestPickAddress(t *testing.T) {
	var addrs []net.Addr
	for _, a := range []string{"127.0.0.1/8", "10.0.1.9/24", "10.0.0.9/24", "10.0.0.7/24", "fd00::1/64"} {
		ip, n, err := net.ParseCIDR(a)
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, &net.IPNet{IP: ip, Mask: n.Mask})
	}
	for in, want := range map[string]string{"10.0.0.0/24": "10.0.0.7", "10.0.0.0/8": "10.0.0.7", "fd00::/8": "fd00::1", "192.0.2.0/24": "invalid IP"} {
		if got, ok := pickAddress(netip.MustParsePrefix(in), addrs); got.String() != want || ok != (want != "invalid IP") {
			t.Errorf("%s: got %s", in, got)
		}
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	if s, err := loadState(dir); err != nil || s.Cluster != "" {
		t.Errorf("none: %+v, %v", s, err)
	}
	want := state{V: 1, Cluster: "abc", Hosts: []string{"10.0.0.1:2379"}}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for text, word := range map[string]string{"{": "remove it", `{"v":2}`: "newer fleetd"} {
		if err := os.WriteFile(stateFile(dir), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadState(dir); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func TestLogOfEtcd(t *testing.T) {
	say := func(level slog.Level) string {
		var out bytes.Buffer
		z := newZap(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})))
		z.Info("chatter")
		z.Warn("more chatter")
		z.Warn("slow fdatasync", zap.String("took", "2s"), zap.Int("a", 1))
		z.Warn("slow fdatasync", zap.String("took", "3s"))
		z.Warn("peer became inactive", zap.Error(errors.New("context canceled")))
		z.Error("bad")
		z.Error("bootstrap failed")
		return out.String()
	}
	want := "level=WARN msg=\"etcd: slow fdatasync\" a=1 took=2s\nlevel=WARN msg=\"etcd: bad\"\n"
	if diff := cmp.Diff(want, say(slog.LevelInfo)); diff != "" {
		t.Error(diff)
	}
	if got := say(slog.LevelDebug); !strings.Contains(got, "etcd: chatter") || !strings.Contains(got, "etcd: more chatter") {
		t.Errorf("debug leaves out:\n%s", got)
	}
}
