package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
)

func TestParseFlags(t *testing.T) {
	c, rest, err := parseConfig(strings.Fields("-etcd-endpoints=http://a:1,http://b:2, --iface eth1 -iface 10.0.0.9 --iface-regex ^eth --public-ip 1.2.3.4 --ip-masq --subnet-lease-renew-margin=30 status --json"),
		[]string{"FLANNELD_ETCD_PREFIX=/x", "FLANNELD_IFACE=eth9", "FLANNELD_HEALTHZ_PORT=8080", "FLANNELD_UNKNOWN=1", "WIREGUARD_KEY_FILE=/k", "PATH=/bin"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"http://a:1", "http://b:2"}, c.EtcdEndpoints); d != "" {
		t.Error(d)
	}
	// A flag that is given wins over its variable.
	if d := cmp.Diff([]string{"eth1", "10.0.0.9"}, c.Want.Ifaces); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"status", "--json"}, rest); d != "" {
		t.Error(d)
	}
	if c.EtcdPrefix != "/x" || c.HealthPort != 8080 || c.KeyFile != "/k" || c.RenewMargin != 30*time.Minute || !c.Masquerade || c.Want.PublicIP.String() != "1.2.3.4" || c.SubnetFile != "/run/flannel/subnet.env" {
		t.Errorf("%+v", c)
	}
}

func TestParseFlagsRefuses(t *testing.T) {
	for _, row := range []struct{ args, env, want string }{
		{"--subnet-lease-renew-margin 0", "", `invalid --subnet-lease-renew-margin "0": minutes, 1 to 1439`},
		{"--subnet-lease-renew-margin 1440", "", `invalid --subnet-lease-renew-margin "1440": minutes, 1 to 1439`},
		{"--public-ip fd00::1", "", `invalid --public-ip "fd00::1": want an IP address of that family`},
		{"--iface-regex (", "", "invalid --iface-regex \"(\": error parsing regexp: missing closing ): `(`"},
		{"--etcd-certfile x", "", "invalid --etcd-certfile without --etcd-keyfile or the other way round: give both or neither"},
		{"--kube-subnet-mgr x", "", `invalid command line: invalid value "x" for flag -kube-subnet-mgr: netd takes leases from etcd only: leave it out: netd --help lists all flags`},
		{"--cni-interface macvlan", "", `invalid --cni-interface "macvlan": use bridge or ptp`},
		{"--cni-plugins bandwith", "", `invalid --cni-plugins "bandwith": use bandwidth, tuning or both`},
		{"", "FLANNELD_IP_MASQ=maybe", `invalid FLANNELD_IP_MASQ="maybe": parse error: correct the variable or unset it`},
	} {
		_, _, err := parseConfig(strings.Fields(row.args), []string{row.env})
		if err == nil || err.Error() != row.want || !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s %s:\n got %v\nwant %s", row.args, row.env, err, row.want)
		}
	}
}

func TestCheckConfigCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	for in, want := range map[string]string{
		`{"Network":"10.5.0.0/16"}`:             "10.5.0.0/16: subnets of /24 from 10.5.1.0 to 10.5.255.0\n",
		`{"Network":"10.5.0.0/16","Subnetz":1}`: "invalid keys Subnetz: nothing reads them: correct or remove them",
		`{"Network":"10.5.0.0/30"}`:             "invalid Network 10.5.0.0/30: too small to cut: use /28 or larger",
	} {
		if err := os.WriteFile(file, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		err := dispatch(context.Background(), []string{"check-config", file}, nil, &out)
		got := out.String()
		if err != nil {
			got += err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	var out strings.Builder
	if err := dispatch(context.Background(), []string{"--help"}, nil, &out); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		if !strings.Contains(out.String(), c.summary) {
			t.Errorf("%q is missing", c.name)
		}
	}
}

// A host's health is told the way flanneld's probes expect it, and changes when the network does.
func TestHealthAndMetrics(t *testing.T) {
	c := newCluster(t, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	h := c.host(1, "--healthz-ip", "127.0.0.1", "--healthz-port", "8080")
	c.host(2)
	get := func(path string) (code int, body string) {
		// The connection must be made on the host's thread; the client would make it on its own.
		var conn net.Conn
		h.Must(func() (err error) { conn, err = net.Dial("tcp", "127.0.0.1:8080"); return err })
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
		resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get("http://netd" + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, body := get("/healthz"); code != 200 || body != "flanneld is running\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
	if code, body := get("/readyz"); code != 200 {
		t.Errorf("readyz: %d %q", code, body)
	}
	c.soon("metrics", func() error {
		_, body := get("/metrics")
		for _, want := range []string{"netd_ready 1", "netd_peers 1", "netd_lease_held 1", "netd_store_contact 1", "netd_mtu_bytes 1450", `netd_device_tx_bytes_total{device="flannel.1"}`} {
			if !strings.Contains(body, want) {
				return errors.New("no " + want + " in:\n" + body)
			}
		}
		return nil
	})
	// A network that swallows the host's own address is refused, and the host says it is not in order, while it goes on.
	c.put("config", `{"Network":"192.168.0.0/16","Backend":{"Type":"vxlan"}}`)
	c.soon("status says so", func() error {
		if s := h.status(); !strings.Contains(s.Store.Err, "it contains this host's own address") {
			return errors.New(s.Store.Err)
		}
		return nil
	})
	if code, _ := get("/readyz"); code != 200 {
		t.Errorf("readyz after a wrong configuration: %d, want 200: the network still works", code)
	}
}
