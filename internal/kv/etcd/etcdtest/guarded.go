package etcdtest

import (
	"fmt"
	"net/url"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/fleet-init/fleet/internal/kv/etcd"
)

// Guarded is an etcd as others run it, until the test ends: TLS both ways, and one user. The login opens it.
func Guarded(t testing.TB) (endpoint string, _ etcd.Login) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", Ports(t, 1)[0])}
	tls, err := transport.SelfCert(zap.NewNop(), t.TempDir(), []string{at.Host}, 1)
	must(err)
	c := embed.NewConfig()
	c.Name, c.Dir, c.ZapLoggerBuilder = "x", t.TempDir(), embed.NewZapLoggerBuilder(zap.NewNop())
	c.ListenPeerUrls, c.EnableGRPCGateway = nil, false
	c.InitialCluster = "x=" + c.AdvertisePeerUrls[0].String()
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	c.ClientTLSInfo = tls
	e, err := embed.StartEtcd(c)
	must(err)
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	login := etcd.Login{CAFile: tls.CertFile, CertFile: tls.CertFile, KeyFile: tls.KeyFile}
	conf, err := login.TLS()
	must(err)
	root, err := login.Dial(clientv3.Config{Endpoints: []string{at.String()}, TLS: conf, Logger: zap.NewNop()})
	must(err)
	defer root.Close()
	_, err = root.UserAdd(t.Context(), "root", "secret")
	must(err)
	_, err = root.UserGrantRole(t.Context(), "root", "root")
	must(err)
	_, err = root.AuthEnable(t.Context())
	must(err)
	login.Username, login.Password = "root", "secret"
	return at.String(), login
}
