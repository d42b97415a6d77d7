package main

import (
	"fmt"
	"net/url"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
)

// guarded is an etcd with TLS both ways, whose only user is root with password secret: the settings that reach it.
func guarded(t *testing.T) Config {
	t.Helper()
	at := url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", etcdtest.Ports(t, 1)[0])}
	tls, err := transport.SelfCert(zap.NewNop(), filepath.Join(t.TempDir(), "tls"), []string{at.Host}, 1)
	must(t, err)
	c := embed.NewConfig()
	c.Name, c.Dir, c.ZapLoggerBuilder = "x", t.TempDir(), embed.NewZapLoggerBuilder(zap.NewNop())
	c.ListenPeerUrls, c.EnableGRPCGateway = nil, false
	c.InitialCluster = "x=" + c.AdvertisePeerUrls[0].String()
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	c.ClientTLSInfo = tls
	e, err := embed.StartEtcd(c)
	must(t, err)
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	out := Config{EtcdServers: []string{at.String()}, EtcdCAFile: tls.CertFile, EtcdCertFile: tls.CertFile, EtcdKeyFile: tls.KeyFile}
	conf, err := out.storeTLS()
	must(t, err)
	root, err := newEtcd(t.Context(), out, out.EtcdServers, conf)
	must(t, err)
	defer root.Close()
	_, err = root.UserAdd(t.Context(), "root", "secret")
	must(t, err)
	_, err = root.UserGrantRole(t.Context(), "root", "root")
	must(t, err)
	_, err = root.AuthEnable(t.Context())
	must(t, err)
	out.EtcdUsername, out.EtcdPassword = "root", "secret"
	return out
}

func TestAnEtcdElsewhereWithTLSAndAUser(t *testing.T) {
	c := guarded(t)
	for password, want := range map[string]bool{"secret": true, "wrong": false} {
		c.EtcdPassword = password
		conf, err := c.storeTLS()
		must(t, err)
		client, err := newEtcd(t.Context(), c, c.EtcdServers, conf)
		must(t, err)
		_, err = client.Put(t.Context(), "k", "v")
		if must(t, client.Close()); (err == nil) != want {
			t.Errorf("with password %q: %v", password, err)
		}
	}
	c.EtcdCAFile = filepath.Join(t.TempDir(), "none")
	if _, err := c.storeTLS(); err == nil {
		t.Error("a CA that is not there was read")
	}
}
