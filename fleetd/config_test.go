package main

import (
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, file string, args ...string) (Config, []string, error) {
	t.Helper()
	c, res, err := parseConfig(args, nil, func(name string) ([]byte, error) {
		if name != "/etc/fleet/fleet.conf" || file == "" {
			return nil, &fs.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		}
		return []byte(file), nil
	})
	return c, res.Warnings, err
}

// The sample is a configuration as fleet v1 users have it: it must go on working.
const ofOld = `
verbosity=1
etcd_servers=["https://10.0.0.1:2379", "https://10.0.0.2:2379"]
etcd_request_timeout=3.0
etcd_cafile=/etc/ssl/etcd/ca.pem
etcd_certfile=/etc/ssl/etcd/client.pem
etcd_keyfile=/etc/ssl/etcd/client-key.pem
etcd_key_prefix="/_coreos.com/fleet/"
public_ip="10.0.0.7"
metadata="region=us-west,az=us-west-1"
agent_ttl="60s"
engine_reconcile_interval=8
verify_units=false
authorized_keys_file="~/.ssh/authorized_keys"
token_limit=50
enable_grpc=true
disable_watches=true
`

func TestConfigOfOldIsRead(t *testing.T) {
	got, warnings, err := parse(t, ofOld)
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := parse(t, "")
	if err != nil {
		t.Fatal(err)
	}
	want.Verbosity = 1
	want.EtcdServers = []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379"}
	want.EtcdRequestTimeout = 3 * time.Second
	want.EtcdCAFile, want.EtcdCertFile, want.EtcdKeyFile = "/etc/ssl/etcd/ca.pem", "/etc/ssl/etcd/client.pem", "/etc/ssl/etcd/client-key.pem"
	want.EtcdKeyPrefix = "/_coreos.com/fleet/"
	want.PublicIP = netip.MustParseAddr("10.0.0.7")
	want.Metadata = map[string]string{"region": "us-west", "az": "us-west-1"}
	want.AgentTTL, want.EngineInterval = time.Minute, 8*time.Second
	want.TokenLimit, want.DisableWatches = 50, true
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if len(warnings) != 4 {
		t.Errorf("want a warning for each of verify_units, authorized_keys_file, enable_grpc, disable_watches, got %q", warnings)
	}
}

func TestConfigThatDoesNotGoTogether(t *testing.T) {
	for name, row := range map[string]struct{ args, want string }{
		"even cluster":                {"--cluster-size=2", "cluster_size = 2"},
		"join without own address":    {"--join=10.0.0.1", "set member_ip"},
		"host port taken":             {"--host-port=2380", "use a port of its own"},
		"any address":                 {"--member-ip=0.0.0.0", "need an address"},
		"one port for two":            {"--peer-port=2379", "use two ports"},
		"certificate without key":     {"--etcd-certfile=/x", "set both or none"},
		"relative directory":          {"--data-dir=x", "use an absolute path"},
		"listen without port":         {"--api-listen=127.0.0.1", "use address:port"},
		"join that is a URL":          {"--join=http://10.0.0.1", "use host or host:port"},
		"join with a wrong port":      {"--join=a:99999", "use host or host:port"},
		"server that is no URL":       {"--etcd-servers=10.0.0.1:2379", "use a URL"},
		"password without a user":     {"--etcd-password=x", "etcd_username is not"},
		"lease too short to be safe":  {"--agent-ttl=1s", "use at least 2s"},
		"more voters than etcd likes": {"--cluster-size=7", "from 1 to 5"},
	} {
		if _, _, err := parse(t, "", row.args); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

func TestConfigJoin(t *testing.T) {
	c, _, err := parse(t, "", "--insecure", "--join=10.0.0.1,host-2:2379,fd00::1,[fd00::2]:2379", "--member-ip=10.0.0.0/24", "--etcd-key-prefix=a/b")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.0.0.1", "host-2:2379", "fd00::1", "[fd00::2]:2379"}, c.Join); diff != "" {
		t.Error(diff)
	}
	if c.EtcdKeyPrefix != "/a/b/" {
		t.Errorf("prefix %q", c.EtcdKeyPrefix)
	}
}
